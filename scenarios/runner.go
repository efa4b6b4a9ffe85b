// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Runner runs scenarios.
type Runner struct {
	// Worlds are those to run in, of the ones that a scenario declares.
	// Empty: all that this binary can make.
	Worlds []syntax.World
	// Match selects by name/family. Nil: all.
	Match *regexp.Regexp
	// Only selects further, of runs that are planned. Nil: all.
	Only func(Result) bool
	// Order compares runs that are planned: lower ones come first, equal ones stay as they
	// are. Nil: all are equal.
	Order func(a, b Result) int
	// Times is how often each run is made; 0 is once. Above 1 they are numbered:
	// name/family#1 is the first. Guests do not number.
	Times int
	// Shuffle is the seed of the order in which Run runs; nil: as they are planned.
	Shuffle *uint64
	// Parallel is how many run at once; 0: three a core, since a run in world netns
	// waits for half of its time.
	Parallel int
	// Thorough attaches programs in world netns as a cluster does, by tcx where the
	// kernel has it. Else one scenario of eight does, which depends on its name, and
	// the others attach by clsact: tcx waits for grace periods of RCU, one device at a
	// time on the whole machine, and was two thirds of the time of all runs.
	Thorough bool
	// Keep leaves the world of a failed run up until Hold returns.
	Keep bool
	Hold func(context.Context, Result)
	// Netns makes the worlds netns in the runner's place: to record what they
	// carry. Nil: the runner makes them.
	Netns func(context.Context, lab.Topology, netns.Options) (lab.World, error)
	// Cluster is where worlds cluster are made. Who has opened it closes it.
	Cluster *kube.Session
	// Files are the programs to load, by runs that load their own (without Warm).
	Files ObjectFiles
	// Edit changes the programs before they are loaded: see datapath.Options.
	Edit func(*ebpf.CollectionSpec) error
	// Cover counts what of the programs each run reaches: see Result.Reach.
	Cover bool
	// WithoutLives leaves out of Reach what the verifier left of the programs, for
	// which they would be loaded once more.
	WithoutLives bool
	// Warm is what was loaded before; Run closes it. Nil: the run loads it.
	Warm *Warm
	// Slowdown is how many times slower this machine is than an ordinary one:
	// deadlines are stretched by it. Below 1: not at all.
	Slowdown float64
	// Began is told of each run that begins, by a Result without an outcome.
	// It may be called by several goroutines at once. May be nil.
	Began func(Result)
	// Live is given each result as it is there, one at a time. May be nil.
	Live func(Result)
	// Brief keeps of each result only how it ended, for who has the rest by Live: what
	// runs reach and put out fills the memory of a guest.
	Brief bool
}

// Made are the worlds that this binary can make on any machine. World cluster needs
// a Runner's Cluster.
func Made() []syntax.World { return []syntax.World{syntax.Prog, syntax.Netns} }

// Errors of a run as a whole.
var (
	ErrNothingRun = errors.New("no scenario was run")
	ErrLeak       = errors.New("the run left something behind")
)

// run is one scenario in one family and world.
type run struct {
	scenario *Scenario
	family   syntax.Family
	world    syntax.World
	number   int // of several; 0 of one
}

// byTCX is whether a run's programs are attached as the kernel has it also where
// most are attached by clsact.
func (r run) byTCX() bool {
	asks := func(s syntax.Step) bool { _, uses := s.Verb.(*syntax.Uses); return uses }
	return crc32.ChecksumIEEE([]byte(r.name()))%8 == 0 || slices.ContainsFunc(r.scenario.Steps, asks)
}

func (r run) name() string { return r.scenario.Name + "/" + string(r.family) }

// Planned lists the runs that there would be, each a Result without an
// outcome.
func (r *Runner) Planned(all []*Scenario) []Result {
	var out []Result
	for _, one := range r.runs(all) {
		out = append(out, one.result(""))
	}
	return out
}

func (r run) result(kernel string) Result {
	name := r.name()
	if r.number > 0 {
		name += fmt.Sprintf("%s%d", numberMark, r.number)
	}
	return Result{Scenario: name, Family: r.family, World: r.world, Kernel: kernel}
}

// numberMark is between the name of one of several runs and its number.
const numberMark = "#"

// Unnumbered is the name/family of a result, whichever of several runs it is of.
func (r Result) Unnumbered() string {
	name, _, _ := strings.Cut(r.Scenario, numberMark)
	return name
}

// Count says how many runs there would be.
func (r *Runner) Count(all []*Scenario) int { return len(r.runs(all)) }

func (r *Runner) runs(all []*Scenario) []run {
	worlds := r.Worlds
	if len(worlds) == 0 {
		worlds = Made()
	}
	var out []run
	for _, world := range worlds {
		for _, s := range all {
			if !slices.Contains(s.Worlds, world) {
				continue
			}
			for _, family := range s.Families {
				one := run{scenario: s, family: family, world: world}
				if r.wants(one) {
					out = append(out, one.times(r.Times)...)
				}
			}
		}
	}
	return out
}

