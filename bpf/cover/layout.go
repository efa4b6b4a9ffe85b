// SPDX-License-Identifier: Apache-2.0

package cover

import "github.com/weirnet/weir/bpf/blocks"

// layout says where the counters of a program are, by index of 8-byte words in
// its object's map.
type layout struct {
	blocks []counters
	words  int // how many of them are this program's
}

// counters are those of a block. An edge whose goal has no other is counted by
// the goal's.
type counters struct{ entered, taken, next int }

func (l *layout) of(block int) counters { return l.blocks[block] }

// layOut gives counters to a program, from a word on.
func layOut(p *blocks.Program, from int) layout {
	l := layout{blocks: make([]counters, len(p.Blocks)), words: len(p.Blocks)}
	for n := range p.Blocks {
		l.blocks[n].entered = from + n
	}
	edge := func(goal int) int {
		if p.Blocks[goal].From == 1 {
			return l.blocks[goal].entered
		}
		l.words++
		return from + l.words - 1
	}
	for n, b := range p.Blocks {
		if b.Branches() {
			l.blocks[n].taken, l.blocks[n].next = edge(b.Taken), edge(b.Next)
		}
	}
	return l
}
