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
	i, j := 0, 0
	for i < len(before) && j < len(after) {
		a, b := &before[i], &after[j]
		if equal(a, b) {
			i, j = i+1, j+1
			continue
		}
		order := compare(a, b)
		if order <= 0 {
			gone = append(gone, a)
			i++
		}
		if order >= 0 {
			came = append(came, b)
			j++
		}
	}
	for ; i < len(before); i++ {
		gone = append(gone, &before[i])
	}
	for ; j < len(after); j++ {
		came = append(came, &after[j])
	}
	return gone, came
}

// listDifferences are those of lists, which are sorted. It does not look into what
// they share.
func listDifferences[E model.Entry](before, after model.List[E], compare func(a, b *E) int, equal func(a, b *E) bool) (gone, came []*E) {
	return differences(unshared(before, after), unshared(after, before), compare, equal)
}

// unshared are the entries of a list in pieces that another does not have.
func unshared[E model.Entry](list, other model.List[E]) []E {
	shared := make(map[*E]bool, len(other.Pieces()))
	for _, piece := range other.Pieces() {
		shared[unsafe.SliceData(piece)] = true
	}
	var apart [][]E
	for _, piece := range list.Pieces() {
		if !shared[unsafe.SliceData(piece)] {
			apart = append(apart, piece)
		}
	}
	return slices.Concat(apart...)
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
