// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
)

// Count is what one packet of a path runs: it is the same on every machine.
type Count struct {
	Path         string `json:"path"`
	Family       Family `json:"family"`
	Instructions int    `json:"instructions"` // of BPF
	Helpers      int    `json:"helpers"`      // calls of the kernel's, lookups among them
	Lookups      int    `json:"lookups"`      // in maps
}

// Verified is how many instructions the verifier has seen of a program: it depends on
// the kernel, and on nothing else.
type Verified struct {
	Hook         model.Hook `json:"hook"`
	Kernel       string     `json:"kernel"` // major and minor
	Instructions int        `json:"instructions"`
}

// Budget is what paths and programs cost, or are to cost.
type Budget struct {
	Counts   []Count    `json:"counts"`
	Verified []Verified `json:"verified"` // none: the kernel does not tell
}

// CountAll counts what paths run, by counters in the blocks of their programs.
func CountAll(ctx context.Context) (*Budget, error) {
	counters := cover.New()
	var counted, plain Budget
	err := errors.Join(
		counted.in(ctx, counters, func(s *site) error { return counted.count(s, counters) }),
		// What is verified is of the programs as they are.
		plain.in(ctx, nil, plain.verify),
	)
	counted.Verified = plain.Verified
	return &counted, errors.Join(err, counters.Close())
}

// in calls do in a world of its own; nil: its programs count nothing.
func (b *Budget) in(ctx context.Context, counters *cover.Counters, do func(*site) error) error {
	options := roomFor(nil)
	if counters != nil {
		options.Edit = counters.Edit
	}
	pool, err := prog.NewPool(1, options)
	if err != nil {
		return err
	}
	defer pool.Close()
	var failed error
	err = pool.Use(ctx, topology(), func(w *prog.World) {
		st, err := state(w, topology())
		if err == nil {
			err = apply(ctx, w, st)
		}
		if err == nil {
			err = do(&site{w: w, d: w.Datapath("")})
		}
		failed = err
	})
	return errors.Join(err, failed)
}

func (b *Budget) count(s *site, counters *cover.Counters) error {
	for _, p := range paths() {
		for _, f := range []Family{IPv4, IPv6} {
			one, err := s.count(&p, f, counters)
			if err != nil {
				return fmt.Errorf("count path %s: %w", p.name, err)
			}
			b.Counts = append(b.Counts, one)
		}
	}
	return nil
}

// count counts one packet. Once a second some do more: the least of several counts.
func (s *site) count(p *path, f Family, counters *cover.Counters) (Count, error) {
	least := Count{Path: p.name, Family: f}
	what, err := s.open(p, f, 1)
	if err != nil {
		return least, err
	}
	r, err := newRunning(s, what)
	if err != nil {
		return least, err
	}
	const several = 5
	for range several {
		counters.Reset()
		if err = r.one(); err != nil {
			break
		}
		if c := total(counters.Snapshot()); least.Instructions == 0 || c.Instructions < least.Instructions {
			least.Instructions, least.Helpers, least.Lookups = c.Instructions, c.Helpers, c.Lookups
		}
	}
	return least, errors.Join(err, r.bench.Close())
}

// total adds up what blocks have run.
func total(all cover.Counts) (c Count) {
	for _, object := range all {
		for _, p := range object.Programs {
			for i, block := range p.Blocks {
				times := int(p.Counts[i].Entered)
				for _, ins := range p.Instructions[block.First:block.End] {
					c.Instructions += times
					if !ins.IsBuiltinCall() {
						continue
					}
					c.Helpers += times
					if asm.BuiltinFunc(ins.Constant) == asm.FnMapLookupElem {
						c.Lookups += times
					}
				}
			}
		}
	}
	return c
}

