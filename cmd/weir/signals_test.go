// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/pcap"
	"github.com/weirnet/weir/replay"
)

func TestASignalEndsTheWorkAndSaysWhich(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		ctx, stop := untilSignal(t.Context())
		require.NoError(t, syscall.Kill(os.Getpid(), s))
		<-ctx.Done()
		stop()
		require.ErrorIs(t, ctx.Err(), context.Canceled)
		require.Equal(t, s, stoppedBy(ctx).signal)
	}
	ctx, stop := untilSignal(t.Context())
	stop()
	require.Nil(t, stoppedBy(ctx), "the end of the work is no signal")
	require.NoError(t, tellSignal(ctx, nil))
}

func TestASignalIsToldAsSuch(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	stop(&stoppedError{syscall.SIGTERM})
	for name, c := range map[string]struct {
		err  error
		says string
		code int
	}{
		"the context's error":     {fmt.Errorf("read objects: %w", ctx.Err()), "read objects: stopped by a signal (terminated)", 143},
		"the context's cause":     {fmt.Errorf("%w after 3 packets", context.Cause(ctx)), "stopped by a signal (terminated) after 3 packets", 143},
		"another error":           {io.ErrUnexpectedEOF, "unexpected EOF\nstopped by a signal (terminated)", 143},
		"a chosen exit status":    {usageError(ctx.Err()), "stopped by a signal (terminated)", exitUsage},
		"one without an error":    {&exitError{code: exitFailed}, "exit status 1", exitFailed},
		"that and a close's":      {errors.Join(ctx.Err(), os.ErrClosed), "stopped by a signal (terminated)\nfile already closed", 143},
		"an answer is no failure": {nil, "", exitOK},
	} {
		err := tellSignal(ctx, c.err)
		require.Equal(t, c.code, exitCode(err), name)
		if c.err != nil {
			require.EqualError(t, err, c.says, name)
		}
	}
	require.Equal(t, os.ErrClosed, tellSignal(t.Context(), os.ErrClosed), "without a signal nothing is told")
}

func TestWordsOfContextsAreToldPlainly(t *testing.T) {
	late, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	<-late.Done()
	require.Equal(t, "ask node a: no answer in time", plainly(fmt.Errorf("ask node a: %w", late.Err())))
	ended, stop := context.WithCancel(t.Context())
	stop()
	require.Equal(t, "read objects: stopped before its end", plainly(fmt.Errorf("read objects: %w", ended.Err())))
	require.Equal(t, "file already closed", plainly(os.ErrClosed))
}

// longCapture has more packets than are replayed between two writes of output.
func longCapture(t *testing.T) (path string, packets int) {
	t.Helper()
	in, err := os.Open(testCapture(t))
	require.NoError(t, err)
	defer in.Close()
	r, err := pcap.NewReader(in)
	require.NoError(t, err)
	var one pcap.Packet
	require.NoError(t, r.Next(&one))
	var out bytes.Buffer
	w, err := pcap.NewWriter(&out)
	require.NoError(t, err)
	n, err := w.AddInterface("eth0", "")
	require.NoError(t, err)
	packets = 20_000
	for range packets {
		require.NoError(t, w.Write(pcap.Packet{Interface: n, Time: one.Time, Data: one.Data}))
	}
	return testFile(t, "long.pcapng", out.String()), packets
}

// onWrite calls a function when it is first written to.
type onWrite struct {
	io.Writer
	call func()
}

func (o *onWrite) Write(b []byte) (int, error) {
	o.call()
	return o.Writer.Write(b)
}

