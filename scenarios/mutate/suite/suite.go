// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/scenarios/mutate"
	"github.com/weirnet/weir/scenarios/mutate/source"
)

// Errors of a machine or a tree where nothing can be measured.
var (
	ErrNoGo    = errors.New("the go command is not in PATH: install Go, it compiles the errors")
	ErrUnsound = errors.New("it fails without any error planted: nothing can be told by that")
)

// Options say what to measure.
type Options struct {
	Dir      string   // in a checkout
	Patterns []string // of packages, as the go command has them
	Tests    []string // of packages whose tests judge; nil: Patterns
	// Sample, Seed, Changed, Only, Fuzz, Without, Parallel, State, Progress,
	// Equivalents and Survivors are as in package mutate. Files are from the root.
	Sample      int
	Seed        uint64
	Changed     func(file string, line int) bool
	Only        func(*source.Mutant) bool
	Chosen      func(available int) error // as mutate.Options has it
	Equivalents *mutate.Excuses
	Survivors   *mutate.Excuses
	Fuzz        time.Duration
	Without     []string
	Parallel    int
	State       string
	Progress    func(stage string, done, total int)
}

// subject is an error on its way through the stages.
type subject struct {
	mutate.Result
	number            int
	equivalent, known *mutate.Excuse // that it is listed by; nil for none
	tests             []*test
}

type measure struct {
	Options
	code    *source.Code
	overlay *source.Overlay
	dir     string // of what is built
	count   int    // of errors that are compiled in
	all     []*subject
	memory  *mutate.Memory
	suites  []*binary
	plan    *plan

	killers sync.Map // function to the last *test or run that noticed an error in it
}

// Run measures. When ctx ends it gives what is there, and the error of ctx.
func Run(ctx context.Context, o Options) (report *mutate.Report, err error) {
	if _, err := exec.LookPath("go"); err != nil {
		return nil, ErrNoGo
	}
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	m := &measure{Options: o}
	if m.dir, err = os.MkdirTemp("", "weir-mutate-"); err != nil {
		return nil, fmt.Errorf("make a directory to build in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.dir)) }()
	available, err := m.choose(ctx)
	if err != nil {
		return nil, err
	}
	if o.Chosen != nil {
		if err := o.Chosen(available); err != nil {
			return nil, err
		}
	}
	if err := m.findTests(ctx); err != nil {
		return nil, err
	}
	digest, err := m.digest()
	if err != nil {
		return nil, err
	}
	if m.memory, err = mutate.OpenMemory(o.State, digest); err != nil {
		return nil, err
	}
	if len(m.all) > 0 {
		err = m.run(ctx)
	}
	err = errors.Join(err, m.memory.Close())
	return m.report(available), err
}

func (m *measure) report(available int) *mutate.Report {
	r := &mutate.Report{Available: available, Killers: m.killersAsked()}
	for _, s := range m.all {
		r.Results = append(r.Results, s.Result)
		if s.equivalent != nil && s.Outcome == mutate.Killed {
			r.Wrong = append(r.Wrong, s.Result)
		}
		if s.known != nil && (s.Outcome == mutate.Killed || s.Outcome == mutate.Refused) {
			s.known.Close()
		}
	}
	r.Stale = append(m.Equivalents.Unused(), m.Survivors.Unused()...)
	r.Closed = m.Survivors.Closed()
	return r
}

func (m *measure) killersAsked() []string {
	return slices.DeleteFunc([]string{mutate.ByTest, mutate.ByProg, mutate.ByFuzz}, func(k string) bool { return !m.has(k) })
}

func (m *measure) has(killer string) bool { return !slices.Contains(m.Without, killer) }

// choose plants, and takes the sample.
func (m *measure) choose(ctx context.Context) (int, error) {
	var err error
	if m.code, err = source.Load(ctx, m.Dir, m.Patterns); err != nil {
		return 0, err
	}
	planted := m.code.Plant()
	if m.count = len(planted); m.count == 0 {
		return 0, fmt.Errorf("%s: %w", strings.Join(m.Patterns, " "), source.ErrNothing)
	}
	var rest []*subject
	available := 0
	for _, p := range planted {
		s := &subject{number: p.Number}
		s.Mutant = mutant.Mutant{ID: p.ID, Function: p.Function, Kind: mutant.Kind(p.Kind), File: p.File, Line: p.Line, Text: p.Text, Before: p.Before, After: p.After}
		s.Object = p.Package
		s.Reached, s.Example = map[string]int{}, map[string]string{}
		s.equivalent, s.known = m.Equivalents.Find(&s.Mutant), m.Survivors.Find(&s.Mutant)
		if m.Only != nil && !m.Only(p) {
			continue
		}
		available++
		if m.Changed != nil && m.Changed(p.File, p.Line) {
			s.Changed = true
			m.all = append(m.all, s)
			continue
		}
		rest = append(rest, s)
	}
	m.all = append(m.all, mutate.Sampled(rest, m.Sample, m.Seed, m.Changed != nil)...)
	slices.SortFunc(m.all, func(a, b *subject) int { return a.number - b.number })
	if len(m.all) == 0 {
		return available, nil
	}
	if m.overlay, err = m.code.NewOverlay(m.dir); err != nil {
		return 0, err
	}
	m.progress("compile", 0, 0)
	return available, m.overlay.Check(ctx)
}

func (m *measure) run(ctx context.Context) error {
	for _, p := range m.all {
		if m.overlay.Dropped(p.number) {
			p.Outcome = mutate.Refused
		}
	}
	if m.has(mutate.ByTest) {
		if err := m.testStage(ctx); err != nil {
			return err
		}
	}
	if m.has(mutate.ByProg) || m.has(mutate.ByFuzz) {
		if err := m.runStage(ctx); err != nil {
			return err
		}
	}
	for _, s := range m.all {
		switch {
		case s.Outcome != "":
		case len(s.Reached) == 0:
			s.Outcome = mutate.NotExecuted
		case s.equivalent != nil:
			s.Outcome, s.Why = mutate.Equivalent, s.equivalent.Reason
		case s.known != nil:
			s.Outcome, s.Why = mutate.Known, s.known.Reason
		default:
			s.Outcome = mutate.Survived
		}
	}
	return nil
}

func (m *measure) progress(stage string, done, total int) {
	if m.Progress != nil {
		m.Progress(stage, done, total)
	}
}

// each gives the items to workers, and ends with the first error.
func each[T any](ctx context.Context, workers int, items []T, do func(worker int, item T) error) error {
	var next atomic.Int64
	errs := make([]error, workers)
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(items) {
					return
				}
				if errs[w] = do(w, items[n]); errs[w] != nil {
					next.Store(int64(len(items)))
					return
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}
