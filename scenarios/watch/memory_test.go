// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/reach"
	"github.com/weirnet/weir/scenarios/syntax"
)

func runNamed(name string) Run { return Run{name, syntax.Prog} }

func result(name string, outcome scenarios.Outcome) scenarios.Result {
	return scenarios.Result{Scenario: name, World: syntax.Prog, Outcome: outcome}
}

// remembered is a memory of three runs: one of two lines of a file, one of one of them,
// which failed, and one of another program and file.
func remembered() *Memory {
	m := &Memory{}
	m.Plan([]Run{runNamed("both/ipv4"), runNamed("one/ipv4"), runNamed("other/ipv4")})
	m.Note(result("both/ipv4", scenarios.Pass), &reach.Run{Lines: map[string][]int{"a.h": {7, 9}}, Programs: []string{"in"}})
	m.Note(result("one/ipv4", scenarios.Fail), &reach.Run{Lines: map[string][]int{"a.h": {7}}, Programs: []string{"in"}})
	m.Note(result("other/ipv4", scenarios.Pass), &reach.Run{Lines: map[string][]int{"b.h": {1, 2, 3}}, Programs: []string{"out"}})
	return m
}

func (m *Memory) dueNames() (names []string) {
	for _, name := range []string{"both/ipv4", "one/ipv4", "other/ipv4", "new/ipv4"} {
		if m.Due(runNamed(name)) {
			names = append(names, name)
		}
	}
	return names
}

func TestNewRunsAreDueAndThoseThatAreGoneForgotten(t *testing.T) {
	m := remembered()
	require.Empty(t, m.dueNames())
	m.Plan([]Run{runNamed("both/ipv4"), runNamed("new/ipv4")})
	require.Equal(t, []string{"new/ipv4"}, m.dueNames())
	m.Note(result("other/ipv4", scenarios.Fail), nil)
	all, due, failed := m.Count()
	require.Equal(t, []int{2, 1, 0}, []int{all, due, failed})
}

func TestARunOfSeveralTimesHasFailedIfOneHas(t *testing.T) {
	m := &Memory{}
	m.Plan([]Run{runNamed("one/ipv4")})
	m.Note(result("one/ipv4#1", scenarios.Fail), nil)
	m.Note(result("one/ipv4#2", scenarios.Pass), nil)
	_, due, failed := m.Count()
	require.Equal(t, []int{0, 1}, []int{due, failed})
	m.touch(func(Run, *known) bool { return true })
	m.Note(result("one/ipv4#1", scenarios.Pass), nil)
	_, _, failed = m.Count()
	require.Zero(t, failed)
}

func TestWhatFailedComesFirstAndThenWhatReachesLittle(t *testing.T) {
	m := remembered()
	require.Negative(t, m.Order(runNamed("one/ipv4"), runNamed("both/ipv4")))
	require.Negative(t, m.Order(runNamed("both/ipv4"), runNamed("other/ipv4")))
	m.Plan([]Run{runNamed("both/ipv4"), runNamed("one/ipv4"), runNamed("new/ipv4")})
	require.Negative(t, m.Order(runNamed("one/ipv4"), runNamed("new/ipv4")))
	require.Negative(t, m.Order(runNamed("new/ipv4"), runNamed("both/ipv4")))
}

func TestAChangeTouchesTheRunsThatReachIt(t *testing.T) {
	code := func(file string, line int) bool { return file == "b.h" && line < 4 || line >= 7 && line <= 9 }
	for name, c := range map[string]struct {
		hunk     hunk
		file     string
		programs []string
		due      []string
		says     string
	}{
		"a line that one reaches, and what failed": {hunk{old: []codeLine{{9, "return 0;"}}, first: 9, last: 9}, "a.h", []string{"in"},
			[]string{"both/ipv4", "one/ipv4"}, "1 run reaches what changed"},
		"a line that nobody reaches": {hunk{old: []codeLine{{8, "return 1;"}}, first: 8, last: 8}, "a.h", []string{"in"},
			[]string{"both/ipv4", "one/ipv4"}, "no run reaches what changed: 2 runs of the programs that changed (in)"},
		"a line of a program that nobody runs": {hunk{old: []codeLine{{8, "return 1;"}}, first: 8, last: 8}, "a.h", []string{"never"},
			[]string{"one/ipv4"}, "no run here is of a program that changed: never"},
		"a constant": {hunk{old: []codeLine{{1, "#define ROOM 5"}}, first: 1, last: 1}, "a.h", []string{"in", "out"},
			[]string{"both/ipv4", "one/ipv4", "other/ipv4"}, "bpf/a.h:1 is in no function with instructions: 3 runs of the programs that changed (in, out)"},
		"what makes the same programs": {hunk{old: []codeLine{{9, "return 0;"}}, first: 9, last: 9}, "a.h", nil,
			nil, "the programs are the same: nothing to run"},
	} {
		m := remembered()
		touched := &Touched{Edits: []edit{{c.file, []hunk{c.hunk}, nil, bodies(functions)}}, Programs: c.programs}
		if len(c.programs) > 0 {
			m.find(touched, code)
		}
		require.Equal(t, c.due, m.dueNames(), name)
		said := touched.tell("bpf")
		require.Equal(t, c.says, said[1], name)
		if len(c.programs) > 0 {
			require.Equal(t, "what failed comes first: 1 run", said[2], name)
		}
	}
}

func TestLinesKeepTheirRunsWhenOthersComeBefore(t *testing.T) {
	m := remembered()
	m.move(editsOf(Source{"a.h": functions}, Source{"a.h": "// more\n" + functions}))
	require.Equal(t, []int{8, 10}, m.runs[runNamed("both/ipv4")].reach.Lines["a.h"])
	require.Equal(t, []int{8}, m.runs[runNamed("one/ipv4")].reach.Lines["a.h"])
	require.Equal(t, []int{1, 2, 3}, m.runs[runNamed("other/ipv4")].reach.Lines["b.h"])
	require.Empty(t, m.dueNames())
}
