// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/weirnet/weir/model"
)

// planFrom encodes what differs from the state in force, or all where nothing is
// known of that. An error of differences is told by a plan of all: it knows who is
// to blame.
func (d *Datapath) planFrom(last *remembered, state *model.State) (*desired, error) {
	if last != nil && last.comparable(state) {
		if want, err := d.planChanges(last, state); err == nil {
			return want, nil
		}
	}
	return d.plan(state)
}

// comparable says whether a state differs in parts only. The node's own addresses
// are in many rows.
func (r *remembered) comparable(state *model.State) bool {
	return state.AnswersPings == r.state.AnswersPings &&
		slices.Equal(state.Node.Addresses, r.state.Node.Addresses) && slices.Equal(state.Node.Gateways, r.state.Node.Gateways)
}

// planChanges encodes what differs. It changes what is remembered: when it fails,
// that is of no use any more.
func (d *Datapath) planChanges(last *remembered, state *model.State) (*desired, error) {
	want := last.ownAgain(state)
	if want == nil {
		var err error
		if want, err = d.planOwn(state); err != nil {
			return nil, err
		}
	}
	want.changes = true
	if err := planTunnelEndpointChanges(last.state, state, want); err != nil {
		return nil, err
	}
	if err := d.planAddressChanges(last.state, state, want); err != nil {
		return nil, err
	}
	if err := d.planServiceChanges(last, state, want); err != nil {
		return nil, err
	}
	return want, d.room(want)
}

// ownAgain is what planOwn has made for the state in force, where another state has
// the same; else nil.
func (r *remembered) ownAgain(state *model.State) *desired {
	if !r.hasOwn(state) {
		return nil
	}
	own := *r.own
	own.sameOwn = true
	return &own
}

// hasOwn is whether a state has what is the node's own as the one in force.
func (r *remembered) hasOwn(state *model.State) bool {
	return same(r.state.Endpoints, state.Endpoints) && same(r.state.RuleSets, state.RuleSets) && reflect.DeepEqual(r.state.Node, state.Node)
}

// own is what planOwn makes, but for rows.
func (want *desired) own() *desired {
	return &desired{devices: want.devices, uplinks: want.uplinks, names: want.names, hosts: want.hosts}
}

func (d *Datapath) planAddressChanges(last, state *model.State, want *desired) error {
	want.ipcache, want.cidrs, want.sameCIDRs = map[tableAddr]ipcacheHalf{}, d.wanted, true
	gone, came := listDifferences(last.Addresses, state.Addresses, compareAddresses, equalAddresses)
	for _, a := range came {
		if err := checkBehind(state, a); err != nil {
			return err
		}
	}
	for _, a := range slices.Concat(gone, came) {
		if a.Prefix.IsSingleIP() {
			want.ipcache[encodeAddr(a.Prefix.Addr())] = ipcacheHalf{}
		} else {
			want.sameCIDRs = false
		}
	}
	if !want.sameCIDRs {
		planCIDRs(state, want)
	}
	goneOwn, cameOwn := differences(last.Endpoints, state.Endpoints, compareEndpoints, sameAddressesOfEndpoints)
	for _, ep := range slices.Concat(goneOwn, cameOwn) {
		if ep.IPv4.IsValid() {
			want.ipcache[encodeAddr(ep.IPv4)] = ipcacheHalf{}
		}
		if ep.IPv6.IsValid() {
			want.ipcache[encodeAddr(ep.IPv6)] = ipcacheHalf{}
		}
	}
	if len(want.ipcache) == 0 {
		return nil
	}
	concerned := maps.Clone(want.ipcache)
	for key := range concerned {
		addr := decodeAddr16(key).Unmap()
		at := netip.PrefixFrom(addr, addr.BitLen())
		for a := range state.Addresses.From(func(a *model.Address) int { return a.Prefix.Compare(at) }) {
			if a.Prefix != at {
				break
			}
			want.ipcache[key] = encodeAddress(a) // the last one of an address counts
		}
	}
	addOwn(state, want, func(key tableAddr) bool {
		_, ok := concerned[key]
		return ok
	})
	return nil
}

