// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/report/page"
	"github.com/weirnet/weir/scenarios/shard"
	"github.com/weirnet/weir/scenarios/syntax"
)

// How much the page of a run shows, so that it stays small enough to open; what it
// leaves out it counts.
const (
	indexCauses  = 100
	indexTales   = 10 // causes that have the shortest failure whole
	indexNames   = 60 // of a cause
	indexNotes   = 200
	indexSlowest = 10
)

// indexFile is the page of the run.
const indexFile = "index.html"

// told is what is known of failures, besides their results.
type told struct {
	tale  func(scenarios.Result) *page.Failure // nil: none
	story func(scenarios.Result) string        // as text; empty: none
}

// ofResults is what results themselves tell.
func (f *Folder) ofResults() told {
	return told{
		tale: func(r scenarios.Result) *page.Failure {
			if r.Failure == nil {
				return nil
			}
			return f.taleOf(r)
		},
		story: func(r scenarios.Result) string {
			if r.Failure == nil {
				return ""
			}
			return (&Text{}).Story(r)
		},
	}
}

// index writes the page of the run.
func (f *Folder) index(results []scenarios.Result, run *shard.Run, t told) error {
	x := &overview{Run: &page.Run{}, folder: f, run: run, results: results, told: t, notes: map[string]int{}}
	x.Short = f.short(run, len(results))
	x.Problems = first(run.Problems, indexCauses)
	x.count()
	x.facts()
	x.causes()
	x.rows()
	x.slowest()
	x.files()
	return f.file(indexFile, func(out io.Writer) error { return x.Write(out) })
}

// short says why not all results are there; empty where they are.
func (f *Folder) short(run *shard.Run, done int) string {
	switch {
	case run.Ended:
		return ""
	case len(run.Problems) > 0:
		return fmt.Sprintf("Interrupted at %s: %d of %d runs were done.", time.Now().UTC().Format(time.DateTime+" UTC"), done, run.Results)
	}
	return fmt.Sprintf("It has not ended: %d runs go on, or were killed. What they left is in %s.", run.Results, resultsFile)
}

// overview is the page of a run in the making.
type overview struct {
	*page.Run
	folder  *Folder
	run     *shard.Run
	results []scenarios.Result
	told    told
	notes   map[string]int // numbers of what stands in Notes
}

func (x *overview) count() {
	t := Count(x.results)
	x.Failed = t.Failed
	for _, c := range []page.Count{
		{Class: "pass", N: t.Passed, Name: "passed"}, {Class: "same", N: t.Same, Name: "the same as on another kernel"},
		{Class: "fail", N: t.Failed, Name: "failed"}, {Class: "skipped", N: t.Skipped, Name: "skipped"},
	} {
		if c.N > 0 || c.Class == "pass" {
			x.Counts = append(x.Counts, c)
		}
	}
	if t.Failed == 0 { // it is looked for
		x.Counts = append(x.Counts, page.Count{N: 0, Name: "failed"})
	}
}

func (x *overview) facts() {
	fact := func(name, format string, args ...any) {
		x.Facts = append(x.Facts, page.Fact{Name: name, Text: fmt.Sprintf(format, args...)})
	}
	now := time.Now().UTC()
	switch {
	case x.folder.parts > 0:
		fact("merged", "of %d reports, at %s", x.folder.parts, now.Format(time.DateTime+" UTC"))
	case x.results == nil:
		fact("began", "%s", x.folder.begun.Format(time.DateTime+" UTC"))
	default:
		fact("began", "%s, and took %s", x.folder.begun.Format(time.DateTime+" UTC"), now.Sub(x.folder.begun).Round(time.Second/10))
	}
	seconds := 0.0
	for _, r := range x.results {
		seconds += r.Seconds
	}
	if seconds > 0 {
		fact("all runs", "%.1f s, of which some went on at once", seconds)
	}
	if x.run.Build != "" {
		fact("build", "%s", x.run.Build)
	}
	if x.run.Seed != "" {
		fact("order", "that of --shuffle %s", x.run.Seed)
	}
	if x.run.Shard != "" && x.run.Shard != shard.Whole.String() {
		fact("shard", "%s", x.run.Shard)
	}
	for _, kernel := range x.run.Kernels {
		fact("kernel", "%s", kernel)
	}
}

