// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// behindNodes has addresses of both families behind nodes that take outer headers of
// IPv4, of IPv6, and of both.
func behindNodes(state *model.State) *model.State {
	state.TunnelEndpoints = []model.TunnelEndpoint{
		{Number: 1, Node: "node-b", IPv4: addr("192.0.2.11")},
		{Number: 4, Node: "node-c", IPv6: addr("2001:db8::12")},
		{Number: 7, Node: "node-d", IPv4: addr("192.0.2.13"), IPv6: addr("2001:db8::13")},
	}
	state.Addresses = model.ListOf(
		model.Address{Prefix: prefix("10.1.0.1/32"), Identity: 400, Native: true, TunnelEndpoint: 4},
		model.Address{Prefix: prefix("10.1.0.2/32"), Identity: 401, Native: true, TunnelEndpoint: 7},
		model.Address{Prefix: prefix("10.1.0.3/32"), Identity: 402, Native: true},
		model.Address{Prefix: prefix("10.7.0.0/24"), Identity: 403, TunnelEndpoint: 7},
		model.Address{Prefix: prefix("fd01::1/128"), Identity: 400, Native: true, TunnelEndpoint: 1},
		model.Address{Prefix: prefix("fd07::/64"), Identity: 403, TunnelEndpoint: 7},
	)
	return state
}

// What the tables hold is what the state says, whichever family is inside and outside:
// 10.1.0.1 is behind a node with an IPv6 address only, fd01::1 behind one with IPv4 only.
func TestTunnelEndpointsGoThereAndBack(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	state := behindNodes(n.state.Clone())
	_, err := d.Apply(state)
	require.NoError(t, err)
	for _, now := range []int{d.half(), 1 - d.half()} {
		var endpoints []model.TunnelEndpoint
		require.NoError(t, readBatches(d.tunnels.m, func(number uint32, pair [2]tunnelHalf) {
			endpoints = append(endpoints, decodeTunnelEndpoint(number, pair[now]))
		}))
		slices.SortFunc(endpoints, func(a, b model.TunnelEndpoint) int { return compareTunnelEndpoints(&a, &b) })
		want := slices.Clone(state.TunnelEndpoints)
		for i := range want {
			want[i].Node = ""
		}
		require.Equal(t, want, endpoints)
		behind := map[string]uint32{}
		require.NoError(t, readBatches(d.ipcache.m, func(a tableAddr, pair [2]ipcacheHalf) { behind[text(a)] = pair[now].TunnelEndpoint }))
		require.NoError(t, readBatches(d.cidrs.m, func(key cidrKey, pair [2]ipcacheHalf) { behind[cidrText(key)] = pair[now].TunnelEndpoint }))
		for a := range state.Addresses.All() {
			require.Equal(t, a.TunnelEndpoint, behind[strings.TrimSuffix(strings.TrimSuffix(a.Prefix.String(), "/32"), "/128")], a.Prefix)
		}
		_, err := d.Apply(behindNodes(n.state.Clone())) // the other half is brought up to date
		require.NoError(t, err)
	}
	var lines []string
	for _, table := range d.Tables() {
		if table.Name == "tunnel_endpoints" || table.Name == "ipcache" {
			lines = append(lines, table.Entries...)
		}
	}
	require.Subset(t, lines, []string{
		"tunnel endpoint 4: - 2001:db8::12", "tunnel endpoint 7: 192.0.2.13 2001:db8::13",
		"10.1.0.1: identity 400 ifindex 0 flags 0x2 behind tunnel endpoint 4", "10.1.0.3: identity 402 ifindex 0 flags 0x2",
	})
	require.NoError(t, d.Reset())
	require.Empty(t, d.tunnels.have)
}

// A state that was written before there were tunnel endpoints has none, and all else
// that it had.
func TestAStateWithoutTunnelEndpointsIsReadAsBefore(t *testing.T) {
	var state model.State
	require.NoError(t, json.Unmarshal([]byte(`{"Node": {"Name": "node-a"}, "Peers": [{"Name": "node-b", "Addresses": ["192.0.2.11"]}]}`), &state))
	require.Equal(t, model.State{
		Node: model.Node{Name: "node-a"}, Peers: []model.Peer{{Name: "node-b", Addresses: []netip.Addr{addr("192.0.2.11")}}},
	}, state)
	want := &desired{}
	require.NoError(t, planTunnelEndpoints(&state, want))
	require.Empty(t, want.tunnels)
	require.Equal(t, ipcacheHalf{Identity: 400}, encodeAddress(&model.Address{Prefix: prefix("10.1.0.1/32"), Identity: 400}))
}

