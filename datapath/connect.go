// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

// ErrTaken is an address of an endpoint that another endpoint has in the state in
// force: Apply says whose it is.
var ErrTaken = errors.New("another endpoint has the address")

// ahead is an endpoint that was connected beside a state.
type ahead struct {
	name  model.Key
	addrs []tableAddr
	gone  bool // nobody wants it any more
}

// Connect puts one endpoint of a state into force beside the state that is, whether
// or not an Apply runs: it waits for nobody's. It writes the endpoint's rules, its
// addresses and its row, in both halves, and has flows judged anew. Killed at any
// step, it leaves an endpoint that gets nothing, or all of it.
//
// Every Apply from then on keeps the endpoint, until it is given a state that has it,
// the endpoint's device is gone, or Disconnect gives it up. ErrTaken if an address is
// another's still.
func (d *Datapath) Connect(state *model.State, name model.Key) error {
	one, err := alone(state, name)
	for err == nil {
		if err = d.connect(one, name); errors.Is(err, errSwept) {
			err = nil // its rules are written anew
			continue
		}
		break
	}
	return err
}

// Disconnect gives up the endpoint of a device that Connect has put into force, and no
// state since: the next Apply takes it out of force, whatever its state is. It says
// whether there is one.
func (d *Datapath) Disconnect(ifindex int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, found := d.ahead[uint32(ifindex)]
	if found {
		e.gone = true
		d.ahead[uint32(ifindex)] = e
	}
	return found
}

// errSwept is a rule set that nobody used, and that was deleted while somebody was
// about to, or that somebody else has written.
var errSwept = errors.New("the rule set has another number by now")

func (d *Datapath) connect(one *model.State, name model.Key) error {
	missing, sets, err := d.rules.missing(one.RuleSets, d.number)
	if err != nil {
		return fmt.Errorf("connect endpoint %s: %w", name, err)
	}
	want := &desired{devices: map[uint32]string{}, names: newStateNames(""), ipcache: map[tableAddr]ipcacheHalf{}}
	if err := d.planEndpoints(one, sets, want); err != nil {
		return err
	}
	for a := range one.Addresses.All() {
		want.ipcache[encodeAddr(a.Prefix.Addr())] = encodeAddress(a)
	}
	addOwn(one, want, func(tableAddr) bool { return true })
	if err := cmp.Or(d.endpoints.room(want.endpoints), d.ipcache.room(want.ipcache)); err != nil {
		return fmt.Errorf("connect endpoint %s: %w", name, err)
	}
	d.opts.Step("connect: write rule sets")
	for i := range missing {
		if err := d.rules.addBeside(&missing[i]); err != nil {
			return fmt.Errorf("connect endpoint %s: %w", name, err)
		}
	}
	if ifindex := uint32(one.Endpoints[0].Device.Ifindex); d.opts.Attach {
		if err := d.attached.attachDevice(ifindex, rolePod); err != nil {
			return fmt.Errorf("connect endpoint %s: attach to device %s (ifindex %d): %w", name, want.devices[ifindex], ifindex, err)
		}
	}
	d.opts.Step("connect: write addresses")
	return d.join(want, one)
}

// alone is a state with one endpoint of another, and what that needs.
func alone(state *model.State, name model.Key) (*model.State, error) {
	i := slices.IndexFunc(state.Endpoints, func(e model.Endpoint) bool { return e.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("connect endpoint %s: the state does not have it", name)
	}
	ep := state.Endpoints[i]
	one := &model.State{Node: state.Node, Endpoints: []model.Endpoint{ep}}
	for j := range state.RuleSets {
		if state.RuleSets[j].Key == ep.RuleSet {
			one.RuleSets = state.RuleSets[j : j+1]
		}
	}
	for a := range state.Addresses.All() {
		if a.Prefix.IsSingleIP() && slices.Contains([]netip.Addr{ep.IPv4, ep.IPv6}, a.Prefix.Addr()) {
			one.Addresses = one.Addresses.With(*a)
		}
	}
	return one, nil
}

// join writes an endpoint's entries: its row last, without which nothing passes, and
// behind it the epoch, since flows may have met its addresses when they were nobody's.
// The half that packets read stays the same.
func (d *Datapath) join(want *desired, one *model.State) error {
	ep := &one.Endpoints[0]
	ifindex := uint32(ep.Device.Ifindex)
	d.mu.Lock()
	defer d.mu.Unlock()
	for key := range want.ipcache {
		for _, half := range d.ipcache.have[key] {
			if half.Ifindex != 0 && half.Ifindex != ifindex {
				return fmt.Errorf("connect endpoint %s: %w: %s is of ifindex %d", ep.Name, ErrTaken, text(key), half.Ifindex)
			}
		}
	}
	for _, half := range want.endpoints { // a set of the same rules may be there by now, under another number
		if _, there := d.rules.have[half.Set]; !there {
			return errSwept
		}
	}
	d.rules.unused = true // the set that the row had, perhaps
	was := d.endpoints.have[ifindex]
	places := slices.Collect(placesOfEndpoint(was[0], was[1], want.endpoints[ifindex]))
	for key := range want.ipcache {
		places = append(places, placeOf(key))
	}
	for _, place := range places {
		if err := d.changed.put(place, d.settings.Epoch+2); err != nil {
			return fmt.Errorf("connect endpoint %s: %w", ep.Name, err)
		}
	}
	// What is kept is known by this, and given up by it, if a write fails too.
	d.ahead[ifindex] = ahead{name: ep.Name, addrs: slices.Collect(maps.Keys(want.ipcache))}
	for key, half := range want.ipcache {
		if err := d.ipcache.keep(key, half); err != nil {
			return fmt.Errorf("connect endpoint %s: %w", ep.Name, err)
		}
	}
	for key, half := range want.endpoints {
		if err := d.endpoints.keep(key, half); err != nil {
			return fmt.Errorf("connect endpoint %s: %w", ep.Name, err)
		}
	}
	d.settings.Epoch += 2
	if err := d.writeSettings(); err != nil {
		d.settings.Epoch -= 2
		return fmt.Errorf("connect endpoint %s: %w", ep.Name, err)
	}
	d.labels.Endpoints = withName(d.labels.Endpoints, ifindex, ep.Name)
	return nil
}

func withName(names map[uint32]model.Key, ifindex uint32, name model.Key) map[uint32]model.Key {
	more := map[uint32]model.Key{ifindex: name}
	for key, other := range names {
		if key != ifindex {
			more[key] = other
		}
	}
	return more
}

// takeIn leaves it to a state what becomes of endpoints that were connected before:
// of those that it has, those that were given up, and those whose devices are gone.
func (d *Datapath) takeIn(state *model.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ahead) == 0 {
		return
	}
	known := map[uint32]bool{}
	for i := range state.Endpoints {
		known[uint32(state.Endpoints[i].Device.Ifindex)] = true
	}
	for ifindex, e := range d.ahead {
		if !known[ifindex] && !e.gone && (!d.opts.Attach || d.attached.has(ifindex)) {
			continue
		}
		delete(d.ahead, ifindex)
		delete(d.endpoints.kept, ifindex)
		for _, addr := range e.addrs {
			delete(d.ipcache.kept, addr)
		}
		if !known[ifindex] {
			d.last = nil // neither state knows of its rows: all are looked at
		}
	}
}
