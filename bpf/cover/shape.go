// SPDX-License-Identifier: Apache-2.0

package cover

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf/blocks"
)

// Shape says what the counters of an object count. They are numbered through
// all of its programs.
type Shape struct {
	*blocks.Object
	// Counters is how many there are.
	Counters int
	// Sum differs where objects have other blocks.
	Sum     string
	layouts []layout // by program
}

// layout says which counters of its object a program has.
type layout []counters

// counters are those of a block. An edge whose goal has no other is counted by
// the goal's.
type counters struct{ entered, taken, next int }

// ShapeOf reads the shape of an object as it is before it is edited.
func ShapeOf(spec *ebpf.CollectionSpec) (*Shape, error) {
	o, err := blocks.Of(spec)
	if err != nil {
		return nil, fmt.Errorf("count the blocks of an object: %w", err)
	}
	s := &Shape{Object: o}
	sum := fnv.New64a()
	for _, p := range o.Programs {
		l := layOut(p, s.Counters)
		s.layouts = append(s.layouts, l.layout)
		s.Counters += l.used
		sum.Write([]byte(p.Name))
		for _, b := range p.Blocks {
			for _, number := range []int{b.First, b.End, b.Next, b.Taken} {
				sum.Write(binary.LittleEndian.AppendUint32(nil, uint32(number)))
			}
		}
	}
	s.Sum = fmt.Sprintf("%016x", sum.Sum64())
	return s, nil
}

// Counts says what numbers of the counters mean.
func (s *Shape) Counts(numbers []uint64) ObjectCounts {
	counts := ObjectCounts{Name: s.Name}
	for i, p := range s.Programs {
		of := make([]BlockCounts, len(p.Blocks))
		for n, at := range s.layouts[i] {
			of[n].Entered = numbers[at.entered]
			if p.Blocks[n].Branches() {
				of[n].Taken, of[n].Next = numbers[at.taken], numbers[at.next]
			}
		}
		counts.Programs = append(counts.Programs, ProgramCounts{p, of})
	}
	return counts
}

type layingOut struct {
	layout
	used int
}

// layOut gives counters to a program, from one on.
func layOut(p *blocks.Program, from int) layingOut {
	l := layingOut{make(layout, len(p.Blocks)), len(p.Blocks)}
	for n := range p.Blocks {
		l.layout[n].entered = from + n
	}
	edge := func(goal int) int {
		if p.Blocks[goal].From == 1 {
			return l.layout[goal].entered
		}
		l.used++
		return from + l.used - 1
	}
	for n, b := range p.Blocks {
		if b.Branches() {
			l.layout[n].taken, l.layout[n].next = edge(b.Taken), edge(b.Next)
		}
	}
	return l
}
