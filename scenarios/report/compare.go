// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/matrix"
	"github.com/weirnet/weir/scenarios/shard"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Kept is a report that was read back, or a kernel's part of one.
type Kept struct {
	Name string // DIR or DIR@KERNEL
	// Short says that the run was cut short, or lacks results; else it is empty.
	Short string
	contents
}

// contents are what a report has of each run, and of programs.
type contents struct {
	results []scenarios.Result
	outputs []outputs
	costs   []matrix.Cost
}

// read reads the report in a directory; of a file that is not there nothing.
func (c *contents) read(dir string) error {
	return errors.Join(
		readLines(filepath.Join(dir, resultsFile), &c.results),
		readLines(filepath.Join(dir, outputsFile), &c.outputs),
		readLines(filepath.Join(dir, costsFile), &c.costs),
	)
}

// Sentinels of Read.
var (
	// ErrNoReport: the directory holds no results.
	ErrNoReport = errors.New("not a report of 'weir scenario run --report'")
	// ErrNoKernel: the report has no results of that kernel.
	ErrNoKernel = errors.New("the report has nothing of that kernel")
)

// Read reads a report: DIR, or DIR@KERNEL for what it has of one kernel, by
// version (5.10) or release. Of a directory of reports it is the latest.
// ErrNoReport, ErrNoKernel.
func Read(name string) (*Kept, error) {
	dir, kernel := name, ""
	if at := strings.LastIndex(name, "@"); at > 0 {
		dir, kernel = name[:at], name[at+1:]
	}
	k := &Kept{Name: name}
	own := reportIn(dir)
	var lines []runLine
	if err := errors.Join(k.read(own), readLines(filepath.Join(own, runFile), &lines)); err != nil {
		return nil, fmt.Errorf("read report %s: %w", dir, err)
	}
	if len(lines) > 0 && lines[0].Run != nil {
		k.Short = lines[0].Run.Short(len(k.results))
	}
	if len(k.results) == 0 {
		return nil, fmt.Errorf("read report %s: %w", dir, ErrNoReport)
	}
	if kernel == "" {
		return k, nil
	}
	known := releases(k.results)
	other := func(release string) bool { return release != kernel && version(release) != kernel }
	k.results = slices.DeleteFunc(k.results, func(r scenarios.Result) bool { return other(r.Kernel) })
	k.outputs = slices.DeleteFunc(k.outputs, func(o outputs) bool { return other(o.Kernel) })
	k.costs = slices.DeleteFunc(k.costs, func(c matrix.Cost) bool { return other(c.Kernel) })
	if len(k.results) == 0 {
		return nil, fmt.Errorf("read report %s: kernel %s: %w: it has %s", dir, kernel, ErrNoKernel, strings.Join(known, ", "))
	}
	return k, nil
}

// Costs are what the report's runs took.
func (k *Kept) Costs() shard.Costs { return shard.Measured(k.results) }

// Failed are the runs that failed, on whichever kernel, whichever of several.
func (k *Kept) Failed() (planned func(scenarios.Result) bool, count int) {
	failed := map[[2]string]bool{}
	for _, r := range k.results {
		if r.Failed() {
			failed[[2]string{r.Unnumbered(), string(r.World)}] = true
		}
	}
	return func(r scenarios.Result) bool { return failed[[2]string{r.Unnumbered(), string(r.World)}] }, len(failed)
}

// readLines reads JSON objects. A file that is not there has none.
func readLines[T any](path string, into *[]T) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	d := json.NewDecoder(f)
	for {
		var one T
		err := d.Decode(&one)
		// A run that was killed may have left half a line at the end.
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		*into = append(*into, one)
	}
}

// Changes are what is different between two reports.
type Changes struct {
	Verdicts []VerdictChange
	Only     []VerdictChange // runs that one side does not have
	Frames   []FrameChange
	Costs    []CostChange
}

// VerdictChange is a run that ended otherwise, or that one side does not have:
// that is empty then.
type VerdictChange struct {
	What     string            `json:"what"` // "verdict", or "only"
	Scenario string            `json:"scenario"`
	World    syntax.World      `json:"world"`
	Kernel   string            `json:"kernel,omitempty"` // empty where two kernels are compared
	A        scenarios.Outcome `json:"a,omitempty"`
	B        scenarios.Outcome `json:"b,omitempty"`
	Reason   string            `json:"reason,omitempty"` // of the side that does not pass
}

// Worse says whether what passed does not pass any more.
func (c VerdictChange) Worse() bool { return c.A == scenarios.Pass && c.B != scenarios.Pass }

// FrameChange is the first frame of a run with which a hook did otherwise.
type FrameChange struct {
	What     string            `json:"what"` // "frame"
	Scenario string            `json:"scenario"`
	World    syntax.World      `json:"world"`
	Kernel   string            `json:"kernel,omitempty"`
	Step     int               `json:"step"` // which hook of the run's, from 1
	A        *scenarios.Output `json:"a"`    // nil: none
	B        *scenarios.Output `json:"b"`
}

