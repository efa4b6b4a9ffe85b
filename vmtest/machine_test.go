// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/vmtest"
)

// find returns a locked kernel, which `weir vm fetch` has to have brought.
func find(t testing.TB, id string) *vmtest.Kernel {
	t.Helper()
	k, err := vmtest.Find(t.Context(), id, vmtest.FindOptions{Offline: true})
	require.NoError(t, err)
	return k
}

func start(t testing.TB, id string, o vmtest.Options) *vmtest.Machine {
	t.Helper()
	m, err := vmtest.Start(t.Context(), find(t, id), o)
	require.NoErrorf(t, err, "%+v", err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// payload is this very program, playing another.
func payload(t testing.TB, name string) *vmtest.Command {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	c, err := vmtest.HostCommand(self)
	require.NoError(t, err)
	c.Env = append(vmtest.DefaultEnv(), payloadEnv+"="+name)
	return c
}

func host(t testing.TB, program string, args ...string) *vmtest.Command {
	t.Helper()
	c, err := vmtest.HostCommand(program, args...)
	require.NoError(t, err)
	return c
}

func everyKernel(t *testing.T, test func(t *testing.T, id string)) {
	kernels, err := vmtest.Locked()
	require.NoError(t, err)
	for _, k := range kernels {
		t.Run(k.ID, func(t *testing.T) { test(t, k.ID) })
	}
}

func TestEveryKernelRunsABPFProgram(t *testing.T) {
	everyKernel(t, func(t *testing.T, id string) {
		m := start(t, id, vmtest.Options{})
		c := payload(t, "bpf")
		var out, stderr bytes.Buffer
		c.Stdout, c.Stderr = &out, &stderr
		r, err := m.Run(t.Context(), c)
		require.NoErrorf(t, err, "%+v", err)
		require.Equalf(t, 0, r.ExitCode, "stderr: %s", &stderr)
		require.Equal(t, "7\n", out.String())
	})
}

func TestOutputErrorAndExitCodeAreKeptApart(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	c := host(t, "sh", "-c", "read line; echo $line; echo bad >&2; exit 7")
	var out, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader("good\n"), &out, &stderr
	r, err := m.Run(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, 7, r.ExitCode)
	require.Equal(t, "good\n", out.String())
	require.Equal(t, "bad\n", stderr.String())
}

func TestInputBeyondEveryBufferComesBackWhole(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	const size = 8 << 20
	source := rand.NewChaCha8([32]byte{1})
	sent, got := sha256.New(), sha256.New()
	c := payload(t, "echo")
	c.Stdin, c.Stdout = io.TeeReader(io.LimitReader(source, size), sent), got
	r, err := m.Run(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, 0, r.ExitCode)
	require.Equal(t, sent.Sum(nil), got.Sum(nil))
	t.Logf("%.1f MB/s there and back", size/1e6/r.Elapsed.Seconds())
}

func TestACommandThatDoesNotReadItsInputHoldsNothingUp(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	c := host(t, "sh", "-c", "exec <&-; echo done")
	var out bytes.Buffer
	c.Stdin, c.Stdout = io.LimitReader(rand.NewChaCha8([32]byte{}), 4<<20), &out
	r, err := m.Run(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, 0, r.ExitCode)
	require.Equal(t, "done\n", out.String())
}

func TestSignalsEndACommandAsTheyDoHere(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	signals := make(chan syscall.Signal, 1)
	started := make(chan struct{})
	c := host(t, "sh", "-c", "echo ready; read line")
	reader, _ := io.Pipe()
	c.Stdin, c.Signals, c.Stdout = reader, signals, writerFunc(func(b []byte) (int, error) { close(started); return len(b), nil })
	go func() {
		<-started
		signals <- syscall.SIGUSR1
	}()
	r, err := m.Run(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, syscall.SIGUSR1, r.Signal)
	require.Equal(t, 128+int(syscall.SIGUSR1), r.ExitCode)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestACommandThatTakesTooLongIsEnded(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	c := payload(t, "sleep")
	c.Timeout = 200 * time.Millisecond
	r, err := m.Run(t.Context(), c)
	require.ErrorIs(t, err, vmtest.ErrTimeout)
	require.Equal(t, syscall.SIGINT, r.Signal)
	require.NoError(t, m.Death(), "the machine lives on")
}

func TestAContextEndsACommandAndNotTheMachine(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	c := host(t, "sh", "-c", "echo ready; read line")
	reader, _ := io.Pipe()
	c.Stdin, c.Stdout = reader, writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
	_, err := m.Run(ctx, c)
	require.ErrorIs(t, err, context.Canceled)
	r, err := m.Run(t.Context(), host(t, "true"))
	require.NoError(t, err)
	require.Equal(t, 0, r.ExitCode)
}

func TestACommandThatDoesNotExistIsSaidSo(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	_, err := m.Run(t.Context(), &vmtest.Command{Path: "/no/such/thing"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = m.Run(t.Context(), &vmtest.Command{Path: "thing"})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestFilesGoInAndComeBack(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	in := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(in, "deep/er"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(in, "deep/er/file"), []byte("content"), 0o600))
	require.NoError(t, os.Symlink("er/file", filepath.Join(in, "deep/link")))
	c := host(t, "sh", "-c", "mkdir -p /out/sub && cat /in/deep/link > /out/sub/a && echo two > /out/b")
	c.Files = append(c.Files, vmtest.File{Path: "/in", Source: in})
	c.Files = append(c.Files, host(t, "mkdir").Files...)
	c.Files = append(c.Files, host(t, "cat").Files...)
	c.Collect, c.CollectTo = []string{"/out"}, t.TempDir()
	r, err := m.Run(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, 0, r.ExitCode)
	a, err := os.ReadFile(filepath.Join(c.CollectTo, "out/sub/a"))
	require.NoError(t, err)
	require.Equal(t, "content", string(a))
	require.Equal(t, []string{filepath.Join(c.CollectTo, "out/b"), filepath.Join(c.CollectTo, "out/sub/a")}, r.Collected)
}

func TestTwoGuestsOfOneSnapshotShareNothing(t *testing.T) {
	ask := func() string {
		m := start(t, "6.12", vmtest.Options{})
		id, err := m.Read(t.Context(), "/proc/sys/kernel/random/uuid")
		require.NoError(t, err)
		require.NoError(t, m.Put(t.Context(), vmtest.File{Path: "/mine", Content: []byte("x")}))
		return string(id)
	}
	first, second := ask(), ask()
	require.NotEqual(t, first, second, "random numbers must differ")
	m := start(t, "6.12", vmtest.Options{})
	_, err := m.Read(t.Context(), "/mine")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestTheGuestKnowsTheTime(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	c := host(t, "date", "+%s")
	var out bytes.Buffer
	c.Stdout = &out
	before := time.Now()
	_, err := m.Run(t.Context(), c)
	require.NoError(t, err)
	var seconds int64
	_, err = fmt.Sscan(out.String(), &seconds)
	require.NoError(t, err)
	require.WithinRange(t, time.Unix(seconds, 0), before.Add(-3*time.Second), time.Now().Add(3*time.Second))
}

// A guest that goes on from a snapshot is given the time before its first command.
func TestTheGuestsClocksNeverStepBack(t *testing.T) {
	everyKernel(t, func(t *testing.T, id string) {
		m := start(t, id, vmtest.Options{})
		for range 2 {
			c := payload(t, "clocks")
			var out, stderr bytes.Buffer
			c.Stdout, c.Stderr = &out, &stderr
			before := time.Now()
			r, err := m.Run(t.Context(), c)
			require.NoErrorf(t, err, "%+v", err)
			require.Equalf(t, 0, r.ExitCode, "stderr: %s", &stderr)
			first, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
			require.NoError(t, err)
			require.WithinRange(t, time.Unix(0, first), before.Add(-10*time.Second), time.Now().Add(10*time.Second))
		}
	})
}

func TestTheKernelGetsTheModulesThatItAsksFor(t *testing.T) {
	everyKernel(t, func(t *testing.T, id string) {
		m := start(t, id, vmtest.Options{})
		c := host(t, "ip", "link", "add", "left", "type", "veth", "peer", "name", "right")
		var stderr bytes.Buffer
		c.Stderr = &stderr
		r, err := m.Run(t.Context(), c)
		require.NoError(t, err)
		require.Equalf(t, 0, r.ExitCode, "stderr: %s", &stderr)
		modules, err := m.Read(t.Context(), "/proc/modules")
		require.NoError(t, err)
		require.Contains(t, string(modules), "veth ")
	})
}

func TestModulesAreLoadedInTheirOrder(t *testing.T) {
	m := start(t, "6.18", vmtest.Options{Modules: []string{"vxlan", "cls_bpf", "sch_ingress", "ext4"}})
	modules, err := m.Read(t.Context(), "/proc/modules")
	require.NoError(t, err)
	require.Contains(t, string(modules), "vxlan ")
	require.Contains(t, string(modules), "udp_tunnel ")
	require.ErrorContains(t, m.LoadModules(t.Context(), "no_such_module"), "has none of that name")
}

func TestAPanicBreaksTheUnitInTheKernelsWords(t *testing.T) {
	everyKernel(t, func(t *testing.T, id string) {
		m := start(t, id, vmtest.Options{})
		_, err := m.Run(t.Context(), payload(t, "panic"))
		require.ErrorIs(t, err, vmtest.ErrBroken)
		var death *vmtest.DeathError
		require.ErrorAs(t, err, &death)
		require.NotNil(t, death.Splat)
		require.Equal(t, vmtest.Panic, death.Splat.Kind, "it was not silence that was noticed")
		require.NotContains(t, err.Error(), "no sign of life")
		require.Contains(t, fmt.Sprintf("%+v", err), "sysrq")
		_, err = m.Run(t.Context(), payload(t, "bpf"))
		require.ErrorIs(t, err, vmtest.ErrBroken, "a dead machine says so again")
	})
}

func TestAHangIsNoticedAndSaysWhere(t *testing.T) {
	for _, id := range []string{"6.1", "6.12"} {
		t.Run(id, func(t *testing.T) {
			m := start(t, id, vmtest.Options{})
			c := payload(t, "hang")
			var stderr bytes.Buffer
			c.Stderr = &stderr
			begin := time.Now()
			r, err := m.Run(t.Context(), c)
			require.ErrorIs(t, err, vmtest.ErrBroken, "%+v %s", r, &stderr)
			t.Logf("%v after %s", err, time.Since(begin))
			require.Regexp(t, "guest hangs: no sign of life|soft lockup|rcu stall", err.Error())
			require.Contains(t, fmt.Sprintf("%+v", err), "bpf_test_run")
		})
	}
}

func TestAWarningFailsTheUnitDuringWhichItCame(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	r, err := m.Run(t.Context(), payload(t, "bpf"))
	require.NoError(t, err)
	require.Empty(t, r.Splats)

	r, err = m.Run(t.Context(), payload(t, "warn"))
	var splat *vmtest.SplatError
	require.ErrorAs(t, err, &splat)
	require.Equal(t, 0, r.ExitCode, "the command itself had nothing to complain of")
	require.Equal(t, vmtest.Warning, splat.Splats[0].Kind)
	require.Contains(t, err.Error(), "skb_warn_bad_offload")
	require.Contains(t, splat.Splats[0].Text, "__skb_gso_segment")

	r, err = m.Run(t.Context(), payload(t, "bpf"))
	require.NoError(t, err, "the next unit starts clean")
	require.Empty(t, r.Splats)

	c := payload(t, "warn")
	c.AllowSplats = []vmtest.SplatKind{vmtest.Warning}
	_, err = m.Run(t.Context(), c)
	require.NoError(t, err)
}

func TestMemoryRunningOutIsSaid(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	r, err := m.Run(t.Context(), payload(t, "memory"))
	var splat *vmtest.SplatError
	require.ErrorAs(t, err, &splat)
	require.Equal(t, vmtest.OutOfMemory, splat.Splats[0].Kind)
	require.Equal(t, syscall.SIGKILL, r.Signal)
}

func TestADyingQEMUIsNoticed(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	started := make(chan struct{})
	c := host(t, "sh", "-c", "echo ready; read line")
	reader, _ := io.Pipe()
	c.Stdin, c.Stdout = reader, writerFunc(func(b []byte) (int, error) { close(started); return len(b), nil })
	go func() {
		<-started
		syscall.Kill(m.PID(), syscall.SIGKILL)
	}()
	_, err := m.Run(t.Context(), c)
	require.ErrorIs(t, err, vmtest.ErrBroken)
	require.ErrorContains(t, err, "QEMU ended with signal: killed")
}

func TestAClosedMachineSaysSo(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	require.NoError(t, m.Close())
	_, err := m.Run(t.Context(), &vmtest.Command{Path: "/sbin/weir-init"})
	require.ErrorIs(t, err, vmtest.ErrClosed)
	require.True(t, errors.Is(m.Death(), vmtest.ErrClosed))
}

func TestCommandsRunSideBySide(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	first := host(t, "sh", "-c", "read line; echo first $line")
	reader, writer := io.Pipe()
	var out bytes.Buffer
	first.Stdin, first.Stdout = reader, &out
	ended := make(chan error, 1)
	go func() {
		_, err := m.Run(t.Context(), first)
		ended <- err
	}()
	second := host(t, "sh", "-c", "echo second")
	var secondOut bytes.Buffer
	second.Stdout = &secondOut
	_, err := m.Run(t.Context(), second)
	require.NoError(t, err)
	require.Equal(t, "second\n", secondOut.String(), "the first still waits")
	_, err = io.WriteString(writer, "ends\n")
	require.NoError(t, err)
	require.NoError(t, <-ended)
	require.Equal(t, "first ends\n", out.String())
}

func TestACommandWhoseHelperIsKilledForMemoryDoesNotWaitForEver(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	c := payload(t, "memory-of-a-child") // which sleeps for an hour
	_, err := m.Run(t.Context(), c)
	var splat *vmtest.SplatError
	require.ErrorAs(t, err, &splat)
	require.Equal(t, vmtest.OutOfMemory, splat.Splats[0].Kind)
}

func TestManyCommandsInARowAreNotSlowedDown(t *testing.T) {
	m := start(t, "6.12", vmtest.Options{})
	const commands = 40
	begin := time.Now()
	for range commands {
		r, err := m.Run(t.Context(), host(t, "true"))
		require.NoError(t, err)
		require.Equal(t, 0, r.ExitCode)
		require.Contains(t, r.Console, "weir-init: mark", "the kernel's log has come up to the command's end")
	}
	t.Logf("%.0f commands a second", commands/time.Since(begin).Seconds())
}

func TestAMissingQEMUIsSaidWithItsRemedy(t *testing.T) {
	k := find(t, "6.12")
	t.Setenv(vmtest.QEMUEnv, "/no/such/qemu")
	_, err := vmtest.Start(t.Context(), k, vmtest.Options{})
	require.ErrorContains(t, err, "/no/such/qemu")
	t.Setenv(vmtest.QEMUEnv, "")
	t.Setenv("PATH", t.TempDir())
	_, err = vmtest.Start(t.Context(), k, vmtest.Options{})
	require.ErrorIs(t, err, vmtest.ErrNoQEMU)
	require.ErrorContains(t, err, "apt-get install")
}
