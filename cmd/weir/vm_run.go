// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/vmtest"
)

// Exit codes beside the command's own, as env(1), timeout(1) and shells have
// them.
const (
	exitTimeout  = 124 // the command took too long
	exitBroken   = 125 // the guest failed, or its kernel complained
	exitNotRun   = 126 // the command could not be started
	exitNotFound = 127 // there is no such command

	exitInterrupted = 130 // by Ctrl-C, before the command ran
)

func vmRunCommand() *cobra.Command {
	var machine vmMachineFlags
	var run vmRunFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENT...]",
		Short: "Run a command of this machine in a guest",
		Long: `Run a command of this machine in a guest.

The command is carried into the guest with its shared libraries; a file that it
needs besides is named with --file. Standard input, output and error are the
command's, and so are signals. It exits with the command's code, and with
  124  if it took longer than --timeout (more of it where the guest is slower)
  125  if the guest died, or its kernel complained meanwhile
  126  if the command could not be started
  127  if there is no such command
  128+N  if signal N ended it`,
		Example: `  weir vm run --kernel 5.10 -- uname -r
  weir vm run --kernel 6.1 --module cls_bpf -- tc -V
  weir vm run --kernel ./linux --file prog.o -- \
      bpftool prog load prog.o /sys/fs/bpf/prog
  tar c dir | weir vm run --kernel 7.2 -- tar tv
  weir vm run --file testdata --collect '/tmp/out/*' --to . -- ./program`,
		Args: atLeastOne("which command? Name it behind --, as in weir vm run -- uname -r"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if run.timeout < 0 {
				return usageError(fmt.Errorf("--timeout %s: it is no time to run for", run.timeout))
			}
			command, err := run.command(args)
			if err != nil {
				return err
			}
			if run.terminal {
				return vmInteractive(cmd, &machine, nil, command)
			}
			return vmRunOne(cmd, &machine, nil, command)
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the command is its own
	machine.register(cmd)
	run.register(cmd)
	return cmd
}

type vmRunFlags struct {
	files     []string
	env       []string
	dir       string
	timeout   time.Duration
	collect   []string
	collectTo string
	noStdin   bool
	terminal  bool
}

func (f *vmRunFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.files, "file", "f", nil, "carry this file or directory into the guest, as PATH or PATH:PATH-IN-GUEST (repeatable)")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set NAME=VALUE, or pass NAME on (repeatable)")
	flags.StringVar(&f.dir, "dir", "", "working directory in the guest (default: this one's path)")
	flags.DurationVar(&f.timeout, "timeout", 0, "end the command after this long, stretched by how much slower the guest is")
	flags.StringArrayVar(&f.collect, "collect", nil, "bring files back that match this pattern of paths in the guest (repeatable)")
	flags.StringVar(&f.collectTo, "to", ".", "directory for what --collect brings back")
	flags.BoolVarP(&f.terminal, "tty", "t", false, "give the command a terminal, as for top or vi")
	flags.BoolVarP(&f.noStdin, "no-stdin", "n", false, "give the command no standard input")
}

// vmRunOne starts a machine for one command. The files become part of its
// snapshot.
func vmRunOne(cmd *cobra.Command, machine *vmMachineFlags, files []vmtest.File, command *vmtest.Command) error {
	release, err := vmtest.Acquire(cmd.Context(), machine.memory)
	if err != nil {
		return err
	}
	defer release()
	m, err := machine.start(cmd, func(o *vmtest.Options) { o.Files = files })
	if err != nil {
		return err
	}
	defer m.Close()
	ctx, stop := vmPassSignals(cmd.Context(), command)
	defer stop()
	if err := cmd.Context().Err(); err != nil {
		return vmBroken(cmd, err) // it came before signals were passed on
	}
	result, err := m.Run(ctx, command)
	return vmExit(cmd, result, err)
}

// command describes what is to run.
func (f *vmRunFlags) command(args []string) (*vmtest.Command, error) {
	command, err := vmtest.HostCommand(args[0], args[1:]...)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, os.ErrNotExist), err != nil && strings.Contains(err.Error(), "not found"):
		return nil, &exitError{exitNotFound, err}
	case err != nil:
		return nil, &exitError{exitNotRun, err}
	}
	files, err := vmFiles(f.files)
	if err != nil {
		return nil, err
	}
	command.Files = append(command.Files, files...)
	if command.Dir = f.dir; f.dir == "" {
		if command.Dir, err = os.Getwd(); err != nil {
			return nil, err
		}
	}
	command.Env = vmtest.DefaultEnv()
	for _, e := range f.env {
		if !strings.Contains(e, "=") {
			e += "=" + os.Getenv(e)
		}
		command.Env = append(command.Env, e)
	}
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	if !f.noStdin {
		command.Stdin = os.Stdin
	}
	command.Timeout, command.Collect, command.CollectTo = f.timeout, f.collect, f.collectTo
	return command, nil
}

// vmFiles reads what --file says: PATH, or PATH:PATH-IN-GUEST.
func vmFiles(flags []string) ([]vmtest.File, error) {
	var files []vmtest.File
	for _, flag := range flags {
		here, there, _ := strings.Cut(flag, ":")
		if there == "" {
			there = here
		}
		there, err := filepath.Abs(there)
		if err != nil {
			return nil, err
		}
		files = append(files, vmtest.File{Path: there, Source: here})
	}
	return files, nil
}

// vmExit makes this process end as the command did.
func vmExit(cmd *cobra.Command, result *vmtest.Result, err error) error {
	var splat *vmtest.SplatError
	switch {
	case err == nil && result.ExitCode == 0:
		return nil
	case err == nil:
		return &exitError{code: result.ExitCode}
	case errors.Is(err, vmtest.ErrBroken), errors.As(err, &splat):
		return vmBroken(cmd, err)
	case errors.Is(err, vmtest.ErrTimeout):
		return &exitError{exitTimeout, err}
	case errors.Is(err, fs.ErrNotExist) && result == nil:
		return &exitError{exitNotFound, err}
	case result != nil && result.ExitCode != 0:
		return &exitError{result.ExitCode, err}
	}
	return &exitError{exitNotRun, err}
}

// vmBroken prints the kernel's words. If this process was interrupted, that
// was the reason.
func vmBroken(cmd *cobra.Command, err error) error {
	if cmd.Context().Err() != nil {
		return vmInterrupted(cmd.Context())
	}
	return &exitError{exitBroken, fmt.Errorf("%+v", err)}
}
