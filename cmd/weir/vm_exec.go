// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/vmtest"
)

func vmExecCommand() *cobra.Command {
	var machine vmMachineFlags
	var files []string
	cmd := &cobra.Command{
		Use:   "exec [flags] TEST-BINARY [ARGUMENT...]",
		Short: "Run a Go test binary in a guest, for go test -exec",
		Long: `Run a Go test binary in a guest, for go test -exec.

The test runs in its package's directory, with the files of that directory and
its testdata. Profiles, coverage and logs come back, and so does what the test
changes in testdata. The environment is passed on. Go's cache of test results
does not know about kernels: use -count=1.`,
		Example: `  go test -count=1 -exec 'weir vm exec --kernel 6.1' ./...
  go test -count=1 -exec 'weir vm exec --kernel 5.10' -coverprofile=cover.out .`,
		Args: atLeastOne("which test? It is for go test -exec 'weir vm exec'"),
		RunE: func(cmd *cobra.Command, args []string) error {
			command, err := vmtest.GoTest(args[0], ".", args[1:])
			if err != nil {
				return &exitError{exitNotRun, err}
			}
			extra, err := vmFiles(files)
			if err != nil {
				return err
			}
			command.Files = append(command.Files, extra...)
			command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
			return vmRunOne(cmd, &machine, nil, command)
		},
	}
	cmd.Flags().SetInterspersed(false)
	machine.register(cmd)
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "carry this file or directory into the guest, as PATH or PATH:PATH-IN-GUEST (repeatable)")
	return cmd
}
