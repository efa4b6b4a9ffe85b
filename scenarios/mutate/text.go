// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/weirnet/weir/bpf/mutant"
)

// Text writes the survivors by source line, and the table by file.
func (r *Report) Text(out io.Writer) error {
	r.open(out, func(one *Result) bool { return one.Outcome == Survived })
	r.known(out)
	for _, e := range r.Stale {
		fmt.Fprintf(out, "%s: no mutant fits any more: %s: %s | %s\n", e.Place, e.File, e.Text, e.Kind)
	}
	for _, w := range r.Wrong {
		fmt.Fprintf(out, "%s is listed as equivalent, but %s notices it: %s\n", w.ID, w.Killer, w.Why)
	}
	for _, e := range r.Closed {
		fmt.Fprintf(out, "%s: none of its mutants survives any more: %s: %s | %s\n", e.Place, e.File, e.Text, e.Kind)
	}
	return r.table(out)
}

// open writes some of the mutants by source line.
func (r *Report) open(out io.Writer, which func(*Result) bool) {
	place := ""
	for i := range r.Results {
		one := &r.Results[i]
		if !which(one) {
			continue
		}
		if here := fmt.Sprintf("%s:%d: %s", one.File, one.Line, one.Text); here != place {
			fmt.Fprintln(out, here)
			place = here
		}
		fmt.Fprintf(out, "    %s: %s => %s\n        %s of %s; %s\n", one.Kind, one.Before, one.After, one.ID, one.Object, one.reachedBy())
	}
}

// known writes the known survivors below the reasons why nothing notices them.
func (r *Report) known(out io.Writer) {
	told := map[string]bool{}
	for i := range r.Results {
		why := r.Results[i].Why
		if r.Results[i].Outcome != Known || told[why] {
			continue
		}
		told[why] = true
		fmt.Fprintf(out, "%s: %s\n", Known, why)
		r.open(out, func(one *Result) bool { return one.Outcome == Known && one.Why == why })
	}
}

func (r *Result) reachedBy() string {
	var parts []string
	for _, by := range slices.Sorted(maps.Keys(r.Reached)) {
		if n := r.Reached[by]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d of %s, such as %s", n, by, r.Example[by]))
		}
	}
	return "reached by " + strings.Join(parts, ", ")
}

func (r *Report) table(out io.Writer) error {
	files, all := r.Scores()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	killers, programs := r.killers(), r.Killers == nil
	head := "FILE\tMUTANTS\tREFUSED\tNOT EXECUTED\tEQUIVALENT\t" + strings.ToUpper(strings.Join(killers, "\t")) + "\tSURVIVED\tOF THESE KNOWN\tSCORE\t"
	if programs {
		head += "PROG+FUZZ\t"
	}
	fmt.Fprintln(w, head)
	for _, s := range append(files, all) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t", s.File, s.Mutants, s.Refused, s.NotExecuted, s.Equivalent)
		for _, k := range killers {
			fmt.Fprintf(w, "%d\t", s.By(k))
		}
		fmt.Fprintf(w, "%d\t%d\t%s\t", s.Survived, s.Known, percent(s.Percent()))
		if programs {
			fmt.Fprintf(w, "%s\t", percent(s.WithoutStacks()))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	if all.Undone > 0 {
		fmt.Fprintf(out, "%d mutants were not asked to the end: the same command goes on with them\n", all.Undone)
	}
	return nil
}

func percent(p float64) string {
	if math.IsNaN(p) {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", p)
}

// JSON writes one mutant a line.
func (r *Report) JSON(out io.Writer) error {
	e := json.NewEncoder(out)
	for i := range r.Results {
		if err := e.Encode(r.Results[i].line()); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	return nil
}

type resultLine struct {
	ID       string         `json:"id"`
	Object   string         `json:"object"`
	Function string         `json:"function"`
	Programs []string       `json:"programs"`
	Kind     mutant.Kind    `json:"kind"`
	File     string         `json:"file"`
	Line     int            `json:"line"`
	Text     string         `json:"text"`
	Before   string         `json:"before"`
	After    string         `json:"after"`
	Outcome  Outcome        `json:"outcome"`
	By       string         `json:"by,omitempty"`
	Killer   string         `json:"killer,omitempty"`
	Why      string         `json:"why,omitempty"`
	Reached  map[string]int `json:"reached,omitempty"`
	Changed  bool           `json:"changed,omitempty"`
}

func (r *Result) line() resultLine {
	return resultLine{r.ID, r.Object, r.Function, r.Programs, r.Kind, r.File, r.Line, r.Text, r.Before, r.After,
		r.Outcome, r.By, r.Killer, r.Why, r.Reached, r.Changed}
}
