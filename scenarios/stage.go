// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Planned is a run that can be made: a scenario in a family and a world.
type Planned struct{ run run }

// Plan lists the runs of scenarios in some worlds.
func Plan(all []*Scenario, worlds ...syntax.World) []Planned {
	var out []Planned
	for _, one := range (&Runner{Worlds: worlds}).runs(all) {
		out = append(out, Planned{one})
	}
	return out
}

// Name is name/family, and World where it runs.
func (p Planned) Name() string        { return p.run.name() }
func (p Planned) World() syntax.World { return p.run.world }

// Source is the text of the scenario.
func (p Planned) Source() string { return p.run.scenario.Source }

// Nodes is how many nodes its world has.
func (p Planned) Nodes() int { return len(p.run.scenario.topology.Nodes) }

// Stage is where one planned run is made after the other, in whatever order,
// with programs that may be changed in between: a Runner loads all programs anew,
// and looks for what was left behind, once for all its runs.
//
// It makes one run at a time.
type Stage struct {
	worker *worker
	pool   *prog.Pool
}

// NewStage makes a stage whose datapaths are opened with the options, in both
// worlds.
func NewStage(options datapath.Options) (*Stage, error) {
	pool, err := prog.NewPool(1, options)
	if err != nil {
		return nil, fmt.Errorf("make world prog: %w", err)
	}
	m := &machine{Runner: &Runner{}, kernel: Kernel(), parallel: 1, nets: netns.NewPool(1)}
	have := &progPool{pool: pool, get: func() (*prog.Pool, error) { return pool, nil }}
	return &Stage{&worker{machine: m, edit: options.Edit, objects: options, prog: have}, pool}, nil
}

// Pool is where the stage has its worlds prog.
func (s *Stage) Pool() *prog.Pool { return s.pool }

// Edit changes the programs of the worlds netns that are made from now on.
func (s *Stage) Edit(edit func(*ebpf.CollectionSpec) error) { s.worker.edit = edit }

// Run makes a run. Its result is not there when ctx ended in the middle.
func (s *Stage) Run(ctx context.Context, p Planned) (Result, bool) {
	r := s.worker.one(ctx, p.run)
	return r, !r.stopped && (ctx.Err() == nil || !strings.Contains(r.Reason, ctx.Err().Error()))
}

// Close removes the worlds.
func (s *Stage) Close() error {
	s.pool.Close()
	return s.worker.nets.Close()
}