func (b *Budget) verify(s *site) error {
	kernel, err := release()
	if err != nil {
		return err
	}
	for _, name := range []string{"pod-to-service", "new-flow-in", "node-port"} {
		p := pathOf(name)
		what, err := s.open(&p, IPv4, 1)
		if err != nil {
			return err
		}
		r, err := newRunning(s, what)
		if err != nil {
			return err
		}
		verified, err := r.bench.Verified()
		if err := errors.Join(err, r.bench.Close()); err != nil {
			return err
		}
		if verified > 0 {
			b.Verified = append(b.Verified, Verified{p.hook, majorMinor(kernel), int(verified)})
		}
	}
	return nil
}

func release() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("ask for the kernel's release: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

// majorMinor is 6.18 of 6.18.44-cloud.
func majorMinor(release string) string {
	parts := strings.SplitN(release, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// Write writes a budget as lines that ReadBudget takes.
func (b *Budget) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	for _, c := range b.Counts {
		fmt.Fprintf(out, "%s %s instructions=%d helpers=%d lookups=%d\n", c.Path, c.Family, c.Instructions, c.Helpers, c.Lookups)
	}
	for _, v := range b.Verified {
		fmt.Fprintf(out, "%s kernel=%s verified=%d\n", v.Hook, v.Kernel, v.Instructions)
	}
	return out.Flush()
}

// ReadBudget reads what Write has written.
func ReadBudget(from io.Reader) (*Budget, error) {
	var b Budget
	lines := bufio.NewScanner(from)
	for n := 1; lines.Scan(); n++ {
		var c Count
		var v Verified
		line := lines.Text()
		if _, err := fmt.Sscanf(line, "%s %s instructions=%d helpers=%d lookups=%d", &c.Path, &c.Family, &c.Instructions, &c.Helpers, &c.Lookups); err == nil {
			b.Counts = append(b.Counts, c)
		} else if _, err := fmt.Sscanf(line, "%s kernel=%s verified=%d", &v.Hook, &v.Kernel, &v.Instructions); err == nil {
			b.Verified = append(b.Verified, v)
		} else {
			return nil, fmt.Errorf("read a budget: line %d is neither of a path nor of a hook: %q", n, line)
		}
	}
	return &b, lines.Err()
}

//go:embed budget.txt
var budgetText string

// What may be more without a word: compilers and verifiers of one version differ by less.
const (
	moreRun      = 0.01
	moreVerified = 0.02
)

// Over tells what costs more than a budget says, or is not in it, or is gone: a
// sentence each.
func (b *Budget) Over(budget *Budget) []string {
	var all []string
	for _, was := range budget.Counts {
		i := slices.IndexFunc(b.Counts, func(c Count) bool { return c.Path == was.Path && c.Family == was.Family })
		if i < 0 {
			all = append(all, fmt.Sprintf("path %s/%s is in the budget, and is not there", was.Path, was.Family))
			continue
		}
		now := b.Counts[i]
		name := fmt.Sprintf("path %s/%s", now.Path, now.Family)
		all = append(all, more(name, "instructions", now.Instructions, was.Instructions, moreRun)...)
		all = append(all, more(name, "calls of helpers", now.Helpers, was.Helpers, 0)...)
		all = append(all, more(name, "lookups", now.Lookups, was.Lookups, 0)...)
	}
	for _, now := range b.Counts {
		if !slices.ContainsFunc(budget.Counts, func(c Count) bool { return c.Path == now.Path && c.Family == now.Family }) {
			all = append(all, fmt.Sprintf("path %s/%s has no budget", now.Path, now.Family))
		}
	}
	for _, now := range b.Verified {
		for _, was := range budget.Verified {
			if was.Hook == now.Hook && was.Kernel == now.Kernel {
				all = append(all, more(fmt.Sprintf("program %s on %s", now.Hook, now.Kernel), "verified instructions", now.Instructions, was.Instructions, moreVerified)...)
			}
		}
	}
	return all
}

func more(name, what string, now, was int, slack float64) []string {
	if float64(now) <= float64(was)*(1+slack) {
		return nil
	}
	return []string{fmt.Sprintf("%s takes %d %s, %d more than its budget of %d (%+.1f %%)", name, now, what, now-was, was, 100*(float64(now)/float64(was)-1))}
}
