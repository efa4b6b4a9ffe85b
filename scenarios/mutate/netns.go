// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

const (
	// waiting is how many runs in world netns a core carries: they mostly wait.
	waiting = 3
	// inStacks is how many mutants a world netns has at once.
	inStacks = 24
)

// netnsStage asks the scenarios of world netns that reach what is left. Their
// worlds load all programs anew and wait for real stacks: so mutants are asked
// together, and alone when something fails.
func (m *measure) netnsStage(ctx context.Context) (err error) {
	m.real = scenarios.Plan(m.Scenarios, syntax.Netns)
	var todo []*subject
	lab := m.stageDigest(m.real)
	byName := map[string]scenarios.Planned{}
	for _, p := range m.real {
		byName[p.Name()] = p
	}
	for _, s := range m.all {
		if s.Outcome == "" && s.equivalent == nil && !m.known(s, ByNetns, lab, byName) {
			todo = append(todo, s)
		}
	}
	if len(todo) == 0 || len(m.real) == 0 {
		return nil
	}
	workers := m.Parallel * waiting
	var stages []*scenarios.Stage
	defer func() {
		for _, s := range stages {
			err = errors.Join(err, s.Close())
		}
	}()
	for range workers {
		s, err := scenarios.NewStage(m.loads(nil))
		if err != nil {
			return err
		}
		stages = append(stages, s)
	}
	if err := m.recordNetns(ctx, stages); err != nil {
		return err
	}
	var reached []*subject
	for _, s := range todo {
		for n, r := range m.reachNetns {
			if r.any(s.blocks) {
				s.Reached[ByNetns]++
				s.Example[ByNetns] = m.real[n].Name()
			}
		}
		if s.Reached[ByNetns] > 0 {
			reached = append(reached, s)
		}
	}
	var done atomic.Int64
	return each(ctx, workers, groups(reached, inStacks), func(w int, some []*subject) error {
		if err := m.askNetns(ctx, stages[w], some); err != nil || ctx.Err() != nil {
			return err
		}
		m.progress("scenarios in netns", int(done.Add(int64(len(some)))), len(reached))
		for _, s := range some {
			of := lab
			if s.Outcome == Killed {
				of = digestOf(byName[s.Killer])
			}
			if err := m.keep(s, ByNetns, of); err != nil {
				return err
			}
		}
		return nil
	})
}

// recordNetns finds out what scenarios reach in world netns.
func (m *measure) recordNetns(ctx context.Context, stages []*scenarios.Stage) error {
	m.reachNetns = make([]reach, len(m.real))
	var done atomic.Int64
	return each(ctx, len(stages), numbers(len(m.real)), func(w, n int) (err error) {
		counters := cover.New()
		defer func() { err = errors.Join(err, counters.Close()) }()
		stages[w].Edit(counters.Edit)
		defer stages[w].Edit(nil)
		// One that fails may do so because the machine is busy: it is asked
		// again, without errors, before it counts.
		stages[w].Run(ctx, m.real[n])
		m.reachNetns[n] = m.places.reached(counters.Snapshot())
		m.progress("what real stacks reach", int(done.Add(1)), len(m.real))
		return nil
	})
}

// plantEverywhere has the worlds netns of a stage be made with errors.
func plantEverywhere(stage *scenarios.Stage, some []*subject) {
	var all []mutant.Mutant
	for _, s := range some {
		all = append(all, s.Mutant)
	}
	stage.Edit(func(spec *ebpf.CollectionSpec) error {
		for _, prog := range spec.Programs {
			if _, err := mutant.Apply(prog, all...); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m *measure) askNetns(ctx context.Context, stage *scenarios.Stage, some []*subject) error {
	defer stage.Edit(nil)
	left := some
	for n, r := range m.reachNetns {
		those := slices.DeleteFunc(slices.Clone(left), func(s *subject) bool { return !r.any(s.blocks) })
		if err := m.blameNetns(ctx, stage, n, those); err != nil || ctx.Err() != nil {
			return err
		}
		left = slices.DeleteFunc(slices.Clone(left), func(s *subject) bool { return s.Outcome != "" })
	}
	return nil
}

// blameNetns finds those among mutants that alone make a run fail, by halves.
func (m *measure) blameNetns(ctx context.Context, stage *scenarios.Stage, n int, those []*subject) error {
	if len(those) == 0 {
		return nil
	}
	plantEverywhere(stage, those)
	why, noticed := m.failsTwice(ctx, stage, n)
	if ctx.Err() != nil || !noticed {
		return nil
	}
	if len(those) == 1 {
		plantEverywhere(stage, nil)
		if _, busy := m.failsTwice(ctx, stage, n); busy || ctx.Err() != nil {
			return nil // it fails without any error too: the machine is to blame
		}
		notedBy(ByNetns)(those[0], Killed, m.real[n].Name(), why)
		return nil
	}
	if err := m.blameNetns(ctx, stage, n, those[:len(those)/2]); err != nil {
		return err
	}
	return m.blameNetns(ctx, stage, n, those[len(those)/2:])
}

// failsTwice runs what fails again: real stacks may be late on a busy machine.
func (m *measure) failsTwice(ctx context.Context, stage *scenarios.Stage, n int) (why string, noticed bool) {
	for range 2 {
		r, whole := stage.Run(ctx, m.real[n])
		if !whole || !r.Failed() {
			return "", false
		}
		why = firstLine(r.Reason)
	}
	return why, true
}
