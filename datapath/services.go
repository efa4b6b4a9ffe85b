// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// frontend is what a service takes of the tables.
type frontend struct {
	eligible []model.Backend // for new flows, in the order of the state
	slots    []slotValue
	sources  []sourceKey
}

func newFrontend(s *model.Service) frontend {
	f := frontend{eligible: s.Backends}
	if slices.ContainsFunc(s.Backends, isTerminating) {
		f.eligible = slices.DeleteFunc(slices.Clone(s.Backends), isTerminating)
	}
	f.slots = slotsOf(f.eligible, s.MaglevSize == 0)
	f.sources = encodeSources(s)
	return f
}

func isTerminating(b model.Backend) bool { return b.Terminating }

// slotsOf lists the backends that new flows choose from. Where chance chooses,
// each is there as often as its weight says; a Maglev table has the weights in
// itself.
func slotsOf(eligible []model.Backend, weighted bool) []slotValue {
	common, all := 0, 0
	for i := range eligible {
		common, all = gcd(weightOf(&eligible[i]), common), all+weightOf(&eligible[i])
	}
	if !weighted || all == 0 {
		common, all = 1, len(eligible)
	}
	list := make([]slotValue, 0, all/common)
	for i := range eligible {
		b := &eligible[i]
		times := 1
		if weighted {
			times = weightOf(b) / common
		}
		for range times {
			list = append(list, slotValue{Addr: encodeAddr(b.Address), Port: encodePort(b.Port)})
		}
	}
	return list
}

func weightOf(b *model.Backend) int { return max(int(b.Weight), 1) }

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (d *Datapath) planServices(state *model.State, want *desired) error {
	services := state.Services.Slice()
	frontends := make([]frontend, len(services))
	for i := range services {
		frontends[i] = newFrontend(&services[i])
	}
	halves, err := d.planLists(services, frontends, want)
	if err != nil {
		return fmt.Errorf("apply state: %w", err)
	}
	backends := 0
	for i := range services {
		backends += len(services[i].Backends) * rows(&services[i])
	}
	want.services = make(map[serviceKey]serviceHalf, len(services)+len(state.ServiceAddresses))
	want.allBackends = make([]staged[backendKey, backendHalf], 0, backends)
	ids, groups := d.serviceIDs(), d.groupsOf(services)
	want.firstID = ids.next
	for i := range services {
		s := &services[i]
		key := encodeServiceKey(s)
		if _, ok := want.services[key]; ok {
			return claimedTwice(s)
		}
		half := halves[i]
		half.Id, half.Group = ids.of(key), groups[groupOf(s)]
		want.services[key] = half
		want.names.Services[half.Id] = ServiceName{Name: s.Name, Kind: s.Kind}
		want.addAllBackends(half.Id, s)
	}
	want.addSockets(services)
	for _, addr := range state.ServiceAddresses {
		key := addressRow(addr)
		want.services[key] = serviceHalf{Id: ids.of(key), Flags: pings(state)}
	}
	want.groups, want.nextID = groups, ids.next
	return d.roomForServices(services, want)
}

func claimedTwice(s *model.Service) error {
	return fmt.Errorf("apply state: frontend %s %s:%d of service %s is claimed twice %s", s.Protocol, s.Address, s.Port, s.Name, s.Scope)
}

// addressRow is the key of an address with all of its ports.
func addressRow(addr netip.Addr) serviceKey {
	return serviceKey{Addr: encodeAddr(addr), Scope: uint8(bpf.ContainerScopeSCOPE_ADDRESS)}
}

// pings are the flags of such a row.
func pings(state *model.State) uint32 {
	if state.AnswersPings {
		return uint32(bpf.ContainerServiceFlagsSERVICE_ECHO)
	}
	return 0
}

// isAddress is whether a row is not of a frontend, but of an address with all of
// its ports.
func isAddress(key *serviceKey) bool {
	return key.Scope == uint8(bpf.ContainerScopeSCOPE_ADDRESS)
}

