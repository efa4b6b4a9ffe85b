// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

var testTopology = lab.Topology{
	Nodes: []lab.Host{{Name: "node", Addresses: addrs("198.18.0.2", "fd00:198:18::2")}},
	Pods: []lab.Host{
		{Name: "default/a", Addresses: addrs("10.0.0.10", "fd00:10::10")},
		{Name: "default/b", Addresses: addrs("10.0.0.11", "fd00:10::11")},
	},
	Outside:  []lab.Host{{Name: "outside", Addresses: addrs("203.0.113.10", "2001:db8::10")}},
	Gateways: model.Gateways(),
}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// state lets everybody talk to everybody, and b's port 80 be served at a
// service's address.
func state(t *testing.T, w *World) *model.State {
	s := &model.State{
		Node: model.Node{Name: "node", Addresses: testTopology.Nodes[0].Addresses, Gateways: testTopology.Gateways},
		RuleSets: []model.RuleSet{{Key: "all", Rules: []model.Rule{
			{Direction: model.Ingress, Precedence: 1}, {Direction: model.Egress, Precedence: 1}}}},
	}
	for _, p := range testTopology.Pods {
		s.Endpoints = append(s.Endpoints, model.Endpoint{Name: model.Key{Name: p.Name}, Device: w.Devices("")[p.Name],
			IPv4: p.Addresses[0], IPv6: p.Addresses[1], Identity: 256, RuleSet: "all"})
		for _, a := range p.Addresses {
			s.Addresses = s.Addresses.With(model.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: 256})
		}
	}
	for _, a := range slices.Concat(testTopology.Nodes[0].Addresses, testTopology.Gateways) {
		s.Addresses = s.Addresses.With(model.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: model.IdentityHost})
	}
	return s
}

// withWorld runs a test in a world in which everybody may talk.
func withWorld(t *testing.T, topo lab.Topology, f func(*World)) {
	withWorldOf(t, topo, func(w *World) {
		_, err := w.Apply(context.Background(), "", state(t, w))
		require.NoError(t, err)
		f(w)
	})
}

// withWorldOf runs a test in a world without any state.
func withWorldOf(t *testing.T, topo lab.Topology, f func(*World)) {
	if os.Geteuid() != 0 {
		t.Fatal("world prog needs root: run the test as root, or with CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF")
	}
	pool, err := NewPool(1, datapath.Options{})
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pool.Use(context.Background(), topo, f))
}

func echo(b []byte) []byte { return b }

func TestExchangesBetweenAllKindsOfHosts(t *testing.T) {
	ctx := context.Background()
	pairs := [][2]string{{"default/a", "default/b"}, {"default/a", "node"}, {"node", "default/a"}, {"default/a", "outside"}, {"outside", "default/a"}}
	for _, pair := range pairs {
		for family := range 2 {
			t.Run(pair[0]+" to "+pair[1]+[]string{" by IPv4", " by IPv6"}[family], func(t *testing.T) {
				withWorld(t, testTopology, func(w *World) {
					to := w.hosts[pair[1]].addresses[family]
					require.NoError(t, w.Ping(ctx, pair[0], to))
					for _, proto := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
						require.NoError(t, w.Listen(ctx, pair[1], proto, 80, echo))
						c, err := w.Dial(ctx, pair[0], proto, 0, netip.AddrPortFrom(to, 80))
						require.NoError(t, err)
						answer, err := c.Exchange(ctx, []byte("hello"))
						require.NoError(t, err)
						require.Equal(t, "hello", string(answer))
						require.Equal(t, pair[1], c.Server())
						require.Equal(t, c.Local(), c.Peer())
						require.NoError(t, c.Close())
					}
					for _, walk := range w.Walks() {
						require.Empty(t, walk.Faults)
						require.Empty(t, walk.Nobody)
					}
				})
			})
		}
	}
}

func TestAPortWhereNobodyListensRefuses(t *testing.T) {
	withWorld(t, testTopology, func(w *World) {
		_, err := w.Dial(context.Background(), "default/a", model.ProtocolTCP, 0, netip.MustParseAddrPort("10.0.0.11:81"))
		require.ErrorIs(t, err, lab.ErrRefused)
	})
}

func TestASilentHostAnswersNothing(t *testing.T) {
	topo := testTopology
	topo.Pods = slices.Clone(topo.Pods)
	topo.Pods[1].Silent = true
	withWorld(t, topo, func(w *World) {
		ctx := context.Background()
		_, err := w.Dial(ctx, "default/a", model.ProtocolTCP, 0, netip.MustParseAddrPort("10.0.0.11:80"))
		require.ErrorIs(t, err, lab.ErrTimeout)
		require.ErrorIs(t, w.Ping(ctx, "default/a", netip.MustParseAddr("fd00:10::11")), lab.ErrTimeout)
		frames, err := w.Arrived(ctx, "default/b")
		require.NoError(t, err)
		require.Len(t, frames, 2)
	})
}

