// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptWatches are the watches of scripts, which run beside each other.
type scriptWatches struct {
	mu sync.Mutex
	of map[*testscript.TestScript]*scriptWatch
}

// scriptWatch is a watch that goes on while its script does.
type scriptWatch struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner // of both of its outputs
}

// watches begins a watch: watches ARGUMENTS OF scenario run --watch...
func (w *scriptWatches) watches(ts *testscript.TestScript, _ bool, args []string) {
	program, err := exec.LookPath("weir")
	ts.Check(err)
	cmd := exec.Command(program, append([]string{"scenario", "run", "--watch"}, args...)...)
	cmd.Dir = ts.MkAbs(".")
	out, in, err := os.Pipe()
	ts.Check(err)
	cmd.Stdout, cmd.Stderr = in, in
	ts.Check(cmd.Start())
	ts.Check(in.Close())
	ts.Defer(func() {
		if cmd.ProcessState == nil { // the script has failed
			_ = cmd.Process.Signal(os.Interrupt)
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
		}
		_ = out.Close()
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of[ts] = &scriptWatch{cmd, bufio.NewScanner(out)}
}

func (w *scriptWatches) mine(ts *testscript.TestScript) *scriptWatch {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of[ts]
}

// sees waits for a line of the watch's output, behind those that were seen: sees REGEXP.
func (w *scriptWatches) sees(ts *testscript.TestScript, not bool, args []string) {
	if not || len(args) != 1 {
		ts.Fatalf("usage: sees REGEXP")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	one := w.mine(ts)
	for one.lines.Scan() {
		ts.Logf("[watch] %s", one.lines.Text())
		if want.Match(one.lines.Bytes()) {
			return
		}
	}
	ts.Fatalf("the watch has ended, and no line was as %q", args[0])
}

// interrupts ends the watch, and checks its exit status: interrupts STATUS.
func (w *scriptWatches) interrupts(ts *testscript.TestScript, not bool, args []string) {
	one := w.mine(ts)
	ts.Check(one.cmd.Process.Signal(os.Interrupt))
	for one.lines.Scan() {
		ts.Logf("[watch] %s", one.lines.Text())
	}
	err := one.cmd.Wait()
	if ended, is := errors.AsType[*exec.ExitError](err); err != nil && !is {
		ts.Check(err)
	} else if is {
		ts.Logf("%v", ended)
	}
	if got := fmt.Sprint(one.cmd.ProcessState.ExitCode()); not || len(args) != 1 || got != args[0] {
		ts.Fatalf("the watch ended with %s, and was to end with %v", got, args)
	}
}

// tree copies what a watch needs of the source tree, with some scenarios of its library:
// tree FILE...
func tree(ts *testscript.TestScript, _ bool, args []string) {
	files := []string{"go.mod", "bpf/bpf.go"}
	for _, pattern := range []string{"bpf/*.c", "bpf/lib/*.h"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		ts.Check(err)
		for _, path := range found {
			files = append(files, strings.TrimPrefix(path, root+"/"))
		}
	}
	for _, name := range args {
		files = append(files, "scenarios/library/"+name)
	}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(root, name))
		ts.Check(err)
		path := ts.MkAbs(name)
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		ts.Check(os.WriteFile(path, text, 0o644))
	}
}

// root is the root of the source tree, as tests are run below it.
const root = "../.."

// replaces replaces a text that a file has once, as an editor saves it: replaces FILE OLD
// NEW.
func replaces(ts *testscript.TestScript, not bool, args []string) {
	if not || len(args) != 3 {
		ts.Fatalf("usage: replaces FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if n := strings.Count(text, args[1]); n != 1 {
		ts.Fatalf("%s has %q %d times", args[0], args[1], n)
	}
	path := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(path+"~", []byte(strings.Replace(text, args[1], args[2], 1)), 0o644))
	ts.Check(os.Rename(path+"~", path))
}
