// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// figures are what a row shows: the sum of what some benchmarks report in a unit.
type figures struct {
	benchmarks []string
	unit       string
}

// goal is something that is to cost so much at most.
type goal struct {
	what string
	// sizes are the rows, each ten times the one before: what is measured, by the
	// size as people read it.
	sizes []sized
	unit  string  // as people read it
	most  float64 // of the last size; 0: no goal
	// steady values are shares, which do not depend on how fast a machine is.
	steady bool
}

type sized struct {
	size string
	figures
}

// Names of benchmarks that say how fast the machine is.
const (
	baseBenchmark = "KnownFlow/pod-to-service/ipv4"
	baseUnit      = "BASE-ns/packet"
)

func each(unit, format string, sizes ...string) (all []sized) {
	for _, size := range sizes {
		all = append(all, sized{size, figures{[]string{fmt.Sprintf(format, size)}, unit}})
	}
	return all
}

// goals are those of a change and of a load.
func goals() []goal {
	const cpu = "cpu-ms/change"
	load := func(services string) sized {
		return sized{services + " services", figures{[]string{"FirstLoad/compile/services=" + services, "FirstLoad/apply/services=" + services}, "cpu-ms/load"}}
	}
	all := []goal{
		{what: "one pod elsewhere changes: compile", unit: "ms of CPU", most: 1, sizes: each(cpu, "OneChange/%s/pod", "1k", "10k", "100k")},
		{what: "one pod elsewhere changes: agent", unit: "ms of CPU", most: 1, sizes: each(cpu, "APodElsewhere/%s", "10k", "100k")},
		{what: "one service changes: compile", unit: "ms of CPU", sizes: each(cpu, "OneChange/%s/service", "1k", "10k", "100k")},
		{what: "one service changes: apply", unit: "ms of CPU", sizes: each(cpu, "ServiceChange/services=%s", "1000", "10000", "100000")},
		{what: "one policy changes: compile", unit: "ms of CPU", sizes: each(cpu, "OneChange/%s/policy", "1k", "10k", "100k")},
		{what: "a policy's block of the world changes: compile", unit: "ms of CPU", sizes: each(cpu, "OneChange/%s/block", "1k", "10k", "100k")},
		{what: "a policy's block of 16 pods changes: compile", unit: "ms of CPU", sizes: each(cpu, "OneChange/%s/block-of-pods", "1k", "10k", "100k")},
		{what: "a Node comes or goes: compile", unit: "ms of CPU", sizes: each(cpu, "OneChange/%s/node", "1k", "10k", "100k")},
		{what: "a namespace comes or goes: compile", unit: "ms of CPU", sizes: each(cpu, "OneChange/%s/new-namespace", "1k", "10k", "100k")},
		{what: "a pod's address is claimed by another: compile", unit: "ms of CPU", sizes: each(cpu, "OneChange/%s/disputed-address", "1k", "10k", "100k")},
		{what: "one policy changes: datapath", unit: "ms to effect", sizes: each("ms-p50", "PolicyChange/endpoints=%s", "100", "1000")},
		{what: "1,000 changes a second: agent", unit: "% of a core", most: 20, steady: true, sizes: []sized{{"10k", figures{[]string{"ABurst"}, "%core"}}}},
		{what: "1,000 changes a second: to effect", unit: "ms, p99", most: 50, sizes: []sized{{"10k", figures{[]string{"ABurst"}, "p99-ms"}}}},
		{what: "packets judged anew, 10 changes a second", unit: "% of packets", steady: true, sizes: []sized{
			{"if each concerned all flows", figures{[]string{"JudgedAnew/packets-a-second=1/all=true"}, "%judged-anew"}},
			{"100k flows", figures{[]string{"JudgedAnew/packets-a-second=1/all=false"}, "%judged-anew"}}}},
		{what: "first load, 10 backends each", unit: "ms of CPU", most: 300, sizes: []sized{load("1000"), load("10000")}},
	}
	return all
}

