// SPDX-License-Identifier: Apache-2.0

package cover

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/weirnet/weir/bpf/blocks"
)

// Seen is which counters have counted, by object and counter.
type Seen map[string][]bool

// Mark is a counter of an object.
type Mark struct {
	Object  string
	Counter int
}

// Add adds a counter, and says whether it was not in it.
func (s Seen) Add(m Mark) bool {
	if s[m.Object][m.Counter] {
		return false
	}
	s[m.Object][m.Counter] = true
	return true
}

// Clone copies it.
func (s Seen) Clone() Seen {
	c := maps.Clone(s)
	for name, counters := range c {
		c[name] = slices.Clone(counters)
	}
	return c
}

// Count says how many counters are in it.
func (s Seen) Count() int {
	n := 0
	for _, counters := range s {
		for _, seen := range counters {
			if seen {
				n++
			}
		}
	}
	return n
}

// News adds to what was seen what has counted since the last Reset, and gives
// what of it is new. It is made to be asked after every few packets: some
// microseconds.
func (c *Counters) News(seen Seen) []Mark {
	c.mu.Lock()
	defer c.mu.Unlock()
	var news []Mark
	for _, o := range c.objects {
		of := seen[o.Name]
		if of == nil {
			of = make([]bool, len(o.numbers))
			seen[o.Name] = of
		}
		for i := range o.numbers {
			if atomic.LoadUint64(&o.numbers[i]) != 0 && !of[i] {
				of[i] = true
				news = append(news, Mark{o.Name, i})
			}
		}
	}
	return news
}

// Shapes are those of the objects that were edited so far.
func (c *Counters) Shapes() []*Shape {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*Shape
	for _, o := range c.objects {
		all = append(all, o.Shape)
	}
	return all
}

// Of gives the counters of the blocks that have an instruction of such a place,
// and of the edges that lead from them.
func (s *Shape) Of(such func(blocks.Place) bool) []int {
	var all []int
	for i, p := range s.Programs {
		for n, at := range s.layouts[i] {
			b := p.Blocks[n]
			if !slices.ContainsFunc(p.Places[b.First:b.End], such) {
				continue
			}
			all = append(all, at.entered)
			if b.Branches() {
				all = append(all, at.taken, at.next)
			}
		}
	}
	return all
}
