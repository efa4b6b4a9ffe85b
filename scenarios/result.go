// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"fmt"
	"time"

	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Outcome is how a run ended.
type Outcome string

// Outcomes.
const (
	Pass    Outcome = "pass"
	Fail    Outcome = "fail"
	Skipped Outcome = "skipped" // the kernel lacks what the scenario needs
	Broken  Outcome = "broken"  // the lab failed, not the datapath: counts as failed
	// Same is of a run that was left out on its kernel: on another one, where the
	// programs do the same for the scenario, it passed.
	Same Outcome = "same"
)

// Result is one run: a scenario in a family and a world.
type Result struct {
	Scenario string        `json:"scenario"` // name/family
	Family   syntax.Family `json:"family"`
	World    syntax.World  `json:"world"`
	Kernel   string        `json:"kernel"` // release of the running kernel
	Outcome  Outcome       `json:"result"`
	Reason   string        `json:"reason,omitempty"` // one line
	Seconds  float64       `json:"seconds"`
	// Cause is of a failure that was reported: where and how it began, in words that
	// failures of one cause share.
	Cause string `json:"cause,omitempty"`
	// Phases are what the seconds were spent on.
	Phases  map[phase.Phase]float64 `json:"phases,omitempty"`
	Failure *Failure                `json:"-"` // the story of a Fail or Broken
	Outputs []Output                `json:"-"` // of world prog
	// Reach is what of the programs it reached, where the runner counts that.
	Reach []cover.Record `json:"-"`

	stopped bool // in the middle, by whoever asked for the run: no result
}

// Failed says whether the run counts as failed.
func (r Result) Failed() bool { return r.Outcome == Fail || r.Outcome == Broken }

// Failure is the story of a run that failed.
type Failure struct {
	Pos     syntax.Pos
	Step    string // as it is written
	Problem string
	Details []Detail
	// Odd names which of scenario, model and datapath stands alone; empty
	// where that cannot be told.
	Odd string
	// Topology is the network that it happened in; without nodes where there was none.
	Topology lab.Topology
	// Model is what the model says of the frames of the step.
	Model []string
	// Walks are those of the step and of what it checks; Before those of
	// earlier steps.
	Walks, Before []lab.Walk
	// Frames are what hosts' interfaces carried, where walks do not tell.
	Frames []lab.Frame
	Tables []datapath.Table
	Flows  []datapath.Flow
	Repeat string // the command that runs it again
	Enter  string // how to look around in the world that was kept
	Time   time.Time
}

// Output is what a hook did with a frame in world prog, where equal programs
// do the same: two runs of one scenario can be compared by it.
type Output struct {
	Hook     model.Hook   `json:"hook"`
	Endpoint string       `json:"endpoint"`
	Action   model.Action `json:"action"`
	Reason   model.Reason `json:"reason,omitempty"`
	Frame    []byte       `json:"frame,omitempty"` // as the hook left it; nil where it is gone
}

// keepOutputs adds what a walk's hooks did.
func (p *play) keepOutputs(w *lab.Walk) {
	if p.kind != syntax.Prog {
		return
	}
	for _, s := range w.Steps {
		o := Output{Hook: s.Hook, Endpoint: s.Endpoint, Action: s.Decision.Action, Reason: s.Decision.Reason}
		if o.Action != model.Drop {
			o.Frame = s.Out
		}
		p.outputs = append(p.outputs, o)
	}
}

// Detail is one thing that is not as it was expected.
type Detail struct{ Field, Want, Got string }

// Mismatch is the error of a step that did not hold.
type Mismatch struct {
	Problem string
	Details []Detail
}

func (m *Mismatch) Error() string { return m.Problem }

func mismatch(format string, args ...any) *Mismatch {
	return &Mismatch{Problem: fmt.Sprintf(format, args...)}
}

func (m *Mismatch) with(field, want, got string) *Mismatch {
	m.Details = append(m.Details, Detail{field, want, got})
	return m
}
