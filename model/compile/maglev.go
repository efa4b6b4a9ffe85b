// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"slices"

	"github.com/weirnet/weir/model"
)

// MaglevTable makes the table by which a flow's hash, modulo size, finds its
// backend: each entry is an index into those of backends that are not
// Terminating, in the order given. Every node makes the same table of the same
// backends, in whatever order, and a table of backends that are almost the
// same is almost the same, so that a flow that comes in by another node, or
// after a backend has left, mostly finds the one it had.
//
// It is the table of Eisenbud et al., "Maglev: A Fast and Reliable Software
// Network Load Balancer", NSDI 2016, section 3.4: the backends take turns, and
// each takes the next entry that is free in a permutation of its own. A
// backend of weight w has w turns while one of weight 1 has one. Equal weights
// have equal shares but for one entry.
//
// Size is a prime (else some permutations would leave entries out), and much
// greater than the number of backends where shares are to be right: a hundred
// times for a hundredth. It is nil for another size, and when nobody is
// eligible. The expected time is that of size·log(size) steps.
func MaglevTable(backends []model.Backend, size int) []uint32 {
	turns := maglevTurns(backends, size)
	if len(turns) == 0 || !model.IsPrime(size) {
		return nil
	}
	const free = ^uint32(0)
	table := make([]uint32, size)
	for i := range table {
		table[i] = free
	}
	equal := turns[0].weight == turns[len(turns)-1].weight // the greatest is first
	for n := range size {
		turn := &turns[0]
		if equal {
			turn = &turns[n%len(turns)] // what the heap would say, at less cost
		}
		for table[turn.next] != free {
			turn.advance(uint32(size))
		}
		table[turn.next] = turn.index
		turn.taken++
		if !equal {
			sink(turns)
		}
	}
	return table
}

// maglevTurn is a backend that takes turns: where it is in its permutation of
// the table, and how many turns it has had.
type maglevTurn struct {
	index      uint32
	rank       uint32 // by address and port: who is first of those whose turn is at once
	weight     uint32
	taken      uint32
	next, skip uint32
}

func (t *maglevTurn) advance(size uint32) {
	t.next += t.skip
	if t.next >= size {
		t.next -= size
	}
}

// before is whether t's next turn is before o's: a backend of weight w has its
// n-th at the time n/w. That does not depend on who else is there, so who
// leaves does not change the order of the others.
func (t *maglevTurn) before(o *maglevTurn) bool {
	mine, others := uint64(t.taken+1)*uint64(o.weight), uint64(o.taken+1)*uint64(t.weight)
	return mine < others || mine == others && t.rank < o.rank
}

// maglevTurns gives the eligible backends as a heap, whose turn is next first.
func maglevTurns(backends []model.Backend, size int) []maglevTurn {
	if size < 2 {
		return nil
	}
	var eligible []model.Backend
	for _, backend := range backends {
		if !backend.Terminating {
			eligible = append(eligible, backend)
		}
	}
	turns := make([]maglevTurn, len(eligible))
	for i, backend := range eligible {
		offset, skip := maglevHashes(backend)
		turns[i] = maglevTurn{
			index: uint32(i), weight: uint32(max(backend.Weight, 1)),
			next: uint32(offset % uint64(size)), skip: uint32(skip%uint64(size-1)) + 1,
		}
	}
	slices.SortFunc(turns, func(a, b maglevTurn) int {
		x, y := eligible[a.index], eligible[b.index]
		return cmp.Or(x.Address.Compare(y.Address), cmp.Compare(x.Port, y.Port))
	})
	for i := range turns {
		turns[i].rank = uint32(i)
	}
	slices.SortStableFunc(turns, func(a, b maglevTurn) int { return cmp.Compare(b.weight, a.weight) })
	return turns
}

// sink puts the first of a heap where it belongs after it has had its turn.
func sink(turns []maglevTurn) {
	for at := 0; ; {
		child := 2*at + 1
		if child >= len(turns) {
			return
		}
		if child+1 < len(turns) && turns[child+1].before(&turns[child]) {
			child++
		}
		if !turns[child].before(&turns[at]) {
			return
		}
		turns[at], turns[child] = turns[child], turns[at]
		at = child
	}
}

// maglevHashes gives the two hashes of a backend that make its permutation.
// They are part of what all nodes have to agree on: another function would be
// another table.
func maglevHashes(b model.Backend) (offset, skip uint64) {
	hash := fnv.New64a()
	address := b.Address.As16()
	hash.Write(address[:])
	hash.Write(binary.BigEndian.AppendUint16(nil, b.Port))
	sum := hash.Sum64()
	return scramble(sum), scramble(sum + 0x9e3779b97f4a7c15)
}

// scramble spreads what differs in few bits over all of them: it is the
// finalizer of SplitMix64 (Steele et al., OOPSLA 2014).
func scramble(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
