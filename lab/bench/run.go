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
)

// Options are what is measured, and how.
type Options struct {
	Paths    []string // names; none: all
	Families []Family // none: both
	Flows    []int    // how many of each path take turns; each is a result
	Rounds   int      // of each, in turns with others
	CPU      int      // on which all of it runs
}

// MaxFlows is how many flows of a path take turns at most.
const MaxFlows = 1 << 20

// ErrNoJIT is a kernel that interprets programs: what it takes for them says nothing.
var ErrNoJIT = errors.New("the kernel has no JIT for BPF")

// packets is how many a run has, and runs how many a round, the fastest of which
// counts: what comes between makes others slower, and none faster. Runs with a system
// call for each packet are shorter, and more: less comes between.
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
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	report := &Report{Version: version, Kernel: unix.ByteSliceToString(name.Release[:])}
	all := together(some, &o)
	pool, err := prog.NewPool(1, roomFor(all))
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	for _, turn := range all {
		var failed error
		err := pool.Use(ctx, topology(), func(w *prog.World) { failed = measure(ctx, w, turn, &o, report) })
		if err := errors.Join(err, failed); err != nil {
			return nil, err
		}
	}
	return report, nil
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

// roomFor is what the flows of the largest turn take: a pod may have a quarter of each
// table.
func roomFor(all [][]asked) datapath.Options {
	most := uint32(0)
	for _, turn := range all {
		flows := uint32(0)
		for _, a := range turn {
			flows += uint32(a.flows)
		}
		most = max(most, flows)
	}
	return datapath.Options{Flows: max(8*most+8*leastOpened, 1<<17), Unanswered: 1 << 18}
}

// running is a result that grows.
type running struct {
	Result
	bench *datapath.Bench
	kinds []datapath.Measured
	turn  int // of the frames
}

// measure runs on the thread of a world, which ends with it.
func measure(ctx context.Context, w *prog.World, turn []asked, o *Options, report *Report) (err error) {
	var only unix.CPUSet
	only.Set(o.CPU)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("stay on CPU %d: %w", o.CPU, err)
	}
	st, err := state(w, topology())
	if err != nil {
		return err
	}
	if err := apply(ctx, w, st); err != nil {
		return err
	}
	s := &site{w: w, d: w.Datapath("")}
	var all []*running
	defer func() {
		for _, r := range all {
			err = errors.Join(err, r.bench.Close())
		}
	}()
	for _, a := range turn {
		r, err := s.prepare(a)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	if err := takeTurns(ctx, all, o.Rounds); err != nil {
		return err
	}
	for _, r := range all {
		if err := r.bench.Check(); err != nil {
			return fmt.Errorf("path %s with %d flows, when all was measured: %w", r.Path, r.Flows, err)
		}
		report.Results = append(report.Results, r.Result)
	}
	return nil
}

func takeTurns(ctx context.Context, all []*running, rounds int) error {
	for range rounds {
		for _, r := range all {
			if err := errors.Join(context.Cause(ctx), r.round()); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare opens flows, which take turns by chance.
func (s *site) prepare(a asked) (*running, error) {
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
	bench, err := s.d.Bench(what)
	if err != nil {
		return nil, fmt.Errorf("path %s with %d flows: %w", a.p.name, a.flows, err)
	}
	r := &running{Result: Result{Path: a.p.name, Family: a.family, Flows: a.flows}, bench: bench}
	r.kinds = []datapath.Measured{datapath.MeasuredBase, datapath.MeasuredPath}
	if what.Flows != nil {
		r.kinds = append(r.kinds, datapath.MeasuredLookup)
	}
	if bench.Apart() {
		r.kinds = append(r.kinds, datapath.MeasuredApart)
	}
	r.Verified, err = bench.Verified()
	return r, err
}

// round measures each kind some times, one beside the other, and keeps the fastest.
func (r *running) round() error {
	best := make([]float64, len(r.kinds))
	for i := range best {
		best[i] = math.Inf(1)
	}
	// All packets of a run open another flow.
	count := packets
	if r.bench.Opens {
		count = min(packets, r.Flows)
	}
	times := runs
	if r.bench.Apart() {
		times, count = times*shorter, count/shorter
	}
	for range times {
		for i, kind := range r.kinds {
			// Each is elsewhere: what one has touched is in the caches for the next.
			took, err := r.bench.Round(kind, r.turn+i*r.Flows/len(r.kinds), count)
			if err != nil {
				return err
			}
			best[i] = min(best[i], float64(took.Nanoseconds())/float64(count))
		}
		r.turn += count
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