func TestAStoppedReplayTellsWhatItHasDone(t *testing.T) {
	needRoot(t)
	capture, packets := longCapture(t)
	annotated := filepath.Join(t.TempDir(), "annotated.pcapng")
	for _, args := range [][]string{{"--by", "packet", capture}, {"-o", "json", "-w", annotated, capture}} {
		ctx, stop := context.WithCancelCause(t.Context())
		var out bytes.Buffer
		root := rootCommand()
		root.SetOut(&onWrite{&out, func() { stop(&stoppedError{syscall.SIGINT}) }})
		root.SetErr(io.Discard)
		root.SetArgs(append([]string{"replay"}, args...))
		err := tellSignal(ctx, root.ExecuteContext(ctx))
		require.Regexp(t, `^stopped by a signal \(interrupt\) after \d+ packets$`, err.Error())
		require.Equal(t, 130, exitCode(err))
		var done int
		_, scanErr := fmt.Sscanf(err.Error(), "stopped by a signal (interrupt) after %d packets", &done)
		require.NoError(t, scanErr)
		require.Greater(t, done, 0)
		require.Less(t, done, packets)
		if args[0] == "--by" {
			require.Contains(t, out.String(), fmt.Sprintf("\n%d packets: %d forward, ", done, done))
			continue
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		require.Len(t, lines, done+1)
		var last replay.Result
		require.NoError(t, json.Unmarshal([]byte(lines[done]), &last))
		require.Equal(t, done, last.Summary.Packets)
		require.Equal(t, []string{err.Error()}, last.Summary.Problems)
		require.Equal(t, done, packetsIn(t, annotated), "what was done is written whole")
	}
}

func packetsIn(t *testing.T, path string) (n int) {
	t.Helper()
	in, err := os.Open(path)
	require.NoError(t, err)
	defer in.Close()
	r, err := pcap.NewReader(in)
	require.NoError(t, err)
	var p pcap.Packet
	for err = r.Next(&p); err == nil; err = r.Next(&p) {
		n++
	}
	require.ErrorIs(t, err, io.EOF)
	return n
}

func TestAReplayThatIsStoppedBeforeItBeginsSaysSo(t *testing.T) {
	needRoot(t)
	ctx, stop := context.WithCancelCause(t.Context())
	stop(&stoppedError{syscall.SIGINT})
	root := rootCommand()
	root.SetArgs([]string{"replay", testCapture(t)})
	err := tellSignal(ctx, root.ExecuteContext(ctx))
	require.EqualError(t, err, "stopped by a signal (interrupt)")
	require.Equal(t, 130, exitCode(err))
}

func TestAStoppedComparisonTellsWhatItHasDone(t *testing.T) {
	needRoot(t)
	capture, packets := longCapture(t)
	before, after := testFile(t, "a.yaml", testState), testFile(t, "b.yaml", testState+testPolicy)
	ctx, stop := context.WithCancelCause(t.Context())
	time.AfterFunc(0, func() { stop(&stoppedError{syscall.SIGINT}) })
	var out bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetArgs([]string{"replay", "--diff", "--exit-code", before, after, capture})
	<-ctx.Done()
	err := tellSignal(ctx, root.ExecuteContext(ctx))
	require.Equal(t, 130, exitCode(err))
	require.ErrorContains(t, err, "stopped by a signal (interrupt)")
	require.NotContains(t, out.String(), fmt.Sprintf("of %d packets", packets))
}

func TestNobodyIsToldOfAContext(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	stop(&stoppedError{syscall.SIGINT})
	var told bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetContext(ctx)
	cmd.SetOut(io.Discard)
	cmd.SetErr(&told)

	err := (&scenarioRun{}).end(cmd, nil, nil, fmt.Errorf("stopped after 1 of 2 runs: %w", ctx.Err()))
	require.Equal(t, exitFailed, exitCode(tellSignal(ctx, err)))
	require.Equal(t, "weir: stopped after 1 of 2 runs: stopped by a signal (interrupt)\n", told.String())

	err = tellSignal(ctx, vmBroken(cmd, errors.New("the guest is gone")))
	require.EqualError(t, err, "stopped by a signal (interrupt)")
	require.Equal(t, exitInterrupted, exitCode(err))
}

func TestWhoDoesNotAnswerIsToldWithoutTheWordsOfAProgram(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, and says nothing
	require.NoError(t, err)
	defer silent.Close()
	config := testFile(t, "config", "apiVersion: v1\nkind: Config\ncurrent-context: c\n"+
		"clusters: [{name: c, cluster: {server: 'http://"+silent.Addr().String()+"'}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\n")
	dump := filepath.Join(t.TempDir(), "dump.zip")
	r := runProcess(t, exec.Command(weirBinary(t), "sysdump", "--kubeconfig", config, "--timeout", "300ms", "--output", dump))
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stderr, "no answer in time")
	require.NotRegexp(t, "context (canceled|deadline exceeded)", r.stdout+r.stderr)
}

// No command has a way of its own to tell of an error.
func TestEveryErrorIsToldInOnePlace(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if file != "main.go" && !strings.HasSuffix(file, "_test.go") {
			require.NotRegexp(t, `"weir:",.*\berr\b`, string(text), "%s: use tellError", file)
		}
	}
}
