// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

// growth makes endpoints for addresses when they are seen first: of a capture that
// is read once, nobody knows them beforehand.
type growth struct {
	ctx       context.Context
	network   *Network
	seen      *seen
	devices   []model.Device
	state     *model.State
	endpoints *endpoints
}

// firstDevices is for how many endpoints devices are made beforehand; each time
// that they do not suffice, there will be twice as many.
const firstDevices = 16

// newGrowth gives the state that it begins with: one endpoint, for packets of
// addresses that no pod can have.
func newGrowth(ctx context.Context, n *Network, hook model.Hook, room int) (*growth, *model.State, error) {
	g := &growth{ctx: ctx, network: n, seen: newSeen(hook, room-1), state: openState()}
	g.endpoints = &endpoints{hook: hook, byAddr: map[netip.Addr]*endpoint{}, byMAC: map[[6]byte]*endpoint{}, outside: g.seen.outside}
	made, err := g.add(nobody)
	if err != nil {
		return nil, nil, err
	}
	g.endpoints.strange, g.endpoints.anyone = made, made
	return g, g.state, nil
}

// add makes an endpoint, in a state of its own.
func (g *growth) add(name string) (*endpoint, error) {
	have := len(g.state.Endpoints)
	if have == len(g.devices) {
		var err error
		if g.devices, err = g.network.Devices(g.ctx, min(max(firstDevices, 2*have), g.seen.room+1)); err != nil {
			return nil, err
		}
	}
	device := g.devices[have]
	ep := model.Endpoint{Name: model.Key{Name: name}, Device: device, Identity: model.FirstLabelIdentity, RuleSet: allowAll}
	if addr, err := netip.ParseAddr(name); err == nil && addr.Is4() {
		ep.IPv4 = addr
	} else if err == nil {
		ep.IPv6 = addr
	}
	next := *g.state
	next.Endpoints = append(slices.Clone(next.Endpoints), ep)
	slices.SortFunc(next.Endpoints, func(a, b model.Endpoint) int { return a.Device.Ifindex - b.Device.Ifindex })
	g.state = &next
	return &endpoint{name, device.Ifindex}, nil
}

// grow makes endpoints of a packet's addresses, where they are new. At from-container
// whom it is for gets one too: in a file, who answers later is known from the first
// packet on, and the connection goes from endpoint to endpoint.
func (r *Replay) grow(h *Header) error {
	g := r.growth
	if g == nil {
		return nil
	}
	had := len(g.seen.list)
	g.seen.add(h)
	if g.seen.hook == model.FromContainer {
		back := *h
		back.Src, back.Dst = h.Dst, h.Src
		g.seen.add(&back)
	}
	r.Setup.Full = g.seen.full
	if len(g.seen.list) == had {
		return nil
	}
	for _, addr := range g.seen.list[had:] {
		made, err := g.add(addr.String())
		if err != nil {
			return err
		}
		g.endpoints.byAddr[addr] = made
		r.names[made.ifindex] = made.name
		r.Setup.Endpoints++
	}
	_, err := r.datapath.Apply(g.state)
	return err
}