func TestTunnelEndpointsThatContradictEachOtherAreRefusedByField(t *testing.T) {
	n := newNode(t)
	d, fresh := openDatapath(t, small()), openDatapath(t, small())
	_, err := d.Apply(behindNodes(n.state.Clone()))
	require.NoError(t, err)
	tables := d.Tables()
	second := func(change func(*model.TunnelEndpoint)) func(*model.State) {
		return func(s *model.State) { change(&s.TunnelEndpoints[1]) }
	}
	const where = "apply state: TunnelEndpoints, node node-c: "
	for name, c := range map[string]struct {
		change func(*model.State)
		says   string
	}{
		"a number twice":       {second(func(e *model.TunnelEndpoint) { e.Number = 1 }), where + "Number: 1 is not behind 1"},
		"numbers in no order":  {func(s *model.State) { slices.Reverse(s.TunnelEndpoints) }, where + "Number: 4 is not behind 7"},
		"the number of none":   {func(s *model.State) { s.TunnelEndpoints[0].Number = 0 }, "apply state: TunnelEndpoints, node node-b: Number: 0 is not behind 0"},
		"no address":           {second(func(e *model.TunnelEndpoint) { e.IPv6 = e.IPv4 }), where + "IPv4: there is no address of either family"},
		"IPv6 for IPv4":        {second(func(e *model.TunnelEndpoint) { e.IPv4 = e.IPv6 }), where + "IPv4: 2001:db8::12 is no IPv4 address"},
		"IPv4 for IPv6":        {second(func(e *model.TunnelEndpoint) { e.IPv6 = addr("192.0.2.12") }), where + "IPv6: 192.0.2.12 is no IPv6 address"},
		"IPv4 in IPv6":         {second(func(e *model.TunnelEndpoint) { e.IPv6 = addr("::ffff:192.0.2.12") }), where + "IPv6: ::ffff:192.0.2.12 is no IPv6 address"},
		"an address with zone": {second(func(e *model.TunnelEndpoint) { e.IPv6 = addr("2001:db8::12%eth0") }), where + "IPv6: 2001:db8::12%eth0 is no IPv6 address"},
		"an address of a link": {second(func(e *model.TunnelEndpoint) { e.IPv6 = addr("fe80::1") }), where + "IPv6: fe80::1 is no IPv6 address"},
		"a group":              {second(func(e *model.TunnelEndpoint) { e.IPv4 = addr("224.0.0.1") }), where + "IPv4: 224.0.0.1 is no IPv4 address"},
		"nobody's address":     {second(func(e *model.TunnelEndpoint) { e.IPv4 = addr("0.0.0.0") }), where + "IPv4: 0.0.0.0 is no IPv4 address"},
		"an address of a node that is not there": {
			func(s *model.State) {
				s.Addresses = s.Addresses.With(model.Address{Prefix: prefix("fd09::1/128"), Identity: 404, TunnelEndpoint: 2})
			},
			"apply state: Addresses, fd09::1/128: TunnelEndpoint 2 is not among TunnelEndpoints",
		},
		"a node that goes from before its addresses": {
			func(s *model.State) { s.TunnelEndpoints = s.TunnelEndpoints[:2] },
			"apply state: Addresses, 10.1.0.2/32: TunnelEndpoint 7 is not among TunnelEndpoints",
		},
	} {
		_, err := d.Apply(behindNodes(n.state.Clone())) // so that differences are worked out
		require.NoError(t, err, name)
		for _, d := range []*Datapath{d, fresh} {
			state := behindNodes(n.state.Clone())
			c.change(state)
			_, err := d.Apply(state)
			require.ErrorContains(t, err, c.says, name)
		}
		require.Equal(t, tables, d.Tables(), name)
	}
	require.Empty(t, fresh.tunnels.have)
}
