// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/matrix"
	"github.com/weirnet/weir/scenarios/report/page"
	"github.com/weirnet/weir/scenarios/shard"
)

// Merged is the report of a whole, of the reports of its parts.
type Merged struct {
	Run     *shard.Run
	Results []scenarios.Result // by kernel, world and name
	parts   []*Part
	from    map[resultKey]*Part
	costs   []matrix.Cost
	Starts  []matrix.Start
}

// Merge puts parts into one. What a part lacks, and what its run as a whole came
// to, are problems of the merged run. shard.ErrMismatch.
func Merge(parts []*Part) (*Merged, error) {
	matched := make([]shard.Part, len(parts))
	for i, p := range parts {
		matched[i] = shard.Part{Name: p.Name, Run: p.Run}
	}
	if err := shard.Match(matched); err != nil {
		return nil, err
	}
	m := &Merged{parts: parts, from: map[resultKey]*Part{}}
	whole := *parts[0].Run
	whole.Shard, whole.Results, whole.Ended, whole.Problems = shard.Whole.String(), 0, true, nil
	whole.Build, whole.Seed = buildsOf(parts), ""
	m.Run = &whole
	for _, p := range parts {
		if err := m.add(p); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(m.Results, func(a, b scenarios.Result) int {
		return cmp.Or(compareReleases(a.Kernel, b.Kernel), -cmp.Compare(a.World, b.World), cmp.Compare(a.Scenario, b.Scenario))
	})
	return m, nil
}

// buildsOf are those of the programs that ran the parts, each once.
func buildsOf(parts []*Part) string {
	var all []string
	for _, p := range parts {
		if b := p.Run.Build; b != "" && !slices.Contains(all, b) {
			all = append(all, b)
		}
	}
	return strings.Join(all, "; ")
}

func (m *Merged) add(p *Part) error {
	for _, r := range p.results {
		if !slices.Contains(p.Run.Kernels, r.Kernel) {
			return fmt.Errorf("%w: %s has a result of kernel %s, on which it was not run", shard.ErrMismatch, p.Name, r.Kernel)
		}
		if other := m.from[keyOf(r)]; other != nil {
			return fmt.Errorf("%w: %s in world %s on %s is there twice: in %s and %s", shard.ErrMismatch, r.Scenario, r.World, r.Kernel, other.Name, p.Name)
		}
		m.from[keyOf(r)] = p
	}
	m.Results = append(m.Results, p.results...)
	m.Run.Results += p.Run.Results
	m.Run.Ended = m.Run.Ended && p.Run.Ended
	if short := p.Run.Short(len(p.results)); short != "" {
		m.problem(p, short)
	}
	for _, what := range p.Run.Problems {
		m.problem(p, what)
	}
	m.Starts = append(m.Starts, p.starts...)
	for _, c := range p.costs {
		// Each part has verified the same programs.
		if !slices.ContainsFunc(m.costs, func(have matrix.Cost) bool { return have.Kernel == c.Kernel && have.Program == c.Program }) {
			m.costs = append(m.costs, c)
		}
	}
	return nil
}

func (m *Merged) problem(p *Part, what string) {
	m.Run.Problems = append(m.Run.Problems, fmt.Sprintf("%s (shard %s): %s", p.Name, p.Run.Shard, what))
}

// Failed says whether the whole counts as failed.
func (m *Merged) Failed() bool {
	return len(m.Results) == 0 || len(m.Run.Problems) > 0 || Count(m.Results).Failed > 0
}

func (m *Merged) story(r scenarios.Result) string { return m.from[keyOf(r)].stories[keyOf(r)] }

// JUnit writes all results as one document.
func (m *Merged) JUnit(out io.Writer) error { return writeJUnit(out, m.Results, m.Run, m.story) }

// Merged shows what differs between kernels, and what failed, by cause. Capture gives
// the path of a failure's capture; nil: that in the part's report.
func (t *Text) Merged(m *Merged, capture func(scenarios.Result) string) {
	if len(m.Run.Kernels) > 1 {
		t.Names = kernelNames(m.Run.Kernels)
		t.Kernels(m.withOutputs(), false)
		fmt.Fprintln(t.Out)
	}
	if capture == nil {
		capture = m.capture
	}
	t.told(m.Results, func(r scenarios.Result) string { return briefOf(m.story(r)) }, capture)
}

// capture is the path of a failure's capture in the report of its part; empty where
// there is none.
func (m *Merged) capture(r scenarios.Result) string {
	dir := m.from[keyOf(r)].dir
	if dir == "" {
		return ""
	}
	path := (&Folder{path: dir}).Capture(r)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// withOutputs are the results with the frames that came with them.
func (m *Merged) withOutputs() []scenarios.Result {
	results := slices.Clone(m.Results)
	at := map[resultKey]int{}
	for i, r := range results {
		at[keyOf(r)] = i
	}
	for _, p := range m.parts {
		for _, o := range p.outputs {
			if i, known := at[resultKey{o.Kernel, o.Scenario, o.World}]; known {
				results[i].Outputs = o.Outputs
			}
		}
	}
	return results
}

// Keep writes the report of the whole to a folder of its own in a directory of
// reports, as that of a run is, with the stories and captures of the parts.
func (m *Merged) Keep(reports string) (*Folder, error) {
	f, err := NewFolder(reports)
	if err != nil {
		return nil, err
	}
	var problems []error
	f.parts = len(m.parts)
	for _, r := range m.withOutputs() {
		f.tally.add(r)
		problems = append(problems, JSON(f.json, r), f.keepOutputs(r), m.keepFailure(f, r))
	}
	problems = append(problems, f.closeFiles(), f.file(junitFile, m.JUnit), f.describe(m.Run))
	if len(m.Run.Kernels) > 1 || len(m.costs) > 0 {
		_, err := f.Kernels(m.withOutputs(), m.costs)
		problems = append(problems, err)
	}
	if len(m.Starts) > 0 {
		problems = append(problems, f.Starts(m.Starts))
	}
	problems = append(problems, f.index(m.Results, m.Run, told{m.tale, func(r scenarios.Result) string { return briefOf(m.story(r)) }}))
	return f, errors.Join(problems...)
}

// tale is what the page of a failure shows; nil where its part does not have that.
func (m *Merged) tale(r scenarios.Result) *page.Failure { return m.from[keyOf(r)].tales[keyOf(r)] }

// keepFailure copies the story, the page and the capture of a failure.
func (m *Merged) keepFailure(f *Folder, r scenarios.Result) error {
	story := m.story(r)
	if !r.Failed() || story == "" {
		return nil
	}
	if err := os.WriteFile(f.name(r)+".txt", []byte(story), 0o644); err != nil {
		return fmt.Errorf("write story: %w", err)
	}
	if t := m.tale(r); t != nil {
		t.File = filepath.Base(f.name(r))
		if err := f.keepTale(t); err != nil {
			return err
		}
	}
	path := m.capture(r)
	if path == "" {
		return nil
	}
	capture, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read capture: %w", err)
	}
	if err := os.WriteFile(f.Capture(r), capture, 0o644); err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	return nil
}

// Holds says whether a directory is one of the merged reports, or was given for
// them: with the whole in it, it would not be read as them again.
func (m *Merged) Holds(dir string) bool {
	there, err := os.Stat(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(m.parts, func(p *Part) bool {
		return slices.ContainsFunc([]string{p.given, cmp.Or(p.dir, filepath.Dir(p.Name))}, func(path string) bool {
			own, err := os.Stat(path)
			return err == nil && os.SameFile(there, own)
		})
	})
}

// JSON writes the results and the run as lines.
func (m *Merged) JSON(out io.Writer) error {
	for _, r := range m.Results {
		if err := JSON(out, r); err != nil {
			return err
		}
	}
	return JSONRun(out, m.Run)
}
