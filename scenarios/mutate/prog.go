// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/weirnet/weir/bpf/mutant"
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

// stageDigest stands for all that a stage asks, and by what it judges: this very
// program.
func (m *measure) stageDigest(plan []scenarios.Planned) string { return digestOf(plan...) + m.self }

// selfDigest is of the program that runs.
func selfDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// killers remembers what noticed errors, to ask that first the next time.
type killers struct {
	total []atomic.Int64 // by the number of the run
	near  nearby
}

const (
	// switched is how many mutants one program is made to be.
	switched = 48
	// first is how many runs each mutant is asked alone: the likeliest. What
	// they do not notice is mostly noticed by none, and is asked together with
	// others.
	first = 14
)

// progStage asks the scenarios of world prog that reach a mutant, one after the
// other, the likeliest first, until one fails.
func (m *measure) progStage(ctx context.Context) error {
	k := &killers{total: make([]atomic.Int64, len(m.plan)), near: nearby{at: map[string][]int{}}}
	library := m.stageDigest(m.plan)
	byName := map[string]scenarios.Planned{}
	for _, p := range m.plan {
		byName[p.Name()] = p
	}
	var todo []*subject
	for _, s := range m.all {
		m.reachOf(s)
		if s.Reached[ByProg] > 0 && !m.known(s, ByProg, library, byName) {
			todo = append(todo, s)
		}
	}
	var done atomic.Int64
	keep := func(some []*subject) error {
		for _, s := range some {
			lab := library
			if s.Outcome == Killed {
				lab = digestOf(byName[s.Killer])
			}
			if err := m.keep(s, ByProg, lab); err != nil {
				return err
			}
		}
		m.progress("scenarios in prog", int(done.Add(int64(len(some)))), len(todo))
		return nil
	}
	selectors, err := newSelectors(m.Parallel)
	if err != nil {
		return err
	}
	defer selectors.close()
	var left lockedList
	err = each(ctx, m.Parallel, bundles(todo), func(w int, some []*subject) error {
		a := asker{m, m.stages[w], selectors[w], k}
		if err := a.ask(ctx, some); err != nil || ctx.Err() != nil {
			return err
		}
		open := slices.DeleteFunc(slices.Clone(some), func(s *subject) bool { return s.Outcome != "" || s.Reached[ByProg] <= first })
		left.add(open)
		return keep(slices.DeleteFunc(slices.Clone(some), func(s *subject) bool { return slices.Contains(open, s) }))
	})
	if err != nil {
		return err
	}
	return each(ctx, m.Parallel, groups(left.sorted(), together), func(w int, some []*subject) error {
		if err := m.askTogether(ctx, m.stages[w], some, k); err != nil || ctx.Err() != nil {
			return err
		}
		return keep(some)
	})
}

// reachOf counts what reaches a mutant.
func (m *measure) reachOf(s *subject) {
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
}

// bundles puts mutants of a function together that the verifier is likely to
// take; the others come alone, since one that it refuses spoils the others.
func bundles(todo []*subject) [][]*subject {
	var out [][]*subject
	open := map[string]int{}
	for _, s := range todo {
		if s.Doubtful() {
			out = append(out, []*subject{s})
			continue
		}
		place := s.Object + " " + s.Function + " " + strings.Join(s.Programs, " ")
		n, ok := open[place]
		if !ok || len(out[n]) == switched {
			n = len(out)
			open[place] = n
			out = append(out, nil)
		}
		out[n] = append(out[n], s)
	}
	return out
}

// asker asks the likeliest runs about mutants, each alone.
type asker struct {
	*measure
	stage    *scenarios.Stage
	selector *ebpf.Map
	killers  *killers
}

func (a *asker) ask(ctx context.Context, some []*subject) error {
	if len(some) == 1 {
		return a.alone(ctx, some[0], plant(a.stage, some))
	}
	p := plantSwitch(a.stage, a.selector, some)
	if err := p.load(ctx, a.stage, some[0].Programs); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if p.refused() != nil {
		if err := a.ask(ctx, some[:len(some)/2]); err != nil {
			return err
		}
		return a.ask(ctx, some[len(some)/2:])
	}
	for n, s := range some {
		if err := a.selector.Put(uint32(0), uint64(n+1)); err != nil {
			return fmt.Errorf("select a mutant: %w", err)
		}
		if err := a.alone(ctx, s, p); err != nil {
			return err
		}
	}
	return nil
}

// alone asks about one mutant, which is planted.
func (a *asker) alone(ctx context.Context, s *subject, p *planted) error {
	for i, n := range a.inOrder(s, a.killers) {
		if i == first || ctx.Err() != nil {
			return nil
		}
		why, noticed := a.noticed(ctx, a.stage, n)
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
		if noticed {
			s.Outcome, s.By, s.Killer, s.Why = Killed, ByProg, a.plan[n].Name(), why
			a.killers.total[n].Add(1)
			a.killers.near.add(s, n)
			return nil
		}
	}
	return nil
}

// noticed makes a run, and says whether it failed.
func (m *measure) noticed(ctx context.Context, stage *scenarios.Stage, n int) (why string, noticed bool) {
	limited, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	r, whole := stage.Run(limited, m.plan[n])
	if limited.Err() != nil || !whole {
		return "it did not end", true
	}
	return firstLine(r.Reason), r.Failed()
}

// askTogether asks all runs that reach mutants that the likeliest did not notice.
func (m *measure) askTogether(ctx context.Context, stage *scenarios.Stage, some []*subject, k *killers) error {
	g := newGroup(stage, some, func(s *subject, o Outcome, killer, why string) {
		notedBy(ByProg)(s, o, killer, why)
		for n := range m.plan {
			if o == Killed && m.plan[n].Name() == killer {
				k.total[n].Add(1)
				k.near.add(s, n)
			}
		}
	})
	for n, r := range m.reachProg {
		var those []*subject
		for _, s := range g.left {
			if r.any(s.blocks) {
				those = append(those, s)
			}
		}
		err := g.try(ctx, m.plan[n].Name(), those, func(ctx context.Context) (string, bool, error) {
			why, noticed := m.noticed(ctx, stage, n)
			return why, noticed, nil
		})
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	return nil
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

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// inOrder are the runs that reach a mutant, those first that are likely to fail:
// what failed for its line, for its function, and for many others; in turn with
// those that reach little else, which are most about it.
func (m *measure) inOrder(s *subject, k *killers) []int {
	var rest []int
	for n, r := range m.reachProg {
		if r.any(s.blocks) {
			rest = append(rest, n)
		}
	}
	order := slices.DeleteFunc(k.near.of(s), func(n int) bool { return !m.reachProg[n].any(s.blocks) })
	often := slices.Clone(rest)
	slices.SortStableFunc(often, func(a, b int) int { return cmp.Compare(k.total[b].Load(), k.total[a].Load()) })
	seen := map[int]bool{}
	for _, n := range order {
		seen[n] = true
	}
	for i := range rest {
		for _, n := range []int{often[i], rest[len(rest)-1-i]} {
			if !seen[n] {
				seen[n] = true
				order = append(order, n)
			}
		}
	}
	return order
}

// selectors are one a worker.
type selectors []*ebpf.Map

func newSelectors(n int) (selectors, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	var out selectors
	for range n {
		made, err := ebpf.NewMap(mutant.Selector())
		if err != nil {
			return nil, errors.Join(fmt.Errorf("make a selector of mutants: %w", err), out.close())
		}
		out = append(out, made)
	}
	return out, nil
}

func (s selectors) close() error {
	var errs []error
	for _, one := range s {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