func (r *Runner) wants(one run) bool {
	return (r.Match == nil || r.Match.MatchString(one.name())) && (r.Only == nil || r.Only(one.result("")))
}

// times gives a run several times, numbered.
func (r run) times(n int) []run {
	if n <= 1 {
		return []run{r}
	}
	out := make([]run, n)
	for i := range out {
		out[i] = r
		out[i].number = i + 1
	}
	return out
}

// Run runs the scenarios and gives all results, in the order in which they
// ended. ErrNothingRun, ErrLeak, or what kept the worlds from being made at
// all; that a scenario failed is no error.
func (r *Runner) Run(ctx context.Context, all []*Scenario) ([]Result, error) {
	runs := r.runs(all)
	if len(runs) == 0 {
		return nil, fmt.Errorf("%w: no scenario, world and family fit what was asked for", ErrNothingRun)
	}
	if r.Shuffle != nil {
		rand.New(rand.NewPCG(*r.Shuffle, 0)).Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
	}
	if r.Order != nil {
		slices.SortStableFunc(runs, func(a, b run) int { return r.Order(a.result(""), b.result("")) })
	}
	before := takeCensus()
	if r.Warm != nil {
		before = r.Warm.before
	}
	parallel := r.Parallel
	if parallel <= 0 {
		parallel = 3 * runtime.GOMAXPROCS(0)
	}
	if r.Keep {
		parallel = 1
	}
	parallel = min(parallel, len(runs))
	m := &machine{Runner: r, kernel: Kernel(), parallel: parallel}
	if r.Warm != nil {
		m.nets, m.prog = r.Warm.nets, r.Warm.prog
	} else {
		m.nets, m.prog = netns.NewPool(parallel), newProgPool(min(parallel, runtime.GOMAXPROCS(0)), r.options(r.Edit))
	}
	results := m.run(ctx, runs)
	if m.left != nil {
		return results, fmt.Errorf("%w: %w", ErrLeak, m.left)
	}
	if err := m.nets.Close(); err != nil {
		return results, fmt.Errorf("%w: %w", ErrLeak, err)
	}
	if left := before.left(3 * time.Second); len(left) > 0 {
		return results, fmt.Errorf("%w: %s", ErrLeak, strings.Join(left, "; "))
	}
	if err := ctx.Err(); err != nil {
		return results, fmt.Errorf("stopped after %d of %d runs: %w", len(results), len(runs), err)
	}
	return results, nil
}

// options are those of the datapaths in world prog, whose programs edit changes.
func (r *Runner) options(edit func(*ebpf.CollectionSpec) error) datapath.Options {
	options := r.Files.Options()
	options.Edit = edit
	return options
}

// machine is a Run in progress.
type machine struct {
	*Runner
	kernel   string
	parallel int

	mu      sync.Mutex
	results []Result
	left    error // what worlds of a cluster left behind

	nets  *netns.Pool
	prog  *progPool
	lives cover.Lives
}

func (m *machine) run(ctx context.Context, runs []run) []Result {
	q := &queue{groups: together(runs)}
	var workers sync.WaitGroup
	for n := range m.parallel {
		workers.Go(func() {
			w := m.newWorker()
			defer w.close()
			for group := q.next(m.prefers(n)); group != nil && ctx.Err() == nil; group = q.next(m.prefers(n)) {
				for _, one := range group {
					// What is stopped by the user says nothing.
					if r := w.one(ctx, one); !r.stopped {
						m.add(r)
					}
				}
				m.failed(w.leaveCluster())
			}
		})
	}
	workers.Wait()
	m.prog.close()
	return m.results
}

// prefers is which runs a worker takes while there are some; nil: the next ones. World
// prog computes all the time, and the others wait for most of it: a worker for each core
// takes the one kind, the rest the others.
func (m *machine) prefers(worker int) func(*run) bool {
	switch {
	case m.parallel == 1:
		return nil
	case worker < runtime.GOMAXPROCS(0):
		return func(r *run) bool { return r.world == syntax.Prog }
	}
	return func(r *run) bool { return r.world != syntax.Prog }
}

// queue is what is still to be run.
type queue struct {
	mu     sync.Mutex
	groups [][]run
}

// next gives the first of those that are preferred, else the first; nil when there is
// none.
func (q *queue) next(preferred func(*run) bool) []run {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.groups) == 0 {
		return nil
	}
	at := 0
	if preferred != nil {
		at = max(0, slices.IndexFunc(q.groups, func(group []run) bool { return preferred(&group[0]) }))
	}
	group := q.groups[at]
	q.groups = slices.Delete(q.groups, at, at+1)
	return group
}

// failed keeps what is no run's failure.
func (m *machine) failed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = errors.Join(m.left, err)
}

func (m *machine) add(r Result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Live != nil {
		m.Live(r)
	}
	if m.Brief {
		r.Outputs, r.Reach, r.Failure = nil, nil, nil
	}
	m.results = append(m.results, r)
}

