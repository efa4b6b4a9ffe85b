// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/report/page"
	"github.com/weirnet/weir/scenarios/syntax"
)

// How much of a failure its page shows: the whole is in its story and capture.
const (
	taleWalks   = 12
	taleSteps   = 24 // of a walk
	taleFrames  = 60
	taleDetails = 40
	taleModel   = 40
	taleLine    = 600  // characters
	taleProblem = 6000 // characters
)

// taleOf is a failure with a story, for its page.
func (f *Folder) taleOf(r scenarios.Result) *page.Failure {
	of := r.Failure
	t := &page.Failure{
		Scenario: r.Scenario, World: string(r.World), Kernel: r.Kernel, Outcome: string(r.Outcome), Seconds: r.Seconds,
		Pos: of.Pos.String(), Step: clipTo(of.Step, taleLine), Problem: clipTo(of.Problem, taleProblem), Odd: of.Odd,
		V6: r.Family.V6(), Topology: of.Topology, Repeat: of.Repeat, File: filepath.Base(f.name(r)),
	}
	for _, d := range first(of.Details, taleDetails) {
		t.Details = append(t.Details, page.Detail{Field: d.Field, Want: clipTo(d.Want, taleLine), Got: clipTo(d.Got, taleLine)})
	}
	for _, line := range first(of.Model, taleModel) {
		t.Model = append(t.Model, clipTo(line, taleLine))
	}
	drawn := telling(of)
	begin := max(0, min(drawn, len(of.Walks)-taleWalks))
	shown := first(of.Walks[begin:], taleWalks)
	for _, w := range shown {
		t.Walks = append(t.Walks, walkOf(w))
	}
	t.Drawn = max(-1, drawn-begin)
	t.Left = len(of.Walks) - len(shown)
	if len(of.Walks) == 0 {
		t.Drawn = -1
		t.Left = max(0, len(of.Frames)-taleFrames)
		for _, fr := range first(of.Frames, taleFrames) {
			t.Frames = append(t.Frames, page.Frame{Host: fr.Host, Text: clipTo(frame.Line(fr.Data), taleLine)})
		}
	}
	return t
}

// telling is the index of the walk that tells most of a failure: one that is disputed
// or at fault, else the last that ends in a drop, else the first, which the step sent.
// It is -1 where no frame met a hook.
func telling(f *scenarios.Failure) int {
	if walk, _, d := disputed(f); d != nil {
		return walk
	}
	best := -1
	for i, w := range f.Walks {
		switch n := len(w.Steps); {
		case n == 0:
		case len(w.Faults) > 0:
			return i
		case best < 0 || w.Steps[n-1].Decision.Action == model.Drop:
			best = i
		}
	}
	return best
}

func walkOf(w lab.Walk) page.Walk {
	out := page.Walk{From: w.From, To: w.To, Nobody: clipTo(w.Nobody, taleLine)}
	if w.Sent != nil {
		out.Sent = clipTo(frame.Line(w.Sent), taleLine)
	}
	for _, s := range first(w.Steps, taleSteps) {
		out.Steps = append(out.Steps, stepOf(s))
	}
	for _, fault := range first(w.Faults, taleDetails) {
		out.Faults = append(out.Faults, clipTo(fault, taleLine))
	}
	return out
}

func stepOf(s lab.Step) page.Step {
	d := s.Decision
	out := page.Step{
		Node: s.Node, Hook: string(s.Hook), Endpoint: s.Endpoint, Action: string(d.Action), Reason: string(d.Reason),
		Tables: clipTo(tables(d.Tables), taleLine),
	}
	rest := d
	rest.Action, rest.Reason, rest.File = "", "", ""
	out.Rest, out.Out = strings.TrimPrefix(Decision(rest), ", "), string(d.Out)
	if d.File != "" {
		out.Place = placeOf(d)
	}
	if s.In == nil && s.Tuple != (model.Tuple{}) {
		out.Tuple = s.Tuple.String()
	}
	if s.Contradiction != nil {
		out.But = fmt.Sprint(s.Contradiction.Did)
	}
	if s.In != nil && d.Action != model.Drop && string(s.In) != string(s.Out) {
		out.Before, out.After = clipTo(frame.Line(s.In), taleLine), clipTo(frame.Changes(s.In, s.Out), taleLine)
	}
	return out
}

func placeOf(d datapath.Decision) string { return fmt.Sprintf("%s:%d", d.File, d.Line) }

func first[T any](all []T, n int) []T { return all[:min(n, len(all))] }

// talesFile keeps what pages of failures show.
const talesFile = "failures.json"

// keepTale keeps what the page of a failure shows, and writes that.
func (f *Folder) keepTale(t *page.Failure) error {
	if err := json.NewEncoder(f.tales).Encode(t); err != nil {
		return fmt.Errorf("write failure of %s: %w", t.Scenario, err)
	}
	return f.file(t.File+".html", func(out io.Writer) error { return t.Write(out) })
}

// taleKey is whose a tale is.
func taleKey(t *page.Failure) resultKey {
	return resultKey{t.Kernel, t.Scenario, syntax.World(t.World)}
}
