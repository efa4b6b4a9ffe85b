// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/cover"
)

// Collector adds up what runs reached. It is not for several goroutines.
type Collector struct {
	index   *index
	kernels map[string][]sums // by shape
	runs    int
	reached map[string]bits // lines, by scenario
}

// sums are of an object on one kernel, by counter.
type sums struct{ counts, live []uint64 }

// bits are a set of indexes of lines.
type bits []uint64

func (b bits) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bits) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// New makes a collector for the embedded objects.
func New() (*Collector, error) {
	var specs []*ebpf.CollectionSpec
	for _, load := range []func() (*ebpf.CollectionSpec, error){bpf.LoadContainer, bpf.LoadHost, bpf.LoadSocket} {
		spec, err := load()
		if err != nil {
			return nil, fmt.Errorf("read the embedded objects: %w", err)
		}
		specs = append(specs, spec)
	}
	index, err := indexOf(specs)
	if err != nil {
		return nil, err
	}
	return &Collector{index: index, kernels: map[string][]sums{}, reached: map[string]bits{}}, nil
}

// Add adds what one run of a scenario, named with its family, reached on a
// kernel. cover.ErrRecord when the run was of other programs.
func (c *Collector) Add(scenario, kernel string, records []cover.Record) error {
	c.runs++
	of := c.kernels[kernel]
	if of == nil {
		for _, s := range c.index.shapes {
			of = append(of, sums{make([]uint64, s.Counters), make([]uint64, s.Counters)})
		}
		c.kernels[kernel] = of
	}
	for _, r := range records {
		at := slices.IndexFunc(c.index.shapes, func(s *cover.Shape) bool { return s.Name == r.Object })
		if at < 0 {
			return fmt.Errorf("read the counts of %s, by scenario %s on kernel %s: %w", r.Object, scenario, kernel, cover.ErrRecord)
		}
		s := c.index.shapes[at]
		if err := r.Read(s, of[at].counts, of[at].live); err != nil {
			return fmt.Errorf("scenario %s on kernel %s: %w", scenario, kernel, err)
		}
		counts, live := make([]uint64, s.Counters), make([]uint64, s.Counters)
		if err := r.Read(s, counts, live); err != nil {
			return err
		}
		c.note(scenario, at, s.Counts(counts))
	}
	return nil
}

// note notes which lines a scenario reached.
func (c *Collector) note(scenario string, shape int, counts cover.ObjectCounts) {
	reached := c.reached[scenario]
	if reached == nil {
		reached = make(bits, len(c.index.lines)/64+1)
		c.reached[scenario] = reached
	}
	for i, p := range counts.Programs {
		c.index.mark(reached, shape, i, p)
	}
}

// Kernels are those that runs were on.
func (c *Collector) Kernels() []string { return slices.Sorted(maps.Keys(c.kernels)) }
