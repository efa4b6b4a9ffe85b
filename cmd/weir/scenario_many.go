// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/report"
)

// manyFlags say how many runs there are, in which order, and when to stop.
type manyFlags struct {
	failFast int // 0: never
	quiet    bool
	shuffle  seed
	times    int
	rerun    bool
}

func (m *manyFlags) add(f *pflag.FlagSet) {
	m.times = 1
	f.Var(positive{&m.failFast}, "fail-fast", "stop after one failure, or with --fail-fast=N after N")
	f.Lookup("fail-fast").NoOptDefVal = "1"
	f.BoolVarP(&m.quiet, "quiet", "q", false, "show only what failed, by cause, and the last line")
	f.Var(&m.shuffle, "shuffle", "run in the order of this seed, a number or 'on' for one by chance, which is told")
	f.Var(positive{&m.times}, "count", "run each so many times, numbered name/family#1 and on")
	f.BoolVar(&m.rerun, "rerun-failed", false, "run only what failed in the last report: of --report, or of "+defaultReport)
}

// defaultReport is where 'make scenario' keeps its report.
const defaultReport = "reports"

// positive is a flag whose value is a number from 1 on; 0 where it is not given.
type positive struct{ value *int }

func (p positive) String() string { return count(p).String() }
func (p positive) Type() string   { return "N" }

func (p positive) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return errors.New("it is a number from 1 on")
	}
	*p.value = n
	return nil
}

// seed is a flag whose value is the seed of an order.
type seed struct{ value *uint64 }

func (s *seed) String() string {
	if s.value == nil {
		return ""
	}
	return strconv.FormatUint(*s.value, 10)
}

func (s *seed) Type() string { return "SEED" }

func (s *seed) Set(text string) error {
	n, err := strconv.ParseUint(text, 10, 64)
	if text == "on" {
		n, err = uint64(rand.Uint32()), nil // short enough to be typed
	}
	if err != nil {
		return errors.New("it is a number from 0 on, or 'on'")
	}
	s.value = &n
	return nil
}

// here refuses what guests cannot do.
func (m *manyFlags) here() error {
	switch {
	case m.shuffle.value != nil:
		return usageError(errors.New("--shuffle is for runs on this machine's kernel: guests run theirs in an order of their own"))
	case m.times > 1:
		return usageError(errors.New("--count is for runs on this machine's kernel: a guest runs each once"))
	}
	return nil
}

// apply has a runner run what is asked for. Folder is that of --report. Where the
// report was cut short, it says so.
func (m *manyFlags) apply(r *scenarios.Runner, folder string, out io.Writer) error {
	r.Times, r.Shuffle = m.times, m.shuffle.value
	if !m.rerun {
		return nil
	}
	folder = cmp.Or(folder, defaultReport)
	kept, err := report.Read(folder)
	if err != nil {
		return usageError(fmt.Errorf("--rerun-failed: %w", err))
	}
	only, failed := kept.Failed()
	if failed == 0 {
		return usageError(fmt.Errorf("--rerun-failed: nothing failed in %s%s", folder, butShort(kept)))
	}
	tellShort(out, kept)
	r.Only = only
	return nil
}

// butShort says of a report that it does not have all results.
func butShort(kept *report.Kept) string {
	if kept.Short == "" {
		return ""
	}
	return ", but " + kept.Short
}

func tellShort(out io.Writer, kept *report.Kept) {
	if kept.Short != "" {
		fmt.Fprintf(out, "weir: report %s: %s\n", kept.Name, kept.Short)
	}
}

// tellSeed says by which seed the order is made.
func (m *manyFlags) tellSeed(out io.Writer) {
	if m.shuffle.value != nil {
		fmt.Fprintf(out, "weir: the order is that of --shuffle %s\n", &m.shuffle)
	}
}

// errFailedEnough ends a run that has failed often enough.
var errFailedEnough = errors.New("enough has failed")

// fast gives the context of a run, and what is told of each result.
func (m *manyFlags) fast(parent context.Context) (ctx context.Context, tell func(scenarios.Result), done func()) {
	ctx, stop := context.WithCancelCause(parent)
	failed := 0
	tell = func(r scenarios.Result) {
		if r.Failed() {
			failed++
		}
		if m.failFast > 0 && failed >= m.failFast {
			stop(errFailedEnough)
		}
	}
	return ctx, tell, func() { stop(nil) }
}

// enough says what was not run where --fail-fast has ended the run; else the error
// is as it was.
func (m *manyFlags) enough(ctx context.Context, err error, done, total int) error {
	if !errors.Is(context.Cause(ctx), errFailedEnough) || !errors.Is(err, context.Canceled) && !errors.Is(err, errFailedEnough) {
		return err
	}
	return fmt.Errorf("stopped by --fail-fast=%d: %d of %d runs were not run", m.failFast, total-done, total)
}
