// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/weirnet/weir/model"
)

// An entry of an address names the tunnel endpoint of the node behind which it is by a
// number. So it has room for endpoints of both families, and a node whose address
// changes is one entry.

func encodeTunnelEndpoint(e *model.TunnelEndpoint) tunnelHalf {
	return tunnelHalf{Addr4: encodeAddr(e.IPv4), Addr6: encodeAddr(e.IPv6)}
}

// decodeTunnelEndpoint leaves the node's name empty: no table has it.
func decodeTunnelEndpoint(number uint32, h tunnelHalf) model.TunnelEndpoint {
	return model.TunnelEndpoint{Number: number, IPv4: decodeAddr(h.Addr4), IPv6: decodeAddr(h.Addr6)}
}

func compareTunnelEndpoints(a, b *model.TunnelEndpoint) int { return cmp.Compare(a.Number, b.Number) }

func equalTunnelEndpoints(a, b *model.TunnelEndpoint) bool { return *a == *b }

// planTunnelEndpoints encodes all of them, and wants addresses to name no others.
func planTunnelEndpoints(state *model.State, want *desired) error {
	want.tunnels = map[uint32]tunnelHalf{}
	before := uint32(0)
	for i := range state.TunnelEndpoints {
		e := &state.TunnelEndpoints[i]
		if err := checkTunnelEndpoint(e, before); err != nil {
			return err
		}
		want.tunnels[e.Number], before = encodeTunnelEndpoint(e), e.Number
	}
	for a := range state.Addresses.All() {
		if err := checkBehind(state, a); err != nil {
			return err
		}
	}
	return nil
}

// planTunnelEndpointChanges encodes what differs. Where any does, all of a state is
// checked: an address that stays may name one that goes.
func planTunnelEndpointChanges(last, state *model.State, want *desired) error {
	gone, came := differences(last.TunnelEndpoints, state.TunnelEndpoints, compareTunnelEndpoints, equalTunnelEndpoints)
	changes := map[uint32]tunnelHalf{}
	if len(gone)+len(came) > 0 {
		if err := planTunnelEndpoints(state, want); err != nil {
			return err
		}
	}
	for _, e := range gone {
		changes[e.Number] = tunnelHalf{}
	}
	for _, e := range came {
		changes[e.Number] = encodeTunnelEndpoint(e)
	}
	want.tunnels = changes
	return nil
}

// checkTunnelEndpoint names the field that is wrong: before is the number before.
func checkTunnelEndpoint(e *model.TunnelEndpoint, before uint32) error {
	var field, problem string
	switch {
	case e.Number <= before:
		field, problem = "Number", fmt.Sprintf("%d is not behind %d: they begin with 1, and are sorted", e.Number, before)
	case !e.IPv4.IsValid() && !e.IPv6.IsValid():
		field, problem = "IPv4", "there is no address of either family: give one, or leave the node out"
	case e.IPv4.IsValid() && !(e.IPv4.Is4() && e.IPv4.IsGlobalUnicast()):
		field, problem = "IPv4", fmt.Sprintf("%s is no IPv4 address of a node", e.IPv4)
	case e.IPv6.IsValid() && !(e.IPv6.Is6() && !e.IPv6.Is4In6() && e.IPv6.Zone() == "" && e.IPv6.IsGlobalUnicast()):
		field, problem = "IPv6", fmt.Sprintf("%s is no IPv6 address of a node", e.IPv6)
	default:
		return nil
	}
	return fmt.Errorf("apply state: TunnelEndpoints, node %s: %s: %s", e.Node, field, problem)
}

// checkBehind wants an address to name a tunnel endpoint of its state, or none.
func checkBehind(state *model.State, a *model.Address) error {
	if a.TunnelEndpoint == 0 {
		return nil
	}
	_, there := slices.BinarySearchFunc(state.TunnelEndpoints, a.TunnelEndpoint, func(e model.TunnelEndpoint, number uint32) int { return cmp.Compare(e.Number, number) })
	if !there {
		return fmt.Errorf("apply state: Addresses, %s: TunnelEndpoint %d is not among TunnelEndpoints: add it there, or have the address name none", a.Prefix, a.TunnelEndpoint)
	}
	return nil
}

// aTunnelEndpointMoves is whether one gets other addresses. One that comes or goes is
// in the difference of the addresses behind it.
func (d *Datapath) aTunnelEndpointMoves() bool {
	none := tunnelHalf{}
	for _, row := range d.tunnels.differences(0) {
		if row.was != none && row.is != none {
			return true
		}
	}
	return false
}

func tunnelEndpointText(number uint32) string { return fmt.Sprintf("tunnel endpoint %d", number) }

// behind says behind which node an address is, where that is known.
func behind(h *ipcacheHalf) string {
	if h.TunnelEndpoint == 0 {
		return ""
	}
	return " behind " + tunnelEndpointText(h.TunnelEndpoint)
}
