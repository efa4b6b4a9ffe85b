// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// weirBinary builds this command.
func weirBinary(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "weir")
	out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	return binary
}

// ran is what a process said, and how it ended.
type ran struct {
	stdout, stderr string
	code           int
}

func runProcess(t *testing.T, cmd *exec.Cmd) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	exit, failed := errors.AsType[*exec.ExitError](err)
	if !failed {
		require.NoError(t, err)
		return ran{stdout.String(), stderr.String(), 0}
	}
	return ran{stdout.String(), stderr.String(), exit.ExitCode()}
}

func TestACommandInAGuestEndsAsItWouldHere(t *testing.T) {
	weir := weirBinary(t)
	for _, test := range []struct {
		name   string
		args   []string
		stdin  string
		stdout string
		stderr string // a part of it
		code   int
	}{
		{"release", []string{"-k", "5.10", "--", "uname", "-r"}, "", "5.10.0-", "", 0},
		{"input", []string{"-k", "6.12", "--", "cat"}, "text\n", "text\n", "", 0},
		{"exit code and stderr", []string{"-k", "6.12", "--", "sh", "-c", "echo bad >&2; exit 7"}, "", "", "bad\n", 7},
		{"signal", []string{"-k", "6.12", "--", "sh", "-c", "kill -9 $$"}, "", "", "", 128 + 9},
		{"timeout", []string{"-k", "6.12", "--timeout", "200ms", "--", "sleep", "100"}, "", "", "timed out after", exitTimeout},
		{"no such command", []string{"-k", "6.12", "--", "no-such-command"}, "", "", "no-such-command", exitNotFound},
		{"panic", []string{"-k", "6.12", "--", "sh", "-c", "echo c > /proc/sysrq-trigger"}, "", "", "Kernel panic - not syncing: sysrq triggered crash", exitBroken},
		{"warning", []string{"-k", "6.12", "--", "sh", "-c", "echo '<4>WARNING: a.c:1 at f, CPU#0: x/1' > /dev/kmsg"}, "", "", "the kernel complained: warning: WARNING: a.c:1", exitBroken},
		{"unknown kernel", []string{"-k", "9.9", "--", "true"}, "", "", "the lock has 5.10", exitBroken},
		{"missing option", []string{"-k", "5.10", "--needs", "NETKIT", "--", "true"}, "", "", "lacks CONFIG_NETKIT", exitBroken},
		{"wrong flag", []string{"--no-such-flag"}, "", "", "See 'weir vm run --help'", exitUsage},
		{"environment and files", []string{"-k", "6.12", "-e", "A=b", "-f", "vm_test.go:/there", "--", "sh", "-c", "read line < /there; echo $A $line"}, "", "b // SPDX-License-Identifier: Apache-2.0\n", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(weir, append([]string{"vm", "run"}, test.args...)...)
			cmd.Stdin = strings.NewReader(test.stdin)
			r := runProcess(t, cmd)
			require.Equalf(t, test.code, r.code, "stderr: %s", r.stderr)
			require.Contains(t, r.stdout, test.stdout)
			require.Contains(t, r.stderr, test.stderr)
		})
	}
}

const thirdTest = `package third

import (
	"fmt"
	"os"
	"testing"
)

func TestThird(t *testing.T) {
	in, err := os.ReadFile("testdata/in")
	if err != nil || string(in) != "given" {
		t.Fatal(string(in), err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil || Half(4) != 2 {
		t.Fatal(err)
	}
	fmt.Printf("running on %s", release)
	if err := os.WriteFile("testdata/out", release, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFails(t *testing.T) {
	if os.Getenv("FAIL") != "" {
		t.Fatal("as it should")
	}
}
`

