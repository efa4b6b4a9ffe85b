// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// twoNodes have a pod each: a on the first, b on the second.
func twoNodes(uplinks bool) lab.Topology {
	return lab.Topology{
		Nodes: []lab.Host{
			{Name: "node", Addresses: addrs("198.18.0.2", "fd00:198:18::2")},
			{Name: "node-2", Addresses: addrs("198.18.0.3", "fd00:198:18::3")},
		},
		Pods: []lab.Host{
			{Name: "default/a", Addresses: addrs("10.0.0.10", "fd00:10::10")},
			{Name: "default/b", Addresses: addrs("10.0.1.10", "fd00:10:0:1::10"), Node: "node-2"},
		},
		Outside:  []lab.Host{{Name: "outside", Addresses: addrs("203.0.113.10", "2001:db8::10")}},
		Gateways: model.Gateways(),
		Uplinks:  uplinks,
		Routes:   []lab.Route{{To: netip.MustParseAddr("198.51.100.1"), Node: "node-2"}},
	}
}

// stateOf lets everybody talk to the pod of a node.
func stateOf(topo lab.Topology, w *World, node int) *model.State {
	n, pod := topo.Nodes[node], topo.Pods[node]
	s := &model.State{
		Node: model.Node{Name: n.Name, Addresses: n.Addresses, Gateways: topo.Gateways, Uplinks: w.Uplinks(n.Name)},
		Endpoints: []model.Endpoint{{Name: model.Key{Name: pod.Name}, Device: w.Devices(n.Name)[pod.Name],
			IPv4: pod.Addresses[0], IPv6: pod.Addresses[1], Identity: 256, RuleSet: "all"}},
		RuleSets: []model.RuleSet{{Key: "all", Rules: []model.Rule{
			{Direction: model.Ingress, Precedence: 1}, {Direction: model.Egress, Precedence: 1}}}},
	}
	know := func(id model.Identity, addresses ...netip.Addr) {
		for _, a := range addresses {
			s.Addresses = s.Addresses.With(model.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: id, Node: id == model.IdentityRemoteNode})
		}
	}
	know(model.IdentityHost, append(n.Addresses[:2:2], topo.Gateways...)...)
	know(model.IdentityRemoteNode, topo.Nodes[1-node].Addresses...)
	know(256, pod.Addresses...)
	know(256, topo.Pods[1-node].Addresses...)
	return s
}

func withNodes(t *testing.T, uplinks bool, f func(*World)) {
	topo := twoNodes(uplinks)
	withWorldOf(t, topo, func(w *World) {
		for i, n := range topo.Nodes {
			_, err := w.Apply(context.Background(), n.Name, stateOf(topo, w, i))
			require.NoError(t, err)
		}
		f(w)
	})
}

// hooksOf are the hooks that a walk met, each with its node.
func hooksOf(walk lab.Walk) []string {
	var out []string
	for _, s := range walk.Steps {
		out = append(out, string(s.Hook)+" of "+s.Endpoint+" on "+s.Node)
	}
	return out
}

func TestExchangesBetweenNodes(t *testing.T) {
	ctx := context.Background()
	pairs := [][2]string{{"default/a", "default/b"}, {"default/b", "default/a"}, {"default/a", "node-2"}, {"node", "default/b"},
		{"node-2", "default/b"}, {"node", "node-2"}, {"node-2", "outside"}, {"outside", "node-2"}, {"outside", "default/b"}, {"default/b", "outside"}, {"node", "node"}}
	for _, uplinks := range []bool{false, true} {
		// A subtest would run on a thread that is not the worker's.
		withNodes(t, uplinks, func(w *World) {
			for _, pair := range pairs {
				for _, to := range w.hosts[pair[1]].addresses[:2] {
					what := fmt.Sprintf("%s to %s at %s, uplinks %t", pair[0], pair[1], to, uplinks)
					require.NoError(t, w.Ping(ctx, pair[0], to), what)
					port := w.freePort()
					require.NoError(t, w.Listen(ctx, pair[1], model.ProtocolTCP, port, echo), what)
					c, err := w.Dial(ctx, pair[0], model.ProtocolTCP, 0, netip.AddrPortFrom(to, port))
					require.NoError(t, err, what)
					require.Equal(t, pair[1], c.Server(), what)
					require.Equal(t, c.Local(), c.Peer(), what)
					require.NoError(t, c.Close(), what)
					for _, walk := range w.Walks() {
						require.Empty(t, walk.Faults, what)
						require.Empty(t, walk.Nobody, what)
					}
				}
			}
		})
	}
}

