// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func addressAt(n int) Address {
	return Address{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32), Identity: Identity(n)}
}

func compareListed(a, b Address) int {
	return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Identity, b.Identity))
}

// A list is the same whatever it was made from, and shares with that what it can.
func TestListsOfTheSameAreTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var list List[Address]
	have := map[int]bool{}
	for range 100 {
		before, was := list, list.Slice()
		var gone, came []Address
		for range 1 + r.IntN(30) {
			n := r.IntN(900)
			if r.IntN(20) == 0 {
				n = 0
			}
			if slices.ContainsFunc(slices.Concat(gone, came), func(a Address) bool { return a == addressAt(n) }) {
				continue
			}
			if have[n] {
				gone = append(gone, addressAt(n))
			} else {
				came = append(came, addressAt(n))
			}
			have[n] = !have[n]
		}
		slices.SortFunc(gone, compareListed)
		slices.SortFunc(came, compareListed)
		var ok bool
		list, ok = list.Spliced(gone, came, compareListed)
		require.True(t, ok)
		var want []Address
		for n := range 900 {
			if have[n] {
				want = append(want, addressAt(n))
			}
		}
		require.Equal(t, ListOf(want...), list)
		require.Equal(t, want, list.Slice())
		require.Equal(t, len(want), list.Len())
		require.Equal(t, was, before.Slice(), "what was given before is changed")
		written, err := json.Marshal(list)
		require.NoError(t, err)
		var read List[Address]
		require.NoError(t, json.Unmarshal(written, &read))
		require.Equal(t, list, read)
		if len(want) > 0 {
			n := r.IntN(len(want))
			require.Equal(t, want[n], *list.At(n))
			for a := range list.From(func(a *Address) int { return compareListed(*a, want[n]) }) {
				require.Equal(t, want[n], *a)
				break
			}
		}
	}
}

func TestSplicedRefusesWhatCannotBe(t *testing.T) {
	list := ListOf(addressAt(1), addressAt(3))
	for name, tt := range map[string]struct{ gone, came []Address }{
		"one that is not there goes":   {gone: []Address{addressAt(2)}},
		"the last one goes twice":      {gone: []Address{addressAt(3), addressAt(4)}},
		"one that is there comes":      {came: []Address{addressAt(3)}},
		"one goes from an empty place": {gone: []Address{addressAt(0)}},
	} {
		t.Run(name, func(t *testing.T) {
			_, ok := list.Spliced(tt.gone, tt.came, compareListed)
			require.False(t, ok)
		})
	}
	_, ok := List[Address]{}.Spliced([]Address{addressAt(1)}, nil, compareListed)
	require.False(t, ok)
}

// One change leaves all but a few pieces the same slices.
func TestListsShareWhatIsTheSame(t *testing.T) {
	var all []Address
	for n := range 10_000 {
		all = append(all, addressAt(2*n))
	}
	list := ListOf(all...)
	require.InDelta(t, len(all)/pieceSize, len(list.Pieces()), 30)
	next, ok := list.Spliced(nil, []Address{addressAt(5001)}, compareListed)
	require.True(t, ok)
	shared := map[*Address]bool{}
	for _, piece := range list.Pieces() {
		shared[unsafe.SliceData(piece)] = true
	}
	others := 0
	for _, piece := range next.Pieces() {
		if !shared[unsafe.SliceData(piece)] {
			others++
		}
	}
	require.LessOrEqual(t, others, 2)
	require.Positive(t, others)
}

// What one address that comes costs, in lists of two sizes.
func BenchmarkSpliced(b *testing.B) {
	for _, size := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			var all []Address
			for n := range size {
				all = append(all, addressAt(2*n))
			}
			list, came := ListOf(all...), []Address{{}}
			for i := 0; b.Loop(); i++ {
				came[0] = addressAt(2*(i*7919%size) + 1)
				_, ok := list.Spliced(nil, came, compareListed)
				require.True(b, ok)
			}
		})
	}
}
