// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/vmtest"
)

// Matrix runs scenarios on kernels.
type Matrix struct {
	Kernels []*vmtest.Kernel
	// Runner says which runs are wanted, by its Worlds and Match, and by its Cover
	// whether what they reach is counted.
	Runner *scenarios.Runner
	// Thorough has every run on every kernel. Else what runs the same instructions
	// and comes to the same frames in world prog on several kernels is run in world
	// netns on one of them, and has the outcome Same on the others.
	Thorough bool
	// Own says that the scenarios are files of the caller's, not the library,
	// which every guest has in its program.
	Own bool
	// Program is the path of this command's binary; empty: the running one.
	Program string
	// Guests at once; 0: as many as this machine has room for.
	Guests int
	// Live is given each result as it is there, one at a time. May be nil.
	Live     func(scenarios.Result)
	Progress vmtest.Progress // may be nil
}

// Report is what a Matrix found out.
type Report struct {
	Results []scenarios.Result
	Costs   []Cost
	Starts  []Start
}

// Start is what it took to begin in one guest.
type Start struct {
	Kernel string       `json:"kernel"`
	World  syntax.World `json:"world"`
	Warm   bool         `json:"warm"` // restored from a snapshot, not booted
	// Boot is how long it took until the guest's user space answered, Ready how long
	// from then until the first scenario began, both in seconds. Ready has, in a
	// kernel's first guest, the measuring of Costs, unless it is of world prog.
	Boot  float64 `json:"boot"`
	Ready float64 `json:"ready"`
}

// Cost is what one program costs on one kernel.
type Cost struct {
	Kernel string `json:"kernel"` // release
	datapath.ProgramCost
}

// ErrProblem is something that a guest's run as a whole came to, beside its
// results.
var ErrProblem = errors.New("a run in a guest had a problem")

// Count says how many runs there would be.
func (m *Matrix) Count(all []*scenarios.Scenario) int {
	return m.Runner.Count(all) * len(m.Kernels)
}

// Names are what results call the kernels, in their order: by release, and
// those of one release by what they were asked for as well.
func (m *Matrix) Names() []string {
	count := map[string]int{}
	for _, k := range m.Kernels {
		count[k.Release]++
	}
	var names []string
	for _, k := range m.Kernels {
		name := k.Release
		if count[k.Release] > 1 {
			name += "#" + filepath.Base(k.ID)
		}
		names = append(names, name)
	}
	return names
}

// Run runs all that the Runner wants on all kernels. The error is
// scenarios.ErrNothingRun, ErrProblem, vmtest.ErrNoQEMU or the context's; that
// a scenario failed is none.
func (m *Matrix) Run(ctx context.Context, all []*scenarios.Scenario) (*Report, error) {
	runs := m.Runner.Planned(all)
	if len(runs) == 0 || len(m.Kernels) == 0 {
		return &Report{}, fmt.Errorf("%w: no scenario, world and family fit what was asked for", scenarios.ErrNothingRun)
	}
	d, err := m.newDriver(all, runs)
	if err != nil {
		return &Report{}, err
	}
	ctx, d.stop = context.WithCancelCause(ctx)
	defer d.stop(nil)
	var workers sync.WaitGroup
	for range m.guests() {
		workers.Go(func() { d.work(ctx) })
	}
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return &d.report, fmt.Errorf("stopped after %d of %d runs: %w", len(d.report.Results), m.Count(all), err)
	}
	if len(d.problems) > 0 {
		return &d.report, fmt.Errorf("%w: %s", ErrProblem, strings.Join(d.problems, "; "))
	}
	return &d.report, nil
}

// guestsPerPlace is how many guests of world netns share a place of vmtest's: such a
// guest waits for most of its time, for what must not come or comes later.
const guestsPerPlace = 3

func (m *Matrix) guests() int {
	if m.Guests > 0 {
		return m.Guests
	}
	return guestsPerPlace * vmtest.Parallel(memory(m.Runner.Cover))
}

// memory is what a guest has, in MiB. Programs with counters are twice as long:
// 512 were not enough for those of three nodes on 5.10.
func memory(cover bool) int {
	if cover {
		return vmtest.DefaultMemory * 2
	}
	return vmtest.DefaultMemory
}

// driver is a Run in progress.
type driver struct {
	*Matrix
	program string
	sources []source
	called  map[*vmtest.Kernel]string   // in results
	planned map[string]scenarios.Result // by label
	paths   map[string]string           // of scenario files by label
	stop    context.CancelCauseFunc
	room    *room
	alike   *alike // nil: all is run on all kernels

	mu       sync.Mutex
	change   *sync.Cond
	waiting  []unit
	again    map[*vmtest.Kernel][]string // that come when nothing waits: their like has not passed
	open     int                         // units that workers have
	report   Report
	problems []string // of guests whose results are all there
}

