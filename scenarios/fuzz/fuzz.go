// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model/manifest"
)

// Options say what to do.
type Options struct {
	Seed     uint64
	Time     time.Duration // 0: until the context ends, or Sequences are played
	Parallel int           // workers; 0: one a core
	// Sequences bounds how many are played; 0: no bound.
	Sequences uint64
	// Captured are frames to splice into others, from the Ethernet header on.
	Captured [][]byte
	// Edit changes the programs before they are loaded: see datapath.Options.
	Edit func(*ebpf.CollectionSpec) error
	// Uplinks gives the node an uplink with programs, and services that are
	// reached from outside.
	Uplinks bool
	// Guided counts what of the programs is reached: sequences that reach
	// something new are kept, and most others go on from them.
	Guided bool
	// MaxKinds is after how many kinds of findings the search ends; 0: 10.
	MaxKinds int
	// Doubt plants an error, in tests.
	Doubt Doubt
	// Found is given the first finding of each kind, shrunk, one at a time.
	Found func(Report)
	// Progress is called about once a second.
	Progress func(Tally, time.Duration)

	misread  misread                      // plants another error, in tests
	machine  func(pod string) bool        // who is no pod, in tests; nil: all are pods
	wanted   func(*manifest.Objects) bool // for tests: see sequence
	patience time.Duration                // of who shrinks a finding; 0: the usual one. For tests
	anew     bool                         // for tests: with Guided, what is reached is counted, and nobody goes on from it
	digest   func(n, sum uint64)          // of each sequence's frames; for tests
	seen     func(*Finding)               // each finding, in place of Found; for tests
}

func (o *Options) planted() planted { return planted{o.Doubt, o.misread, o.machine} }

// Report is a finding with the smallest case that shows it.
type Report struct {
	Finding
	Case     Case
	Seed     uint64
	Sequence uint64
}

const defaultKinds = 10

// search is a Run in progress.
type search struct {
	Options
	guide *guide // nil: nobody leads
	stop  context.CancelFunc
	begin time.Time

	mu       sync.Mutex
	next     uint64
	total    Tally
	kinds    map[string]bool
	disagree uint64
	errs     []error

	telling sync.Mutex // held while Found runs
}

// Run plays sequences until the time is over. It gives how often program and
// model did not agree: each ends its sequence.
func Run(ctx context.Context, o Options) (Tally, uint64, error) {
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	if o.MaxKinds <= 0 {
		o.MaxKinds = defaultKinds
	}
	s := &search{Options: o, kinds: map[string]bool{}}
	seats, err := s.seats()
	if err != nil {
		return Tally{}, 0, fmt.Errorf("make world prog: %w", err)
	}
	defer func() {
		for _, seat := range seats {
			seat.close()
		}
	}()
	outer := ctx
	if o.Time > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Time)
		defer cancel()
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.stop, s.begin = stop, time.Now()
	var workers, watcher sync.WaitGroup
	watched, unwatch := context.WithCancel(context.Background())
	watcher.Go(func() { s.watch(watched) })
	for i := range o.Parallel {
		workers.Go(func() { s.work(ctx, outer, seats[i%len(seats)]) })
	}
	workers.Wait()
	unwatch()
	watcher.Wait()
	if s.guide != nil {
		s.total.Reached, s.total.Kept = s.guide.seen.Count(), len(s.guide.kept)
	}
	return s.total, s.disagree, errors.Join(s.errs...)
}

