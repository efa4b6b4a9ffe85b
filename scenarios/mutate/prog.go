// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirnet/weir/scenarios"
)

// longest is how long a run may take with an error in the programs: one that
// does not end has been noticed.
const longest = 20 * time.Second

// digestOf stands for what scenarios say.
func digestOf(plan ...scenarios.Planned) string {
	h := sha256.New()
	for _, p := range plan {
		io.WriteString(h, p.Name()+"\x00"+p.Source()+"\x00")
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// killers remembers what noticed errors, to ask that first the next time.
type killers struct {
	total []atomic.Int64 // by the number of the run
	near  nearby
}

// progStage asks the scenarios of world prog that reach a mutant, one after the
// other, until one fails.
func (m *measure) progStage(ctx context.Context) error {
	k := &killers{total: make([]atomic.Int64, len(m.plan)), near: nearby{at: map[string][]int{}}}
	library := digestOf(m.plan...)
	byName := map[string]scenarios.Planned{}
	for _, p := range m.plan {
		byName[p.Name()] = p
	}
	var todo []*subject
	for _, s := range m.all {
		s.Reached, s.Example = map[string]int{}, map[string]string{}
		for n, r := range m.reachProg {
			if r.any(s.blocks) {
				s.Reached[ByProg]++
				s.Example[ByProg] = m.plan[n].Name()
			}
		}
		for _, f := range m.fuzz {
			if f.reach.any(s.blocks) {
				s.Reached[ByFuzz]++
				s.Example[ByFuzz] = f.String()
			}
		}
		if s.Reached[ByProg] == 0 || m.known(s, ByProg, library, byName) {
			continue
		}
		todo = append(todo, s)
	}
	var done atomic.Int64
	return each(ctx, m.Parallel, todo, func(w int, s *subject) error {
		if err := m.askProg(ctx, m.stages[w], s, k); err != nil || ctx.Err() != nil {
			return err
		}
		m.progress("scenarios in prog", int(done.Add(1)), len(todo))
		lab := library
		if s.Outcome == Killed {
			lab = digestOf(byName[s.Killer])
		}
		return m.keep(s, ByProg, lab)
	})
}

// known takes what an earlier run has found, if it is still true.
func (m *measure) known(s *subject, stage, lab string, byName map[string]scenarios.Planned) bool {
	e, ok := m.state.get(s.object.Digest, s.ID, stage)
	if !ok {
		return false
	}
	switch e.Outcome {
	case Killed:
		if p, isRun := byName[e.Killer]; isRun && e.Lab != digestOf(p) || !isRun && e.Lab != lab {
			return false
		}
		s.By = stage
	case Refused:
	default:
		return e.Lab == lab
	}
	s.Outcome, s.Killer, s.Why = e.Outcome, e.Killer, e.Why
	return true
}

func (m *measure) keep(s *subject, stage, lab string) error {
	outcome := s.Outcome
	if outcome == "" {
		outcome = Survived
	}
	return m.state.put(entry{s.object.Digest, s.ID, stage, outcome, s.Killer, s.Why, lab})
}

func (m *measure) askProg(ctx context.Context, stage *scenarios.Stage, s *subject, k *killers) error {
	p := plant(stage, []*subject{s})
	for _, n := range m.inOrder(s, k) {
		limited, cancel := context.WithTimeout(ctx, longest)
		r, whole := stage.Run(limited, m.plan[n])
		ended := limited.Err() == nil
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if err := p.failed(); err != nil {
			return fmt.Errorf("%s: %w", s.ID, err)
		}
		if err := p.refused(); err != nil {
			s.Outcome, s.Why = Refused, firstLine(err.Error())
			return nil
		}
		if r.Failed() || !whole || !ended {
			s.Outcome, s.By, s.Killer, s.Why = Killed, ByProg, m.plan[n].Name(), firstLine(r.Reason)
			k.total[n].Add(1)
			k.near.add(s, n)
			return nil
		}
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// inOrder are the runs that reach a mutant, those first that are likely to fail:
// what failed for its line, for its function, and for many others.
func (m *measure) inOrder(s *subject, k *killers) []int {
	var rest []int
	for n, r := range m.reachProg {
		if r.any(s.blocks) {
			rest = append(rest, n)
		}
	}
	slices.SortStableFunc(rest, func(a, b int) int { return cmp.Compare(k.total[b].Load(), k.total[a].Load()) })
	order := k.near.of(s)
	order = slices.DeleteFunc(order, func(n int) bool { return !m.reachProg[n].any(s.blocks) })
	for _, n := range rest {
		if !slices.Contains(order, n) {
			order = append(order, n)
		}
	}
	return order
}
