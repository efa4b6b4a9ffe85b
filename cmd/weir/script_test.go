// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weir": main})
}

// The scripts are what a person meets at the command line: testdata/script.
func TestTheCommandLine(t *testing.T) {
	w := &scriptWatches{of: map[*testscript.TestScript]*scriptWatch{}}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ends":       ends,
			"tree":       tree,
			"replaces":   replaces,
			"watches":    w.watches,
			"sees":       w.sees,
			"interrupts": w.interrupts,
		},
	})
}

// ends runs a program and checks its exit status: ends STATUS PROGRAM ARGUMENTS...
func ends(ts *testscript.TestScript, not bool, args []string) {
	if not || len(args) < 2 {
		ts.Fatalf("usage: ends STATUS PROGRAM ARGUMENTS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var ended *exec.ExitError
		if !errors.As(err, &ended) {
			ts.Check(fmt.Errorf("run %s: %w", args[1], err))
		}
		got = ended.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v ends with %d, and was to end with %d", args[1:], got, want)
	}
}
