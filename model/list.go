// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/json"
	"iter"
	"net/netip"
	"slices"
)

// List is entries in their order. Lists that are made from one another share what
// is the same in both, so that a change costs what it changes and not what there
// is. Equal lists are deeply equal, whatever they were made from. What a list
// holds is changed by nobody who has given it away.
type List[E Entry] struct {
	// pieces begin where an entry says so, and at the first. None is empty.
	pieces [][]E
}

// Entry is what a List holds. Begins is whether a piece begins at it: a matter of
// what it is found by alone, and so for about one of pieceSize.
type Entry interface{ Begins() bool }

// pieceSize is a power of 2: how many entries a piece has on average.
const pieceSize = 128

// ListOf gives the list of entries.
func ListOf[E Entry](all ...E) List[E] {
	var l List[E]
	l.add(slices.Clone(all))
	return l
}

// add puts entries behind the others. They become the list's.
func (l *List[E]) add(all []E) {
	for len(all) > 0 {
		end := 1
		for end < len(all) && !all[end].Begins() {
			end++
		}
		piece := all[:end:end]
		if last := len(l.pieces) - 1; last >= 0 && !piece[0].Begins() {
			l.pieces[last] = slices.Concat(l.pieces[last], piece)
		} else {
			l.pieces = append(l.pieces, piece)
		}
		all = all[end:]
	}
}

// Len is the number of entries.
func (l List[E]) Len() int {
	n := 0
	for _, piece := range l.pieces {
		n += len(piece)
	}
	return n
}

// At gives the entry of an index, from 0.
func (l List[E]) At(index int) *E {
	for _, piece := range l.pieces {
		if index < len(piece) {
			return &piece[index]
		}
		index -= len(piece)
	}
	panic("model: index out of range")
}

// All gives the entries one by one.
func (l List[E]) All() iter.Seq[*E] {
	return func(yield func(*E) bool) {
		for _, piece := range l.pieces {
			for i := range piece {
				if !yield(&piece[i]) {
					return
				}
			}
		}
	}
}

// Slice gives a copy.
func (l List[E]) Slice() []E { return slices.Concat(l.pieces...) }

// Pieces gives what two lists have in common as the same slices.
func (l List[E]) Pieces() [][]E { return l.pieces }

// With gives the list with more entries behind the others.
func (l List[E]) With(more ...E) List[E] {
	l.pieces = slices.Clone(l.pieces)
	l.add(slices.Clone(more))
	return l
}

// MarshalJSON writes the entries as an array.
func (l List[E]) MarshalJSON() ([]byte, error) { return json.Marshal(l.Slice()) }

// UnmarshalJSON reads what MarshalJSON writes.
func (l *List[E]) UnmarshalJSON(data []byte) error {
	var all []E
	err := json.Unmarshal(data, &all)
	*l = ListOf(all...)
	return err
}

// From gives the entries of a sorted list from the first one on of which order says
// that it is not less than what is looked for.
func (l List[E]) From(order func(*E) int) iter.Seq[*E] {
	return func(yield func(*E) bool) {
		after := func(piece []E, _ struct{}) int { return order(&piece[len(piece)-1]) }
		n, _ := slices.BinarySearchFunc(l.pieces, struct{}{}, after)
		for ; n < len(l.pieces); n++ {
			for i := range l.pieces[n] {
				if e := &l.pieces[n][i]; order(e) >= 0 && !yield(e) {
					return
				}
			}
		}
	}
}

// Spliced gives a sorted list without some of its entries and with others, both
// sorted. It is not ok if those are not there, or these are.
func (l List[E]) Spliced(gone, came []E, compare func(a, b E) int) (made List[E], ok bool) {
	made.pieces = make([][]E, 0, len(l.pieces)+1)
	rest := l.pieces
	for len(rest) > 0 && len(gone)+len(came) > 0 {
		// Pieces before that of the next change are not looked into.
		n := pieceOf(rest, firstOf(gone, came, compare), compare)
		made.pieces = append(made.pieces, rest[:n]...)
		piece := rest[n]
		rest = rest[n+1:]
		out, in := len(gone), len(came)
		if len(rest) > 0 {
			out, _ = slices.BinarySearchFunc(gone, rest[0][0], compare)
			in, _ = slices.BinarySearchFunc(came, rest[0][0], compare)
		}
		merged, ok := mergeInto(piece, gone[:out], came[:in], compare)
		if !ok {
			return l, false
		}
		made.add(merged)
		gone, came = gone[out:], came[in:]
	}
	made.pieces = append(made.pieces, rest...)
	made.add(slices.Clone(came)) // of a list without entries
	if len(made.pieces) == 0 {
		made.pieces = nil
	}
	return made, len(gone) == 0
}

// firstOf is the first change of two lists, of which one may be empty.
func firstOf[E any](gone, came []E, compare func(a, b E) int) E {
	if len(gone) == 0 || len(came) > 0 && compare(came[0], gone[0]) < 0 {
		return came[0]
	}
	return gone[0]
}

// pieceOf is the index of the piece in which an entry is, or is to be: the last that
// begins with it or before it, or else the first.
func pieceOf[E any](pieces [][]E, e E, compare func(a, b E) int) int {
	n, _ := slices.BinarySearchFunc(pieces[1:], e, func(piece []E, e E) int {
		if compare(piece[0], e) <= 0 {
			return -1
		}
		return 1
	})
	return n
}

// mergeInto gives entries without some, and with others.
func mergeInto[E any](all, gone, came []E, compare func(a, b E) int) (merged []E, ok bool) {
	merged = make([]E, 0, max(len(all)-len(gone)+len(came), 0))
	for len(gone)+len(came) > 0 {
		insert := len(gone) == 0 || len(came) > 0 && compare(came[0], gone[0]) < 0
		next := &came
		if !insert {
			next = &gone
		}
		n, found := slices.BinarySearchFunc(all, (*next)[0], compare)
		merged, all = append(merged, all[:n]...), all[n:]
		switch {
		case insert == found:
			return nil, false
		case insert:
			merged = append(merged, came[0])
		default:
			all = all[1:]
		}
		*next = (*next)[1:]
	}
	return append(merged, all...), true
}

// Begins says where a piece of a List begins.
func (a Address) Begins() bool { return begins(a.Prefix.Addr(), uint64(a.Prefix.Bits())) }

// Begins says where a piece of a List begins.
func (s Service) Begins() bool {
	return begins(s.Address, uint64(s.Port)<<16|uint64(s.Protocol)<<8|uint64(s.Scope))
}

// begins is so of one of pieceSize: the bits are mixed as by splitmix64.
func begins(addr netip.Addr, more uint64) bool {
	mixed := more + 1
	bytes := addr.As16()
	for i := 0; i < len(bytes); i += 8 {
		var word uint64
		for _, b := range bytes[i : i+8] {
			word = word<<8 | uint64(b)
		}
		mixed = (mixed ^ word) * 0xbf58476d1ce4e5b9
		mixed ^= mixed >> 31
		mixed *= 0x94d049bb133111eb
		mixed ^= mixed >> 29
	}
	return mixed%pieceSize == 0
}
