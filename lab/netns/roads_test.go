// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// arrivesAt sends a frame of second's and gives the node that it comes to.
func arrivesAt(t *testing.T, w *World, data []byte) string {
	t.Helper()
	require.NoError(t, w.Send(t.Context(), "second", data))
	over := within(t, patience)
	for over.Err() == nil {
		for _, node := range []string{"node", "node-2"} {
			frames, err := w.Arrived(within(t, 5*time.Millisecond), node)
			require.NoError(t, err)
			for _, f := range frames {
				if len(f.Data) == len(data) && string(f.Data[14:]) == string(data[14:]) {
					return node
				}
			}
		}
	}
	t.Fatal("the frame came to no node")
	return ""
}

// toBalancer is a frame of second's to an address that several nodes share.
func toBalancer(t *testing.T, w *World, to netip.Addr, more ...frame.Layer) []byte {
	t.Helper()
	own, gateway, err := w.MACs("second")
	require.NoError(t, err)
	from, err := w.byName["second"].address(to)
	require.NoError(t, err)
	ip := frame.Lower(frame.Layer{Kind: "ip"}, to.Is6()).With("src", frame.Addr(from)).With("dst", frame.Addr(to))
	data, err := frame.Build(append([]frame.Layer{frame.Layer{Kind: "eth"}.With("src", frame.MAC(own)).With("dst", frame.MAC(gateway)), ip}, more...)...)
	require.NoError(t, err)
	return data
}

func TestRouterTakesThePathOfFrame(t *testing.T) {
	network := twoNodes()
	for _, a := range []netip.Addr{balancerV4, balancerV6} {
		network.Routes = append(network.Routes, lab.Route{To: a, Node: "node-2"}, lab.Route{To: a, Node: "node"})
	}
	w := newNodesWorld(t, network, Options{Plain: true})
	order := []string{"node-2", "node"} // that of the routes
	port := func(kind string, n uint16) frame.Layer {
		return frame.Layer{Kind: kind}.With("sport", frame.Num(n)).With("dport", frame.Num(uint16(80)))
	}
	for _, to := range []netip.Addr{balancerV4, balancerV6} {
		seen := map[string]int{}
		for n := range uint16(12) {
			data := toBalancer(t, w, to, port([]string{"tcp", "udp"}[n%2], 3000+n))
			want := order[frame.Path(data, 2)]
			require.Equal(t, want, arrivesAt(t, w, data), "%s port %d", to, 3000+n)
			seen[want]++
		}
		require.Len(t, seen, 2)
		odd := [][]byte{
			toBalancer(t, w, to, frame.Lower(frame.Layer{Kind: "echo"}, to.Is6())),
			toBalancer(t, w, to, port("sctp", 7)),
			toBalancer(t, w, to, port("udp", 9)),
		}
		cut := len(odd) - 1
		odd[cut] = odd[cut][:len(odd[cut])-6] // in the middle of the ports
		if to.Is4() {
			fragment := toBalancer(t, w, to, port("udp", 9))
			fragment[14+6] |= 0x20
			options := toBalancer(t, w, to, port("udp", 11))
			options[14] = 0x46 // the ports are four octets farther
			odd = append(odd, fragment, options)
		}
		for i, data := range odd {
			require.Equal(t, order[frame.Path(data, 2)], arrivesAt(t, w, data), "%s odd frame %d", to, i)
		}
	}
}

