// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
)

// Addresses that no host has.
var (
	balancerV4, balancerV6 = netip.MustParseAddr("198.18.9.9"), netip.MustParseAddr("2001:db8:9::9")
	nowhereV4, nowhereV6   = netip.MustParseAddr("198.18.8.8"), netip.MustParseAddr("2001:db8:8::8")
)

// harms are what is wrong with a frame that the router carries all the same.
var harms = []struct {
	name string
	do   func(frame []byte)
}{
	{"nothing", func([]byte) {}},
	{"the last hop", func(frame []byte) { frame[14+8], frame[14+7] = 1, 1 }},
	{"no hop left", func(frame []byte) { frame[14+8], frame[14+7] = 0, 0 }},
	{"a broken transport checksum", func(frame []byte) { frame[len(frame)-1] ^= 1 }},
	{"a length beyond its end", func(frame []byte) { frame[14+2], frame[14+4] = 0x40, 0x40 }},
	{"another version", func(frame []byte) { frame[14] ^= 0x70 }},
}

func TestRouterCarriesFramesAsTheyAre(t *testing.T) {
	network := twoNodes()
	network.Routes = []lab.Route{{To: balancerV4, Node: "node-2"}, {To: balancerV6, Node: "node-2"}}
	w := newNodesWorld(t, network, Options{Plain: true})
	for _, tt := range []struct {
		name, from, to string
		addresses      []netip.Addr
	}{
		{"from outside to a node", "second", "node-2", []netip.Addr{node2V4, node2V6}},
		{"from outside to a pod's node", "second", "node-2", []netip.Addr{farV4, farV6}},
		{"from outside to the node of a route", "outside", "node-2", []netip.Addr{balancerV4, balancerV6}},
		{"from outside to nobody", "outside", "node", []netip.Addr{nowhereV4, nowhereV6}},
		{"from a node to outside", "node-2", "second", []netip.Addr{secondV4, secondV6}},
		{"from a node to the other's pod", "node-2", "node", []netip.Addr{webV4, webV6}},
	} {
		for _, address := range tt.addresses {
			for _, harm := range harms {
				t.Run(tt.name+" "+family(address)+" with "+harm.name, func(t *testing.T) {
					from, err := w.byName[tt.from].address(address)
					require.NoError(t, err)
					own, gateway, err := w.MACs(tt.from)
					require.NoError(t, err)
					frame := udpFrame(t, own, gateway, netip.AddrPortFrom(from, 1), netip.AddrPortFrom(address, 4001), []byte(harm.name))
					harm.do(frame)
					require.NoError(t, w.Send(t.Context(), tt.from, frame))

					ownThere, gatewayThere, err := w.MACs(tt.to)
					require.NoError(t, err)
					want := append(append(append([]byte(nil), ownThere...), gatewayThere...), frame[12:]...)
					arrived := await(t, w, tt.to, func(f lab.Frame) bool { return len(f.Data) == len(want) })
					require.Equal(t, want, arrived.Data)
				})
			}
		}
	}
}

func TestRouterCarriesNothingOfANodeToNobody(t *testing.T) {
	w := newNodesWorld(t, twoNodes(), Options{Plain: true})
	own, gateway, err := w.MACs("node-2")
	require.NoError(t, err)
	for _, address := range []netip.Addr{nowhereV4, nowhereV6} {
		from, err := w.byName["node-2"].address(address)
		require.NoError(t, err)
		send := func(to netip.Addr, port uint16) {
			frame := udpFrame(t, own, gateway, netip.AddrPortFrom(from, 1), netip.AddrPortFrom(to, port), []byte("anybody?"))
			require.NoError(t, w.Send(t.Context(), "node-2", frame))
		}
		send(address, 4001)
		// What is sent behind it has come everywhere where that could have.
		for host, to := range map[string]netip.Addr{
			"node":    firstOf([]netip.Addr{nodeV4, nodeV6}, address.Is4()),
			"outside": firstOf([]netip.Addr{outsideV4, outsideV6}, address.Is4()),
			"second":  firstOf([]netip.Addr{secondV4, secondV6}, address.Is4()),
		} {
			send(to, 4002)
			await(t, w, host, func(f lab.Frame) bool {
				require.False(t, udpTo(4001)(f), "%s got it", host)
				return udpTo(4002)(f)
			})
		}
	}
	now, cancel := context.WithCancel(t.Context())
	cancel()
	frames, err := w.Arrived(now, "node-2")
	require.NoError(t, err)
	for _, f := range frames {
		require.False(t, udpTo(4001)(f), "it came back")
	}
}
