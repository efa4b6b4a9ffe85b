// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"slices"
	"unsafe"

	"github.com/weirnet/weir/model"
)

// same says whether two slices are one: equal, without a look at elements.
func same[E any](a, b []E) bool {
	return len(a) == len(b) && unsafe.SliceData(a) == unsafe.SliceData(b)
}

// differences lists the elements of before that after lacks or has otherwise, and
// those of after that before lacks or has otherwise. Where both are sorted, they
// are few; where they are not, the lists have elements that are in both.
func differences[E any](before, after []E, compare func(a, b *E) int, equal func(a, b *E) bool) (gone, came []*E) {
	if same(before, after) {
		return nil, nil
	}
	return differencesOf([][]E{before}, [][]E{after}, compare, equal)
}

// listDifferences are those of lists, which are sorted. It does not look into what
// they share.
func listDifferences[E model.Entry](before, after model.List[E], compare func(a, b *E) int, equal func(a, b *E) bool) (gone, came []*E) {
	apart, others := unshared(before, after, compare)
	return differencesOf(apart, others, compare, equal)
}

// unshared are the pieces of two lists that they do not share. Of lists that are not
// sorted they may be more.
func unshared[E model.Entry](before, after model.List[E], compare func(a, b *E) int) (apart, others [][]E) {
	a, b := before.Pieces(), after.Pieces()
	for len(a) > 0 && len(b) > 0 {
		if same(a[0], b[0]) {
			a, b = a[1:], b[1:]
			continue
		}
		order := compare(&a[0][0], &b[0][0])
		if order <= 0 {
			apart, a = append(apart, a[0]), a[1:]
		}
		if order >= 0 {
			others, b = append(others, b[0]), b[1:]
		}
	}
	return append(apart, a...), append(others, b...)
}

// cursor goes through entries in pieces.
type cursor[E any] struct {
	pieces [][]E
	next   int // in the first of them
}

// at is the entry that it has come to; nil behind the last one.
func (c *cursor[E]) at() *E {
	for len(c.pieces) > 0 && c.next == len(c.pieces[0]) {
		c.pieces, c.next = c.pieces[1:], 0
	}
	if len(c.pieces) == 0 {
		return nil
	}
	return &c.pieces[0][c.next]
}

func differencesOf[E any](before, after [][]E, compare func(a, b *E) int, equal func(a, b *E) bool) (gone, came []*E) {
	old, now := cursor[E]{pieces: before}, cursor[E]{pieces: after}
	for {
		a, b := old.at(), now.at()
		order := 0
		switch {
		case a == nil && b == nil:
			return gone, came
		case a == nil:
			order = 1
		case b == nil:
			order = -1
		case equal(a, b):
			old.next, now.next = old.next+1, now.next+1
			continue
		default:
			order = compare(a, b)
		}
		if order <= 0 {
			gone = append(gone, a)
			old.next++
		}
		if order >= 0 {
			came = append(came, b)
			now.next++
		}
	}
}

func compareServices(a, b *model.Service) int {
	if order := a.Address.Compare(b.Address); order != 0 {
		return order
	}
	if order := int(a.Protocol) - int(b.Protocol); order != 0 {
		return order
	}
	if order := int(a.Port) - int(b.Port); order != 0 {
		return order
	}
	return int(a.Scope) - int(b.Scope)
}

func equalServices(a, b *model.Service) bool {
	return a.Address == b.Address && a.Port == b.Port && a.Protocol == b.Protocol && a.Scope == b.Scope &&
		a.Name == b.Name && a.Kind == b.Kind && a.Local == b.Local && a.Affinity == b.Affinity &&
		a.DSR == b.DSR && a.MaglevSize == b.MaglevSize &&
		(same(a.Backends, b.Backends) || slices.Equal(a.Backends, b.Backends)) &&
		(a.Sources == nil) == (b.Sources == nil) && slices.Equal(a.Sources, b.Sources)
}

func compareAddrs(a, b *netip.Addr) int { return a.Compare(*b) }

func equalAddrs(a, b *netip.Addr) bool { return *a == *b }

func compareAddresses(a, b *model.Address) int { return a.Prefix.Compare(b.Prefix) }

// equalAddresses leaves out what no table holds.
func equalAddresses(a, b *model.Address) bool {
	return a.Prefix == b.Prefix && a.Identity == b.Identity && a.Native == b.Native && a.Node == b.Node && a.TunnelEndpoint == b.TunnelEndpoint
}

func compareEndpoints(a, b *model.Endpoint) int { return a.Name.Compare(b.Name) }

// sameAddressesOfEndpoints compares what the table of addresses holds of endpoints.
func sameAddressesOfEndpoints(a, b *model.Endpoint) bool {
	return a.Name == b.Name && a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 && a.Identity == b.Identity && a.Device.Ifindex == b.Device.Ifindex
}
