// SPDX-License-Identifier: Apache-2.0

package reach

import (
	_ "embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/weirnet/weir/bpf"
)

//go:embed unreachable
var unreachable string

// Excuse says why no frame reaches a line. It is bound to the text of the line
// and of the one before it: where these change, it falls out.
type Excuse struct {
	File         string
	Before, Text string // without what is around them
	Why          string
}

// excuses reads the list.
func excuses() []Excuse {
	all, err := ParseExcuses(unreachable)
	if err != nil {
		panic(err) // it is part of the binary, and a test reads it
	}
	return all
}

// ParseExcuses reads a list: paragraphs of a file, a line, the line that is
// meant, and the reason behind "because". A paragraph of # is none.
func ParseExcuses(text string) ([]Excuse, error) {
	var all []Excuse
	for _, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		lines := strings.Split(strings.TrimSpace(paragraph), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		if strings.HasPrefix(lines[0], "#") {
			continue
		}
		if len(lines) != 4 || !strings.HasPrefix(lines[3], "because ") {
			return nil, fmt.Errorf("read the list of lines that no frame reaches: %q is not a file, two lines of it and a reason", paragraph)
		}
		all = append(all, Excuse{lines[0], lines[1], lines[2], strings.TrimPrefix(lines[3], "because ")})
	}
	return all, nil
}

func (e Excuse) String() string { return fmt.Sprintf("%s, %q", e.File, e.Text) }

// Lines gives the lines that are meant, from 1.
func (e Excuse) Lines() []int {
	text, err := fs.ReadFile(bpf.Sources(), e.File)
	if err != nil {
		return nil
	}
	var found []int
	before := ""
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == e.Text && before == e.Before {
			found = append(found, i+1)
		}
		if line != "" {
			before = line
		}
	}
	return found
}

// excuse marks the lines of a list, and says which of its entries are not right
// any more.
func (r *Report) excuse(all []Excuse) {
	for _, e := range all {
		lines := e.Lines()
		if len(lines) == 0 {
			r.Stale = append(r.Stale, e.String()+": there is no such line any more, behind such a line")
		}
		for _, number := range lines {
			switch l := r.line(e.File, number); {
			case l == nil, l.State == Dead:
			case l.State == Reached:
				r.Stale = append(r.Stale, fmt.Sprintf("%s: line %d was reached", e, number))
			default:
				l.State, l.Why = Excused, e.Why
			}
		}
	}
}
