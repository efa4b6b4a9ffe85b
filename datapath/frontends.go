// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// Frontend is a service as packets meet it.
type Frontend struct {
	Name     model.PortRef // its Name is "service N" where the label is lost
	Kind     model.ServiceKind
	Scope    model.Scope
	Protocol model.Protocol
	Address  netip.Addr
	Port     uint16
	Local    bool
	DSR      bool
	Affinity time.Duration
	// Restricted frontends are for Sources only.
	Restricted bool
	Sources    []netip.Prefix
	MaglevSize int // 0: by chance
	Backends   []FrontendBackend
}

// FrontendBackend is one place where a frontend is served.
type FrontendBackend struct {
	Address     netip.Addr
	Port        uint16
	Name        model.Key // of a pod of this node
	Share       float64   // of new flows, from 0 to 1
	Terminating bool
}

// Services reads the frontends, sorted by name, scope, protocol and address.
func (d *Datapath) Services() ([]Frontend, error) {
	return d.view().Services()
}

// NATs lists the sources that are translated.
func (d *Datapath) NATs() ([]NAT, error) {
	return d.view().NATs()
}

// Services reads the frontends, sorted by name, scope, protocol and address.
func (v *View) Services() ([]Frontend, error) {
	var all []Frontend
	err := v.consistent(func(half int) (err error) {
		all, err = v.services(half)
		return err
	})
	slices.SortFunc(all, func(a, b Frontend) int {
		return cmp.Or(a.Name.Compare(b.Name), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Protocol, b.Protocol),
			a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	return all, err
}

// serviceLists are what services point to, by its number.
type serviceLists struct {
	slots    map[uint32]map[uint32]slotValue // by set and index
	sources  map[uint32][]netip.Prefix       // by list
	backends map[uint32][]backendOf          // by service
	names    map[netip.Addr]model.Key
}

type backendOf struct {
	key   backendKey
	state uint32
}

func (v *View) services(half int) ([]Frontend, error) {
	lists, err := v.readLists(half)
	if err != nil {
		return nil, err
	}
	var all []Frontend
	var failed error
	err = readBatches(v.maps[bpf.ContainerMapServices], func(key serviceKey, pair [2]serviceHalf) {
		if pair[half].Id == 0 || isAddress(&key) {
			return
		}
		f, err := v.frontend(&key, &pair[half], lists)
		failed = cmp.Or(failed, err)
		all = append(all, f)
	})
	return all, cmp.Or(err, failed)
}

func (v *View) readLists(half int) (*serviceLists, error) {
	l := &serviceLists{
		slots: map[uint32]map[uint32]slotValue{}, sources: map[uint32][]netip.Prefix{},
		backends: map[uint32][]backendOf{},
	}
	err := readBatches(v.maps[bpf.ContainerMapSlotRows], func(key slotRowKey, row slotRow) {
		if l.slots[key.Set] == nil {
			l.slots[key.Set] = map[uint32]slotValue{}
		}
		for i, slot := range row.Slot {
			l.slots[key.Set][key.Row*uint32(slotsARow)+uint32(i)] = slot
		}
	})
	if err != nil {
		return nil, err
	}
	err = readBatches(v.maps[bpf.ContainerMapBackends], func(key backendKey, pair [2]backendHalf) {
		if pair[half].State != 0 && key.Port != 0 { // port 0 repeats one
			l.backends[key.Service] = append(l.backends[key.Service], backendOf{key, pair[half].State})
		}
	})
	if err != nil {
		return nil, err
	}
	var key sourceKey
	var value uint32
	iter := v.maps[bpf.ContainerMapSources].Iterate()
	for iter.Next(&key, &value) {
		l.sources[key.List] = append(l.sources[key.List], decodeSource(&key))
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read table sources: %w", err)
	}
	l.names, err = v.ends(half)
	return l, err
}

func decodeSource(key *sourceKey) netip.Prefix {
	addr, bits := decodeAddr(key.Addr), int(key.Bits)-listBits
	if !addr.IsValid() {
		addr = netip.IPv6Unspecified()
	}
	if addr.Is4() {
		bits -= 96
	}
	return netip.PrefixFrom(addr, bits)
}

func (v *View) frontend(key *serviceKey, s *serviceHalf, lists *serviceLists) (Frontend, error) {
	f := Frontend{
		Name: v.labels.service(s.Id), Kind: v.labels.Services[s.Id].Kind,
		Scope: model.Scope(key.Scope), Protocol: model.Protocol(key.Proto),
		Address: decodeAddr(key.Addr), Port: decodePort(key.Port),
		Local:      s.Flags&uint32(bpf.ContainerServiceFlagsSERVICE_LOCAL) != 0,
		DSR:        s.Flags&uint32(bpf.ContainerServiceFlagsSERVICE_DSR) != 0,
		Affinity:   time.Duration(s.Affinity) * time.Second,
		Restricted: s.Flags&uint32(bpf.ContainerServiceFlagsSERVICE_SOURCES) != 0,
		MaglevSize: int(s.TableSize),
	}
	if f.Restricted {
		f.Sources = slices.Clone(lists.sources[s.Sources])
		slices.SortFunc(f.Sources, comparePrefixes)
	}
	shares, err := v.shares(s, lists.slots[s.Set])
	for _, b := range lists.backends[s.Id] {
		backend := FrontendBackend{
			Address: decodeAddr(b.key.Addr), Port: decodePort(b.key.Port),
			Terminating: b.state == uint32(bpf.ContainerBackendStateBACKEND_TERMINATING),
		}
		backend.Name = lists.names[backend.Address]
		backend.Share = shares[netip.AddrPortFrom(backend.Address, backend.Port)]
		f.Backends = append(f.Backends, backend)
	}
	slices.SortFunc(f.Backends, func(a, b FrontendBackend) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	return f, err
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// shares are those of new flows that each backend gets.
func (v *View) shares(s *serviceHalf, slots map[uint32]slotValue) (map[netip.AddrPort]float64, error) {
	times, err := v.timesChosen(s)
	if err != nil {
		return nil, err
	}
	total := 0
	for _, n := range times {
		total += n
	}
	shares := map[netip.AddrPort]float64{}
	for index, n := range times {
		slot := slots[index]
		shares[netip.AddrPortFrom(decodeAddr(slot.Addr), decodePort(slot.Port))] += float64(n) / float64(total)
	}
	return shares, nil
}

// timesChosen counts how often each slot stands for a choice.
func (v *View) timesChosen(s *serviceHalf) (map[uint32]int, error) {
	times := map[uint32]int{}
	if s.TableSize == 0 {
		for index := range s.Count {
			times[index] = 1
		}
		return times, nil
	}
	memory, err := v.maps[bpf.ContainerMapMaglev].Memory()
	if err != nil {
		return nil, fmt.Errorf("read table maglev: %w", err)
	}
	table := make([]byte, int(s.TableSize)*maglevStride)
	if _, err := memory.ReadAt(table, int64(s.Table)*maglevStride); err != nil {
		return nil, fmt.Errorf("read table maglev: %w", err)
	}
	for at := 0; at < len(table); at += maglevStride {
		times[binary.NativeEndian.Uint32(table[at:])]++
	}
	return times, nil
}
