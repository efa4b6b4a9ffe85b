// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/matrix"
	"github.com/weirnet/weir/scenarios/syntax"
)

// version cuts a release to its first two numbers.
func version(release string) string {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return release
	}
	minor := strings.IndexFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	if minor < 0 {
		minor = len(parts[1])
	}
	return parts[0] + "." + parts[1][:minor]
}

// numbers of a release, for sorting.
func numbers(release string) [2]int {
	major, minor, _ := strings.Cut(version(release), ".")
	a, _ := strconv.Atoi(major) // what is no number comes first
	b, _ := strconv.Atoi(minor)
	return [2]int{a, b}
}

func compareReleases(a, b string) int {
	x, y := numbers(a), numbers(b)
	return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1]), cmp.Compare(a, b))
}

// releases of the kernels that results are of, oldest first.
func releases(results []scenarios.Result) []string {
	var out []string
	for _, r := range results {
		if !slices.Contains(out, r.Kernel) {
			out = append(out, r.Kernel)
		}
	}
	slices.SortFunc(out, compareReleases)
	return out
}

// kernelNames gives each release a short name that no other one has.
func kernelNames(releases []string) map[string]string {
	count := map[string]int{}
	for _, r := range releases {
		count[version(r)]++
	}
	names := map[string]string{}
	for _, r := range releases {
		names[r] = version(r)
		if count[version(r)] > 1 {
			names[r] = r
		}
	}
	return names
}

// KernelNames gives each release a short name that no other one has.
func KernelNames(releases ...string) map[string]string { return kernelNames(releases) }

// row is one scenario on all kernels.
type row struct {
	scenario string
	world    syntax.World
	results  map[string]*scenarios.Result // by release
}

// outcomes are in the order of kernels; empty where there is no result.
func (r *row) outcomes(kernels []string) []scenarios.Outcome {
	out := make([]scenarios.Outcome, len(kernels))
	for i, k := range kernels {
		if result := r.results[k]; result != nil {
			out[i] = result.Outcome
		}
	}
	return out
}

func (r *row) differs(kernels []string) bool {
	outcomes := r.outcomes(kernels)
	return slices.ContainsFunc(outcomes, func(o scenarios.Outcome) bool { return outcomeOf(o) != outcomeOf(outcomes[0]) })
}

// outcomeOf is an outcome, but for a run that stands for another.
func outcomeOf(o scenarios.Outcome) scenarios.Outcome {
	if o == scenarios.Same {
		return scenarios.Pass
	}
	return o
}

// otherOutput gives the kernels on which world prog left other frames than on
// the newest one, though the outcome is the same.
func (r *row) otherOutput(kernels []string) []string {
	var out []string
	newest := r.results[kernels[len(kernels)-1]]
	for _, k := range kernels {
		if result := r.results[k]; result != nil && newest != nil && result.Outcome == newest.Outcome && !sameOutputs(result.Outputs, newest.Outputs) {
			out = append(out, k)
		}
	}
	return out
}

// rows sorts results: a row for each scenario and world.
func rows(results []scenarios.Result) []*row {
	byName := map[string]*row{}
	var out []*row
	for i := range results {
		r := &results[i]
		key := string(r.World) + " " + r.Scenario
		if byName[key] == nil {
			byName[key] = &row{r.Scenario, r.World, map[string]*scenarios.Result{}}
			out = append(out, byName[key])
		}
		byName[key].results[r.Kernel] = r
	}
	slices.SortFunc(out, func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.scenario, b.scenario), -cmp.Compare(a.world, b.world))
	})
	return out
}