func TestRouterIsToldAnew(t *testing.T) {
	w := newNodesWorld(t, twoNodes(), Options{Plain: true})
	for _, to := range []netip.Addr{balancerV4, balancerV6} {
		data := func() []byte { return toBalancer(t, w, to, frame.Layer{Kind: "udp"}) }
		require.Equal(t, "node", arrivesAt(t, w, data()), "from outside, to nobody")
		require.NoError(t, w.Assign(t.Context(), "node-2", to, true))
		require.Equal(t, "node-2", arrivesAt(t, w, data()))
		require.NoError(t, w.Lead(t.Context(), to, "node"))
		require.Equal(t, "node", arrivesAt(t, w, data()), "what was told comes before what somebody has")
		require.NoError(t, w.Lead(t.Context(), to))
		require.Equal(t, "node-2", arrivesAt(t, w, data()))
		require.NoError(t, w.Assign(t.Context(), "node-2", to, false))
		require.Equal(t, "node", arrivesAt(t, w, data()))
	}
	require.ErrorContains(t, w.Lead(t.Context(), balancerV4, "node-9"), "no node is named node-9")
	require.ErrorContains(t, w.Lead(t.Context(), balancerV4, make([]string, maxHops+1)...), "spreads over 8 at most")
}

func TestANodeServesAddressesThatItIsGiven(t *testing.T) {
	w := newNodesWorld(t, twoNodes(), Options{Plain: true})
	require.NoError(t, w.Listen(t.Context(), "node", model.ProtocolTCP, 4001, echo("before")))
	for _, a := range []netip.Addr{balancerV4, balancerV6} {
		for range 2 {
			require.NoError(t, w.Assign(t.Context(), "node", a, true))
			require.NoError(t, w.Ping(t.Context(), "second", a))
			conn, err := w.Dial(t.Context(), "second", model.ProtocolTCP, 0, netip.AddrPortFrom(a, 4001))
			require.NoError(t, err)
			require.Equal(t, "node", conn.Server())
			require.NoError(t, conn.Close())
			require.NoError(t, w.Assign(t.Context(), "node", a, false))
		}
		require.Error(t, w.Assign(t.Context(), "node", a, false), "it is gone already")
	}
	require.NoError(t, w.Assign(t.Context(), "node", balancerV4, true))
	require.NoError(t, w.Listen(t.Context(), "node", model.ProtocolUDP, 4002, echo("behind")))
	conn, err := w.Dial(t.Context(), "second", model.ProtocolUDP, 0, netip.AddrPortFrom(balancerV4, 4002))
	require.NoError(t, err)
	_, err = conn.Exchange(t.Context(), []byte("hello"))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

func TestSecondUplinksLeadToTheirHosts(t *testing.T) {
	network := twoNodes()
	network.Uplinks = true
	for i := range network.Outside {
		network.Outside[i].Second = network.Outside[i].Name == "second"
	}
	w := newNodesWorld(t, network, Options{})
	require.Len(t, w.Uplinks("node-2"), 2)
	applyToNodes(t, w, model.Options{}, twoNodeObjects)
	for _, node := range []string{"node", "node-2"} {
		n, err := w.node(node)
		require.NoError(t, err)
		for _, from := range []string{"outside", "second"} {
			for _, to := range n.addresses {
				before := received(t, n.host)
				require.NoError(t, w.Ping(t.Context(), from, to))
				after, own := received(t, n.host), 0
				if from == "second" {
					own = 1
				}
				require.Greater(t, after[own], before[own], "%s by its own uplink to %s", from, to)
			}
		}
		require.NoError(t, w.Ping(t.Context(), node, secondV4))
		require.NoError(t, w.Ping(t.Context(), node, secondV6))
	}
	network.Nodes, network.Pods, network.Uplinks = network.Nodes[:1], network.Pods[:2], false
	require.ErrorContains(t, checkTopology(network), "second uplinks lead to a router")
}

// received is how many packets the uplinks of a node got.
func received(t *testing.T, h *host) [2]uint64 {
	t.Helper()
	c, err := h.ns.configurator()
	require.NoError(t, err)
	defer c.Close()
	var counts [2]uint64
	for i, name := range []string{"eth0", "eth1"} {
		l, err := c.LinkByName(name)
		require.NoError(t, err)
		counts[i] = l.Attrs().Statistics.RxPackets
	}
	return counts
}
