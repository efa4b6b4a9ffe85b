// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"text/tabwriter"

	"golang.org/x/perf/benchmath"
)

// Change is what has become of a path.
type Change struct {
	Path   string  `json:"path"`
	Family Family  `json:"family"`
	Flows  int     `json:"flows"`
	Old    float64 `json:"old"` // medians over BASE, in multiples of BASE
	New    float64 `json:"new"`
	P      float64 `json:"p"`    // of such a difference by chance
	Real   bool    `json:"real"` // no noise
	// Noisy says that the rounds of one of them are too few or differ too much to
	// tell.
	Noisy bool `json:"noisy"`
}

// Slower is whether it is slower, and not by noise.
func (c *Change) Slower() bool { return c.Real && c.New > c.Old }

// What is taken for a change: one that chance would make once in so many runs, of
// that part at least. Where a program and its tables lie in memory is another each
// time, and worth 1 % and more.
const (
	alpha     = 0.001
	leastPart = 0.025
)

// fewest is of how many rounds a rank test finds anything.
const fewest = 5

// Compare tells what of a report differs from an old one: by Mann-Whitney's test of
// the quiet rounds, which assumes nothing of how they are spread. Of one machine, they
// are those that are as fast by BASE as the fastest of both.
func Compare(old, now *Report) []Change {
	floors := now.floors(old)
	var changes []Change
	for i := range now.Results {
		r := &now.Results[i]
		was := old.find(r.Path, r.Family, r.Flows)
		if was == nil {
			continue
		}
		fast, wasFast := r.fastest(), was.fastest()
		if _, same := floors[r.Name()]; same {
			fast = min(fast, wasFast)
			wasFast = fast
		}
		changes = append(changes, compareRounds(r, was.over(was.Full, wasFast), r.over(r.Full, fast)))
	}
	return changes
}

func compareRounds(r *Result, before, after []float64) Change {
	c := Change{Path: r.Path, Family: r.Family, Flows: r.Flows}
	var spread, wasSpread float64
	c.Old, wasSpread = summary(before)
	c.New, spread = summary(after)
	test := benchmath.DefaultThresholds
	c.P = benchmath.AssumeNothing.Compare(benchmath.NewSample(before, &test), benchmath.NewSample(after, &test)).P
	part := c.New/c.Old - 1
	c.Noisy = min(len(before), len(after)) < fewest || max(spread, wasSpread) > noisy
	c.Real = !c.Noisy && c.P < alpha && (part > leastPart || part < -leastPart)
	return c
}

// WriteChanges writes changes as a table.
func WriteChanges(w io.Writer, changes []Change) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PATH\tFAMILY\tFLOWS\tOLD\tNEW\tCHANGE\tP\t")
	for _, c := range changes {
		verdict := "noise"
		switch {
		case c.Noisy:
			verdict = "too noisy to tell"
		case c.Real:
			verdict = map[bool]string{true: "slower", false: "faster"}[c.New > c.Old]
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%.2f\t%.2f\t%+.1f %%\t%.4f\t%s\n", c.Path, c.Family, c.Flows, c.Old, c.New, 100*(c.New/c.Old-1), c.P, verdict)
	}
	return table.Flush()
}
