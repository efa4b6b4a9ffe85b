// SPDX-License-Identifier: Apache-2.0

package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
)

//go:embed report.html
var pageText string

var page = template.Must(template.New("report").Parse(pageText))

// bar is a result of one flow beside its goal, in pixels and multiples of BASE.
type bar struct {
	Name        string
	Times, Goal string
	Width, Mark int // 0: no goal
	Missed      bool
}

// barWidth is that of the widest bar.
const barWidth = 420

// WriteHTML writes a report as one page that needs nothing else.
func (r *Report) WriteHTML(w io.Writer) error {
	var rows [][]string
	for i := range r.Results {
		rows = append(rows, r.row(i))
	}
	var charts []template.HTML
	for _, c := range r.charts() {
		charts = append(charts, template.HTML(c.svg()))
	}
	err := page.Execute(w, map[string]any{
		"Report": r, "Columns": columns, "Rows": rows, "Bars": r.bars(), "Charts": charts, "Noise": r.Noise(),
	})
	if err != nil {
		return fmt.Errorf("write a page: %w", err)
	}
	return nil
}

// bars are the results of the fewest flows of each path.
func (r *Report) bars() []bar {
	most := 0.0
	var at []int
	seen := map[string]bool{}
	for i := range r.Results {
		one := &r.Results[i]
		if of := one.Path + string(one.Family); !seen[of] {
			seen[of] = true
			at = append(at, i)
			most = max(most, medianOf(one.Over()), r.goal(i))
		}
	}
	var all []bar
	for _, i := range at {
		one := &r.Results[i]
		times, goal := medianOf(one.Over()), r.goal(i)
		b := bar{Name: one.Path + " " + string(one.Family), Times: fmt.Sprintf("%.2f", times), Width: int(times / most * barWidth)}
		if goal > 0 {
			b.Goal, b.Mark, b.Missed = fmt.Sprintf("%.2f", goal), int(goal/most*barWidth), times > goal
		}
		all = append(all, b)
	}
	return all
}

// charts are one for each path of which several numbers of flows were measured.
func (r *Report) charts() []chart {
	var all []chart
	for _, p := range paths() {
		c := chart{title: p.name + ": flows in random turn", x: "flows", y: "ns over BASE"}
		sizes := map[int]bool{}
		for _, f := range []Family{IPv4, IPv6} {
			of, lookup := line{name: string(f)}, line{name: string(f) + ", bare lookup", dashed: true}
			for i := range r.Results {
				one := &r.Results[i]
				if one.Path != p.name || one.Family != f {
					continue
				}
				base := medianOf(one.Base)
				sizes[one.Flows] = true
				of.points = append(of.points, xy{float64(one.Flows), base * medianOf(one.Over())})
				if len(one.Lookup) > 0 {
					lookup.points = append(lookup.points, xy{float64(one.Flows), base * medianOf(one.overLookup())})
				}
			}
			c.lines = append(c.lines, of, lookup)
		}
		c.lines = slices.DeleteFunc(c.lines, func(l line) bool { return len(l.points) == 0 })
		if len(sizes) > 1 {
			all = append(all, c)
		}
	}
	return all
}
