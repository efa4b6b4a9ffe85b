// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
)

// Options are what is measured, and how.
type Options struct {
	Paths    []string // names; none: all
	Families []Family // none: both
	Flows    []int    // how many of each path take turns; each is a result
	Rounds   int      // of each, in turns with others
	CPU      int      // on which all of it runs
	Old      *Report  // what is to be compared with; nil: nothing
}

// MaxFlows is how many flows of a path take turns at most.
const MaxFlows = 1 << 20

// ErrNoJIT is a kernel that interprets programs: what it takes for them says nothing.
var ErrNoJIT = errors.New("the kernel has no JIT for BPF")

// packets is how many a run has, and runs how many a round, the fastest of which
// counts: what comes between makes others slower, and none faster. Runs whose packets
// take long are shorter, and more: less comes between. BASE has all of them, since the
// system call, 3 µs of a run, is in its time too.
const (
	packets = 2_000
	runs    = 5
	shorter = 8
)

// Run measures paths.
func Run(ctx context.Context, o Options) (*Report, error) {
	some, err := chosen(o.Paths)
	if err != nil {
		return nil, err
	}
	if err := needJIT(); err != nil {
		return nil, err
	}
	kernel, err := release()
	if err != nil {
		return nil, err
	}
	report := &Report{Version: version, Kernel: kernel, Machine: machine()}
	m := &measuring{o: o, loads: min(loads, o.Rounds), results: map[string]*Result{}, floors: report.floors(o.Old)}
	turns := together(some, &o)
	for range m.loads {
		if err := m.load(ctx, turns); err != nil {
			return nil, err
		}
	}
	for _, turn := range turns {
		for _, a := range turn {
			report.Results = append(report.Results, *m.results[a.name()])
		}
	}
	return report, nil
}

// loads is how often programs and tables are loaded anew. Where they lie in memory is
// another each time, and worth some hundredths.
const loads = 4

// measuring is a run.
type measuring struct {
	o       Options
	loads   int
	results map[string]*Result
	floors  map[string]float64 // the fastest BASE that is known of each
	// change and before make a world of its own; nil: they do not.
	change func(*model.State)
	before func(*site, []asked) error
}

// load loads programs and tables, and measures a part of the rounds.
func (m *measuring) load(ctx context.Context, turns [][]asked) error {
	pool, err := prog.NewPool(1, roomFor(turns))
	if err != nil {
		return err
	}
	defer pool.Close()
	for _, turn := range turns {
		var failed error
		err := pool.Use(ctx, topology(), func(w *prog.World) { failed = m.measure(ctx, w, turn) })
		if err := errors.Join(err, failed); err != nil {
			return err
		}
	}
	return nil
}

// machine is the CPU's name; empty where the kernel does not tell.
func machine() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, is := strings.CutPrefix(line, "model name"); is {
			return strings.Trim(name, "\t :\n")
		}
	}
	return ""
}

// needJIT fails where bpf_jit_enable is off. Kernels that always have a JIT have no
// such switch.
func needJIT() error {
	text, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	if err == nil && strings.TrimSpace(string(text)) == "0" {
		return fmt.Errorf("measure: %w: switch it on by 'sysctl net.core.bpf_jit_enable=1'", ErrNoJIT)
	}
	return nil
}

// asked is a result that is asked for.
type asked struct {
	p      path
	family Family
	flows  int
}

func (a *asked) name() string {
	return (&Result{Path: a.p.name, Family: a.family, Flows: a.flows}).Name()
}

// mostTogether is how many flows the tables have at once, where one result has not
// more.
const mostTogether = 1 << 18

// together puts results into turns: those of a turn are measured side by side.
func together(some []path, o *Options) [][]asked {
	families := o.Families
	if len(families) == 0 {
		families = []Family{IPv4, IPv6}
	}
	var all [][]asked
	flows := 0
	for i := range o.Flows {
		for _, p := range some {
			for _, f := range families {
				a := asked{p, f, p.flows(o.Flows, i)}
				if a.flows == 0 {
					continue
				}
				if flows += a.flows; len(all) == 0 || flows > mostTogether {
					all, flows = append(all, nil), a.flows
				}
				all[len(all)-1] = append(all[len(all)-1], a)
			}
		}
	}
	return all
}

// roomFor is what the flows of the largest turn take: a pod may have a quarter of the
// table. That of flows which nobody has answered is as large as a node's.
func roomFor(all [][]asked) datapath.Options {
	most := uint32(0)
	for _, turn := range all {
		flows := uint32(0)
		for _, a := range turn {
			flows += uint32(a.flows)
		}
		most = max(most, flows)
	}
	return datapath.Options{Flows: max(8*most+8*leastOpened, 1<<17)}
}

// running is a result that grows.
type running struct {
	*Result
	bench *datapath.Bench
	kinds []datapath.Measured
	turn  int // of the frames
	left  int // quiet rounds that are still to come
}

