// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"github.com/weirnet/weir/bpf/blocks"
	"github.com/weirnet/weir/bpf/cover"
	"github.com/weirnet/weir/bpf/mutant"
)

// places numbers the blocks of all programs.
type places struct {
	programs map[string]*blocks.Program
	first    map[string]int
	size     int
}

func newPlaces(objects []*Object) *places {
	p := &places{programs: map[string]*blocks.Program{}, first: map[string]int{}}
	for _, o := range objects {
		for name, prog := range o.programs {
			p.programs[name], p.first[name] = prog, p.size
			p.size += len(prog.Blocks)
		}
	}
	return p
}

// of are the blocks that a mutant is in, one a program.
func (p *places) of(m *mutant.Mutant) []int {
	var out []int
	for _, name := range m.Programs {
		prog := p.programs[name]
		start := -1
		for n, b := range prog.Blocks {
			if start < 0 && b.Function == m.Function {
				start = b.First
			}
			if start >= 0 && b.First <= start+m.Index && start+m.Index < b.End {
				out = append(out, p.first[name]+n)
				break
			}
		}
	}
	return out
}

// reach is a set of blocks that a run enters.
type reach []uint64

func (p *places) reached(counts cover.Counts) reach {
	r := make(reach, (p.size+63)/64)
	for _, o := range counts {
		for _, prog := range o.Programs {
			first, known := p.first[prog.Name]
			if !known {
				continue
			}
			for n, c := range prog.Counts {
				if c.Entered > 0 {
					r.add(first + n)
				}
			}
		}
	}
	return r
}

func (r reach) add(n int)      { r[n/64] |= 1 << (n % 64) }
func (r reach) has(n int) bool { return n/64 < len(r) && r[n/64]&(1<<(n%64)) != 0 }

func (r reach) any(of []int) bool {
	for _, n := range of {
		if r.has(n) {
			return true
		}
	}
	return false
}
