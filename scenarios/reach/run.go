// SPDX-License-Identifier: Apache-2.0

package reach

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf/cover"
)

// Map says what records of runs mean in the source that objects were built from.
// It may be used by several goroutines.
type Map struct{ index *index }

// NewMap makes a map for objects. blocks.ErrNoLines when one does not tell its source.
func NewMap(specs ...*ebpf.CollectionSpec) (*Map, error) {
	index, err := indexOf(specs)
	if err != nil {
		return nil, err
	}
	return &Map{index}, nil
}

// Run is what one run reached.
type Run struct {
	// Lines are those with an instruction that ran, in order, by file: lib/packet.h.
	Lines map[string][]int
	// Programs are those that ran, by name.
	Programs []string
}

// Read reads the records of one run. cover.ErrRecord when it was of other objects.
func (m *Map) Read(records []cover.Record) (*Run, error) {
	lines := make(bits, len(m.index.lines)/64+1)
	r := &Run{Lines: map[string][]int{}}
	for _, record := range records {
		at := slices.IndexFunc(m.index.shapes, func(s *cover.Shape) bool { return s.Name == record.Object })
		if at < 0 {
			return nil, fmt.Errorf("read the counts of %s: %w", record.Object, cover.ErrRecord)
		}
		s := m.index.shapes[at]
		counts, live := make([]uint64, s.Counters), make([]uint64, s.Counters)
		if err := record.Read(s, counts, live); err != nil {
			return nil, err
		}
		for i, p := range s.Counts(counts).Programs {
			if m.index.mark(lines, at, i, p) {
				r.Programs = append(r.Programs, p.Name)
			}
		}
	}
	for i, key := range m.index.lines {
		if lines.has(i) {
			r.Lines[key.file] = append(r.Lines[key.file], key.line)
		}
	}
	slices.Sort(r.Programs)
	return r, nil
}

// mark adds the lines that a program's run reached, and says whether it has run.
func (x *index) mark(lines bits, shape, program int, counts cover.ProgramCounts) (ran bool) {
	for n, of := range counts.Counts {
		if of.Entered == 0 {
			continue
		}
		ran = true
		for _, line := range x.programs[shape][program].lines[n] {
			lines.set(line)
		}
	}
	return ran
}

// HasCode says whether a program has instructions of a line.
func (m *Map) HasCode(file string, line int) bool {
	_, has := slices.BinarySearchFunc(m.index.lines, lineKey{file, line}, compareLines)
	return has
}
