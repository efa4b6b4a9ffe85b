// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/matrix"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Timing is what the scenarios of a kernel and world spent their time on, and how
// their guests began.
type Timing struct {
	Kernel  string                  `json:"kernel"`
	World   syntax.World            `json:"world"`
	Runs    int                     `json:"runs"`
	Seconds float64                 `json:"seconds"` // of all runs together, of which some went on at once
	Phases  map[phase.Phase]float64 `json:"phases"`
	// Guests are none on this machine's own kernel.
	Guests int     `json:"guests,omitempty"`
	Warm   int     `json:"warm,omitempty"`  // of the guests: restored from a snapshot
	Boot   float64 `json:"boot,omitempty"`  // seconds of all guests
	Ready  float64 `json:"ready,omitempty"` // seconds of all guests from there until a scenario began
}

// Timings sum up by kernel and world, the dearest first.
func Timings(results []scenarios.Result, starts []matrix.Start) []Timing {
	var out []Timing
	at := map[[2]string]int{}
	of := func(kernel string, world syntax.World) *Timing {
		key := [2]string{kernel, string(world)}
		if _, known := at[key]; !known {
			at[key] = len(out)
			out = append(out, Timing{Kernel: kernel, World: world, Phases: map[phase.Phase]float64{}})
		}
		return &out[at[key]]
	}
	for _, r := range results {
		t := of(r.Kernel, r.World)
		t.Runs++
		t.Seconds += r.Seconds
		for p, seconds := range r.Phases {
			t.Phases[p] += seconds
		}
	}
	for _, s := range starts {
		t := of(s.Kernel, s.World)
		t.Guests++
		t.Boot += s.Boot
		t.Ready += s.Ready
		if s.Warm {
			t.Warm++
		}
	}
	slices.SortFunc(out, func(a, b Timing) int {
		return cmp.Or(-cmp.Compare(a.Seconds, b.Seconds), compareReleases(a.Kernel, b.Kernel), cmp.Compare(a.World, b.World))
	})
	return out
}

// slowest is how many scenarios the tables show.
const slowest = 20

// Timings shows where the time of runs went: of all by kernel and world, and of
// the slowest one by one.
func (t *Text) Timings(results []scenarios.Result, starts []matrix.Start) {
	sums := Timings(results, starts)
	phases := spentOn(sums)
	heads := make([]string, len(phases))
	for i, p := range phases {
		heads[i] = strings.ToUpper(string(p))
	}
	names := kernelNames(releases(results))
	fmt.Fprintf(t.Out, "\n%s\n", t.paint(bold, "Where the time went, in seconds of all runs together:"))
	table := tabwriter.NewWriter(t.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "KERNEL\tWORLD\tRUNS\tSECONDS\t%s\n", strings.Join(heads, "\t"))
	for _, s := range sums {
		fmt.Fprintf(table, "%s\t%s\t%d\t%.1f%s\n", cmp.Or(names[s.Kernel], s.Kernel), s.World, s.Runs, s.Seconds, cells(phases, s.Phases, "%.1f"))
	}
	table.Flush()
	t.guests(sums, names)
	t.slowest(results, phases, heads, names)
}

func (t *Text) guests(sums []Timing, names map[string]string) {
	if !slices.ContainsFunc(sums, func(s Timing) bool { return s.Guests > 0 }) {
		return
	}
	fmt.Fprintf(t.Out, "\n%s\n", t.paint(bold, "How guests began, in seconds of all of them together:"))
	table := tabwriter.NewWriter(t.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "KERNEL\tWORLD\tGUESTS\tRESTORED\tBOOT\tREADY")
	for _, s := range sums {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%.1f\t%.1f\n", cmp.Or(names[s.Kernel], s.Kernel), s.World, s.Guests, s.Warm, s.Boot, s.Ready)
	}
	table.Flush()
}

func (t *Text) slowest(results []scenarios.Result, phases []phase.Phase, heads []string, names map[string]string) {
	results = slowestOf(results, slowest)
	fmt.Fprintf(t.Out, "\n%s\n", t.paint(bold, fmt.Sprintf("The slowest %d:", len(results))))
	table := tabwriter.NewWriter(t.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "SCENARIO\tWORLD\tKERNEL\tSECONDS\t%s\n", strings.Join(heads, "\t"))
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%s\t%s\t%.3f%s\n", r.Scenario, r.World, names[r.Kernel], r.Seconds, cells(phases, r.Phases, "%.3f"))
	}
	table.Flush()
}

// slowestOf are the n results that took longest, the longest first.
func slowestOf(results []scenarios.Result, n int) []scenarios.Result {
	results = slices.Clone(results)
	slices.SortStableFunc(results, func(a, b scenarios.Result) int { return -cmp.Compare(a.Seconds, b.Seconds) })
	return first(results, n)
}

// spentOn are the phases on which time was spent.
func spentOn(sums []Timing) []phase.Phase {
	return slices.DeleteFunc(phase.All(), func(p phase.Phase) bool {
		return !slices.ContainsFunc(sums, func(s Timing) bool { return s.Phases[p] > 0 })
	})
}

func cells(phases []phase.Phase, seconds map[phase.Phase]float64, format string) string {
	var b strings.Builder
	for _, p := range phases {
		b.WriteByte('\t')
		if seconds[p] == 0 {
			b.WriteByte('-')
			continue
		}
		fmt.Fprintf(&b, format, seconds[p])
	}
	return b.String()
}

// JSONTimings writes where the time went, a line for each kernel and world.
func JSONTimings(out io.Writer, results []scenarios.Result, starts []matrix.Start) error {
	e := json.NewEncoder(out)
	for _, t := range Timings(results, starts) {
		if err := e.Encode(map[string]Timing{"timing": t}); err != nil {
			return fmt.Errorf("write timings: %w", err)
		}
	}
	return nil
}

// Starts keeps how guests began.
func (f *Folder) Starts(starts []matrix.Start) error {
	return f.file(startsFile, func(out io.Writer) error {
		e := json.NewEncoder(out)
		for _, s := range starts {
			if err := e.Encode(s); err != nil {
				return err
			}
		}
		return nil
	})
}
