// SPDX-License-Identifier: Apache-2.0

package cover

import (
	"sync/atomic"

	"github.com/weirnet/weir/bpf/blocks"
)

// Counts are what the counters held at one time, by object's name.
type Counts []ObjectCounts

// ObjectCounts are those of an object, by program's name.
type ObjectCounts struct {
	Name     string
	Programs []ProgramCounts
}

// ProgramCounts are those of a program.
type ProgramCounts struct {
	*blocks.Program
	Counts []BlockCounts // of each of Program.Blocks
}

// BlockCounts says how often a block was entered and, where it branches, how
// often its jump was taken and how often not.
type BlockCounts struct{ Entered, Taken, Next uint64 }

// Snapshot reads the counts.
func (c *Counters) Snapshot() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all Counts
	for _, o := range c.objects {
		counts := ObjectCounts{Name: o.Name}
		for i, p := range o.Programs {
			counts.Programs = append(counts.Programs, ProgramCounts{p, o.read(p, &o.layouts[i])})
		}
		all = append(all, counts)
	}
	return all
}

func (o *object) read(p *blocks.Program, l *layout) []BlockCounts {
	counts := make([]BlockCounts, len(p.Blocks))
	for n := range counts {
		at := l.of(n)
		counts[n].Entered = atomic.LoadUint64(&o.words[at.entered])
		if p.Blocks[n].Branches() {
			counts[n].Taken = atomic.LoadUint64(&o.words[at.taken])
			counts[n].Next = atomic.LoadUint64(&o.words[at.next])
		}
	}
	return counts
}
