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
	Paths  []string // names; none: all
	Flows  []int    // how many of each path take turns; each is a result
	Rounds int      // of each, in turns with all others
	CPU    int      // on which all of it runs
}

// MaxFlows is how many flows of a path take turns at most.
const MaxFlows = 1 << 16

// ErrNoJIT is a kernel that interprets programs: what it takes for them says nothing.
var ErrNoJIT = errors.New("the kernel has no JIT for BPF")

// packets is how many a run has, and runs how many a round, the fastest of which
// counts: what comes between makes others slower, and none faster.
const (
	packets = 2_000
	runs    = 5
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
	pool, err := prog.NewPool(1, datapath.Options{Flows: 16 * MaxFlows, Unanswered: 16 * MaxFlows})
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	report := &Report{Version: version, Kernel: unix.ByteSliceToString(name.Release[:])}
	var failed error
	err = pool.Use(ctx, topology(), func(w *prog.World) { failed = measure(ctx, w, some, &o, report) })
	return report, errors.Join(err, failed)
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

// running is a result that grows.
type running struct {
	Result
	bench *datapath.Bench
	turn  int // of the frames
}

// measure runs on the thread of a world, which ends with it.
func measure(ctx context.Context, w *prog.World, some []path, o *Options, report *Report) (err error) {
	var only unix.CPUSet
	only.Set(o.CPU)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("stay on CPU %d: %w", o.CPU, err)
	}
	if err := apply(ctx, w, topology()); err != nil {
		return err
	}
	s := &site{w: w, d: w.Datapath("")}
	var all []*running
	defer func() {
		for _, r := range all {
			err = errors.Join(err, r.bench.Close())
		}
	}()
	for i := range some {
		for _, flows := range o.Flows {
			r, err := s.prepare(&some[i], flows)
			if err != nil {
				return err
			}
			all = append(all, r)
		}
	}
	for range o.Rounds {
		for _, r := range all {
			if err := errors.Join(context.Cause(ctx), r.round()); err != nil {
				return err
			}
		}
	}
	for _, r := range all {
		report.Results = append(report.Results, r.Result)
	}
	return nil
}

// prepare opens flows, which take turns by chance.
func (s *site) prepare(p *path, flows int) (*running, error) {
	hook, ifindex, frames, err := s.frames(p, flows)
	if err != nil {
		return nil, err
	}
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	bench, err := s.d.Bench(hook, ifindex, frames)
	if err != nil {
		return nil, fmt.Errorf("path %s with %d flows: %w", p.name, flows, err)
	}
	r := &running{Result: Result{Path: p.name, Flows: flows}, bench: bench}
	r.Verified, err = bench.Verified()
	return r, err
}

// round measures BASE, the path and a bare lookup once.
func (r *running) round() error {
	for what, into := range map[datapath.Measured]*[]float64{
		datapath.MeasuredBase: &r.Base, datapath.MeasuredPath: &r.Full, datapath.MeasuredLookup: &r.Lookup,
	} {
		best := math.Inf(1)
		for i := range runs {
			took, err := r.bench.Round(what, r.turn+i*packets, packets)
			if err != nil {
				return err
			}
			best = min(best, float64(took.Nanoseconds())/packets)
		}
		*into = append(*into, best)
	}
	r.turn += runs * packets
	return nil
}