// addBackends lists a service's backends. What comes by a tunnel names its
// backend without a port, which is port 0 here. Of several at one address it is
// the first that takes new flows.
func addBackends(backends map[backendKey]backendHalf, id uint32, s *model.Service) {
	for i := range s.Backends {
		b := &s.Backends[i]
		key, half := backendKey{Service: id, Addr: encodeAddr(b.Address), Port: encodePort(b.Port)}, stateOfBackend(b)
		backends[key] = half
		if !s.DSR {
			continue
		}
		key.Port, half.Port = 0, key.Port
		if other, ok := backends[key]; !ok || preferred(half, other) {
			backends[key] = half
		}
	}
}

// addAllBackends lists a service's backends among those of a whole state.
func (want *desired) addAllBackends(id uint32, s *model.Service) {
	if !s.DSR {
		for i := range s.Backends {
			b := &s.Backends[i]
			key := backendKey{Service: id, Addr: encodeAddr(b.Address), Port: encodePort(b.Port)}
			want.allBackends = append(want.allBackends, staged[backendKey, backendHalf]{key: key, value: stateOfBackend(b)})
		}
		return
	}
	rows := make(map[backendKey]backendHalf, len(s.Backends)*rows(s))
	addBackends(rows, id, s)
	want.addRows(rows)
}

func (want *desired) addRows(rows map[backendKey]backendHalf) {
	for key, half := range rows {
		want.allBackends = append(want.allBackends, staged[backendKey, backendHalf]{key: key, value: half})
	}
}

// addSockets lists those backends of services that are the node's own sockets, as
// service 0's: who comes to them by himself is remembered too.
func (want *desired) addSockets(services []model.Service) {
	rows := map[backendKey]backendHalf{}
	for i := range services {
		for key := range want.sockets(&services[i]) {
			rows[key] = stateOfBackend(&model.Backend{})
		}
	}
	want.addRows(rows)
}

// sockets are the rows of a service's backends that are the node's own sockets.
func (want *desired) sockets(s *model.Service) iter.Seq[backendKey] {
	return func(yield func(backendKey) bool) {
		for i := range s.Backends {
			b := &s.Backends[i]
			if slices.Contains(want.hosts, b.Address.Unmap()) && !yield(backendKey{Addr: encodeAddr(b.Address), Port: encodePort(b.Port), Proto: uint8(s.Protocol)}) {
				return
			}
		}
	}
}

// preferred says whether a backend is rather the one of its address than
// another there.
func preferred(a, b backendHalf) bool {
	if a.State != b.State {
		return a.State == uint32(bpf.ContainerBackendStateBACKEND_SERVING)
	}
	return decodePort(a.Port) < decodePort(b.Port)
}

func stateOfBackend(b *model.Backend) backendHalf {
	if b.Terminating {
		return backendHalf{State: uint32(bpf.ContainerBackendStateBACKEND_TERMINATING)}
	}
	return backendHalf{State: uint32(bpf.ContainerBackendStateBACKEND_SERVING)}
}

// seconds rounds up: what is asked for is not turned off.
func seconds(d time.Duration) uint32 {
	return uint32((d + time.Second - 1) / time.Second)
}

