// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"slices"

	"github.com/weirnet/weir/bpf/cover"
)

// Report draws the sum of what was added.
func (c *Collector) Report() *Report {
	kernels := c.Kernels()
	r := c.on(kernels)
	r.Runs = c.runs
	c.alone(r)
	if len(kernels) < 2 {
		return r
	}
	for _, k := range kernels {
		one := c.on([]string{k})
		r.ByKernel = append(r.ByKernel, KernelShares{k, one.Lines(), one.Branches()})
	}
	return r
}

// on is what was reached on some kernels.
func (c *Collector) on(kernels []string) *Report {
	a := &adding{
		index: c.index,
		lines: make([]number, len(c.index.lines)), branches: make([][2]number, len(c.index.branches)), functions: make([]number, len(c.index.functions)),
	}
	r := &Report{Kernels: kernels, Alone: map[string][]Place{}}
	for i, s := range c.index.shapes {
		total := sums{make([]uint64, s.Counters), make([]uint64, s.Counters)}
		for _, k := range kernels {
			of := c.kernels[k][i]
			for n := range total.counts {
				total.counts[n] += of.counts[n]
				total.live[n] += of.live[n]
			}
		}
		if !slices.ContainsFunc(total.counts, func(n uint64) bool { return n > 0 }) {
			r.Apart = append(r.Apart, s.Name)
			continue
		}
		a.add(i, s.Counts(total.counts), s.Counts(total.live))
	}
	a.report(r)
	r.excuse(excuses())
	return r
}

// adding is what the numbers of counters come to, in the source.
type adding struct {
	*index
	lines     []number
	branches  [][2]number
	functions []number
}

type number struct {
	count uint64
	live  bool
	known bool // some object has it
}

func (n *number) add(count uint64, live bool) {
	n.count, n.live, n.known = n.count+count, n.live || live, true
}

func (a *adding) add(shape int, counts, live cover.ObjectCounts) {
	for i, p := range counts.Programs {
		stands := a.programs[shape][i]
		// A line has many blocks: the one that ran most tells how often it did.
		most := map[int]number{}
		for n, lines := range stands.lines {
			for _, l := range lines {
				m := most[l]
				m.count, m.live = max(m.count, p.Counts[n].Entered), m.live || live.Programs[i].Counts[n].Entered > 0
				most[l] = m
			}
		}
		for l, m := range most {
			a.lines[l].add(m.count, m.live)
		}
		for _, b := range stands.branches {
			count, left := p.Counts[b.block], live.Programs[i].Counts[b.block]
			a.branches[b.branch][b.taken].add(count.Taken, left.Taken > 0)
			a.branches[b.branch][1-b.taken].add(count.Next, left.Next > 0)
		}
		for _, f := range stands.functions {
			a.functions[f.function].add(p.Counts[f.block].Entered, live.Programs[i].Counts[f.block].Entered > 0)
		}
	}
}

func (a *adding) report(r *Report) {
	for i, key := range a.index.lines {
		n := a.lines[i]
		if !n.known {
			continue
		}
		l := &Line{Count: n.count, State: Missed}
		switch {
		case n.count > 0:
			l.State = Reached
		case !n.live:
			l.State = Dead
		}
		r.file(key.file).Lines[key.line] = l
	}
	for i, key := range a.index.branches {
		ways := a.branches[i]
		if l := r.line(key.file, key.line); l != nil && ways[0].known {
			l.Branches = append(l.Branches, Branch{[2]Way{
				{ways[0].count, !ways[0].live}, {ways[1].count, !ways[1].live},
			}})
		}
	}
	for i, key := range a.index.functions {
		if n := a.functions[i]; n.live {
			f := r.file(key.file)
			f.Functions = append(f.Functions, Function{key.name, key.line, n.count})
		}
	}
}

// alone finds out which lines one scenario alone reaches.
func (c *Collector) alone(r *Report) {
	for i, key := range c.index.lines {
		l := r.line(key.file, key.line)
		if l == nil || l.State != Reached {
			continue
		}
		for name, reached := range c.reached {
			if reached.has(i) {
				l.Scenarios++
				l.One = name
			}
		}
		if l.Scenarios != 1 {
			l.One = ""
			continue
		}
		r.Alone[l.One] = append(r.Alone[l.One], Place{key.file, key.line})
	}
}