// seats gives one for all workers, or one for each where what they reach is
// counted.
func (s *search) seats() ([]*seat, error) {
	if !s.Guided {
		return s.sharedSeat()
	}
	s.guide = newGuide()
	var all []*seat
	for range s.Parallel {
		one, err := s.guidedSeat()
		if err != nil {
			for _, made := range all {
				made.close()
			}
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

// plainEvery is how often a sequence is played by programs as older kernels have
// them, where the search is not guided.
const plainEvery = 8

// newer are features that older kernels lack, and that frames meet.
var newer = []string{datapath.FeatureCoarseClock, datapath.FeatureCsumIPv6}

// sharedSeat is one for all workers.
func (s *search) sharedSeat() ([]*seat, error) {
	pool, err := prog.NewPool(s.Parallel, datapath.Options{Edit: s.Edit})
	if err != nil {
		return nil, err
	}
	plain, err := prog.NewPool(1, datapath.Options{Edit: s.Edit, Without: newer})
	if err != nil {
		pool.Close()
		return nil, err
	}
	return []*seat{{pool: pool, plain: plain}}, nil
}

func (s *search) watch(ctx context.Context) {
	if s.Progress == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.mu.Lock()
			var now Tally
			now.add(&s.total)
			s.mu.Unlock()
			s.Progress(now, time.Since(s.begin))
		}
	}
}

// work plays one sequence after the other. outer outlives the time that is
// given, so that what was found at its end is still shrunk.
func (s *search) work(ctx, outer context.Context, at *seat) {
	for ctx.Err() == nil {
		s.mu.Lock()
		n := s.next
		s.next++
		s.mu.Unlock()
		if s.Sequences > 0 && n >= s.Sequences {
			return
		}
		if err := s.one(ctx, outer, at, n); err != nil && ctx.Err() == nil {
			s.mu.Lock()
			s.errs = append(s.errs, fmt.Errorf("play sequence %d of seed %d: %w", n, s.Seed, err))
			s.mu.Unlock()
			s.stop()
			return
		}
	}
}

// sequence makes the n-th.
func (s *search) sequence(ctx context.Context, at *seat, n uint64, t *Tally) *sequence {
	if s.guide == nil {
		return newSequence(s.Seed, n, s.Captured, s.Uplinks, t)
	}
	seen, kept := s.guide.begin(ctx, n)
	var q *sequence
	if s.anew || n%freshEvery == 0 || len(kept) == 0 {
		q = newSequence(s.Seed, n, s.Captured, s.Uplinks, t)
	} else {
		q = newAgain(s.Seed, n, s.Captured, s.guide.pick(s.Seed, n, kept), t)
	}
	at.counters.Reset()
	q.watcher = &watcher{counters: at.counters, seen: seen}
	return q
}

func (s *search) one(ctx, outer context.Context, at *seat, n uint64) error {
	local := Tally{Sequences: 1}
	q := s.sequence(ctx, at, n, &local)
	q.wanted = s.wanted
	if q.watcher != nil {
		defer func() { s.guide.end(n, q.watcher.found) }()
	}
	if s.digest != nil {
		q.digest = fnv.New64a()
	}
	var found *Finding
	var failed error
	err := at.of(n).Use(ctx, q.made.topology(), func(w *prog.World) { found, failed = q.run(ctx, w, s.planted()) })
	s.mu.Lock()
	s.total.add(&local)
	fresh := found != nil && !s.kinds[found.Kind]
	if found != nil {
		s.disagree++
		s.kinds[found.Kind] = true
		if len(s.kinds) >= s.MaxKinds {
			s.stop()
		}
	}
	s.mu.Unlock()
	if s.digest != nil {
		s.digest(n, q.digest.Sum64())
	}
	if found != nil && s.seen != nil {
		s.seen(found)
	}
	if fresh && s.seen == nil {
		failed = errors.Join(failed, s.tell(outer, at.of(n), Report{*found, q.made, s.Seed, n}))
	}
	return errors.Join(err, failed)
}

func (s *search) tell(ctx context.Context, in *prog.Pool, r Report) error {
	sh := shrinker{pool: in, plant: s.planted(), kind: r.Kind, patience: s.patience}
	small, finding, err := sh.shrink(ctx, &r.Case)
	if err != nil {
		return err
	}
	r.Case = *small
	if finding != nil {
		r.Finding = *finding
	}
	if s.Found != nil {
		s.telling.Lock()
		defer s.telling.Unlock()
		s.Found(r)
	}
	return nil
}