func (m *Matrix) newDriver(all []*scenarios.Scenario, runs []scenarios.Result) (*driver, error) {
	d := &driver{
		Matrix: m, program: m.Program, again: map[*vmtest.Kernel][]string{},
		planned: map[string]scenarios.Result{}, paths: map[string]string{}, called: map[*vmtest.Kernel]string{},
	}
	for i, name := range m.Names() {
		d.called[m.Kernels[i]] = name
	}
	now := runs
	if !m.Thorough && !m.Runner.Cover && len(m.Kernels) > 1 {
		var err error
		if d.alike, now, err = newAlike(m.Kernels, runs); err != nil {
			return nil, err
		}
		if len(d.alike.names) == 0 {
			d.alike = nil
		}
	}
	d.waiting = plan(m.Kernels, (m.guests()+guestsPerPlace-1)/guestsPerPlace, now, d.counts)
	d.change = sync.NewCond(&d.mu)
	d.room = newRoom()
	if d.program == "" {
		var err error
		if d.program, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find the program that guests are to run: %w", err)
		}
	}
	paths := map[string]string{}
	for _, s := range all {
		paths[s.Name] = s.Path
		if m.Own {
			d.sources = append(d.sources, source{s.Path, s.Source})
		}
	}
	for _, r := range runs {
		d.planned[label(r)] = r
		name, _, _ := strings.Cut(r.Scenario, "/")
		d.paths[label(r)] = paths[name]
	}
	return d, nil
}

// counts is whether what runs of a world reach is counted.
func (d *driver) counts(world syntax.World) bool {
	return d.Runner.Cover || d.alike != nil && world == syntax.Prog
}

// work runs units until there are none, and nobody may come to give some back.
func (d *driver) work(ctx context.Context) {
	wake := context.AfterFunc(ctx, d.change.Broadcast)
	defer wake()
	for {
		u, ok := d.take(ctx)
		if !ok {
			return
		}
		d.done(d.attempt(ctx, u))
	}
}

func (d *driver) take(ctx context.Context) (unit, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.waiting)+len(d.again) == 0 && d.open > 0 && ctx.Err() == nil {
		d.change.Wait()
	}
	if len(d.waiting) == 0 && len(d.again) > 0 {
		d.waiting = d.alike.units(d.again)
		clear(d.again)
	}
	if len(d.waiting) == 0 || ctx.Err() != nil {
		return unit{}, false
	}
	u := d.waiting[0]
	d.waiting = d.waiting[1:]
	d.open++
	return u, true
}

// done ends a unit; what is left of it comes next.
func (d *driver) done(left *unit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if left != nil {
		d.waiting = append([]unit{*left}, d.waiting...)
	}
	d.change.Broadcast()
}

func (d *driver) deliver(k *vmtest.Kernel, r scenarios.Result) {
	r.Kernel = d.called[k]
	if r.Failure != nil {
		r.Failure.Repeat = d.repeat(k, r)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(r)
	if d.alike == nil {
		return
	}
	if r.World == syntax.Prog && d.alike.tell(k, &r) {
		d.waiting = append(d.waiting, d.alike.decide()...)
		d.change.Broadcast()
	}
	for _, other := range d.alike.standsFor(k, &r) {
		if r.Outcome != scenarios.Pass {
			d.again[other] = append(d.again[other], r.Scenario)
			d.change.Broadcast()
			continue
		}
		same := d.planned[label(r)]
		same.Kernel, same.Outcome = d.called[other], scenarios.Same
		same.Reason = "as on " + r.Kernel + ", by what it did in world prog"
		d.add(same)
	}
}

func (d *driver) add(r scenarios.Result) {
	d.report.Results = append(d.report.Results, r)
	if d.Live != nil {
		d.Live(r)
	}
}

// repeat is the command that runs one run again.
func (d *driver) repeat(k *vmtest.Kernel, r scenarios.Result) string {
	command := fmt.Sprintf("weir scenario run --kernel %s --world %s --run '^%s$'", k.ID, r.World, r.Scenario)
	if d.Own {
		command += " " + d.paths[label(r)]
	}
	return command
}

// broken makes the Result of a run that has none of its own.
func (d *driver) broken(label string, outcome scenarios.Outcome, reason, words string) scenarios.Result {
	r := d.planned[label]
	r.Outcome, r.Reason = outcome, reason
	r.Failure = &scenarios.Failure{
		Pos: syntax.Pos{File: d.paths[label], Line: 1}, Step: "the whole scenario", Problem: words,
	}
	return r
}

func (d *driver) addCosts(k *vmtest.Kernel, costs []datapath.ProgramCost) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range costs {
		d.report.Costs = append(d.report.Costs, Cost{d.called[k], c})
	}
}

func (d *driver) addStart(k *vmtest.Kernel, s Start) {
	s.Kernel = d.called[k]
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report.Starts = append(d.report.Starts, s)
}

func (d *driver) problem(k *vmtest.Kernel, what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problems = append(d.problems, fmt.Sprintf("kernel %s: %s", k.ID, what))
}
