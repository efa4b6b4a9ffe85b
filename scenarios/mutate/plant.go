// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/scenarios"
)

// planted are mutants in the programs of a stage.
type planted struct {
	mu      sync.Mutex
	refusal error // of the verifier
	failure error // of anything else
}

// plant has a stage run programs with all of some errors. They are loaded when a
// run first needs them.
func plant(s *scenarios.Stage, subjects []*subject) *planted {
	return plantBy(s, subjects, func(p *ebpf.ProgramSpec, all []mutant.Mutant) (bool, error) { return mutant.Apply(p, all...) })
}

// plantSwitch has a stage run programs with one of some errors: that which
// selector names by its number, from 1.
func plantSwitch(s *scenarios.Stage, selector *ebpf.Map, subjects []*subject) *planted {
	return plantBy(s, subjects, func(p *ebpf.ProgramSpec, all []mutant.Mutant) (bool, error) {
		made, err := mutant.Switch(p, selector, all)
		return made != nil && slices.Contains(made.Has, true), err
	})
}

func plantBy(s *scenarios.Stage, subjects []*subject, edit func(*ebpf.ProgramSpec, []mutant.Mutant) (bool, error)) *planted {
	p := &planted{}
	var all []mutant.Mutant
	for _, one := range subjects {
		all = append(all, one.Mutant)
	}
	s.Pool().Exchange(&datapath.Exchange{
		Edit: func(prog *ebpf.ProgramSpec) (bool, error) {
			if !slices.ContainsFunc(all, func(m mutant.Mutant) bool { return slices.Contains(m.Programs, prog.Name) }) {
				return false, nil
			}
			return edit(prog, all)
		},
		Loaded: p.loaded,
	})
	return p
}

func (p *planted) loaded(_ string, err error) {
	if err == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, datapath.ErrRefused) || errors.Is(err, mutant.ErrNoRoom) {
		p.refusal = err
	} else {
		p.failure = fmt.Errorf("load programs with a planted error: %w", err)
	}
}

func (p *planted) refused() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refusal
}

func (p *planted) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

// load loads what is planted in some programs, now.
func (p *planted) load(ctx context.Context, s *scenarios.Stage, programs []string) error {
	topology := lab.Topology{Nodes: []lab.Host{{Name: "node", Silent: true}}}
	var loaded error
	err := s.Pool().Use(ctx, topology, func(w *prog.World) { loaded = w.Datapath("").LoadExchanged(programs...) })
	if err != nil {
		return err
	}
	if p.refused() != nil {
		return nil
	}
	return loaded
}
