// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/fuzz"
)

// ErrUnsound is a lab that fails without any error planted.
var ErrUnsound = errors.New("the unchanged programs fail: nothing can be told by that")

// played is a sequence of the fuzzer, and what it reaches.
type played struct {
	uplinks bool
	n       uint64
	reach   reach
}

func (p played) String() string {
	if p.uplinks {
		return fmt.Sprintf("sequence %d with uplinks", p.n)
	}
	return fmt.Sprintf("sequence %d", p.n)
}

// record finds out what runs of the unchanged programs execute: scenarios, and as
// many sequences of the fuzzer as there is time for.
func (m *measure) record(ctx context.Context) (err error) {
	type counted struct {
		*scenarios.Stage
		counters *cover.Counters
	}
	var stages []counted
	defer func() {
		for _, s := range stages {
			err = errors.Join(err, s.Close(), s.counters.Close())
		}
	}()
	for range m.Parallel {
		c := cover.New()
		s, err := scenarios.NewStage(m.loads(c.Edit))
		if err != nil {
			return errors.Join(err, c.Close())
		}
		stages = append(stages, counted{s, c})
	}
	m.reachProg = make([]reach, len(m.plan))
	var done atomic.Int64
	err = each(ctx, m.Parallel, numbers(len(m.plan)), func(w, n int) error {
		s := stages[w]
		s.counters.Reset()
		r, whole := s.Run(ctx, m.plan[n])
		if whole && r.Failed() {
			return fmt.Errorf("%w: %s in world prog: %s", ErrUnsound, r.Scenario, r.Reason)
		}
		m.reachProg[n] = m.places.reached(s.counters.Snapshot())
		m.progress("what scenarios reach", int(done.Add(1)), len(m.plan))
		return nil
	})
	if err != nil || !m.has(ByFuzz) {
		return err
	}
	for _, uplinks := range []bool{false, true} {
		sequences, err := m.recordFuzz(ctx, uplinks, func(w int) (*scenarios.Stage, *cover.Counters) { return stages[w].Stage, stages[w].counters })
		if err != nil {
			return err
		}
		m.fuzz = append(m.fuzz, sequences...)
	}
	return nil
}

// recordFuzz plays sequences until the time is over that the fuzzer is given.
func (m *measure) recordFuzz(ctx context.Context, uplinks bool, at func(worker int) (*scenarios.Stage, *cover.Counters)) ([]played, error) {
	o := m.fuzzOptions(uplinks)
	sequences := make([]played, m.Parallel*int(m.Fuzz/time.Millisecond))
	var next atomic.Int64
	// Its time is shared between networks with uplinks and without, and between
	// the workers here: a mutant is asked by one of them.
	end := time.Now().Add(m.Fuzz / 2 / time.Duration(m.Parallel))
	err := each(ctx, m.Parallel, numbers(m.Parallel), func(w, _ int) error {
		stage, counters := at(w)
		for ctx.Err() == nil && time.Now().Before(end) {
			n := next.Add(1) - 1
			counters.Reset()
			found, err := fuzz.Play(ctx, stage.Pool(), &o, uint64(n))
			if err != nil && ctx.Err() == nil {
				return err
			}
			if found != nil {
				return fmt.Errorf("%w: sequence %d of the fuzzer with seed %d: %s", ErrUnsound, n, o.Seed, found.Kind)
			}
			sequences[n] = played{uplinks, uint64(n), m.places.reached(counters.Snapshot())}
			m.progress("what the fuzzer reaches", int(n), 0)
		}
		return nil
	})
	return sequences[:next.Load()], err
}

// fuzzSeed begins the sequences: the same for all mutants.
const fuzzSeed = 1

func (m *measure) fuzzOptions(uplinks bool) fuzz.Options {
	return fuzz.Options{Seed: fuzzSeed, Uplinks: uplinks}
}

func numbers(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func (m *measure) progress(stage string, done, total int) {
	if m.Progress != nil {
		m.Progress(stage, done, total)
	}
}
