// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"

	source "github.com/weirnet/weir/bpf/blocks"
	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/prog"
)

// generation is how many sequences know the same of the ones before: what they
// reach is looked at when the last of them is over, in the order of their
// numbers, so that a seed gives the same sequences however many workers play
// them.
const generation = 16

// freshEvery is how often a sequence is made anew; the others go on from what
// is kept. One of these has a third of the frames.
const freshEvery = 4

// recall is how many frames before something new a kept case has.
const recall = 64

// lookEvery is after how many frames it is asked what is new.
const lookEvery = 8

// guide leads the search to what was not reached: sequences that reach a new
// block or branch are kept, and mutated further.
type guide struct {
	mu     sync.Mutex
	change *sync.Cond
	number uint64 // of the generation
	seen   cover.Seen
	kept   []*Case
	ended  map[uint64][]news // of this generation, by number of the sequence
}

// news is what a sequence has reached at a step, and nobody before.
type news struct {
	marks []cover.Mark
	until *Case
}

func newGuide() *guide {
	g := &guide{seen: cover.Seen{}, ended: map[uint64][]news{}}
	g.change = sync.NewCond(&g.mu)
	return g
}

// ignore takes what depends on how fast the machine is for seen.
func (g *guide) ignore(shapes []*cover.Shape) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range shapes {
		if g.seen[s.Name] != nil {
			continue
		}
		seen := make([]bool, s.Counters)
		g.seen[s.Name] = seen
		for _, c := range s.Of(func(at source.Place) bool { return timed(at.Text) }) {
			seen[c] = true
		}
	}
}

// timed says whether a line asks how much time has passed: some blocks more run
// where it is less than a tick of the clock, or more than a second.
func timed(line string) bool {
	return slices.ContainsFunc([]string{
		"meter->",                                                                                  // how many events there may be in a second
		"ROUTE_CACHE",                                                                              // how old a route is
		"last_seen", "ct_expired", "ct_timeout", "FLOW_ANSWERED", "answered_tcp", "switch (proto)", // how old a flow is, and may be
	}, func(word string) bool { return strings.Contains(line, word) })
}

// begin waits for the generation of a sequence, and gives what is known then.
// It returns early when the context ends.
func (g *guide) begin(ctx context.Context, n uint64) (cover.Seen, []*Case) {
	defer context.AfterFunc(ctx, g.change.Broadcast)()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.number < n/generation && ctx.Err() == nil {
		g.change.Wait()
	}
	return g.seen.Clone(), g.kept[:len(g.kept):len(g.kept)]
}

// pick chooses what a sequence goes on from: late finds more often than early
// ones, which were easy to reach.
func (g *guide) pick(seed, n uint64, kept []*Case) *Case {
	at := rand.New(rand.NewPCG(seed^n, n)).Float64()
	return kept[len(kept)-1-int(at*at*float64(len(kept)))]
}

// end tells what a sequence found.
func (g *guide) end(n uint64, found []news) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended[n] = found
	if len(g.ended) < generation {
		return
	}
	for i := g.number * generation; i < (g.number+1)*generation; i++ {
		for _, one := range g.ended[i] {
			fresh := false
			for _, m := range one.marks {
				fresh = g.seen.Add(m) || fresh
			}
			if fresh {
				g.kept = append(g.kept, one.until)
			}
		}
	}
	clear(g.ended)
	g.number++
	g.change.Broadcast()
}

// seat is what a worker plays with.
type seat struct {
	pool     *prog.Pool
	plain    *prog.Pool      // of programs as older kernels have them; nil: none
	counters *cover.Counters // nil: nothing is counted
}

// guidedSeat is one whose programs are its own, with counters.
func (s *search) guidedSeat() (*seat, error) {
	counters := cover.New()
	pool, err := prog.NewPool(1, datapath.Options{Edit: func(spec *ebpf.CollectionSpec) error {
		if s.Edit != nil {
			if err := s.Edit(spec); err != nil {
				return err
			}
		}
		return counters.Edit(spec)
	}})
	if err != nil {
		_ = counters.Close() // it has none that anybody reads
		return nil, err
	}
	s.guide.ignore(counters.Shapes())
	return &seat{pool: pool, counters: counters}, nil
}

// of is where the n-th sequence is played.
func (s *seat) of(n uint64) *prog.Pool {
	if s.plain != nil && n%plainEvery == plainEvery-1 {
		return s.plain
	}
	return s.pool
}

func (s *seat) close() {
	s.pool.Close()
	if s.plain != nil {
		s.plain.Close()
	}
	if s.counters != nil {
		_ = s.counters.Close() // nobody reads them any more
	}
}

// watcher tells a sequence what its frames reach that was not reached before.
type watcher struct {
	counters *cover.Counters
	seen     cover.Seen
	found    []news
	frames   int // since it was last asked
}

// look keeps the case as it is now if its last frames reached something new.
func (w *watcher) look(c *Case, frames int) {
	if w.frames += frames; w.frames < lookEvery {
		return
	}
	w.frames = 0
	if marks := w.counters.News(w.seen); len(marks) > 0 {
		w.found = append(w.found, news{marks, c.shortened()})
	}
}

// shortened is the case with its last frames alone, and all else that was done.
func (c *Case) shortened() *Case {
	out := *c
	out.Steps = nil
	frames := 0
	for _, step := range slices.Backward(c.Steps) {
		if step.Frame != nil {
			if frames++; frames > recall {
				continue
			}
		}
		out.Steps = append(out.Steps, step)
	}
	slices.Reverse(out.Steps)
	return &out
}