// CostChange is what a program costs on both sides, changed or not.
type CostChange struct {
	What      string  `json:"what"` // "cost"
	Program   string  `json:"program"`
	Kernel    string  `json:"kernel,omitempty"`
	VerifiedA int     `json:"verified_a"`
	VerifiedB int     `json:"verified_b"`
	SecondsA  float64 `json:"seconds_a"`
	SecondsB  float64 `json:"seconds_b"`
}

// key is what two runs have in common that are compared.
type key struct {
	name   string // scenario or program
	world  syntax.World
	kernel string // version; empty where two kernels are compared
}

// Compare finds what is different. Where each side has one kernel, these are
// compared; else each with its like.
func Compare(a, b *Kept) Changes {
	both := len(releases(a.results)) == 1 && len(releases(b.results)) == 1
	kernel := func(release string) string {
		if both {
			return ""
		}
		return version(release)
	}
	c := Changes{}
	c.verdicts(a, b, kernel)
	c.frames(a, b, kernel)
	c.costs(a, b, kernel)
	return c
}

func index[T any](all []T, of func(*T) key) (map[key]*T, []key) {
	byKey := map[key]*T{}
	var keys []key
	for i := range all {
		k := of(&all[i])
		if byKey[k] == nil {
			keys = append(keys, k)
		}
		byKey[k] = &all[i]
	}
	return byKey, keys
}