func (d *Datapath) planServiceChanges(last *remembered, state *model.State, want *desired) error {
	want.services, want.backends = map[serviceKey]serviceHalf{}, map[backendKey]backendHalf{}
	want.firstID = last.nextID
	want.names.Services, want.renamed = d.labels.Services, map[uint32]ServiceName{}
	gone, came := listDifferences(last.state.Services, state.Services, compareServices, equalServices)
	services := make([]model.Service, len(came))
	frontends := make([]frontend, len(came))
	for i, s := range came {
		services[i], frontends[i] = *s, newFrontend(s)
	}
	halves, err := d.planLists(services, frontends, want)
	if err != nil {
		return err
	}
	taken := map[serviceKey]bool{} // frontends that are in both states, perhaps
	for _, s := range gone {
		key := encodeServiceKey(s)
		taken[key] = true
		want.services[key] = serviceHalf{}
		d.takeBackends(last, d.idOf(last, key), s, want)
	}
	ids := map[serviceKey]uint32{}
	for i := range services {
		s, half := &services[i], halves[i]
		key := encodeServiceKey(s)
		if !taken[key] && d.services.have[key][d.half()] != (serviceHalf{}) || want.services[key] != (serviceHalf{}) {
			return claimedTwice(s)
		}
		half.Id, half.Group = d.idOf(last, key), last.join(s)
		want.services[key], ids[key] = half, half.Id
		if name := (ServiceName{Name: s.Name, Kind: s.Kind}); d.labels.Services[half.Id] != name {
			want.renamed[half.Id] = name
		}
		rows := map[backendKey]backendHalf{} // apart: a row that goes stands for none
		addBackends(rows, half.Id, s)
		maps.Copy(want.backends, rows)
		for socket := range want.sockets(s) {
			last.sockets[socket]++
			want.backends[socket] = stateOfBackend(&model.Backend{})
		}
	}
	for _, s := range gone {
		last.leave(s)
	}
	d.planServiceAddresses(last, state, want)
	d.rename(want)
	if err := d.services.room(want.services); err != nil {
		return err
	}
	return d.backends.room(want.backends)
}

// takeBackends takes the rows of a service's backends away.
func (d *Datapath) takeBackends(last *remembered, id uint32, s *model.Service, want *desired) {
	rows := map[backendKey]backendHalf{}
	addBackends(rows, id, s)
	for key := range rows {
		want.backends[key] = backendHalf{}
	}
	for socket := range want.sockets(s) {
		last.sockets[socket]--
		if last.sockets[socket] == 0 {
			delete(last.sockets, socket)
			want.backends[socket] = backendHalf{}
		}
	}
}

func (d *Datapath) planServiceAddresses(last *remembered, state *model.State, want *desired) {
	gone, came := differences(last.state.ServiceAddresses, state.ServiceAddresses, compareAddrs, equalAddrs)
	for _, addr := range gone {
		want.services[addressRow(*addr)] = serviceHalf{}
	}
	for _, addr := range came {
		key := addressRow(*addr)
		want.services[key] = serviceHalf{Id: d.idOf(last, key), Flags: pings(state)}
	}
}

// rename gives the state the names of the one before, but for those of frontends that
// come, or go.
func (d *Datapath) rename(want *desired) {
	names := want.names.Services
	cloned := false
	change := func() {
		if !cloned {
			names, cloned = maps.Clone(names), true
		}
	}
	for key, row := range want.services {
		if row.Id != 0 {
			continue
		}
		pair := d.services.have[key]
		if id := max(pair[0].Id, pair[1].Id); names[id] != (ServiceName{}) {
			change()
			delete(names, id)
		}
	}
	for id, name := range want.renamed {
		change()
		names[id] = name
	}
	want.names.Services = names
}

// idOf is the number of a row, its own or a new one.
func (d *Datapath) idOf(last *remembered, key serviceKey) uint32 {
	if pair, ok := d.services.have[key]; ok {
		return max(pair[0].Id, pair[1].Id)
	}
	last.nextID++
	return last.nextID - 1
}

// join counts a frontend into its group, and gives the group's number.
func (r *remembered) join(s *model.Service) uint32 {
	of := groupOf(s)
	if of == (group{}) {
		return 0
	}
	m := r.groups[of]
	if m == nil {
		m = &members{number: r.nextGroup}
		r.groups[of] = m
		r.nextGroup++
	}
	m.count++
	return m.number
}

func (r *remembered) leave(s *model.Service) {
	of := groupOf(s)
	m := r.groups[of]
	if m == nil {
		return
	}
	if m.count--; m.count == 0 {
		delete(r.groups, of)
		r.lost = true
	}
}