func (x *overview) causes() {
	groups := groupsOf(x.results)
	names := kernelNames(releases(x.results))
	x.More = max(0, len(groups)-indexCauses)
	for i, g := range first(groups, indexCauses) {
		c := page.Cause{N: len(g.results), Text: clip(g.cause), Places: (&Text{Names: names}).places(g.results)}
		for _, r := range first(g.results, indexNames) {
			text := fmt.Sprintf("%s (%s", r.Scenario, r.World)
			if len(names) > 1 {
				text += ", " + names[r.Kernel]
			}
			c.Names = append(c.Names, page.Link{Text: text + ")", File: x.pageOf(r)})
		}
		c.More = max(0, len(g.results)-indexNames)
		if i < indexTales {
			g.tell(x.told.story)
			if c.Tale = x.told.tale(g.short); c.Tale == nil {
				c.Story = clipTo(g.story, taleProblem)
			}
		}
		x.Causes = append(x.Causes, c)
	}
}

// pageOf is the page of a failure; empty where there is none.
func (x *overview) pageOf(r scenarios.Result) string {
	if !r.Failed() {
		return ""
	}
	name := filepath.Base(x.folder.name(r)) + ".html"
	if _, err := os.Stat(filepath.Join(x.folder.path, name)); err != nil {
		return ""
	}
	return name
}

// scenario is a scenario in a family, in all worlds.
type scenario struct {
	name  string
	rows  map[syntax.World]*row
	class int // where it stands in the table
}

// scenariosOf are those of results: what failed first, then what differs, then the
// rest, each by name.
func scenariosOf(results []scenarios.Result, kernels map[syntax.World][]string) []*scenario {
	at := map[string]*scenario{}
	for _, r := range rows(results) {
		s := at[r.scenario]
		if s == nil {
			s = &scenario{r.scenario, map[syntax.World]*row{}, 2}
			at[r.scenario] = s
		}
		s.rows[r.world] = r
		outcomes := r.outcomes(kernels[r.world])
		switch {
		case slices.Contains(outcomes, scenarios.Fail) || slices.Contains(outcomes, scenarios.Broken):
			s.class = 0
		case r.differs(kernels[r.world]):
			s.class = min(s.class, 1)
		}
	}
	return slices.SortedFunc(maps.Values(at), func(a, b *scenario) int {
		return cmp.Or(cmp.Compare(a.class, b.class), strings.Compare(a.name, b.name))
	})
}

func (x *overview) rows() {
	kernels := map[syntax.World][]string{}
	names := kernelNames(releases(x.results))
	for _, world := range syntax.Worlds() {
		var of []scenarios.Result
		for _, r := range x.results {
			if r.World == world {
				of = append(of, r)
			}
		}
		if len(of) == 0 {
			continue
		}
		kernels[world] = releases(of)
		w := page.World{Name: string(world)}
		for _, k := range kernels[world] {
			w.Kernels = append(w.Kernels, names[k])
		}
		x.Worlds = append(x.Worlds, w)
	}
	for _, s := range scenariosOf(x.results, kernels) {
		r := page.Row{Name: s.name}
		for _, w := range x.Worlds {
			world := syntax.World(w.Name)
			for _, kernel := range kernels[world] {
				var cell page.Cell
				if in := s.rows[world]; in != nil {
					cell = x.cell(in.results[kernel])
				}
				r.Cells = append(r.Cells, cell)
			}
		}
		x.Rows = append(x.Rows, r)
	}
}

func (x *overview) cell(r *scenarios.Result) page.Cell {
	if r == nil {
		return page.Cell{}
	}
	c := page.Cell{Outcome: string(r.Outcome), File: x.pageOf(*r)}
	if c.File == "" && r.Reason != "" {
		c.Note = x.note(clip(firstLine(r.Reason)))
	}
	return c
}

// note is the number of a note; 0 where there are too many.
func (x *overview) note(text string) int {
	if x.notes[text] == 0 && len(x.Notes) < indexNotes {
		x.Notes = append(x.Notes, text)
		x.notes[text] = len(x.Notes)
	}
	return x.notes[text]
}

func (x *overview) slowest() {
	names := kernelNames(releases(x.results))
	for _, r := range slowestOf(x.results, indexSlowest) {
		if r.Seconds == 0 {
			break
		}
		s := page.Slow{Scenario: r.Scenario, World: string(r.World), Kernel: names[r.Kernel], Seconds: r.Seconds}
		var most phase.Phase
		for _, p := range phase.All() {
			if r.Phases[p] > r.Phases[most] {
				most = p
			}
		}
		if most != "" {
			s.On = fmt.Sprintf("%s, %.3f s", most, r.Phases[most])
		}
		x.Slowest = append(x.Slowest, s)
	}
}

func (x *overview) files() {
	for _, name := range []string{summaryFile, kernelsFile, resultsFile, junitFile, costsFile} {
		if _, err := os.Stat(filepath.Join(x.folder.path, name)); err == nil {
			x.Files = append(x.Files, page.Link{Text: name, File: name})
		}
	}
}
