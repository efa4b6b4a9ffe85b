// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strings"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios"
)

// Story tells a failure: the step, what was expected and what was there, the
// way of each frame, and how to see it again.
func (t *Text) Story(r scenarios.Result) string {
	f := r.Failure
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", t.paint(bold, f.Pos.String()), f.Step)
	fmt.Fprintf(&b, "%s\n", t.paint(red, f.Problem))
	for _, d := range f.Details {
		fmt.Fprintf(&b, "  %s\n    expected  %s\n    got       %s\n", d.Field, orNone(d.Want), t.paint(red, orNone(d.Got)))
	}
	if f.Odd != "" {
		fmt.Fprintf(&b, "the odd one out is %s\n", f.Odd)
	}
	for _, w := range f.Walks {
		b.WriteString(t.walk(w))
	}
	if len(f.Walks) == 0 && len(f.Frames) > 0 {
		fmt.Fprintf(&b, "frames that hosts' interfaces carried:\n")
		for _, fr := range f.Frames {
			fmt.Fprintf(&b, "  %s  %s\n", fr.Host, frame.Line(fr.Data))
		}
	}
	if len(f.Model) > 0 {
		fmt.Fprintf(&b, "the model says:\n")
		for _, s := range f.Model {
			fmt.Fprintf(&b, "  %s\n", s)
		}
	}
	if f.Enter != "" {
		fmt.Fprintf(&b, "look around:\n%s\n", indent(f.Enter, "  "))
	}
	if f.Repeat != "" {
		fmt.Fprintf(&b, "repeat: %s\n", f.Repeat)
	}
	return b.String()
}

func orNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// walk tells one frame's way.
func (t *Text) walk(w lab.Walk) string {
	var b strings.Builder
	if w.Sent != nil {
		fmt.Fprintf(&b, "%s sent   %s\n", w.From, frame.Line(w.Sent))
	} else if w.From != "" {
		fmt.Fprintf(&b, "%s sent a packet that the datapath told of:\n", w.From)
	}
	for _, s := range w.Steps {
		if s.In == nil && s.Tuple != (model.Tuple{}) {
			fmt.Fprintf(&b, "  %s\n", s.Tuple)
		}
		fmt.Fprintf(&b, "  %s of %s: %s\n", s.Hook, s.Endpoint, Decision(s.Decision))
		if s.Contradiction != nil {
			fmt.Fprintf(&b, "    %s %s\n", t.paint(red, "but it"), s.Contradiction.Did)
		}
		if len(s.Decision.Tables) > 0 {
			fmt.Fprintf(&b, "    tables  %s\n", tables(s.Decision.Tables))
		}
		if s.In != nil && s.Decision.Action != model.Drop && string(s.In) != string(s.Out) {
			fmt.Fprintf(&b, "    before  %s\n    after   %s\n", frame.Line(s.In), frame.Changes(s.In, s.Out))
		}
	}
	switch {
	case w.To != "":
		fmt.Fprintf(&b, "  → %s\n", w.To)
	case w.Nobody != "":
		fmt.Fprintf(&b, "  → nobody: %s\n", w.Nobody)
	}
	for _, f := range w.Faults {
		fmt.Fprintf(&b, "  %s %s\n", t.paint(red, "fault:"), f)
	}
	return b.String()
}

// Decision tells a decision in a line.
func Decision(d datapath.Decision) string {
	parts := []string{string(d.Action)}
	if d.Reason != "" {
		parts = append(parts, string(d.Reason))
	}
	if d.Out != "" {
		out := "out " + string(d.Out)
		if d.Ifindex != 0 {
			out += fmt.Sprintf(" (device %d)", d.Ifindex)
		}
		parts = append(parts, out)
	}
	if d.Flow != datapath.FlowNone {
		parts = append(parts, "flow "+string(d.Flow))
	}
	if !d.Origin.Policy.IsZero() {
		parts = append(parts, "by "+d.Origin.String())
	}
	if d.File != "" {
		parts = append(parts, fmt.Sprintf("at %s:%d", d.File, d.Line))
	}
	return strings.Join(parts, ", ")
}

func tables(reads []datapath.TableRead) string {
	var out []string
	for _, r := range reads {
		found := "miss"
		if r.Hit {
			found = "hit"
		}
		out = append(out, r.Table+" "+found)
	}
	return strings.Join(out, ", ")
}