// pairs gives what two sides have of each key, by name.
func pairs[T any](a, b []T, of func(*T) key, each func(key, *T, *T)) {
	inA, keys := index(a, of)
	inB, more := index(b, of)
	for _, k := range more {
		if inA[k] == nil {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(x, y key) int {
		return cmp.Or(cmp.Compare(x.name, y.name), -cmp.Compare(x.world, y.world), compareReleases(x.kernel, y.kernel))
	})
	for _, k := range keys {
		each(k, inA[k], inB[k])
	}
}

func (c *Changes) verdicts(a, b *Kept, kernel func(string) string) {
	of := func(r *scenarios.Result) key { return key{r.Scenario, r.World, kernel(r.Kernel)} }
	pairs(a.results, b.results, of, func(k key, x, y *scenarios.Result) {
		change := VerdictChange{What: "verdict", Scenario: k.name, World: k.world, Kernel: k.kernel}
		if x != nil {
			change.A, change.Reason = x.Outcome, x.Reason
		}
		if y != nil {
			change.B = y.Outcome
			change.Reason = cmp.Or(y.Reason, change.Reason)
		}
		switch {
		case x == nil || y == nil:
			change.What = "only"
			c.Only = append(c.Only, change)
		case change.A != change.B:
			c.Verdicts = append(c.Verdicts, change)
		}
	})
	// What is worse comes first; the order is by name within.
	slices.SortStableFunc(c.Verdicts, func(x, y VerdictChange) int {
		switch {
		case x.Worse() == y.Worse():
			return 0
		case x.Worse():
			return -1
		}
		return 1
	})
}

func (c *Changes) frames(a, b *Kept, kernel func(string) string) {
	of := func(o *outputs) key { return key{o.Scenario, o.World, kernel(o.Kernel)} }
	pairs(a.outputs, b.outputs, of, func(k key, x, y *outputs) {
		if x == nil || y == nil {
			return // that one was not run is told in Only
		}
		at := firstDifference(x.Outputs, y.Outputs)
		if at < 0 {
			return
		}
		change := FrameChange{What: "frame", Scenario: k.name, World: k.world, Kernel: k.kernel, Step: at + 1}
		if at < len(x.Outputs) {
			change.A = &x.Outputs[at]
		}
		if at < len(y.Outputs) {
			change.B = &y.Outputs[at]
		}
		c.Frames = append(c.Frames, change)
	})
}

func (c *Changes) costs(a, b *Kept, kernel func(string) string) {
	of := func(one *matrix.Cost) key { return key{name: one.Program, kernel: kernel(one.Kernel)} }
	pairs(a.costs, b.costs, of, func(k key, x, y *matrix.Cost) {
		if x == nil || y == nil {
			return
		}
		c.Costs = append(c.Costs, CostChange{"cost", k.name, k.kernel, x.Verified, y.Verified, x.Seconds, y.Seconds})
	})
}

// Worse says whether something that passed does not any more.
func (c *Changes) Worse() bool { return slices.ContainsFunc(c.Verdicts, VerdictChange.Worse) }

// JSON writes one object a line: verdicts, frames, costs, runs of one side.
func (c *Changes) JSON(out io.Writer) error {
	e := json.NewEncoder(out)
	var err error
	for _, v := range c.Verdicts {
		err = cmp.Or(err, e.Encode(v))
	}
	for _, f := range c.Frames {
		err = cmp.Or(err, e.Encode(f))
	}
	for _, one := range c.Costs {
		err = cmp.Or(err, e.Encode(one))
	}
	for _, v := range c.Only {
		err = cmp.Or(err, e.Encode(v))
	}
	if err != nil {
		return fmt.Errorf("write changes: %w", err)
	}
	return nil
}

// Changes shows what is different between two reports.
func (t *Text) Changes(c Changes, a, b string) {
	if len(c.Verdicts) > 0 {
		fmt.Fprintln(t.Out, t.paint(bold, "Verdicts that changed:"))
		table := tabwriter.NewWriter(t.Out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(table, "SCENARIO\tWORLD\tKERNEL\t%s\t%s\tREASON\n", a, b)
		for _, v := range c.Verdicts {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", v.Scenario, v.World, cmp.Or(v.Kernel, "-"), cell(v.A), cell(v.B), v.Reason)
		}
		table.Flush()
		fmt.Fprintln(t.Out)
	}
	if len(c.Frames) > 0 {
		fmt.Fprintln(t.Out, t.paint(bold, "Frames that changed, the first of each scenario:"))
		for i, f := range c.Frames {
			if i == 0 || !f.like(c.Frames[i-1]) {
				t.frameChange(f, c.kernelsLike(i), a, b)
			}
		}
		fmt.Fprintln(t.Out)
	}
	t.costChanges(c.Costs, a, b)
	t.only(c.Only, a, b)
	fmt.Fprintf(t.Out, "%d verdicts changed, %d runs leave other frames, %d programs cost the verifier more or less\n",
		len(c.Verdicts), len(c.Frames), changed(c.Costs))
}

func changed(costs []CostChange) (n int) {
	for _, c := range costs {
		if c.VerifiedA != c.VerifiedB {
			n++
		}
	}
	return n
}

// only counts the runs that one side does not have.
func (t *Text) only(runs []VerdictChange, a, b string) {
	inA := 0
	for _, r := range runs {
		if r.A != "" {
			inA++
		}
	}
	for _, side := range []struct {
		name string
		runs int
	}{{a, inA}, {b, len(runs) - inA}} {
		if side.runs > 0 {
			fmt.Fprintf(t.Out, "%d runs are only in %s.\n", side.runs, side.name)
		}
	}
}

// like says whether two kernels show the same change.
func (f FrameChange) like(g FrameChange) bool {
	same := func(x, y *scenarios.Output) bool { return x == y || x != nil && y != nil && sameOutput(*x, *y) }
	return f.Scenario == g.Scenario && f.World == g.World && f.Step == g.Step && same(f.A, g.A) && same(f.B, g.B)
}

// kernelsLike gives the kernels that show the same change as the i-th.
func (c *Changes) kernelsLike(i int) string {
	var kernels []string
	for _, f := range c.Frames[i:] {
		if !f.like(c.Frames[i]) {
			break
		}
		kernels = append(kernels, f.Kernel)
	}
	return strings.Join(kernels, ", ")
}

func (t *Text) frameChange(f FrameChange, kernels, a, b string) {
	where := string(f.World)
	if kernels != "" {
		where += " on " + kernels
	}
	fmt.Fprintf(t.Out, "%s  %s, hook %d of the run:\n", f.Scenario, where, f.Step)
	for _, side := range []struct {
		name string
		out  *scenarios.Output
	}{{a, f.A}, {b, f.B}} {
		fmt.Fprintf(t.Out, "  %s: %s\n", side.name, outputLine(side.out))
	}
	if f.A != nil && f.B != nil && f.A.Frame != nil && f.B.Frame != nil {
		fmt.Fprintf(t.Out, "  frame: %s\n", frame.Changes(f.A.Frame, f.B.Frame))
	}
}

func outputLine(o *scenarios.Output) string {
	if o == nil {
		return "nothing"
	}
	line := fmt.Sprintf("%s of %s: %s", o.Hook, o.Endpoint, o.Action)
	if o.Reason != "" {
		line += ", " + string(o.Reason)
	}
	return line
}

func (t *Text) costChanges(costs []CostChange, a, b string) {
	if len(costs) == 0 {
		return
	}
	fmt.Fprintln(t.Out, t.paint(bold, "Programs: instructions that the verifier went through, and its time:"))
	table := tabwriter.NewWriter(t.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "PROGRAM\tKERNEL\t%s\t%s\tCHANGE\t%s\t%s\n", a, b, a, b)
	for _, c := range costs {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%+.1f%%\t%.0f ms\t%.0f ms\n", c.Program, cmp.Or(c.Kernel, "-"),
			c.VerifiedA, c.VerifiedB, 100*(float64(c.VerifiedB)/float64(c.VerifiedA)-1), c.SecondsA*1e3, c.SecondsB*1e3)
	}
	table.Flush()
	fmt.Fprintln(t.Out)
}
