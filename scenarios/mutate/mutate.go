// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Options say what to measure.
type Options struct {
	Objects   []*Object
	Scenarios []*scenarios.Scenario
	// Sample is how many mutants to take by chance, which begins with Seed; 0:
	// all.
	Sample int
	Seed   uint64
	// Changed selects lines whose mutants are all taken, besides the sample.
	// Nil: none. File is as in mutant.Mutant.
	Changed func(file string, line int) bool
	// Only selects mutants by their ID and file before anything else. Nil: all.
	Only func(*mutant.Mutant) bool
	// Equivalents are those that are held to be no errors.
	Equivalents *Excuses
	// Survivors are those that are known to survive.
	Survivors *Excuses
	// Fuzz is how long the fuzzer is given; 0: 5 seconds.
	Fuzz time.Duration
	// Without leaves out killers.
	Without []string
	// Sockets are the tests that run the programs of sockets, which no scenario
	// does. Nil: their mutants count as not executed.
	Sockets *SocketTests
	// Parallel is how many workers there are; 0: one a core.
	Parallel int
	// State is a file that remembers what was found; empty: none.
	State string
	// Chosen is told how many mutants there are to choose from, before any is
	// judged; its error ends the run. May be nil.
	Chosen func(available int) error
	// Progress is told how far a stage is. May be nil.
	Progress func(stage string, done, total int)
}

const defaultFuzz = 5 * time.Second

// subject is a mutant on its way through the stages.
type subject struct {
	Result
	object            *Object
	blocks            []int
	equivalent, known *Excuse // that it is listed by; nil for none
}

// Report is what was measured.
type Report struct {
	Results []Result
	// Killers are those that were asked, in this order. Nil: those of programs.
	Killers []string
	// Available is how many mutants there were to choose from: of all, those that
	// Options.Only selects. With 0 nothing was judged.
	Available int
	// Stale are entries of the lists that fit no line any more, Wrong mutants that
	// are listed as equivalent and were killed, and Closed entries of known survivors
	// of which none survives.
	Stale, Closed []*Excuse
	Wrong         []Result
}

// measure is a Run in progress.
type measure struct {
	Options
	places *places
	state  *state
	all    []*subject
	plan   []scenarios.Planned // prog
	real   []scenarios.Planned // netns
	stages []*scenarios.Stage
	self   string // digest of this program

	reachProg, reachNetns []reach
	fuzz                  []played
}

// Run measures. When ctx ends it gives what is there, and the error of ctx.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Parallel <= 0 {
		o.Parallel = runtime.GOMAXPROCS(0)
	}
	if o.Fuzz <= 0 {
		o.Fuzz = defaultFuzz
	}
	m := &measure{Options: o, places: newPlaces(o.Objects)}
	available, err := m.choose()
	if err != nil {
		return nil, err
	}
	if o.Chosen != nil {
		if err := o.Chosen(available); err != nil {
			return nil, err
		}
	}
	if m.self, err = selfDigest(); err != nil {
		return nil, err
	}
	if m.state, err = openState(o.State); err != nil {
		return nil, err
	}
	err = m.run(ctx)
	err = errors.Join(err, m.state.close())
	r := &Report{Available: available}
	for _, s := range m.all {
		r.Results = append(r.Results, s.Result)
		if s.equivalent != nil && s.Outcome == Killed {
			r.Wrong = append(r.Wrong, s.Result)
		}
		if s.known != nil && (s.Outcome == Killed || s.Outcome == Refused) {
			s.known.Close()
		}
	}
	r.Stale = append(o.Equivalents.Unused(), o.Survivors.Unused()...)
	r.Closed = o.Survivors.Closed()
	return r, err
}

// choose finds the mutants and takes the sample.
func (m *measure) choose() (int, error) {
	var rest []*subject
	available := 0
	for _, o := range m.Objects {
		found, err := mutant.Enumerate(o.spec)
		if err != nil {
			return 0, fmt.Errorf("enumerate the mutants of %s: %w", o.Name, err)
		}
		for _, one := range found {
			s := &subject{Result: Result{Mutant: one, Object: o.Name}, object: o, blocks: m.places.of(&one)}
			s.equivalent, s.known = m.Equivalents.Find(&one), m.Survivors.Find(&one)
			if m.Only != nil && !m.Only(&one) {
				continue
			}
			available++
			if m.Changed != nil && m.Changed(one.File, one.Line) {
				s.Changed = true
				m.all = append(m.all, s)
				continue
			}
			rest = append(rest, s)
		}
	}
	m.all = append(m.all, Sampled(rest, m.Sample, m.Seed, m.Changed != nil)...)
	slices.SortStableFunc(m.all, func(a, b *subject) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.ID, b.ID))
	})
	return available, nil
}

func (m *measure) has(killer string) bool { return !slices.Contains(m.Without, killer) }

func (m *measure) run(ctx context.Context) (err error) {
	if len(m.all) == 0 || !slices.ContainsFunc(m.all, func(s *subject) bool { return s.object.Runs() }) {
		m.settle()
		return nil
	}
	m.plan = scenarios.Plan(m.Scenarios, syntax.Prog)
	if err := m.record(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.closeStages()) }()
	for range m.Parallel {
		s, err := scenarios.NewStage(m.loads(nil))
		if err != nil {
			return err
		}
		m.stages = append(m.stages, s)
	}
	if err := m.progStage(ctx); err != nil {
		return err
	}
	if m.has(ByFuzz) {
		if err := m.fuzzStage(ctx); err != nil {
			return err
		}
	}
	if m.has(ByNetns) {
		if err := m.netnsStage(ctx); err != nil {
			return err
		}
	}
	if m.has(BySocket) && m.Sockets != nil {
		if err := m.socketStage(ctx); err != nil {
			return err
		}
	}
	m.settle()
	return nil
}

func (m *measure) closeStages() error {
	var errs []error
	for _, s := range m.stages {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// loads are options of datapaths with the objects that are measured.
func (m *measure) loads(edit func(*ebpf.CollectionSpec) error) datapath.Options {
	opts := datapath.Options{Edit: edit}
	for _, o := range m.Objects {
		if o.use != nil {
			o.use(&opts)
		}
	}
	return opts
}

// settle names what nobody has noticed.
func (m *measure) settle() {
	for _, s := range m.all {
		if s.Outcome != "" {
			continue
		}
		total := 0
		for _, n := range s.Reached {
			total += n
		}
		switch {
		case total == 0:
			s.Outcome = NotExecuted
		case s.equivalent != nil:
			s.Outcome, s.Why = Equivalent, s.equivalent.Reason
		case s.known != nil:
			s.Outcome, s.Why = Known, s.known.Reason
		default:
			s.Outcome = Survived
		}
	}
}

// each has all workers do jobs, until there is none or ctx ends.
func each[T any](ctx context.Context, workers int, jobs []T, do func(worker int, job T) error) error {
	next := make(chan T)
	var wait sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for w := range workers {
		wait.Go(func() {
			for job := range next {
				if err := do(w, job); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					cancel()
				}
			}
		})
	}
	for _, job := range jobs {
		if ctx.Err() != nil {
			break
		}
		next <- job
	}
	close(next)
	wait.Wait()
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return ctx.Err()
}
