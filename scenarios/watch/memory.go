// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"cmp"
	"maps"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/reach"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Run is a scenario in a family and a world.
type Run struct {
	Scenario string // name/family
	World    syntax.World
}

// RunOf is the one that a result is of, whichever of several times.
func RunOf(r scenarios.Result) Run { return Run{r.Unnumbered(), r.World} }

// Memory is what is known of each run.
type Memory struct{ runs map[Run]*known }

// known is of a run.
type known struct {
	due    bool       // it is to be run
	failed bool       // when it last ran
	reach  *reach.Run // then, in the numbers of the lines of the last build; nil: nothing
}

// Plan says which runs there are: new ones are due, others are forgotten.
func (m *Memory) Plan(runs []Run) {
	now := map[Run]*known{}
	for _, r := range runs {
		now[r] = m.runs[r]
		if now[r] == nil {
			now[r] = &known{due: true}
		}
	}
	m.runs = now
}

// Note takes in a result, and what it reached.
func (m *Memory) Note(r scenarios.Result, reached *reach.Run) {
	k := m.runs[RunOf(r)]
	if k == nil {
		return
	}
	if !k.due { // another time of several
		k.failed = k.failed || r.Failed()
		return
	}
	*k = known{failed: r.Failed(), reach: reached}
}

// Due says whether a run is to be run.
func (m *Memory) Due(r Run) bool { return m.runs[r] != nil && m.runs[r].due }

// Order compares two runs: what failed comes first, then what is not known, then what
// reaches the fewest lines: it is the most about those that have changed.
func (m *Memory) Order(a, b Run) int { return cmp.Compare(m.runs[a].weight(), m.runs[b].weight()) }

func (k *known) weight() (lines int) {
	switch {
	case k != nil && k.failed:
		return -1
	case k == nil || k.reach == nil:
		return 0
	}
	for _, of := range k.reach.Lines {
		lines += len(of)
	}
	return lines
}

// Count counts the runs that there are, those that are due, and those that failed when
// they last ran, due or not.
func (m *Memory) Count() (all, due, failed int) {
	for _, k := range m.runs {
		if k.due {
			due++
		}
		if k.failed {
			failed++
		}
	}
	return len(m.runs), due, failed
}

// touch makes runs due, and says how many fit.
func (m *Memory) touch(fits func(Run, *known) bool) (n int) {
	for r, k := range m.runs {
		if fits(r, k) {
			k.due = true
			n++
		}
	}
	return n
}

// move gives the lines of all runs the numbers that they have behind edits. Who reached
// a line that has gone is due, and its lines will be known again.
func (m *Memory) move(edits []edit) {
	for _, k := range m.runs {
		if k.reach == nil {
			continue
		}
		moved := &reach.Run{Lines: maps.Clone(k.reach.Lines), Programs: k.reach.Programs}
		for _, e := range edits {
			var lines []int
			for _, l := range moved.Lines[e.file] {
				if to, stays := e.stayed[l]; stays {
					lines = append(lines, to)
				}
			}
			moved.Lines[e.file] = lines
		}
		k.reach = moved
	}
}
