// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weirnet/weir/vmtest"
)

// vmCommand boots kernels and runs programs in them.
func vmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "Boot kernels in QEMU and run programs in them",
		Long: `Boot kernels in QEMU and run programs in them.

A kernel is one of the lock ("6.1", see 'weir vm kernels'), or a path: a
vmlinuz, a vmlinux, or a kernel's build tree. The first run boots it and keeps
a snapshot; each further one continues from there, within a tenth of a second.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(vmRunCommand(), vmKernelsCommand(), vmFetchCommand(), vmRefreshCommand(),
		vmCheckCommand(), vmDoctorCommand(), vmExecCommand(), vmShellCommand(), vmCleanCommand())
	return cmd
}

// vmProgress tells on stderr what takes time: on a terminal as one line that
// changes, elsewhere one line a step.
type vmProgress struct {
	mu       sync.Mutex
	terminal bool
	open     bool // a line without its end
	last     time.Time
	told     map[string]time.Time // when what was told of, where no terminal is
	out      io.Writer
	now      func() time.Time
}

func newVMProgress() *vmProgress {
	return &vmProgress{terminal: term.IsTerminal(int(os.Stderr.Fd())), told: map[string]time.Time{}, out: os.Stderr, now: time.Now}
}

// Step implements vmtest.Progress.
func (p *vmProgress) Step(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintln(os.Stderr, "weir:", what)
}

// Bytes implements vmtest.Progress.
func (p *vmProgress) Bytes(what string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.terminal {
		p.line(what, done, total)
		return
	}
	if time.Since(p.last) < 50*time.Millisecond && done != total {
		return
	}
	p.last = time.Now()
	p.clear()
	fmt.Fprintf(os.Stderr, "weir: %s, %s of %s", what, megabytes(done), megabytes(total))
	p.open = true
	if done == total {
		fmt.Fprintln(os.Stderr)
		p.open = false
	}
}

// lineEvery is how often a download is a line where no terminal is.
const lineEvery = 5 * time.Second

// line tells how far a download is: at its end, and meanwhile now and then.
func (p *vmProgress) line(what string, done, total int64) {
	last, begun := p.told[what]
	switch {
	case done == total:
		fmt.Fprintf(p.out, "weir: %s, %s\n", what, megabytes(total))
	case begun && p.now().Sub(last) < lineEvery:
		return
	case begun && total > 0:
		fmt.Fprintf(p.out, "weir: %s, %s of %s\n", what, megabytes(done), megabytes(total))
	case begun:
		fmt.Fprintf(p.out, "weir: %s, %s\n", what, megabytes(done))
	}
	p.told[what] = p.now()
}

func (p *vmProgress) clear() {
	if p.open {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
		p.open = false
	}
}

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }

// vmMachineFlags are those of every command that starts machines.
type vmMachineFlags struct {
	kernel  string
	memory  int
	cpus    int
	modules []string
	append  string
	needs   []string
	cold    bool
	verbose bool
}

const defaultKernel = "6.12"

func (f *vmMachineFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.kernel, "kernel", "k", defaultKernel, "kernel of the lock, or a path")
	f.memory, f.cpus = vmtest.DefaultMemory, 1
	flags.Var(count{&f.memory}, "memory", "memory of the guest in MiB")
	flags.Var(count{&f.cpus}, "cpus", "processors of the guest")
	flags.StringSliceVar(&f.modules, "module", nil, "load this kernel module at the start (repeatable)")
	flags.StringVar(&f.append, "append", "", "words for the kernel's command line")
	flags.StringSliceVar(&f.needs, "needs", nil, "refuse a kernel whose config lacks this option (repeatable)")
	flags.BoolVar(&f.cold, "cold", false, "boot, instead of continuing from a snapshot")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "say how the guest started, and show what its kernel says")
}

// start returns a running machine.
func (f *vmMachineFlags) start(cmd *cobra.Command, change func(*vmtest.Options)) (*vmtest.Machine, error) {
	progress := newVMProgress()
	kernel, err := vmtest.Find(cmd.Context(), f.kernel, vmtest.FindOptions{Progress: progress})
	if err != nil {
		return nil, vmBroken(cmd, err)
	}
	options := vmtest.Options{
		Memory: f.memory, CPUs: f.cpus, Modules: f.modules, Append: f.append, Needs: f.needs, Cold: f.cold, Progress: progress,
	}
	if f.verbose {
		options.Console = os.Stderr
	}
	if change != nil {
		change(&options)
	}
	m, err := vmtest.Start(cmd.Context(), kernel, options)
	if err != nil {
		return nil, vmBroken(cmd, err)
	}
	if f.verbose {
		progress.Step(vmStarted(m))
	}
	return m, nil
}

func vmStarted(m *vmtest.Machine) string {
	how := "booted"
	if m.Warm {
		how = "restored"
	}
	return fmt.Sprintf("%s %s in %.3f s (%s, %.1f times slower than this machine)",
		m.Kernel.Release, how, m.Started.Seconds(), strings.ToUpper(string(m.Accelerator)), m.Slowdown)
}
