// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"iter"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
)

// A flow of an older epoch is judged anew where something that it depends on has
// changed since: one of its addresses, its frontend or its backend. Each of these has
// a place in table changed, and Apply writes the epoch that is to come into the places
// of what differs, before that epoch begins. Packets of the epoch before that meet such
// a place judge their flow anew, needlessly: so does a loader that dies in between.
// bpf/lib/changes.h reads the places.

// Multipliers of the hash of an address and a port, as in bpf/lib/changes.h.
const (
	placeWord0 = uint64(0x9e3779b97f4a7c15)
	placeWord1 = uint64(0xc2b2ae3d27d4eb4f)
	placeWord2 = uint64(0x165667b19e3779f9)
	placeWord3 = uint64(0xd6e8feb86659fd93)
	placePort  = uint64(0xa0761d6478bd642f)
	placeShift = 48
)

func hashAddr(a tableAddr) uint64 {
	return uint64(a.W[0])*placeWord0 + uint64(a.W[1])*placeWord1 + uint64(a.W[2])*placeWord2 + uint64(a.W[3])*placeWord3
}

// placeOf is where an address notes its changes.
func placeOf(a tableAddr) uint32 { return uint32(hashAddr(a) >> placeShift) }

// placeOfPort is where a port of an address does, in network order. A frontend of any
// address has that of its port alone.
func placeOfPort(a tableAddr, port uint16) uint32 {
	var hash uint64
	if !decodeAddr(a).IsUnspecified() {
		hash = hashAddr(a)
	}
	return uint32((hash + (uint64(port)+1)*placePort) >> placeShift)
}

// placesTable is table changed.
type placesTable struct {
	memory  *ebpf.Memory
	written map[uint32]struct{} // places that have an epoch, as far as this process wrote it
}

func newPlacesTable(m *ebpf.Map) (*placesTable, error) {
	memory, err := m.Memory()
	if err != nil {
		return nil, fmt.Errorf("map table %s into memory: %w", mapName(m), err)
	}
	return &placesTable{memory: memory, written: map[uint32]struct{}{}}, nil
}

// placeOfAll is behind the others: what is noted there concerns every flow.
const placeOfAll = uint32(unsafe.Offsetof(bpf.ContainerChanges{}.All) / unsafe.Sizeof(bpf.ContainerChanges{}.All))

func (t *placesTable) put(place, epoch uint32) error {
	var word [4]byte
	binary.NativeEndian.PutUint32(word[:], epoch)
	if _, err := t.memory.WriteAt(word[:], int64(place)*int64(len(word))); err != nil {
		return fmt.Errorf("write table changed: %w", err)
	}
	t.written[place] = struct{}{}
	return nil
}

// residue lists the places that have an epoch. That of all is given the first one
// when a datapath is opened.
func (t *placesTable) residue() (places []uint32, err error) {
	table := make([]byte, t.memory.Size())
	if _, err := t.memory.ReadAt(table, 0); err != nil {
		return nil, fmt.Errorf("read table changed: %w", err)
	}
	for place := range placeOfAll + 1 {
		at := binary.NativeEndian.Uint32(table[4*place:])
		if at > 1 || at > 0 && place != placeOfAll {
			places = append(places, place)
		}
	}
	return places, nil
}

// clear makes the table what it was when it was made.
func (t *placesTable) clear() error {
	for place := range t.written {
		if err := t.put(place, 0); err != nil {
			return err
		}
	}
	clear(t.written)
	return nil
}

// noteChanges writes the epoch that is to come into the places of all that the half
// which is written has otherwise than the one that packets read. Where the state
// before is not known that is everything, and so it is where the node or a prefix
// differs: nobody knows the addresses that are behind a prefix, or behind a tunnel
// endpoint that moves. So it is where an eighth
// of the places would be written: most flows have one of them. It is called with
// applying and mu held.
func (d *Datapath) noteChanges(epoch uint32, known bool) error {
	differ := d.ipcache.uneven.len() + d.endpoints.uneven.len() + d.services.uneven.len() + d.backends.uneven.len()
	if !known || differ > int(placeOfAll)/8 || d.nodes.differs() || d.cidrs.differs() || d.aTunnelEndpointMoves() {
		return d.changed.put(placeOfAll, epoch)
	}
	for place := range d.places() {
		if err := d.changed.put(place, epoch); err != nil {
			return err
		}
	}
	return nil
}

// places are those of what differs between the two halves.
func (d *Datapath) places() map[uint32]struct{} {
	half := int(d.settings.Epoch&1) ^ 1 // the one that packets do not read
	all := map[uint32]struct{}{}
	note := func(place uint32) { all[place] = struct{}{} }
	for key := range d.ipcache.differences(half) {
		note(placeOf(key))
	}
	for _, row := range d.endpoints.differences(half) {
		for place := range placesOfEndpoint(row.was, row.is) {
			note(place)
		}
	}
	for key, row := range d.services.differences(half) {
		switch {
		case isAddress(&key):
			note(placeOf(key.Addr))
		case ofKnown(row.was) != ofKnown(row.is):
			note(placeOfPort(key.Addr, key.Port))
		}
	}
	for key, row := range d.backends.differences(half) {
		// No flow is led to one that comes. Without its port it is found only by who
		// has not found it with that.
		if row.was != (backendHalf{}) && key.Port != 0 {
			note(placeOfPort(key.Addr, key.Port))
		}
	}
	return all
}

// placesOfEndpoint are those of the addresses that an endpoint's row had and has.
func placesOfEndpoint(rows ...endpointHalf) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for _, row := range rows {
			for _, a := range []tableAddr{row.Addr4, row.Addr6} {
				if a != (tableAddr{}) && !yield(placeOf(a)) {
					return
				}
			}
		}
	}
}

// ofKnown is what flows that have a backend depend on: not on the lists from which
// new ones choose.
func ofKnown(row serviceHalf) serviceHalf {
	return serviceHalf{Id: row.Id, Flags: row.Flags, Sources: row.Sources}
}