func TestADropEndsTheWalkWhereItHappened(t *testing.T) {
	withWorld(t, testTopology, func(w *World) {
		own, gateway, err := w.MACs("default/a")
		require.NoError(t, err)
		data, err := frame.Build(
			frame.Layer{Kind: "eth"}.With("src", frame.MAC(own)).With("dst", frame.MAC(gateway)),
			frame.Layer{Kind: "ipv4"}.With("src", frame.Addr(netip.MustParseAddr("10.0.0.99"))).With("dst", frame.Addr(netip.MustParseAddr("10.0.0.11"))),
			frame.Layer{Kind: "udp"})
		require.NoError(t, err)
		require.NoError(t, w.Send(context.Background(), "default/a", data))
		walks := w.Walks()
		require.Len(t, walks, 1)
		require.Empty(t, walks[0].To)
		require.Equal(t, model.ReasonSpoofedSource, walks[0].Steps[0].Decision.Reason)
	})
}

func TestAWorldBeginsEmpty(t *testing.T) {
	withWorld(t, testTopology, func(w *World) {
		require.NoError(t, w.Ping(context.Background(), "default/a", netip.MustParseAddr("10.0.0.11")))
	})
	withWorld(t, testTopology, func(w *World) {
		flows, err := w.Datapath("").Flows()
		require.NoError(t, err)
		require.Empty(t, flows)
		counters, err := w.Datapath("").Counters()
		require.NoError(t, err)
		require.Empty(t, counters)
	})
}

func TestTopologiesWithoutDevicesAreRefused(t *testing.T) {
	p := &Pool{}
	nodes := []lab.Host{{Name: "node"}, {Name: "node-2"}}
	for name, topo := range map[string]lab.Topology{
		"no node":                 {},
		"more pods than devices":  {Nodes: nodes, Pods: make([]lab.Host, MaxPods+1)},
		"a pod on no node at all": {Nodes: nodes, Pods: []lab.Host{{Name: "default/a", Node: "node-3"}}},
	} {
		require.ErrorIs(t, p.Use(context.Background(), topo, nil), ErrTopology, name)
	}
}

// TestFaultsAreSeen hands a trip frames that a datapath must never deliver.
func TestFaultsAreSeen(t *testing.T) {
	build := func(dst byte, checksum int) []byte {
		l := frame.Layer{Kind: "udp"}.With("sport", frame.Num(1)).With("dport", frame.Num(2))
		if checksum >= 0 {
			l = l.With("checksum", frame.Num(checksum))
		}
		data, err := frame.Build(
			frame.Layer{Kind: "eth"}.With("src", frame.MAC([]byte{2, 0, 0, 0, 0, 1})).With("dst", frame.MAC([]byte{2, 0, 0, 0, 0, dst})),
			frame.Layer{Kind: "ipv4"}.With("src", frame.Addr(netip.MustParseAddr("10.0.0.10"))).With("dst", frame.Addr(netip.MustParseAddr("10.0.0.11"))), l)
		require.NoError(t, err)
		return data
	}
	tests := map[string]struct {
		sent, delivered []byte
		fault           string
	}{
		"nothing wrong":              {build(2, -1), build(2, -1), ""},
		"a checksum broken":          {build(2, -1), build(2, 0x1234), "was right when a sent it, and is wrong"},
		"a checksum repaired":        {build(2, 0x1234), build(2, -1), "was wrong when a sent it, and is right"},
		"a checksum made up":         {build(2, 0), build(2, -1), "was absent when a sent it, and is right"},
		"a checksum lost":            {build(2, -1), build(2, 0), "was right when a sent it, and is absent"},
		"another's hardware address": {build(2, -1), build(9, -1), "hardware address is another's"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := &World{}
			to := &host{name: "b", kind: isPod, mac: net.HardwareAddr{2, 0, 0, 0, 0, 2}, addresses: addrs("10.0.0.11")}
			to.stack = stack{world: w, host: to, silent: true}
			trip := &trip{world: w, data: test.delivered, walk: lab.Walk{Time: time.Now(), From: "a", Sent: test.sent}}
			trip.deliver(to)
			if test.fault == "" {
				require.Empty(t, trip.walk.Faults)
				return
			}
			require.Len(t, trip.walk.Faults, 1)
			require.Contains(t, trip.walk.Faults[0], test.fault)
		})
	}
}
