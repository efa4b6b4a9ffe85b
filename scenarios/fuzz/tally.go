// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"cmp"
	"maps"
	"slices"

	"github.com/weirnet/weir/model"
)

// Tally counts what was done.
type Tally struct {
	Frames        uint64 // judged by program and model
	Undeliverable uint64 // that the kernel does not give to a program
	Sequences     uint64
	Changes       uint64 // of objects
	Refused       uint64 // changes that do not compile
	// Where the search is guided: how many blocks and branches were reached, and
	// cases are kept.
	Reached, Kept int

	met map[Outcome]uint64
}

// Outcome is what programs did to a number of frames.
type Outcome struct {
	Hook   model.Hook   `json:"hook"`
	Reason model.Reason `json:"reason"` // empty: forwarded
	Frames uint64       `json:"frames"`
}

func (t *Tally) count(hook model.Hook, reason model.Reason) {
	t.Frames++
	if t.met == nil {
		t.met = map[Outcome]uint64{}
	}
	t.met[Outcome{Hook: hook, Reason: reason}]++
}

func (t *Tally) add(other *Tally) {
	t.Frames += other.Frames
	t.Undeliverable += other.Undeliverable
	t.Sequences += other.Sequences
	t.Changes += other.Changes
	t.Refused += other.Refused
	if t.met == nil {
		t.met = map[Outcome]uint64{}
	}
	for o, n := range other.met {
		t.met[o] += n
	}
}

// Outcomes are what programs did to the frames, the most frequent first.
func (t *Tally) Outcomes() []Outcome {
	out := slices.Collect(maps.Keys(t.met))
	for i := range out {
		out[i].Frames = t.met[out[i]]
	}
	slices.SortFunc(out, func(a, b Outcome) int {
		return cmp.Or(cmp.Compare(b.Frames, a.Frames), cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
