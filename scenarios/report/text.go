// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/weirnet/weir/scenarios"
)

// Text writes results for people.
type Text struct {
	Out    io.Writer
	Colour bool
	// Names are of kernels by release: with them, each line names its kernel.
	Names map[string]string
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	bold   = "1"
)

func (t *Text) paint(code, s string) string {
	if !t.Colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Line writes a line for a result, a failure's with its reason.
func (t *Text) Line(r scenarios.Result) {
	line := t.head(r)
	if r.Reason != "" {
		line += "  " + clip(firstLine(r.Reason))
	}
	fmt.Fprintln(t.Out, line)
}

// Result writes a line for a result, and the story of a failure.
func (t *Text) Result(r scenarios.Result) {
	if r.Failure == nil {
		t.Line(r)
		return
	}
	fmt.Fprintf(t.Out, "%s\n%s\n", t.head(r), indent(t.Story(r), "    "))
}

// head says how a run ended, and which one.
func (t *Text) head(r scenarios.Result) string {
	colour := map[scenarios.Outcome]string{scenarios.Pass: green, scenarios.Same: green, scenarios.Skipped: yellow}[r.Outcome]
	if colour == "" {
		colour = red
	}
	where := fmt.Sprintf("%-7s", r.World)
	if name := t.Names[r.Kernel]; name != "" {
		where += fmt.Sprintf("  %-5s", name)
	}
	return fmt.Sprintf("%s  %s  %s  %.3fs", t.paint(colour, fmt.Sprintf("%-7s", r.Outcome)), where, r.Scenario, r.Seconds)
}

// Summary writes the last line, alone.
func (t *Text) Summary(results []scenarios.Result) { fmt.Fprintln(t.Out, Count(results)) }

func indent(s, by string) string {
	s = strings.TrimRight(s, "\n")
	return by + strings.ReplaceAll(s, "\n", "\n"+by)
}
