// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/vmtest"
)

// guest is where a command that tries the programs runs: on this machine's kernel, or
// the whole command again in a guest, if a kernel is named or this process lacks the
// privileges.
type guest struct{ kernel string }

// guestEnv tells a command that it is the one in the guest.
const guestEnv = "WEIR_GUEST"

func (g *guest) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.kernel, "kernel", "", "run in this kernel, in QEMU: of the lock, or a path; default this machine's, and without privileges "+defaultKernel)
}

// where is the kernel of the guest that the command has to be in; empty: it may be here.
func (g *guest) where() (kernel string, err error) {
	switch {
	case os.Getenv(guestEnv) != "":
		return "", nil
	case g.kernel != "":
		return g.kernel, nil
	}
	if err := netns.Privileged(); !errors.Is(err, netns.ErrUnprivileged) {
		return "", err
	}
	return defaultKernel, nil
}

// errand is what a command reads and writes, beside its streams. Paths may be relative.
type errand struct {
	reads    []string // files and folders
	streams  []string // likewise; - and pipes among them are its standard input
	writes   []string // files and folders, with what is below
	programs []string // of this machine that it runs
}

// runs runs the command in a guest if it has to be there. Away is whether it has: the
// command has nothing left to do then.
func (g *guest) runs(cmd *cobra.Command, e errand) (away bool, err error) {
	kernel, err := g.where()
	if kernel == "" || err != nil {
		return false, err
	}
	command, size, err := e.command(os.Args[1:])
	if err != nil {
		return true, err
	}
	if g.kernel == "" {
		fmt.Fprintf(cmd.ErrOrStderr(), "weir: no root here: runs in a VM with Linux %s; --kernel chooses\n", kernel)
	}
	command.Stdout, command.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
	return true, runInGuest(cmd, &vmMachineFlags{kernel: kernel, memory: guestMemory(size), cpus: 1}, command)
}

// guestMemory is what a guest has that holds so many bytes of files, in MiB. It comes
// in large steps, for each size has a snapshot of its own.
func guestMemory(files int64) int {
	const step = 512
	return vmtest.DefaultMemory + step*int((files>>20+step)/step)
}

// command is this program with its arguments, and the size of the files that go along.
func (e *errand) command(args []string) (command *vmtest.Command, size int64, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, 0, fmt.Errorf("find this program: %w", err)
	}
	if command, err = vmtest.HostCommand(program); err != nil {
		return nil, 0, err
	}
	if command.Dir, err = os.Getwd(); err != nil {
		return nil, 0, fmt.Errorf("find the working directory: %w", err)
	}
	command.Env = append(vmtest.DefaultEnv(), guestEnv+"=1", "GODEBUG=asyncpreemptoff=1")
	command.Args = slices.Clone(args)
	if err := e.stream(command); err != nil {
		return nil, 0, err
	}
	for _, path := range e.reads {
		if size, err = carryInto(command, path, size); err != nil {
			return nil, 0, err
		}
	}
	if err := e.collect(command); err != nil {
		return nil, 0, err
	}
	if len(e.writes) > 0 {
		size *= 2 // what is written may be as large as what is read
	}
	for _, program := range e.programs {
		_, files, err := vmtest.Carry(program)
		if err != nil {
			return nil, 0, err
		}
		command.Files = append(command.Files, files...)
	}
	return command, size, nil
}

// stream makes what comes through pipes the standard input, of which there is one.
// The rest is read as files are.
func (e *errand) stream(command *vmtest.Command) error {
	for _, path := range e.streams {
		in := os.Stdin
		if path != "-" {
			info, err := os.Stat(path)
			if err != nil {
				return fmt.Errorf("carry files into the VM: %w", err)
			}
			if info.Mode().IsRegular() || info.IsDir() {
				e.reads = append(e.reads, path)
				continue
			}
			if in, err = os.Open(path); err != nil {
				return err
			}
		}
		if command.Stdin != nil {
			return usageError(errors.New("a VM has one standard input: no more than one of - and the pipes can be read there"))
		}
		command.Stdin = in
		for i, arg := range command.Args {
			if arg == path {
				command.Args[i] = "-"
			}
		}
	}
	return nil
}

// collect has what the command writes brought back. That it cannot be written is told
// before the guest begins.
func (e *errand) collect(command *vmtest.Command) error {
	command.CollectTo = "/"
	for _, path := range e.writes {
		there, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		switch info, err := os.Stat(there); {
		case err == nil && !info.Mode().IsRegular() && !info.IsDir():
			continue // such as /dev/stdout, which the guest has too
		case err == nil:
			err = unix.Access(there, unix.W_OK)
			if err != nil {
				return fmt.Errorf("write %s: %w", path, err)
			}
		default:
			if err := unix.Access(filepath.Dir(there), unix.W_OK); err != nil {
				return fmt.Errorf("write %s: %w", path, err)
			}
		}
		command.Files = append(command.Files, vmtest.File{Path: filepath.Dir(there), Mode: os.ModeDir | 0o755})
		command.Collect = append(command.Collect, vmtest.Literal(there))
	}
	return nil
}

// carryInto adds a file or a folder to those of a command, and its bytes to size.
func carryInto(command *vmtest.Command, path string, size int64) (int64, error) {
	there, err := filepath.Abs(path)
	if err != nil {
		return size, err
	}
	err = filepath.Walk(path, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		return size, fmt.Errorf("carry files into the VM: %w", err)
	}
	command.Files = append(command.Files, vmtest.File{Path: there, Source: path})
	return size, nil
}

// runInGuest ends as the command in the guest does; that the guest failed is told as
// any other error.
func runInGuest(cmd *cobra.Command, machine *vmMachineFlags, command *vmtest.Command) error {
	err := vmRunOne(cmd, machine, nil, command)
	if exit, ok := errors.AsType[*exitError](err); ok && exit.err != nil && exit.code == exitBroken {
		return fmt.Errorf("run in a VM: %w", exit.err)
	}
	return err
}