// planLists gives every service its slots, its sources and its Maglev table: all
// of its row but the numbers that it keeps.
func (d *Datapath) planLists(services []model.Service, frontends []frontend, want *desired) ([]serviceHalf, error) {
	slots, sources := make([][]slotValue, len(frontends)), make([][]sourceKey, len(frontends))
	for i := range frontends {
		slots[i], sources[i] = frontends[i].slots, frontends[i].sources
	}
	sets, missing, err := d.slots.plan(slots)
	if err != nil {
		return nil, blame(err, services, func(i int) int { return slotRows(len(slots[i])) })
	}
	lists, newSources, err := d.sources.plan(sources)
	if err != nil {
		return nil, blame(err, services, func(i int) int { return len(sources[i]) })
	}
	tables, newTables, err := d.maglev.plan(services, frontends)
	if err != nil {
		return nil, blame(err, services, func(i int) int { return int(tables[i].size) })
	}
	want.newSlots, want.newSources, want.newMaglev = missing, newSources, newTables
	halves := make([]serviceHalf, len(frontends))
	for i := range halves {
		s, half := &services[i], &halves[i]
		*half = serviceHalf{
			Set: sets[i], Table: tables[i].first, TableSize: tables[i].size,
			Count: uint32(len(slots[i])), Affinity: seconds(s.Affinity),
		}
		if s.Sources != nil {
			half.Flags |= uint32(bpf.ContainerServiceFlagsSERVICE_SOURCES)
			half.Sources = lists[i]
		}
		if s.Local {
			half.Flags |= uint32(bpf.ContainerServiceFlagsSERVICE_LOCAL)
		}
		if s.DSR {
			half.Flags |= uint32(bpf.ContainerServiceFlagsSERVICE_DSR)
		}
	}
	return halves, nil
}

// roomForServices refuses more than the tables hold.
func (d *Datapath) roomForServices(services []model.Service, want *desired) error {
	if err := d.services.room(want.services); err != nil {
		return fmt.Errorf("apply state: %w", err)
	}
	if err := d.backends.roomFor(len(want.allBackends), eachStaged(want.allBackends)); err != nil {
		return fmt.Errorf("apply state: %w", blame(err, services, func(i int) int { return len(services[i].Backends) * rows(&services[i]) }))
	}
	return nil
}

// rows are those that a backend of a service takes in the table.
func rows(s *model.Service) int {
	if s.DSR {
		return 2
	}
	return 1
}

// blame names the service that needs most of a table that is too small.
func blame(err error, services []model.Service, share func(int) int) error {
	var full *FullError
	if !errors.As(err, &full) {
		return err
	}
	for i := range services {
		if n := share(i); n > full.Share {
			full.Share, full.Service = n, services[i].Name
		}
	}
	return err
}

// serviceIDs hands out numbers of services: a frontend keeps its own while it
// is in the table, so that its flows know it again.
type serviceIDs struct {
	have map[serviceKey][2]serviceHalf
	next uint32
}

func (d *Datapath) serviceIDs() *serviceIDs {
	ids := &serviceIDs{have: d.services.have, next: 1}
	for _, pair := range d.services.have {
		ids.next = max(ids.next, pair[0].Id+1, pair[1].Id+1)
	}
	return ids
}

func (s *serviceIDs) of(key serviceKey) uint32 {
	if pair, ok := s.have[key]; ok {
		return max(pair[0].Id, pair[1].Id)
	}
	s.next++
	return s.next - 1
}

// sweepServices deletes the lists and tables that no service uses any more.
func (d *Datapath) sweepServices(half int) error {
	if d.last != nil {
		return d.last.sweepUnused(d)
	}
	slots, sources := map[uint32]bool{}, map[uint32]bool{}
	tables := map[maglevRange]bool{}
	for _, pair := range d.services.have {
		s := &pair[half]
		slots[s.Set], sources[s.Sources] = true, true
		tables[maglevRange{s.Table, s.TableSize}] = true
	}
	d.maglev.sweep(tables)
	return errors.Join(d.slots.sweep(slots), d.sources.sweep(sources))
}

// usedRanges lists the Maglev tables that packets read now.
func usedRanges(services *pairTable[serviceKey, serviceHalf], half int) map[maglevRange]bool {
	used := map[maglevRange]bool{}
	for pair := range maps.Values(services.have) {
		if s := pair[half]; s.TableSize != 0 {
			used[maglevRange{s.Table, s.TableSize}] = true
		}
	}
	return used
}