func TestAWalkCrossesNodes(t *testing.T) {
	tests := map[string]struct {
		from, to string
		uplinks  bool
		ttl      uint8 // of 64
		want     []string
	}{
		"pod to pod": {"default/a", "10.0.1.10", false, 62,
			[]string{"from-container of default/a on node", "to-container of default/b on node-2"}},
		"pod to pod by uplinks": {"default/a", "10.0.1.10", true, 62,
			[]string{"from-container of default/a on node", "from-device of node-2 on node-2", "to-container of default/b on node-2"}},
		"node to pod by uplinks": {"node", "10.0.1.10", true, 63,
			[]string{"to-device of node on node", "from-device of node-2 on node-2", "to-container of default/b on node-2"}},
		"node to its own pod":        {"node", "10.0.0.10", true, 64, []string{"to-container of default/a on node"}},
		"node to itself":             {"node", "198.18.0.2", true, 64, nil},
		"outside to node by uplinks": {"outside", "198.18.0.3", true, 64, []string{"from-device of node-2 on node-2"}},
	}
	for _, uplinks := range []bool{false, true} {
		withNodes(t, uplinks, func(w *World) {
			for name, test := range tests {
				if test.uplinks != uplinks {
					continue
				}
				require.NoError(t, w.Ping(context.Background(), test.from, netip.MustParseAddr(test.to)), name)
				walk := w.Walks()[0]
				require.Equal(t, test.want, hooksOf(walk), name)
				require.Equal(t, test.ttl, frame.Decode(walk.Delivered).TTL, name)
			}
		})
	}
}

func TestTheRouterLeadsWhatNobodyHas(t *testing.T) {
	tests := map[string]struct {
		from, to string
		want     []string
		nobody   string
	}{
		"from outside, to the first node":         {"outside", "198.51.100.7", []string{"from-device of node on node"}, "the node has no route"},
		"from outside, to the node of the route":  {"outside", "198.51.100.1", []string{"from-device of node-2 on node-2", "to-device of node-2 on node-2", "from-device of node-2 on node-2"}, "whose time is over"},
		"from a node, to nowhere":                 {"node-2", "198.51.100.7", []string{"to-device of node-2 on node-2"}, "left node-2 for the router, which knows nobody"},
		"from outside to outside, without a node": {"outside", "203.0.113.10", nil, ""},
	}
	withNodes(t, true, func(w *World) {
		for name, test := range tests {
			_ = w.Ping(context.Background(), test.from, netip.MustParseAddr(test.to)) // nobody answers most
			walk := w.Walks()[0]
			require.Equal(t, test.want, hooksOf(walk)[:len(test.want)], name)
			require.Contains(t, walk.Nobody, test.nobody, name)
		}
	})
}

func TestNodesHaveTablesOfTheirOwn(t *testing.T) {
	withNodes(t, true, func(w *World) {
		require.NoError(t, w.Ping(context.Background(), "default/a", netip.MustParseAddr("198.18.0.2")))
		for node, want := range map[string]int{"": 2, "node": 2, "node-2": 0} {
			flows, err := w.Datapath(node).Flows()
			require.NoError(t, err)
			require.Len(t, flows, want, node)
		}
		require.Nil(t, w.Datapath("node-3"))
		require.NotContains(t, w.Devices("node-2"), "default/a")
		require.Equal(t, w.Devices("")["default/a"].Ifindex, w.Devices("node-2")["default/b"].Ifindex, "nodes are machines of their own")
	})
}
