// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

// job is what a guest is asked to do, as JSON on its standard input.
type job struct {
	Sources  []source     `json:"sources,omitempty"` // none: the library
	World    syntax.World `json:"world"`
	Names    []string     `json:"names"` // of scenarios with their families
	Slowdown float64      `json:"slowdown"`
	Costs    bool         `json:"costs,omitempty"` // tell what programs cost, too
	Cover    bool         `json:"cover,omitempty"` // tell what of the programs is reached
}

// source is a scenario file.
type source struct {
	Path string `json:"path"`
	Text string `json:"text"`
}

// message is what a guest tells, as JSON on its standard output: one of these.
type message struct {
	Result  *scenarios.Result      `json:"result,omitempty"`
	Failure *scenarios.Failure     `json:"failure,omitempty"` // of the result
	Outputs []scenarios.Output     `json:"outputs,omitempty"` // of the result
	Reach   []cover.Record         `json:"reach,omitempty"`   // of the result
	Costs   []datapath.ProgramCost `json:"costs,omitempty"`
	// Problem is of the run as a whole, like something that it left behind.
	Problem string `json:"problem,omitempty"`
	Done    bool   `json:"done,omitempty"` // the last one
}

// result puts together what travels apart.
func (m *message) result() scenarios.Result {
	r := *m.Result
	r.Failure, r.Outputs, r.Reach = m.Failure, m.Outputs, m.Reach
	return r
}
