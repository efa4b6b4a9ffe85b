// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"golang.org/x/perf/benchmath"
)

// version is that of a Report's JSON.
const version = 1

// Report is what a run has measured.
type Report struct {
	Version int      `json:"version"`
	Kernel  string   `json:"kernel"` // its release
	Results []Result `json:"results"`
}

// Result is one path with some flows. Its rounds were run in turns with those of all
// others: round i of one was beside round i of another.
type Result struct {
	Path     string    `json:"path"`
	Flows    int       `json:"flows"`
	Base     []float64 `json:"baseNs"`   // ns a packet through the empty program
	Full     []float64 `json:"pathNs"`   // through the hook's
	Lookup   []float64 `json:"lookupNs"` // through one bare lookup
	Verified uint32    `json:"verified"` // instructions of the program; 0: the kernel does not tell
}

// Times are multiples of BASE, one a round.
func (r *Result) Times() []float64 {
	all := make([]float64, len(r.Full))
	for i := range all {
		all[i] = r.Full[i] / r.Base[i]
	}
	return all
}

// summary is a median, and how far the middle half of the rounds lie apart, as a
// share of it.
func summary(values []float64) (median, spread float64) {
	sorted := slices.Sorted(slices.Values(values))
	at := func(share float64) float64 { return sorted[int(share*float64(len(sorted)-1))] }
	return at(0.5), (at(0.75) - at(0.25)) / at(0.5)
}

// noisy is beyond which spread a figure says little.
const noisy = 0.10

// Noise names the results whose rounds differ too much to be believed.
func (r *Report) Noise() []string {
	var names []string
	for i := range r.Results {
		if _, spread := summary(r.Results[i].Times()); spread > noisy {
			names = append(names, fmt.Sprintf("%s with %d flows (%.0f %%)", r.Results[i].Path, r.Results[i].Flows, 100*spread))
		}
	}
	return names
}

// Write writes a report as a table.
func (r *Report) Write(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PATH\tFLOWS\tTIMES BASE\tSPREAD\tBASE ns\tOVER BASE ns\tBARE LOOKUP ns\tVERIFIED")
	for i := range r.Results {
		one := &r.Results[i]
		times, spread := summary(one.Times())
		base, _ := summary(one.Base)
		full, _ := summary(one.Full)
		lookup, _ := summary(one.Lookup)
		fmt.Fprintf(table, "%s\t%d\t%.2f\t%.1f %%\t%.0f\t%.0f\t%.0f\t%d\n", one.Path, one.Flows, times, 100*spread, base, full-base, lookup-base, one.Verified)
	}
	return table.Flush()
}

// ErrVersion is a report of another version's.
var ErrVersion = errors.New("of another version")

// Read reads a report's JSON.
func Read(from io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(from).Decode(&r); err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	if r.Version != version {
		return nil, fmt.Errorf("read a report: it is %w, %d, and this one is %d: measure the old commit again by this command", ErrVersion, r.Version, version)
	}
	for i := range r.Results {
		if one := &r.Results[i]; len(one.Full) == 0 || len(one.Base) != len(one.Full) {
			return nil, fmt.Errorf("read a report: path %s has %d rounds and %d of BASE", one.Path, len(one.Full), len(one.Base))
		}
	}
	return &r, nil
}

// Change is what has become of a path.
type Change struct {
	Path  string  `json:"path"`
	Flows int     `json:"flows"`
	Old   float64 `json:"old"` // medians, in multiples of BASE
	New   float64 `json:"new"`
	P     float64 `json:"p"`    // of such a difference by chance
	Real  bool    `json:"real"` // no noise
}

// Slower is whether it is slower, and not by noise.
func (c *Change) Slower() bool { return c.Real && c.New > c.Old }

// What is taken for a change: one that chance would make once in so many runs, of
// that part at least. Where a program and its tables lie in memory is another each
// time, and worth 1 to 2 %.
const (
	alpha     = 0.001
	leastPart = 0.03
)

// Compare tells what of a report differs from an old one: by Mann-Whitney's test of
// the rounds' multiples of BASE, which assumes nothing of how they are spread.
func Compare(old, now *Report) []Change {
	var changes []Change
	for i := range now.Results {
		r := &now.Results[i]
		at := slices.IndexFunc(old.Results, func(o Result) bool { return o.Path == r.Path && o.Flows == r.Flows })
		if at < 0 {
			continue
		}
		before, after := old.Results[at].Times(), r.Times()
		c := Change{Path: r.Path, Flows: r.Flows}
		c.Old, _ = summary(before)
		c.New, _ = summary(after)
		test := benchmath.DefaultThresholds
		c.P = benchmath.AssumeNothing.Compare(benchmath.NewSample(before, &test), benchmath.NewSample(after, &test)).P
		part := c.New/c.Old - 1
		c.Real = c.P < alpha && (part > leastPart || part < -leastPart)
		changes = append(changes, c)
	}
	return changes
}

// WriteChanges writes changes as a table.
func WriteChanges(w io.Writer, changes []Change) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PATH\tFLOWS\tOLD\tNEW\tCHANGE\tP\t")
	for _, c := range changes {
		verdict := "noise"
		if c.Real {
			verdict = map[bool]string{true: "slower", false: "faster"}[c.New > c.Old]
		}
		fmt.Fprintf(table, "%s\t%d\t%.2f\t%.2f\t%+.1f %%\t%.4f\t%s\n", c.Path, c.Flows, c.Old, c.New, 100*(c.New/c.Old-1), c.P, verdict)
	}
	return table.Flush()
}
