// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{"percent": percent}).Parse(pageText))

// pageLine is a source line with what became of its mutants.
type pageLine struct {
	Line int
	Text string
	Score
	Open []*Result // survived, or not asked to the end
}

// Class is what the line is shown as: the worst that became of a mutant.
func (l *pageLine) Class() string {
	switch {
	case l.Survived+l.Undone > l.Known:
		return "survived"
	case l.Known > 0:
		return "known"
	case l.Counted() > 0:
		return "killed"
	}
	return "nothing"
}

type pageFile struct {
	Score
	Lines []*pageLine
}

// HTML writes a page by file and source line.
func (r *Report) HTML(out io.Writer) error {
	scores, all := r.Scores()
	var files []pageFile
	for _, s := range scores {
		files = append(files, pageFile{s, r.linesOf(s.File)})
	}
	err := page.Execute(out, struct {
		Killers []string
		Files   []pageFile
		All     Score
	}{r.killers(), files, all})
	if err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

func (r *Report) linesOf(file string) []*pageLine {
	by := map[int]*pageLine{}
	for i := range r.Results {
		one := &r.Results[i]
		if one.File != file {
			continue
		}
		line := by[one.Line]
		if line == nil {
			line = &pageLine{Line: one.Line, Text: one.Text}
			by[one.Line] = line
		}
		line.add(one)
		if one.Outcome == Survived || one.Outcome == Known || one.Outcome == "" {
			line.Open = append(line.Open, one)
		}
	}
	var lines []*pageLine
	for _, l := range by {
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b *pageLine) int { return a.Line - b.Line })
	return lines
}

// Reach says what reached a mutant.
func (r *Result) Reach() string { return r.reachedBy() }
