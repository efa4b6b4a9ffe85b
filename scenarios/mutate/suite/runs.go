// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weirnet/weir/scenarios/mutate"
	"github.com/weirnet/weir/scenarios/mutate/suite/question"
)

const defaultFuzz = 5 * time.Second

func (m *measure) fuzzTime() time.Duration {
	if m.Fuzz <= 0 {
		return defaultFuzz
	}
	return m.Fuzz
}

// plan is all that the workers can be asked, and what it reaches.
type plan struct {
	runs    []planned
	byPlace [][]int32 // the runs that reach an error
}

type planned struct {
	question.Run
	name string
	by   string
}

// runStage asks the scenarios of world prog that reach an error, and then the
// sequences of the fuzzer.
func (m *measure) runStage(ctx context.Context) (err error) {
	path := filepath.Join(m.dir, "worker")
	m.progress("compile the worker", 0, 0)
	if out, err := m.overlay.Go(ctx, "build", "-o", path, m.code.Module+"/scenarios/mutate/worker"); err != nil {
		return fmt.Errorf("compile the worker: %w: %s", err, out)
	}
	var workers []*worker
	defer func() {
		for _, w := range workers {
			err = errors.Join(err, w.close())
		}
	}()
	for range m.Parallel {
		w := &worker{path: path}
		workers = append(workers, w)
		if err := w.start(); err != nil {
			return err
		}
	}
	if err := m.record(ctx, workers); err != nil {
		return err
	}
	for _, by := range []string{mutate.ByProg, mutate.ByFuzz} {
		if m.has(by) {
			if err := m.askRuns(ctx, workers, by); err != nil {
				return err
			}
		}
	}
	return nil
}

// record finds out what scenarios reach, and as many sequences of the fuzzer as
// there is time for.
func (m *measure) record(ctx context.Context, workers []*worker) error {
	m.plan = &plan{byPlace: make([][]int32, m.count)}
	var found = make(chan reach, 16)
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for r := range found {
			n := int32(len(m.plan.runs))
			m.plan.runs = append(m.plan.runs, r.planned)
			for _, place := range r.places {
				m.plan.byPlace[place] = append(m.plan.byPlace[place], n)
			}
		}
	}()
	err := m.recordAll(ctx, workers, found)
	close(found)
	<-collected
	for _, s := range m.all {
		for _, n := range m.plan.byPlace[s.number] {
			r := m.plan.runs[n]
			s.Reached[r.by]++
			s.Example[r.by] = r.name
		}
	}
	return err
}

type reach struct {
	planned
	places []int
}

func (m *measure) recordAll(ctx context.Context, workers []*worker, found chan<- reach) error {
	watch := func(w *worker, p planned) error {
		a, err := w.ask(ctx, &question.Question{Watch: m.count, Runs: []question.Run{p.Run}})
		if err != nil {
			return err
		}
		if a.Failed != nil {
			return fmt.Errorf("%s: %w: %s", p.name, ErrUnsound, a.Why)
		}
		found <- reach{p, a.Reached}
		return nil
	}
	if m.has(mutate.ByProg) {
		var all []planned
		for n, name := range workers[0].names {
			all = append(all, planned{question.Run{Scenario: n}, name, mutate.ByProg})
		}
		var done atomic.Int64
		err := each(ctx, len(workers), all, func(w int, p planned) error {
			m.progress("what scenarios reach", int(done.Add(1)), len(all))
			return watch(workers[w], p)
		})
		if err != nil {
			return err
		}
	}
	if !m.has(mutate.ByFuzz) {
		return nil
	}
	for _, uplinks := range []bool{false, true} {
		var next atomic.Uint64
		end := time.Now().Add(m.fuzzTime())
		err := each(ctx, len(workers), workers, func(_ int, w *worker) error {
			for time.Now().Before(end) && ctx.Err() == nil {
				r := question.Run{Scenario: -1, Sequence: next.Add(1) - 1, Uplinks: uplinks}
				m.progress("what the fuzzer reaches", int(r.Sequence), 0)
				if err := watch(w, planned{r, r.Name(), mutate.ByFuzz}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *measure) askRuns(ctx context.Context, workers []*worker, by string) error {
	var todo []*subject
	for _, s := range m.all {
		if s.Outcome == "" && s.Reached[by] > 0 && s.equivalent == nil && !m.memory.Recall(&s.Result, by) {
			todo = append(todo, s)
		}
	}
	kills := make([]atomic.Int64, len(m.plan.runs))
	var done atomic.Int64
	return each(ctx, len(workers), todo, func(w int, s *subject) error {
		var order []int
		for _, n := range m.plan.byPlace[s.number] {
			if m.plan.runs[n].by == by {
				order = append(order, int(n))
			}
		}
		count := make(map[int]int64, len(order))
		for _, n := range order {
			count[n] = kills[n].Load()
		}
		slices.SortStableFunc(order, func(a, b int) int { return int(count[b] - count[a]) })
		q := &question.Question{Mutant: s.number}
		for _, n := range order {
			q.Runs = append(q.Runs, m.plan.runs[n].Run)
		}
		a, err := workers[w].ask(ctx, q)
		if err != nil {
			return err
		}
		if a.Failed != nil {
			s.Outcome, s.By, s.Why = mutate.Killed, by, a.Why
			for _, n := range order {
				if m.plan.runs[n].Run == *a.Failed {
					s.Killer = m.plan.runs[n].name
					kills[n].Add(1)
				}
			}
		}
		m.progress(map[string]string{mutate.ByProg: "scenarios in prog", mutate.ByFuzz: "the fuzzer"}[by], int(done.Add(1)), len(todo))
		return m.memory.Keep(&s.Result, by)
	})
}
