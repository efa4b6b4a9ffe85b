// SPDX-License-Identifier: Apache-2.0

package page

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"strings"
)

//go:embed pages.html
var pagesText string

var pages = template.Must(template.New("pages").Funcs(template.FuncMap{
	"file":  fileURL,
	"inc":   func(i int) int { return i + 1 },
	"shout": shout,
	"mid":   func(a, b int) int { return a + b/2 },
	"add":   func(a, b int) int { return a + b },
	"none": func(s string) string {
		if s == "" {
			return "nothing"
		}
		return s
	},
}).Parse(pagesText))

// fileURL leads to a file in the page's folder, whatever its name is.
func fileURL(name string) string { return "./" + url.PathEscape(name) }

// shout is in capitals where one should look.
func shout(outcome string) string {
	switch outcome {
	case "fail", "broken":
		return strings.ToUpper(outcome)
	}
	return outcome
}

// Drawing is the network and the way of the frame in it; nil where none is known.
func (f *Failure) Drawing() *drawing {
	var walk *Walk
	if f.Drawn >= 0 && f.Drawn < len(f.Walks) {
		walk = &f.Walks[f.Drawn]
	}
	return draw(f.Topology, f.V6, walk)
}

// Write writes the page of a run.
func (r *Run) Write(out io.Writer) error {
	if err := pages.ExecuteTemplate(out, "run", r); err != nil {
		return fmt.Errorf("write the page of the run: %w", err)
	}
	return nil
}

// Write writes the page of a failure.
func (f *Failure) Write(out io.Writer) error {
	if err := pages.ExecuteTemplate(out, "failure", f); err != nil {
		return fmt.Errorf("write the page of %s: %w", f.Scenario, err)
	}
	return nil
}