// GoalRow is what is known of one size of one goal. Values are in Unit; what was not
// measured is nil.
type GoalRow struct {
	What string   `json:"what"`
	Size string   `json:"size"`
	Unit string   `json:"unit"`
	Now  *float64 `json:"now"`
	// Tenth is Now over that of a tenth of the size.
	Tenth *float64 `json:"overTenth"`
	// Before is that of the earlier commit on a machine as fast as this one by BASE,
	// and Change is Now over it.
	Before *float64 `json:"before"`
	Change *float64 `json:"overBefore"`
	Most   float64  `json:"most,omitempty"` // the goal
}

// Met is whether a goal is met: nil where there is none, or nothing was measured.
func (r *GoalRow) Met() *bool {
	if r.Most == 0 || r.Now == nil {
		return nil
	}
	met := *r.Now <= r.Most
	return &met
}

// Goals compares what benchmarks have reported with goals, and with an earlier
// commit's reports, which may be empty. Times before are taken for those of a
// machine as fast as this one: as many of its BASE.
func Goals(now, before Results) []GoalRow {
	faster := over(known(now, figures{[]string{baseBenchmark}, baseUnit}), known(before, figures{[]string{baseBenchmark}, baseUnit}))
	var rows []GoalRow
	for _, g := range append(goals(), tables(now)...) {
		var last *float64
		for i, s := range g.sizes {
			row := GoalRow{What: g.what, Size: s.size, Unit: g.unit, Now: known(now, s.figures), Before: known(before, s.figures)}
			if row.Before != nil && !g.steady {
				row.Before = times(row.Before, faster)
			}
			row.Tenth, row.Change = over(row.Now, last), over(row.Now, row.Before)
			if i == len(g.sizes)-1 {
				row.Most = g.most
			}
			last = row.Now
			rows = append(rows, row)
		}
	}
	return rows
}

// tables are rows for the memory of each table that services fill.
func tables(now Results) []goal {
	const small, large = "FirstLoad/apply/services=1000", "FirstLoad/apply/services=10000"
	var all []goal
	for unit := range now[large] {
		if table, is := strings.CutPrefix(unit, "KiB-"); is && grows(now, small, large, unit) {
			all = append(all, goal{what: "memory of table " + table, unit: "KiB", steady: true, sizes: []sized{
				{"1000 services", figures{[]string{small}, unit}}, {"10000 services", figures{[]string{large}, unit}}}})
		}
	}
	slices.SortFunc(all, func(a, b goal) int { return strings.Compare(a.what, b.what) })
	return all
}

func grows(r Results, small, large, unit string) bool {
	a, _ := r.value(small, unit)
	b, _ := r.value(large, unit)
	return a != b
}

// known is the value of figures; nil where a benchmark of it is missing.
func known(r Results, m figures) *float64 {
	sum := 0.0
	for _, name := range m.benchmarks {
		value, there := r.value(name, m.unit)
		if !there {
			return nil
		}
		sum += value
	}
	return &sum
}

func over(a, b *float64) *float64 {
	if a == nil || b == nil || *b == 0 {
		return nil
	}
	ratio := *a / *b
	return &ratio
}

func times(a, b *float64) *float64 {
	if a == nil || b == nil {
		return nil
	}
	product := *a * *b
	return &product
}

// WriteGoals writes rows as a table.
func WriteGoals(w io.Writer, rows []GoalRow) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tSIZE\tNOW\tUNIT\tOVER A TENTH\tBEFORE\tOVER BEFORE\tGOAL\tMET")
	for i := range rows {
		r := &rows[i]
		most, met := "-", "-"
		if r.Most != 0 {
			most = fmt.Sprintf("%g", r.Most)
		}
		if is := r.Met(); is != nil {
			met = map[bool]string{true: "yes", false: "no"}[*is]
		}
		fmt.Fprintln(table, strings.Join([]string{r.What, r.Size, figure(r.Now), r.Unit, figure(r.Tenth), figure(r.Before), figure(r.Change), most, met}, "\t"))
	}
	return table.Flush()
}

// figure writes three digits, or none where nothing is known.
func figure(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 100:
		return fmt.Sprintf("%.0f", *v)
	}
	return fmt.Sprintf("%.3g", *v)
}
