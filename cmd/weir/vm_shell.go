// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weirnet/weir/vmtest"
)

// vmShells are tried in this order.
var vmShells = []string{"bash", "dash", "sh"}

// vmTools are carried into a shell's guest as far as this machine has them.
var vmTools = []string{
	"awk", "basename", "bpftool", "bpftrace", "bridge", "cat", "chmod", "clear", "cp", "curl", "cut", "date", "dd", "df",
	"dirname", "dmesg", "du", "env", "ethtool", "find", "free", "grep", "head", "hexdump", "id", "ip", "iperf3", "ip6tables",
	"iptables", "kill", "less", "ln", "ls", "lsmod", "mkdir", "mktemp", "modprobe", "mount", "mv", "nc", "nft", "nproc", "nsenter",
	"od", "pidof", "ping", "ps", "pwd", "readlink", "rm", "sed", "seq", "sh", "sleep", "sort", "ss", "stat", "strace", "stty",
	"sysctl", "tail", "tc", "tcpdump", "tee", "timeout", "top", "touch", "tr", "true", "umount", "uname", "uniq", "unshare",
	"vi", "wc", "which", "xargs", "xxd",
}

func vmShellCommand() *cobra.Command {
	var machine vmMachineFlags
	var with, files []string
	cmd := &cobra.Command{
		Use:   "shell",
		Short: "Open a shell in a guest",
		Long: `Open a shell in a guest: this machine's shell and tools, in another kernel.

What is carried into the guest: the shell, the common tools, those of
networking and of eBPF as far as they are installed here, and what --with and
--file name.`,
		Example: "  weir vm shell --kernel 7.2\n  weir vm shell --kernel 6.1 --with jq,./my-program",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			command, tools, err := vmShell(with)
			if err != nil {
				return err
			}
			if command.Files, err = vmFiles(files); err != nil {
				return err
			}
			if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
				command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
				return vmRunOne(cmd, &machine, tools, command)
			}
			return vmInteractive(cmd, &machine, tools, command)
		},
	}
	machine.register(cmd)
	cmd.Flags().StringSliceVar(&with, "with", nil, "programs to carry into the guest besides (repeatable)")
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "carry this file or directory into the guest, as PATH or PATH:PATH-IN-GUEST (repeatable)")
	return cmd
}

// vmShell returns the shell, and the files that become part of the snapshot.
func vmShell(with []string) (*vmtest.Command, []vmtest.File, error) {
	var command *vmtest.Command
	var files []vmtest.File
	for _, name := range vmShells {
		path, shell, err := vmtest.Carry(name)
		if err == nil {
			command = &vmtest.Command{Path: path, Env: append(vmtest.DefaultEnv(), "TERM="+os.Getenv("TERM"), `PS1=guest:\w# `), Dir: "/root"}
			files = shell
			break
		}
	}
	if command == nil {
		return nil, nil, errors.New("no shell on this machine")
	}
	for _, name := range vmTools {
		if name == "modprobe" {
			continue // the guest has its own
		}
		if _, tool, err := vmtest.Carry(name); err == nil {
			files = append(files, tool...)
		}
	}
	for _, name := range with {
		_, tool, err := vmtest.Carry(name)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, tool...)
	}
	return command, vmDistinct(files), nil
}

// vmDistinct drops repetitions: tools share libraries.
func vmDistinct(files []vmtest.File) []vmtest.File {
	seen := make(map[string]bool)
	var distinct []vmtest.File
	for _, f := range files {
		if !seen[f.Path] {
			seen[f.Path] = true
			distinct = append(distinct, f)
		}
	}
	return distinct
}

// vmInteractive connects this terminal with one in the guest.
func vmInteractive(cmd *cobra.Command, machine *vmMachineFlags, tools []vmtest.File, command *vmtest.Command) error {
	m, err := machine.start(cmd, func(o *vmtest.Options) { o.Files = tools })
	if err != nil {
		return err
	}
	defer m.Close()
	fmt.Fprintln(os.Stderr, "weir:", vmStarted(m))
	input := int(os.Stdin.Fd())
	before, err := term.MakeRaw(input)
	if err != nil {
		return &exitError{exitNotRun, fmt.Errorf("take over the terminal: %w (is standard input one?)", err)}
	}
	defer term.Restore(input, before)
	sizes, stop := vmTerminalSizes(input)
	defer stop()
	command.Terminal, command.Sizes = true, sizes
	command.Stdin, command.Stdout = os.Stdin, os.Stdout
	result, err := m.Run(context.WithoutCancel(cmd.Context()), command)
	term.Restore(input, before)
	return vmExit(cmd, result, err)
}

// vmTerminalSizes gives the size of a terminal now and whenever it changes.
func vmTerminalSizes(fd int) (sizes <-chan vmtest.TerminalSize, stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	out := make(chan vmtest.TerminalSize, 4)
	tell := func() {
		if columns, rows, err := term.GetSize(fd); err == nil {
			select {
			case out <- vmtest.TerminalSize{Rows: uint16(rows), Columns: uint16(columns)}:
			default:
			}
		}
	}
	tell()
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-changed:
				tell()
			case <-done:
				return
			}
		}
	}()
	return out, func() {
		signal.Stop(changed)
		close(done)
	}
}
