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
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/lab/bench"
)

// benching are the flags of weir bench.
type benching struct {
	flows    []int
	families []string
	rounds   int
	cpu      int
	output   string
	compare  string
	list     bool
}

func benchCommand() *cobra.Command {
	var o benching
	o.flows = []int{1, 256, 4 << 10}
	cmd := &cobra.Command{
		Use:   "bench [NAME...]",
		Short: "Measure what the datapath's paths cost a packet",
		Long: `Measure what the datapath's paths cost a packet. OVER BASE is what it costs
over BASE, in multiples of BASE: the empty program under the same wrapper, in
the same run. Without a NAME all paths are measured; --list names them.

Each path is run by BPF_PROG_TEST_RUN, with the frame put back before each
round; one whose packets come out other than those of a single run is refused,
before and after. Flows take turns by chance. Rounds of paths take turns on one
CPU. SPREAD is how far the middle half of the rounds lie apart: beyond 10 % the
machine is too busy. BARE LOOKUP is one lookup of the same flows in the same
table. A GOAL of many flows is 1.1 times the bare lookup and one flow together.

--compare tells what is slower or faster than in an older report (-o json), by
a rank test of the rounds, and what is noise: less than 2.5 %, or chance. It
ends with 1 where something is slower, and with 2 where the machine is too
noisy to tell.`,
		Example: `  weir bench
  weir bench pod-to-service --flows 1,64k
  weir bench -o json >old.json
  weir bench --compare old.json
  weir bench --flows 1,256,4k,64k -o html >bench.html`,
		ValidArgsFunction: completeBenches,
		RunE:              o.run,
	}
	f := cmd.Flags()
	f.Var(&flowCounts{&o.flows}, "flows", "how many flows take turns: 1, 256, 4k, 64k, 1M")
	f.StringSliceVar(&o.families, "family", []string{"ipv4", "ipv6"}, "the families that are measured")
	f.IntVar(&o.rounds, "rounds", 32, "quiet rounds of each path")
	f.IntVar(&o.cpu, "cpu", runtime.NumCPU()-1, "the CPU that all of it runs on")
	f.StringVarP(&o.output, "output", "o", "text", "text, json, or html (one page)")
	f.StringVar(&o.compare, "compare", "", "tell what differs from this report")
	f.BoolVar(&o.list, "list", false, "list the paths")
	cmd.AddCommand(benchGoalsCommand(), benchCurvesCommand(), benchCountsCommand())
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
	report, err := bench.Run(cmd.Context(), o.options(names, old))
	if errors.Is(err, bench.ErrNoPath) {
		return usageError(fmt.Errorf("%w: 'weir bench --list' lists them", err))
	}
	if errors.Is(err, bench.ErrNoJIT) {
		return usageError(err)
	}
	if err != nil {
		return err
	}
	if noise := report.Noise(); len(noise) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "the machine is noisy: rounds lie more than 10 %% apart of %s: stop what else runs, choose another --cpu, or ask for more --rounds\n", some(noise))
	}
	if o.output == "html" {
		return report.WriteHTML(cmd.OutOrStdout())
	}
	if old == nil {
		return o.print(cmd.OutOrStdout(), report, report.Write)
	}
	changes := bench.Compare(old, report)
	if len(changes) == 0 {
		return usageError(fmt.Errorf("compare with %s: it has none of the paths and flows that were measured", o.compare))
	}
	if err := o.print(cmd.OutOrStdout(), changes, func(w io.Writer) error { return bench.WriteChanges(w, changes) }); err != nil {
		return err
	}
	return judged(changes)
}

// judged ends with 1 where something is slower, and with 2 where nothing is and the
// machine is too noisy to tell of some.
func judged(changes []bench.Change) error {
	if slices.ContainsFunc(changes, func(c bench.Change) bool { return c.Slower() }) {
		return &exitError{code: exitFailed}
	}
	var untold []string
	for i := range changes {
		if c := &changes[i]; c.Noisy {
			untold = append(untold, fmt.Sprintf("%s/%s with %d flows", c.Path, c.Family, c.Flows))
		}
	}
	if len(untold) == 0 {
		return nil
	}
	return usageError(fmt.Errorf("compare: the machine is too noisy to tell of %s: stop what else runs, choose another --cpu, or ask for more --rounds; of many flows only a machine of one's own tells", some(untold)))
}

// some lists the first names of many.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(names[:most], ", "), len(names)-most)
}

func (o *benching) options(names []string, old *bench.Report) bench.Options {
	var families []bench.Family
	for _, f := range o.families {
		families = append(families, bench.Family(f))
	}
	return bench.Options{Paths: names, Families: families, Flows: o.flows, Rounds: o.rounds, CPU: o.cpu, Old: old}
}

func (o *benching) check() error {
	if err := oneOf("output", o.output, "text", "json", "html"); err != nil {
		return err
	}
	if o.output == "html" && o.compare != "" {
		return usageError(errors.New("--output html shows one report: leave out --compare"))
	}
	for _, f := range o.families {
		if err := oneOf("family", f, "ipv4", "ipv6"); err != nil {
			return err
		}
	}
	return checkRounds(o.rounds, o.cpu)
}

func checkRounds(rounds, cpu int) error {
	const fewest = 5 // a rank test of fewer finds nothing
	if rounds < fewest {
		return usageError(fmt.Errorf("--rounds %d: give %d at least", rounds, fewest))
	}
	if cpu < 0 || cpu >= runtime.NumCPU() {
		return usageError(fmt.Errorf("--cpu %d: this machine has 0 to %d", cpu, runtime.NumCPU()-1))
	}
	return nil
}

func (o *benching) print(w io.Writer, value any, text func(io.Writer) error) error {
	if o.output == "text" {
		return text(w)
	}
	return json.NewEncoder(w).Encode(value)
}

// flowCounts is a flag: numbers with commas between, k for 1,024 and M for its square.
type flowCounts struct{ to *[]int }

func (c *flowCounts) Type() string { return "counts" }

func (c *flowCounts) String() string {
	var texts []string
	for _, n := range *c.to {
		text := strconv.Itoa(n)
		switch {
		case n >= 1<<20 && n%(1<<20) == 0:
			text = strconv.Itoa(n>>20) + "M"
		case n >= 1<<10 && n%(1<<10) == 0:
			text = strconv.Itoa(n>>10) + "k"
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ",")
}

// Set takes each number once, in their order.
func (c *flowCounts) Set(text string) error {
	var all []int
	for one := range strings.SplitSeq(text, ",") {
		digits, shift := one, 0
		if more, is := strings.CutSuffix(one, "k"); is {
			digits, shift = more, 10
		} else if more, is := strings.CutSuffix(one, "M"); is {
			digits, shift = more, 20
		}
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || n > bench.MaxFlows>>shift {
			return fmt.Errorf("%q: give numbers from 1 to %d, or 4k, 64k, 1M", one, bench.MaxFlows)
		}
		all = append(all, n<<shift)
	}
	slices.Sort(all)
	*c.to = slices.Compact(all)
	return nil
}

func readReport(name string) (*bench.Report, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	report, err := bench.Read(f)
	if errors.Is(err, bench.ErrReport) {
		err = usageError(err)
	}
	return report, errors.Join(err, f.Close())
}