// one runs one scenario, whatever happens.
func (w *worker) one(ctx context.Context, one run) Result {
	if one.world == syntax.Prog {
		// Loading the programs is no scenario's time. An error shows below.
		_, _ = w.prog.get()
	}
	begin, clock := time.Now(), phase.NewClock()
	r := one.result(w.kernel)
	if w.Began != nil {
		w.Began(r)
	}
	r.Outcome = Pass
	if one.world == syntax.Cluster && w.Cluster != nil {
		r.Kernel = w.Cluster.Release
		missing := one.scenario.lacksIn(w.Cluster, one.family)
		var err error
		if missing == "" {
			missing, err = one.scenario.policiesLack(ctx, w.Cluster)
		}
		switch {
		case err != nil:
			r.Outcome, r.Reason = Broken, err.Error()
			return r
		case missing != "":
			r.Outcome, r.Reason = Skipped, missing
			return r
		}
	}
	if missing := lacks(one.scenario, w.kernel); missing != "" {
		r.Outcome, r.Reason = Skipped, missing
		if locked(w.kernel) && !skipDeclared(one.scenario, one.world, w.kernel) {
			r.Outcome, r.Reason = Fail, "skipped ("+missing+"), which scenarios/skips does not declare for this kernel"
		}
		return r
	}
	err := ctx.Err()
	if err == nil {
		err = w.inWorld(phase.With(ctx, clock), one, &r)
	}
	if w.counters != nil {
		r.Reach = w.counters.Take()
	}
	if errors.Is(err, context.Canceled) {
		r.stopped = true
	}
	if err != nil {
		r.Outcome, r.Reason = Broken, err.Error()
		r.Failure = &Failure{Pos: syntax.Pos{File: one.scenario.Path, Line: 1}, Step: "make the world", Problem: err.Error(), Time: begin}
	}
	if r.Failure != nil {
		r.Failure.Repeat = repeat(one)
	}
	r.Seconds, r.Phases = time.Since(begin).Seconds(), clock.Seconds()
	return r
}

// repeat is the command that runs one run again.
func repeat(one run) string {
	path := ""
	if !strings.HasPrefix(one.scenario.Path, "library/") {
		path = " " + one.scenario.Path
	}
	return fmt.Sprintf("weir scenario run --world %s --run '^%s$'%s", one.world, one.name(), path)
}

// limit is how long one run may take.
const limit = 2 * time.Minute

func (w *worker) inWorld(ctx context.Context, one run, r *Result) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(float64(limit)*max(w.Slowdown, 1)))
	defer cancel()
	use := func(world lab.World) { w.play(ctx, one, world, r) }
	switch one.world {
	case syntax.Prog:
		pool, err := w.prog.get()
		if err != nil {
			return err
		}
		return pool.Use(ctx, one.scenario.topology, func(world *prog.World) { use(world) })
	case syntax.Netns:
		options := w.objects
		options.Without, options.Edit = one.scenario.Without, w.edit
		world, err := w.makeNetns(ctx, one.scenario.topology, netns.Options{Keep: w.Keep, Clsact: !w.Thorough && !one.byTCX(), Datapath: options})
		if err != nil {
			return err
		}
		use(world)
		defer phase.Start(ctx, phase.Teardown)()
		return world.Close()
	case syntax.Cluster:
		world, err := w.inCluster(ctx, one)
		if err != nil {
			return err
		}
		there := one
		there.scenario = one.scenario.at(world.Topology())
		w.play(ctx, there, world, r)
		return nil
	}
	return fmt.Errorf("make world %s: this binary cannot", one.world)
}

func (m *machine) makeNetns(ctx context.Context, topology lab.Topology, options netns.Options) (lab.World, error) {
	if m.Netns != nil {
		return m.Netns(ctx, topology, options)
	}
	return m.nets.New(ctx, topology, options)
}

// play runs the script in a world. A panic is the lab's failure.
func (m *machine) play(ctx context.Context, one run, w lab.World, r *Result) {
	defer func() {
		if p := recover(); p != nil {
			stack := make([]byte, 8192)
			stack = stack[:runtime.Stack(stack, false)]
			r.Outcome, r.Reason = Broken, fmt.Sprintf("panic: %v", p)
			r.Failure = &Failure{Pos: syntax.Pos{File: one.scenario.Path, Line: 1}, Step: "run the script", Problem: r.Reason + "\n" + string(stack), Time: time.Now()}
		}
	}()
	p := newPlay(one.scenario, one.family, one.world, w)
	p.slowdown = m.Slowdown
	defer phase.Start(ctx, phase.Steps)()
	failure, broken := p.run(ctx)
	r.Outputs = p.outputs
	if failure == nil {
		return
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		r.stopped = true
		return
	}
	r.Outcome, r.Failure = Fail, failure
	if broken {
		r.Outcome = Broken
	}
	r.Reason = fmt.Sprintf("%s: %s: %s", failure.Pos, failure.Step, firstLine(failure.Problem))
	if m.Keep && m.Hold != nil {
		r.Failure.Enter, r.Failure.Repeat = w.Enter(), repeat(one)
		m.Hold(ctx, *r)
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
