// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/scenarios"
)

// planted are mutants in the programs of a stage.
type planted struct {
	mu      sync.Mutex
	refusal error // of the verifier
	failure error // of anything else
}

// plant has a stage run programs with errors. They are loaded when a run first
// needs them.
func plant(s *scenarios.Stage, subjects []*subject) *planted {
	p := &planted{}
	byProgram := map[string][]mutant.Mutant{}
	for _, one := range subjects {
		for _, name := range one.Programs {
			byProgram[name] = append(byProgram[name], one.Mutant)
		}
	}
	s.Pool().Exchange(&datapath.Exchange{
		Edit: func(prog *ebpf.ProgramSpec) (bool, error) {
			if len(byProgram[prog.Name]) == 0 {
				return false, nil
			}
			return mutant.Apply(prog, byProgram[prog.Name]...)
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
	var refusal *ebpf.VerifierError
	if errors.As(err, &refusal) {
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
