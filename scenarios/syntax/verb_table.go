// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"fmt"

	"github.com/weirnet/weir/model"
)

func init() {
	define("table", verbSpec{`table NAME [on NODE] has|lacks "TEXT"`, "look for text in a table", parseTable})
}

// TableCheck looks for text in a table's entries.
type TableCheck struct {
	Table string
	Node  string
	Lacks bool
	Text  string
}

func parseTable(l *line) (Verb, error) {
	v := &TableCheck{}
	var err error
	if v.Table, err = l.word("the name of a table"); err != nil {
		return nil, err
	}
	if l.accept("on") {
		if v.Node, err = l.word("a node"); err != nil {
			return nil, err
		}
	}
	switch {
	case l.accept("has"):
	case l.accept("lacks"):
		v.Lacks = true
	default:
		return nil, l.expected("has or lacks", l.peek())
	}
	v.Text, err = l.text("what to look for")
	return v, err
}

func (v *TableCheck) check(c *checker, s *Step) {
	c.notLive(s.Pos, "table")
	c.node(s.Pos, "table", v.Node)
	v.Table = c.table(s.Pos, v.Table)
}

// table gives a table's name of today for one that it had before, with a warning.
func (c *checker) table(at Pos, name string) string {
	now, renamed := model.FormerTables()[model.Table(name)]
	if !renamed {
		return name
	}
	c.file.Warnings = append(c.file.Warnings, fmt.Sprintf("%s: the table %s is %s now", at, name, now))
	return string(now)
}

// Effect is of what kind it is.
func (*TableCheck) Effect() Effect { return Checks }

// Run does it in a world.
func (v *TableCheck) Run(ctx context.Context, p Player) error { return p.Table(ctx, v) }

// Rehearse tries what it names.
func (v *TableCheck) Rehearse(_ context.Context, p Player) error { return p.Expand(v.Text) }
