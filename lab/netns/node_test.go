// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// What twoNodes has besides the topology of one node.
var (
	node2V4, node2V6 = netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	farV4, farV6     = netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("fd00:1::1")
)

// twoNodes is topology with a second node and a pod there.
func twoNodes() lab.Topology {
	t := topology()
	t.Nodes = append(t.Nodes, lab.Host{Name: "node-2", Addresses: []netip.Addr{node2V4, node2V6}})
	t.Pods = append(t.Pods, lab.Host{Name: "default/far", Addresses: []netip.Addr{farV4, farV6}, Node: "node-2"})
	return t
}

// twoNodeObjects are the objects of twoNodes.
const twoNodeObjects = serviceObjects + `---
apiVersion: v1
kind: Node
metadata: {name: node-2}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.2}
  - {type: InternalIP, address: "2001:db8::2"}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: default, labels: {app: far}}
spec: {nodeName: node-2, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.1.1}, {ip: "fd00:1::1"}]}
`

func newNodesWorld(t testing.TB, topology lab.Topology, options Options) *World {
	t.Helper()
	needRoot(t)
	w, err := New(t.Context(), topology, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	return w
}

// applyToNodes compiles objects for each node.
func applyToNodes(t testing.TB, w *World, options model.Options, documents ...string) {
	t.Helper()
	objects, err := manifest.Parse("objects.yaml", strings.NewReader(strings.Join(documents, "\n---\n")))
	require.NoError(t, err)
	for _, n := range w.nodes {
		state, _, err := compile.All(manifest.DeriveEndpointSlices(objects), n.name, model.Local{
			Devices: model.DevicesOf(w.Devices(n.name)), Uplinks: w.Uplinks(n.name), Gateways: w.topology.Gateways, Options: options,
		})
		require.NoError(t, err)
		_, err = w.Apply(t.Context(), n.name, state)
		require.NoError(t, err)
	}
}

// farPairs are who talks to whom by way of the router.
var farPairs = []struct {
	name, from, to string
	at             []netip.Addr
}{
	{"pod to pod of the other node", "default/client", "default/far", []netip.Addr{farV4, farV6}},
	{"pod of the other node to pod", "default/far", "default/web", []netip.Addr{webV4, webV6}},
	{"node to node", "node", "node-2", []netip.Addr{node2V4, node2V6}},
	{"node to pod of the other node", "node", "default/far", []netip.Addr{farV4, farV6}},
	{"pod to the other node", "default/far", "node", []netip.Addr{nodeV4, nodeV6}},
	{"outside to pod of the second node", "outside", "default/far", []netip.Addr{farV4, farV6}},
	{"outside to the second node", "second", "node-2", []netip.Addr{node2V4, node2V6}},
	{"pod of the second node to outside", "default/far", "second", []netip.Addr{secondV4, secondV6}},
}

func TestNodesReachEachOther(t *testing.T) {
	all := append(farPairs, pairs...)
	for _, plain := range []bool{true, false} {
		w := newNodesWorld(t, twoNodes(), Options{Plain: plain})
		if !plain {
			applyToNodes(t, w, model.Options{}, twoNodeObjects)
		}
		listenEverywhere(t, w, "default/web", "default/far", "outside", "second", "node", "node-2")
		for _, p := range all {
			for _, at := range p.at {
				t.Run(fmt.Sprintf("plain %t, %s %s", plain, p.name, at), func(t *testing.T) {
					require.NoError(t, w.Ping(within(t, patient), p.from, at))
					for _, port := range ports {
						checkExchange(t, w, p.from, p.to, port.protocol, netip.AddrPortFrom(at, port.target))
					}
				})
			}
		}
	}
}

func TestPoolsKeepTheDatapathsOfAllNodes(t *testing.T) {
	needRoot(t)
	before := holdings(t)
	pool := NewPool(1)
	for range 3 {
		for _, network := range []lab.Topology{twoNodes(), uplinkTopology(), topology()} {
			w, err := pool.New(t.Context(), network, Options{})
			require.NoError(t, err)
			for _, n := range w.nodes {
				residue, err := n.datapath.Residue()
				require.NoError(t, err)
				require.Empty(t, residue)
			}
			documents := map[bool]string{true: uplinkObjects, false: twoNodeObjects}[network.Uplinks]
			applyToNodes(t, w, model.Options{Masquerade: network.Uplinks}, documents)
			if network.Routed() {
				listenEverywhere(t, w, "default/far")
				checkExchange(t, w, "default/client", "default/far", model.ProtocolTCP, netip.AddrPortFrom(farV6, 8080))
			}
			if network.Uplinks {
				at := netip.AddrPortFrom(nodeV4, 32000+ofService(8080)%1000)
				checkJourney(t, w, journey{from: "second", to: "default/far"}, model.ProtocolTCP, at, nodeV4)
			}
			require.NoError(t, w.Close())
		}
	}
	require.LessOrEqual(t, pool.Opened(), 1+moreNodes)
	require.NoError(t, pool.Close())
	requireNothingOver(t, before)
}

func TestNothingOfSeveralNodesIsLeftBehind(t *testing.T) {
	needRoot(t)
	before := holdings(t)
	for _, options := range []Options{
		{}, {Pin: true, Keep: true}, {Plain: true},
		{Datapath: datapath.Options{ForceClsact: true}}, {Pin: true, Datapath: datapath.Options{ForceClsact: true}},
	} {
		t.Run(fmt.Sprintf("%+v", options), func(t *testing.T) {
			w, err := New(t.Context(), uplinkTopology(), options)
			require.NoError(t, err)
			if !options.Plain {
				applyToNodes(t, w, model.Options{Masquerade: true}, uplinkObjects)
			}
			listenEverywhere(t, w, "default/far", "outside")
			checkExchange(t, w, "second", "default/far", model.ProtocolTCP, netip.AddrPortFrom(farV4, 8080))
			if !options.Plain {
				outside := netip.AddrPortFrom(outsideV6, 8080)
				checkJourney(t, w, journey{from: "default/far", to: "outside"}, model.ProtocolTCP, outside, node2V6)
			}
			require.NoError(t, w.Close())
		})
	}
	requireNothingOver(t, before)
}

func TestWhatIsAskedOfANodeThatIsNotThereIsAnError(t *testing.T) {
	w := newNodesWorld(t, twoNodes(), Options{})
	_, err := w.Apply(t.Context(), "node-3", &model.State{})
	require.ErrorContains(t, err, `no node is named node-3 in this topology, but ["node" "node-2"]`)
	require.Nil(t, w.Datapath("node-3"))
	require.Empty(t, w.Devices("node-3"))
	require.Equal(t, []string{"default/far"}, slices.Collect(maps.Keys(w.Devices("node-2"))))
	require.Same(t, w.Datapath("node"), w.Datapath(""), "the first node needs no name")
}
