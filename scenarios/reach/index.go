// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"cmp"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf/blocks"
	"github.com/weirnet/weir/bpf/cover"
)

// index says what of the source the counters of objects stand for.
type index struct {
	shapes    []*cover.Shape
	lines     []lineKey // in order
	branches  []branchKey
	functions []functionKey
	programs  [][]program // by shape
}

type lineKey struct {
	file string
	line int
}

// branchKey is a decision in the source: where it is, and where its two ways
// lead. Copies of it, in other programs or put into their callers by the
// compiler, are one; which of the ways is the jump may differ among them.
type branchKey struct {
	file         string
	line, column int
	to           [2]spot
	ways         bool // both lead to one spot: the jump is the second
}

type spot struct {
	file         string
	line, column int
}

type functionKey struct {
	file string
	line int
	name string
}

// program is what the blocks of a program stand for.
type program struct {
	lines     [][]int // indexes of lines, by block
	branches  []branchOf
	functions []functionOf
}

type branchOf struct {
	block, branch int
	taken         int // which of the ways the jump is
}

type functionOf struct{ block, function int }

// indexOf is of objects.
func indexOf(specs []*ebpf.CollectionSpec) (*index, error) {
	var shapes []*cover.Shape
	for _, spec := range specs {
		shape, err := cover.ShapeOf(spec)
		if err != nil {
			return nil, err
		}
		shapes = append(shapes, shape)
	}
	return newIndex(shapes), nil
}

func newIndex(shapes []*cover.Shape) *index {
	x := &index{shapes: shapes}
	x.number()
	for _, s := range shapes {
		var programs []program
		for _, p := range s.Programs {
			programs = append(programs, x.program(p))
		}
		x.programs = append(x.programs, programs)
	}
	return x
}

// number gives lines, branches and functions their numbers.
func (x *index) number() {
	lines, branches, functions := map[lineKey]bool{}, map[branchKey]bool{}, map[functionKey]bool{}
	for _, s := range x.shapes {
		for _, p := range s.Programs {
			for n := range p.Blocks {
				for _, l := range linesOf(p, n) {
					lines[l] = true
				}
				if b, _, ok := branchAt(p, n); ok {
					branches[b] = true
				}
				if f, ok := functionAt(p, n); ok {
					functions[f] = true
				}
			}
		}
	}
	x.lines = sorted(lines, compareLines)
	x.branches = sorted(branches, compareBranches)
	x.functions = sorted(functions, func(a, b functionKey) int {
		return cmp.Or(compareLines(lineKey{a.file, a.line}, lineKey{b.file, b.line}), cmp.Compare(a.name, b.name))
	})
}

func (x *index) program(p *blocks.Program) program {
	out := program{lines: make([][]int, len(p.Blocks))}
	for n := range p.Blocks {
		for _, l := range linesOf(p, n) {
			out.lines[n] = append(out.lines[n], find(x.lines, l, compareLines))
		}
		if b, taken, ok := branchAt(p, n); ok {
			out.branches = append(out.branches, branchOf{n, find(x.branches, b, compareBranches), taken})
		}
		if f, ok := functionAt(p, n); ok {
			out.functions = append(out.functions, functionOf{n, slices.Index(x.functions, f)})
		}
	}
	return out
}

// linesOf are the lines that instructions of a block name themselves: what one
// has of the instruction before it may be of another block.
func linesOf(p *blocks.Program, n int) []lineKey {
	var lines []lineKey
	for i := p.Blocks[n].First; i < p.Blocks[n].End; i++ {
		if l := (lineKey{p.Places[i].File, p.Places[i].Line}); p.Instructions[i].Source() != nil && l.line > 0 && !slices.Contains(lines, l) {
			lines = append(lines, l)
		}
	}
	return lines
}

func branchAt(p *blocks.Program, n int) (key branchKey, taken int, ok bool) {
	b := p.Blocks[n]
	at := p.Places[b.End-1]
	if !b.Branches() || at.Line == 0 {
		return branchKey{}, 0, false
	}
	key = branchKey{file: at.File, line: at.Line, column: at.Column}
	key.to = [2]spot{spotOf(p, b.Next), spotOf(p, b.Taken)}
	switch order := compareSpots(key.to[0], key.to[1]); {
	case order == 0:
		key.ways = true
	case order > 0:
		key.to[0], key.to[1] = key.to[1], key.to[0]
		return key, 0, true
	}
	return key, 1, true
}

func spotOf(p *blocks.Program, n int) spot {
	at := p.Places[p.Blocks[n].First]
	return spot{at.File, at.Line, at.Column}
}

func functionAt(p *blocks.Program, n int) (functionKey, bool) {
	b := p.Blocks[n]
	if n > 0 && p.Blocks[n-1].Function == b.Function {
		return functionKey{}, false
	}
	at := p.Places[b.First]
	return functionKey{at.File, at.Line, b.Function}, at.Line > 0
}

func compareLines(a, b lineKey) int {
	return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line))
}

func compareSpots(a, b spot) int {
	return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.column, b.column))
}

func compareBranches(a, b branchKey) int {
	return cmp.Or(compareSpots(spot{a.file, a.line, a.column}, spot{b.file, b.line, b.column}),
		compareSpots(a.to[0], b.to[0]), compareSpots(a.to[1], b.to[1]))
}

func sorted[K comparable](set map[K]bool, compare func(a, b K) int) []K {
	all := make([]K, 0, len(set))
	for k := range set {
		all = append(all, k)
	}
	slices.SortFunc(all, compare)
	return all
}

func find[K any](all []K, k K, compare func(a, b K) int) int {
	at, _ := slices.BinarySearchFunc(all, k, compare)
	return at
}
