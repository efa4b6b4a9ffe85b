// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/matrix"
	"github.com/weirnet/weir/scenarios/report"
	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/vmtest"
)

// allKernels is what --kernel takes for every kernel of the lock.
const allKernels = "all"

// kernelNames gives the kernels that the scenarios are to run in; none is this
// machine's own.
func (o *scenarioRun) kernelNames(cmd *cobra.Command) ([]string, error) {
	if len(o.kernels) > 0 && o.keep {
		return nil, usageError(errors.New("--keep is for worlds on this machine: a guest is gone with its scenarios"))
	}
	locked, err := vmtest.Locked()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, k := range o.kernels {
		if k != allKernels {
			names = append(names, k)
			continue
		}
		for i := range locked {
			names = append(names, locked[i].ID)
		}
	}
	if len(names) > 0 {
		return unique(names), nil
	}
	unprivileged := netns.Privileged()
	if !errors.Is(unprivileged, netns.ErrUnprivileged) {
		return nil, unprivileged
	}
	if o.keep {
		return nil, unprivileged
	}
	newest := locked[len(locked)-1].ID
	fmt.Fprintf(cmd.ErrOrStderr(), "weir: this process may not build worlds here (root may): the scenarios run in a kernel of their own, %s, in QEMU\n", newest)
	return []string{newest}, nil
}

func unique(names []string) []string {
	var out []string
	for _, n := range names {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// findKernels fetches what is not here yet.
func findKernels(cmd *cobra.Command, names []string, progress vmtest.Progress) ([]*vmtest.Kernel, error) {
	var kernels []*vmtest.Kernel
	for _, name := range names {
		k, err := vmtest.Find(cmd.Context(), name, vmtest.FindOptions{Progress: progress})
		if errors.Is(err, vmtest.ErrUnknownKernel) {
			return nil, usageError(fmt.Errorf("--kernel: %w", err))
		}
		if err != nil {
			return nil, fmt.Errorf("find kernel %s: %w", name, err)
		}
		kernels = append(kernels, k)
	}
	return kernels, nil
}

// onKernels runs the scenarios in guests. Own are files of the user's.
func (o *scenarioRun) onKernels(cmd *cobra.Command, names []string, runner *scenarios.Runner, mine *part, own bool) error {
	if err := o.many.here(); err != nil {
		return err
	}
	progress := newVMProgress()
	kernels, err := findKernels(cmd, names, progress)
	if err != nil {
		return err
	}
	m := &matrix.Matrix{Kernels: kernels, Runner: runner, Own: own, Thorough: o.thorough, Guests: o.parallel, Progress: progress}
	live, err := o.live(cmd, m.Count(mine.scenarios), report.KernelNames(m.Names()...), mine.describe(m.Names()...))
	if err != nil {
		return err
	}
	ctx, tell, done := o.many.fast(cmd.Context())
	defer done()
	m.Live = func(r scenarios.Result) { live.add(r); tell(r) }
	found, err := m.Run(ctx, mine.scenarios)
	err = o.many.enough(ctx, err, len(found.Results), live.total)
	table := ""
	if live.folder != nil {
		var kept error
		table, kept = live.folder.Kernels(found.Results, found.Costs)
		err = errors.Join(err, kept, live.folder.Starts(found.Starts))
	}
	o.starts = found.Starts
	err = live.close(ctx, found.Results, err)
	if !o.many.quiet {
		o.kernelTables(cmd, found, table)
	}
	return o.end(cmd, live, found.Results, err)
}

// kernelTables shows what differs, on stdout only if that is for people.
func (o *scenarioRun) kernelTables(cmd *cobra.Command, found *matrix.Report, file string) {
	text := &report.Text{Out: cmd.OutOrStdout(), Colour: colourful()}
	if o.output != "text" {
		text = &report.Text{Out: cmd.ErrOrStderr()}
	}
	text.Kernels(found.Results, false)
	text.Costs(found.Costs)
	if file != "" {
		fmt.Fprintf(text.Out, "\nThe whole table is in %s.\n", file)
	}
	fmt.Fprintln(text.Out)
}

// scenarioGuestCommand is the part of 'run --kernel' that runs in a guest.
func scenarioGuestCommand() *cobra.Command {
	var world string
	var cover bool
	cmd := &cobra.Command{
		Use:    "guest",
		Short:  "Run scenarios that come on standard input, in a guest",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return matrix.Serve(cmd.Context(), syntax.World(world), cover, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&world, "world", "", "whose programs are loaded before the scenarios come")
	cmd.Flags().BoolVar(&cover, "cover", false, "what the scenarios reach will be counted")
	return cmd
}