// Kernels shows results of several kernels side by side: what differs first,
// then what passes nowhere. What passes everywhere is counted, and listed if
// that is asked for.
func (t *Text) Kernels(results []scenarios.Result, all bool) {
	kernels := releases(results)
	if len(kernels) == 0 {
		return
	}
	var differing, failing, passing, frames []*row
	for _, r := range rows(results) {
		switch {
		case r.differs(kernels):
			differing = append(differing, r)
		case outcomeOf(r.outcomes(kernels)[0]) != scenarios.Pass:
			failing = append(failing, r)
		default:
			passing = append(passing, r)
		}
		if len(r.otherOutput(kernels)) > 0 {
			frames = append(frames, r)
		}
	}
	names := kernelNames(kernels)
	heads := make([]string, len(kernels))
	for i, k := range kernels {
		heads[i] = names[k]
	}
	if len(differing) == 0 && len(kernels) > 1 {
		fmt.Fprintf(t.Out, "\nNo scenario ends differently on kernels %s.\n", strings.Join(heads, ", "))
	}
	t.rows("What differs between kernels:", differing, kernels, heads)
	t.otherFrames(frames, kernels, names)
	t.rows("What passes on no kernel:", failing, kernels, heads)
	if all {
		t.rows("What passes on every kernel:", passing, kernels, heads)
	} else if len(kernels) > 1 {
		fmt.Fprintf(t.Out, "%d scenarios pass on every kernel.\n", len(passing))
	}
}

func (t *Text) rows(title string, rows []*row, kernels, heads []string) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(t.Out, "\n%s\n", t.paint(bold, title))
	table := tabwriter.NewWriter(t.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "SCENARIO\tWORLD\t%s\n", strings.Join(heads, "\t"))
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%s", r.scenario, r.world)
		for _, o := range r.outcomes(kernels) {
			fmt.Fprintf(table, "\t%s", cell(o))
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}

// cell is in capitals where one should look.
func cell(o scenarios.Outcome) string {
	switch o {
	case "":
		return "-"
	case scenarios.Fail, scenarios.Broken:
		return strings.ToUpper(string(o))
	}
	return string(o)
}

func (t *Text) otherFrames(rows []*row, kernels []string, names map[string]string) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(t.Out, "\n%s\n", t.paint(bold, "What leaves other frames than on "+names[kernels[len(kernels)-1]]+":"))
	for _, r := range rows {
		var on []string
		for _, k := range r.otherOutput(kernels) {
			on = append(on, names[k])
		}
		fmt.Fprintf(t.Out, "%s  %s  on %s\n", r.scenario, r.world, strings.Join(on, ", "))
	}
}

// Costs shows what programs cost the verifiers of kernels.
func (t *Text) Costs(costs []matrix.Cost) {
	var kernels, programs []string
	cells := map[[2]string]string{}
	for _, c := range costs {
		if !slices.Contains(kernels, c.Kernel) {
			kernels = append(kernels, c.Kernel)
		}
		if !slices.Contains(programs, c.Program) {
			programs = append(programs, c.Program)
		}
		cells[[2]string{c.Program, c.Kernel}] = fmt.Sprintf("%d in %.0f ms", c.Verified, c.Seconds*1e3)
	}
	if len(costs) == 0 {
		return
	}
	slices.SortFunc(kernels, compareReleases)
	slices.Sort(programs)
	names := kernelNames(kernels)
	fmt.Fprintf(t.Out, "\n%s\n", t.paint(bold, "Instructions that the verifier went through, and the time that it took in the guest:"))
	table := tabwriter.NewWriter(t.Out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "PROGRAM")
	for _, k := range kernels {
		fmt.Fprintf(table, "\t%s", names[k])
	}
	fmt.Fprintln(table)
	for _, p := range programs {
		fmt.Fprint(table, p)
		for _, k := range kernels {
			fmt.Fprintf(table, "\t%s", cmp.Or(cells[[2]string{p, k}], "-"))
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}

// Kernels keeps what a run on kernels found: programs.json, and kernels.txt
// with the whole table, whose path it gives.
func (f *Folder) Kernels(results []scenarios.Result, costs []matrix.Cost) (path string, err error) {
	err = f.file(costsFile, func(out io.Writer) error {
		e := json.NewEncoder(out)
		for _, c := range costs {
			if err := e.Encode(c); err != nil {
				return err
			}
		}
		return nil
	})
	path = filepath.Join(f.path, kernelsFile)
	return path, errors.Join(err, f.file(kernelsFile, func(out io.Writer) error {
		t := &Text{Out: out}
		t.Kernels(results, true)
		t.Costs(costs)
		return nil
	}))
}

func (f *Folder) file(name string, fill func(io.Writer) error) error {
	out, err := os.Create(filepath.Join(f.path, name))
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := errors.Join(fill(out), out.Close()); err != nil {
		return fmt.Errorf("write report %s: %w", name, err)
	}
	return nil
}
