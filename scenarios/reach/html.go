// SPDX-License-Identifier: Apache-2.0

package reach

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"strings"

	"github.com/weirnet/weir/bpf"
)

//go:embed pages.html
var pagesText string

var pages = template.Must(template.New("pages").Funcs(template.FuncMap{"page": pageOf, "short": short, "percent": percent}).Parse(pagesText))

// pageOf is the name of a source file's page.
func pageOf(file string) string { return strings.ReplaceAll(file, "/", ".") + ".html" }

func percent(s Share) string { return fmt.Sprintf("%.1f", s.Percent()) }

// short is a count in at most five characters.
func short(n uint64) string {
	for _, unit := range []struct {
		of   uint64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if n >= unit.of {
			if unit.name == "k" {
				return fmt.Sprintf("%dk", n/1000)
			}
			return fmt.Sprintf("%.1f%s", float64(n)/float64(unit.of), unit.name)
		}
	}
	return fmt.Sprint(n)
}

func (r *Report) index(to io.Writer) error {
	if err := pages.ExecuteTemplate(to, "index", r); err != nil {
		return fmt.Errorf("write the page of files: %w", err)
	}
	return nil
}

// row is a line of a source file's page.
type row struct {
	Number int
	Text   string
	*Line  // nil: no code
	Class  string
	Note   string
	Ways   Share // of its branches
}

func (r *Report) page(to io.Writer, f *File) error {
	data := struct {
		*Report
		File *File
		Rows []row
	}{r, f, f.rows()}
	if err := pages.ExecuteTemplate(to, "file", data); err != nil {
		return fmt.Errorf("write the page of %s: %w", f.Name, err)
	}
	return nil
}

func (f *File) rows() []row {
	text, err := fs.ReadFile(bpf.Sources(), f.Name)
	if err != nil { // of a compiler's or system's header
		text = []byte(fmt.Sprintf("(the source of %s is not at hand)", f.Name))
	}
	var rows []row
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		rows = append(rows, f.row(i+1, line))
	}
	return rows
}

var classes = map[State]string{Reached: "reached", Missed: "missed", Dead: "dead", Excused: "excused"}

func (f *File) row(number int, text string) row {
	r := row{Number: number, Text: text, Line: f.Lines[number]}
	if r.Line == nil {
		return r
	}
	r.Class, r.Note = classes[r.State], string(r.State)
	switch {
	case r.State == Excused:
		r.Note += ": " + r.Why
	case r.State == Reached && r.Scenarios == 1:
		r.Note = "reached by " + r.One + " alone"
	case r.State == Reached:
		r.Note = fmt.Sprintf("reached by %d scenarios", r.Scenarios)
	}
	for _, b := range r.Branches {
		for _, w := range b.Ways {
			if w.Dead && w.Count == 0 {
				continue
			}
			r.Ways.Of++
			if w.Count > 0 {
				r.Ways.Reached++
			}
		}
	}
	return r
}
