// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/bench"
)

// benching are the flags of weir bench.
type benching struct {
	flows   []int
	rounds  int
	cpu     int
	output  string
	compare string
	list    bool
}

func benchCommand() *cobra.Command {
	var o benching
	cmd := &cobra.Command{
		Use:   "bench [NAME...]",
		Short: "Measure what the datapath's paths cost a packet",
		Long: `Measure what the datapath's paths cost a packet, as multiples of BASE: the
empty program under the same wrapper, in the same run. Without a NAME all paths
are measured; --list names them.

Each path is run by BPF_PROG_TEST_RUN, with the frame put back before each
round; one whose packets come out other than those of a single run is refused.
Rounds of all paths take turns on one CPU. SPREAD is how far the middle half of
the rounds lie apart: beyond 10 % the machine is too busy. BARE LOOKUP is one
lookup in a table of as many flows, in the same order.

--compare tells what is slower or faster than in an older report (-o json), by
a rank test of the rounds, and what is noise: less than 3 %, or chance. It ends
with 1 where something is slower.`,
		Example: `  weir bench
  weir bench pod-to-service --flows 1,65536
  weir bench -o json >old.json
  weir bench --compare old.json`,
		ValidArgsFunction: completeBenches,
		RunE:              o.run,
	}
	f := cmd.Flags()
	f.IntSliceVar(&o.flows, "flows", []int{1, 256, 4096}, "how many flows take turns")
	f.IntVar(&o.rounds, "rounds", 31, "rounds of each path")
	f.IntVar(&o.cpu, "cpu", runtime.NumCPU()-1, "the CPU that all of it runs on")
	f.StringVarP(&o.output, "output", "o", "text", "text, or json")
	f.StringVar(&o.compare, "compare", "", "tell what differs from this report")
	f.BoolVar(&o.list, "list", false, "list the paths")
	cmd.AddCommand(benchGoalsCommand())
	return cmd
}

func completeBenches(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, p := range bench.Paths() {
		names = append(names, p.Name+"\t"+p.Help)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (o *benching) run(cmd *cobra.Command, names []string) error {
	if err := o.check(); err != nil {
		return err
	}
	if o.list {
		for _, p := range bench.Paths() {
			fmt.Fprintf(cmd.OutOrStdout(), "%-16s %s\n", p.Name, p.Help)
		}
		return nil
	}
	var old *bench.Report
	if o.compare != "" {
		var err error
		if old, err = readReport(o.compare); err != nil {
			return err
		}
	}
	report, err := bench.Run(cmd.Context(), bench.Options{Paths: names, Flows: o.flows, Rounds: o.rounds, CPU: o.cpu})
	if errors.Is(err, bench.ErrNoPath) {
		return usageError(fmt.Errorf("%w: 'weir bench --list' lists them", err))
	}
	if err != nil {
		return err
	}
	if noise := report.Noise(); len(noise) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "the machine is noisy: rounds lie far apart of %s: stop what else runs, choose another --cpu, or ask for more --rounds\n", strings.Join(noise, ", "))
	}
	if old == nil {
		return o.print(cmd.OutOrStdout(), report, report.Write)
	}
	changes := bench.Compare(old, report)
	if len(changes) == 0 {
		return fmt.Errorf("compare with %s: it has none of the paths and flows that were measured", o.compare)
	}
	err = o.print(cmd.OutOrStdout(), changes, func(w io.Writer) error { return bench.WriteChanges(w, changes) })
	if err == nil && slices.ContainsFunc(changes, func(c bench.Change) bool { return c.Slower() }) {
		return &exitError{code: exitFailed}
	}
	return err
}

func (o *benching) check() error {
	if err := oneOf("output", o.output, "text", "json"); err != nil {
		return err
	}
	if len(o.flows) == 0 || slices.Min(o.flows) < 1 || slices.Max(o.flows) > bench.MaxFlows {
		return usageError(fmt.Errorf("--flows %v: give numbers from 1 to %d", o.flows, bench.MaxFlows))
	}
	const fewest = 5 // a rank test of fewer finds nothing
	if o.rounds < fewest {
		return usageError(fmt.Errorf("--rounds %d: give %d at least", o.rounds, fewest))
	}
	if o.cpu < 0 || o.cpu >= runtime.NumCPU() {
		return usageError(fmt.Errorf("--cpu %d: this machine has 0 to %d", o.cpu, runtime.NumCPU()-1))
	}
	return nil
}

func (o *benching) print(w io.Writer, value any, text func(io.Writer) error) error {
	if o.output == "text" {
		return text(w)
	}
	return json.NewEncoder(w).Encode(value)
}

func readReport(name string) (*bench.Report, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	report, err := bench.Read(f)
	return report, errors.Join(err, f.Close())
}
