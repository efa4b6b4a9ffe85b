// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// unprivileged is a command without any capability. The user stays, who may read the
// cache of kernels.
func unprivileged(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("setpriv", append([]string{"--bounding-set=-all", "--inh-caps=-all"}, args...)...)
	cmd.Dir = dir
	return cmd
}

const inVM = "weir: no root here: runs in a VM with Linux 6.12; --kernel chooses\n"

func TestWithoutPrivilegesACommandRunsInAVM(t *testing.T) {
	needRoot(t)
	weir, dir := weirBinary(t), t.TempDir()
	rules, err := filepath.Abs("testdata/policy/rule1.yaml")
	require.NoError(t, err)

	r := runProcess(t, unprivileged(dir, weir, "record", "service-clusterip-tcp", "-w", "c.pcapng"))
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stderr, inVM)
	capture := filepath.Join(dir, "c.pcapng")
	require.FileExists(t, capture)

	for _, test := range []struct {
		name, stdin string
		args        []string
	}{
		{"a file", "", []string{"replay", "c.pcapng"}},
		{"standard input", capture, []string{"replay", "--by", "packet", "-"}},
		{"a pipe by its name", capture, []string{"replay", "--by", "packet", "/dev/stdin"}},
		{"a comparison", "", []string{"replay", "--diff", rules, rules, "c.pcapng"}},
		{"a table", "", []string{"policy", "table", "--engine", "bpf", rules}},
		{"wrong usage", "", []string{"record", "no-such-scenario", "-w", "none"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			run := func(cmd *exec.Cmd) ran {
				if test.stdin != "" {
					content, err := os.ReadFile(test.stdin)
					require.NoError(t, err)
					cmd.Stdin = strings.NewReader(string(content))
				}
				return runProcess(t, cmd)
			}
			away := run(unprivileged(dir, append([]string{weir}, test.args...)...))
			with := exec.Command(weir, test.args...)
			with.Dir = dir
			here := run(with)
			require.Equal(t, here.code, away.code, away.stderr)
			require.Equal(t, here.stdout, away.stdout)
			if here.code == 0 {
				require.Equal(t, inVM+here.stderr, away.stderr)
			}
		})
	}
}

func TestWhatACommandInAVMWritesIsBroughtBack(t *testing.T) {
	needRoot(t)
	weir, dir := weirBinary(t), t.TempDir()
	for _, args := range [][]string{
		{"record", "service-clusterip-tcp", "-w", "c.pcapng"},
		{"replay", "-w", "annotated.pcapng", "c.pcapng"},
		{"replay", "--scenario", "3", "-o", "packet.txtar", "c.pcapng"},
	} {
		cmd := exec.Command(weir, append(args, "--kernel", "6.12")...)
		cmd.Dir = dir
		r := runProcess(t, cmd)
		require.Zero(t, r.code, r.stderr)
		require.NotContains(t, r.stderr, "no root here")
	}
	for _, file := range []string{"c.pcapng", "annotated.pcapng", "packet.txtar"} {
		require.FileExists(t, filepath.Join(dir, file))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "locked"), 0o555))
	r := runProcess(t, unprivileged(dir, weir, "replay", "-w", "locked/out.pcapng", "c.pcapng"))
	require.Equal(t, exitFailed, r.code)
	require.Equal(t, "weir: write locked/out.pcapng: permission denied\n", r.stderr)
}

func TestAnInterruptEndsACommandInAVMAsItDoesHere(t *testing.T) {
	needRoot(t)
	cmd := unprivileged(t.TempDir(), weirBinary(t), "fuzz", "--time", "10m", "--seed", "7")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	said := make([]byte, len("seed 7\n"))
	_, err = out.Read(said)
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	rest := new(strings.Builder)
	_, err = io.Copy(rest, out)
	require.NoError(t, err)
	_ = cmd.Wait() // 1 if no frame was played yet
	require.Contains(t, rest.String(), "0 disagreements\n")
}

func TestADownloadIsALineEveryFiveSecondsWhereNoTerminalIs(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	p := &vmProgress{out: &out, told: map[string]time.Time{}, now: func() time.Time { return now }}
	for second := range int64(12) {
		now = time.Unix(second, 0)
		p.Bytes("6.12: download", second*1e6, 12e6)
	}
	p.Bytes("6.12: download", 12e6, 12e6)
	require.Equal(t, "weir: 6.12: download, 5.0 MB of 12.0 MB\nweir: 6.12: download, 10.0 MB of 12.0 MB\nweir: 6.12: download, 12.0 MB\n", out.String())
}