func TestTheTestsOfAThirdProjectRunInAGuest(t *testing.T) {
	weir := weirBinary(t)
	project := t.TempDir()
	for name, content := range map[string]string{
		"go.mod":        "module example.org/third\n\ngo 1.24\n",
		"third.go":      "package third\n\n// Half halves.\nfunc Half(n int) int { return n / 2 }\n",
		"third_test.go": thirdTest,
		"testdata/in":   "given",
	} {
		file := filepath.Join(project, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
	}
	test := func(env string, flags ...string) ran {
		cmd := exec.Command("go", append([]string{"test", "-count=1", "-exec", weir + " vm exec --kernel 6.1"}, flags...)...)
		cmd.Dir = project
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", env)
		return runProcess(t, cmd)
	}
	r := test("A=", "-v", "-coverprofile=cover.out", "-cpuprofile=cpu.out", ".")
	require.Equalf(t, 0, r.code, "%s%s", r.stdout, r.stderr)
	require.Contains(t, r.stdout, "running on 6.1.0-")
	coverage, err := os.ReadFile(filepath.Join(project, "cover.out"))
	require.NoError(t, err)
	require.Contains(t, string(coverage), "example.org/third/third.go")
	require.FileExists(t, filepath.Join(project, "cpu.out"))
	out, err := os.ReadFile(filepath.Join(project, "testdata", "out"))
	require.NoError(t, err)
	require.Contains(t, string(out), "6.1.0-")

	r = test("FAIL=1", ".")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.stdout, "as it should")
}

// waits tells that it runs, and ends only by itself.
const waits = "echo ready; read line"

func TestAnInterruptReachesTheCommandAndLeavesNoProcess(t *testing.T) {
	weir := weirBinary(t)
	for name, signal := range map[string]syscall.Signal{"interrupt": syscall.SIGINT, "kill": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(weir, "vm", "run", "-k", "6.12", "--", "sh", "-c", waits)
			stdin, err := cmd.StdinPipe()
			require.NoError(t, err)
			defer stdin.Close()
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			_, err = stdout.Read(make([]byte, 16))
			require.NoError(t, err)
			children := childrenOf(t, cmd.Process.Pid)
			require.NotEmpty(t, children, "QEMU runs")
			require.NoError(t, cmd.Process.Signal(signal))
			exit, ok := errors.AsType[*exec.ExitError](cmd.Wait())
			require.True(t, ok)
			if signal == syscall.SIGINT {
				require.Equal(t, 128+int(syscall.SIGINT), exit.ExitCode())
			}
			for _, child := range children {
				require.Eventually(t, func() bool { return syscall.Kill(child, 0) != nil || isZombie(child) }, time.Minute, time.Millisecond)
			}
		})
	}
}

func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	var children []int
	for _, stat := range stats {
		if fields := statFields(stat); len(fields) > 3 && fields[3] == strconv.Itoa(pid) {
			child, err := strconv.Atoi(fields[0])
			require.NoError(t, err)
			children = append(children, child)
		}
	}
	return children
}

func isZombie(pid int) bool {
	fields := statFields("/proc/" + strconv.Itoa(pid) + "/stat")
	return len(fields) > 2 && fields[2] == "Z"
}

// statFields of a process whose name has no space, as those here.
func statFields(file string) []string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

func TestTheKernelsAreListedAsJSON(t *testing.T) {
	r := runProcess(t, exec.Command(weirBinary(t), "vm", "kernels", "-o", "json"))
	require.Equal(t, 0, r.code, r.stderr)
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	require.Len(t, lines, 5)
	var row vmKernelRow
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &row))
	require.Equal(t, "5.10", row.ID)
	require.True(t, row.Here, "weir vm fetch brings it")
}

func TestTheDoctorSaysWhichAcceleratorAndWhy(t *testing.T) {
	r := runProcess(t, exec.Command(weirBinary(t), "vm", "doctor", "-o", "json"))
	require.Equal(t, 0, r.code, r.stdout)
	require.Contains(t, r.stdout, `"what":"accelerator"`)
	require.Contains(t, r.stdout, `"what":"warm start"`)
}

func TestCheckNamesWhatAKernelLacks(t *testing.T) {
	weir := weirBinary(t)
	r := runProcess(t, exec.Command(weir, "vm", "check", "-k", "5.10", "CONFIG_NETKIT"))
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stdout, "CONFIG_NETKIT  missing")
	r = runProcess(t, exec.Command(weir, "vm", "check", "-k", "6.12", "CONFIG_NETKIT"))
	require.Equal(t, 0, r.code, r.stdout)
}
