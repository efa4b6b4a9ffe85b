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
	// MaxKinds is after how many kinds of findings the search ends; 0: 10.
	MaxKinds int
	// Doubt plants an error, in tests.
	Doubt Doubt
	// Found is given the first finding of each kind, shrunk, one at a time.
	Found func(Report)
	// Progress is called about once a second.
	Progress func(Tally, time.Duration)

	misread misread             // plants another error, in tests
	digest  func(n, sum uint64) // of each sequence's frames; for tests
}

func (o *Options) planted() planted { return planted{o.Doubt, o.misread} }

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
	pool  *prog.Pool
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
	pool, err := prog.NewPool(o.Parallel, datapath.Options{Edit: o.Edit})
	if err != nil {
		return Tally{}, 0, fmt.Errorf("make world prog: %w", err)
	}
	defer pool.Close()
	outer := ctx
	if o.Time > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.Time)
		defer cancel()
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &search{Options: o, pool: pool, stop: stop, begin: time.Now(), kinds: map[string]bool{}}
	var workers, watcher sync.WaitGroup
	watched, unwatch := context.WithCancel(context.Background())
	watcher.Go(func() { s.watch(watched) })
	for range o.Parallel {
		workers.Go(func() { s.work(ctx, outer) })
	}
	workers.Wait()
	unwatch()
	watcher.Wait()
	return s.total, s.disagree, errors.Join(s.errs...)
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
func (s *search) work(ctx, outer context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		n := s.next
		s.next++
		s.mu.Unlock()
		if s.Sequences > 0 && n >= s.Sequences {
			return
		}
		if err := s.one(ctx, outer, n); err != nil && ctx.Err() == nil {
			s.mu.Lock()
			s.errs = append(s.errs, fmt.Errorf("play sequence %d of seed %d: %w", n, s.Seed, err))
			s.mu.Unlock()
			s.stop()
			return
		}
	}
}

func (s *search) one(ctx, outer context.Context, n uint64) error {
	local := Tally{Sequences: 1}
	q := newSequence(s.Seed, n, s.Captured, s.Uplinks, &local)
	if s.digest != nil {
		q.digest = fnv.New64a()
	}
	var found *Finding
	var failed error
	err := s.pool.Use(ctx, q.made.topology(), func(w *prog.World) { found, failed = q.run(ctx, w, s.planted()) })
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
	if fresh {
		failed = errors.Join(failed, s.tell(outer, Report{*found, q.made, s.Seed, n}))
	}
	return errors.Join(err, failed)
}

func (s *search) tell(ctx context.Context, r Report) error {
	sh := shrinker{pool: s.pool, plant: s.planted(), kind: r.Kind}
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