// measure runs on the thread of a world, which ends with it.
func (m *measuring) measure(ctx context.Context, w *prog.World, turn []asked) (err error) {
	var only unix.CPUSet
	only.Set(m.o.CPU)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("stay on CPU %d: %w", m.o.CPU, err)
	}
	st, err := state(w, topology())
	if err != nil {
		return err
	}
	if m.change != nil {
		m.change(st)
	}
	if err := apply(ctx, w, st); err != nil {
		return err
	}
	s := &site{w: w, d: w.Datapath("")}
	if m.before != nil {
		if err := m.before(s, turn); err != nil {
			return err
		}
	}
	var all []*running
	defer func() {
		for _, r := range all {
			err = errors.Join(err, r.bench.Close())
		}
	}()
	for _, a := range turn {
		r, err := m.prepare(s, a)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	if err := m.takeTurns(ctx, all); err != nil {
		return err
	}
	counters, err := openHardware()
	if err == nil {
		defer func() { err = errors.Join(err, counters.close()) }()
	}
	for _, r := range all {
		if err := counters.count(r); err != nil {
			return err
		}
		if err := r.bench.Check(); err != nil {
			return fmt.Errorf("%s, when all was measured: %w", r.Name(), err)
		}
	}
	return nil
}

// patience is how many times as many rounds are run as are asked for, where the
// machine is not quiet.
const patience = 8

// takeTurns has each result have its rounds, those that are not quiet aside.
func (m *measuring) takeTurns(ctx context.Context, all []*running) error {
	for range patience * all[0].left {
		busy := false
		for _, r := range all {
			if r.left == 0 {
				continue
			}
			if err := errors.Join(context.Cause(ctx), r.round()); err != nil {
				return err
			}
			busy = true
			base := r.Base[len(r.Base)-1]
			if floor, known := m.floors[r.Name()]; !known || base < floor {
				m.floors[r.Name()] = base
			}
			if r.quiet(base, m.floors[r.Name()]) {
				r.left--
			}
		}
		if !busy {
			break
		}
	}
	return nil
}

// prepare opens flows, which take turns by chance.
func (m *measuring) prepare(s *site, a asked) (*running, error) {
	what, err := s.open(&a.p, a.family, a.flows)
	if err != nil {
		return nil, err
	}
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(what.Frames), func(i, j int) {
		what.Frames[i], what.Frames[j] = what.Frames[j], what.Frames[i]
		if what.Flows != nil {
			what.Flows[i], what.Flows[j] = what.Flows[j], what.Flows[i]
		}
	})
	r, err := newRunning(s, what)
	if err != nil {
		return nil, fmt.Errorf("path %s with %d flows: %w", a.p.name, a.flows, err)
	}
	if m.results[a.name()] == nil {
		m.results[a.name()] = &Result{Path: a.p.name, Family: a.family, Flows: a.flows}
	}
	r.Result, r.left = m.results[a.name()], (m.o.Rounds+m.loads-1)/m.loads
	r.Verified, err = r.bench.Verified()
	return r, err
}

// newRunning is one without a result.
func newRunning(s *site, what datapath.Benched) (*running, error) {
	bench, err := s.d.Bench(what)
	if err != nil {
		return nil, err
	}
	r := &running{bench: bench}
	r.kinds = []datapath.Measured{datapath.MeasuredBase, datapath.MeasuredPath}
	if what.Flows != nil {
		r.kinds = append(r.kinds, datapath.MeasuredLookup)
	}
	if bench.Apart() {
		r.kinds = append(r.kinds, datapath.MeasuredApart)
	}
	return r, nil
}

// one runs one packet.
func (r *running) one() error {
	_, err := r.bench.Round(datapath.MeasuredPath, 0, 1)
	return err
}

// round measures each kind some times, one beside the other, and keeps the fastest.
func (r *running) round() error {
	best := make([]float64, len(r.kinds))
	for i := range best {
		best[i] = math.Inf(1)
	}
	slow, times := packets, runs
	if r.bench.Apart() || r.bench.Opens {
		slow, times = slow/shorter, times*shorter
	}
	for range times {
		for i, kind := range r.kinds {
			count := packets
			if kind == datapath.MeasuredPath || kind == datapath.MeasuredApart {
				count = slow
			}
			// Each is elsewhere: what one has touched is in the caches for the next.
			took, err := r.bench.Round(kind, r.turn+i*r.Flows/len(r.kinds), count)
			if err != nil {
				return err
			}
			best[i] = min(best[i], float64(took.Nanoseconds())/float64(count))
		}
		r.turn += slow
	}
	r.keep(best)
	return nil
}

// keep adds a round: the fastest of each kind.
func (r *running) keep(best []float64) {
	of := map[datapath.Measured]float64{}
	for i, kind := range r.kinds {
		of[kind] = best[i]
	}
	base, full := of[datapath.MeasuredBase], of[datapath.MeasuredPath]
	if r.bench.Apart() {
		full += base - of[datapath.MeasuredApart]
	}
	r.Base, r.Full = append(r.Base, base), append(r.Full, full)
	if lookup, there := of[datapath.MeasuredLookup]; there {
		r.Lookup = append(r.Lookup, lookup)
	}
}
