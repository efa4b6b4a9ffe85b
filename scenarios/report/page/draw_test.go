// SPDX-License-Identifier: Apache-2.0

package page

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
)

func host(name, node, v4, v6 string) lab.Host {
	return lab.Host{Name: name, Node: node, Addresses: []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}}
}

// twoNodes has three pods, and two hosts outside.
func twoNodes() lab.Topology {
	return lab.Topology{
		Nodes:   []lab.Host{host("node", "", "198.18.0.2", "fd00::2"), host("node-2", "", "198.18.0.3", "fd00::3")},
		Pods:    []lab.Host{host("default/client", "", "10.0.0.10", "fd10::10"), host("default/web", "node-2", "10.0.1.10", "fd11::10"), host("shop/web", "node-2", "10.0.1.11", "fd11::11")},
		Outside: []lab.Host{host("internet", "", "203.0.113.10", "2001:db8::10"), host("stranger", "", "203.0.113.11", "2001:db8::11")},
	}
}

func (d *drawing) box(t *testing.T, name string) box {
	t.Helper()
	for _, b := range d.Boxes {
		if b.Name == name {
			return b
		}
	}
	t.Fatalf("no box of %s in %+v", name, d.Boxes)
	return box{}
}

func (b box) holds(x, y int) bool { return x >= b.X && x <= b.X+b.W && y >= b.Y && y <= b.Y+b.H }

func (b box) contains(c box) bool { return b.holds(c.X, c.Y) && b.holds(c.X+c.W, c.Y+c.H) }

func (b box) meets(c box) bool {
	return b.X < c.X+c.W && c.X < b.X+b.W && b.Y < c.Y+c.H && c.Y < b.Y+b.H
}

// requireSound refuses boxes that lie on each other, but for pods in nodes, and what
// is out of the drawing.
func requireSound(t *testing.T, d *drawing) {
	t.Helper()
	whole := box{W: d.Width, H: d.Height}
	for i, b := range d.Boxes {
		require.True(t, whole.contains(b), "%s is out of the drawing of %d x %d: %+v", b.Name, d.Width, d.Height, b)
		for _, c := range d.Boxes[i+1:] {
			require.False(t, b.meets(c) && !b.contains(c), "%s lies on %s: %+v, %+v", b.Name, c.Name, b, c)
		}
	}
	for _, w := range d.Wires {
		require.True(t, whole.holds(w.X, w.Y) && whole.holds(w.X+w.Right, w.Y+w.Down), "a wire is out of the drawing: %+v", w)
	}
	for i, m := range d.Marks {
		require.True(t, whole.holds(m.X, m.Y), "a mark is out of the drawing: %+v", m)
		for _, n := range d.Marks[i+1:] {
			require.False(t, m.X == n.X && m.Y == n.Y, "mark %d lies on mark %d", m.N, n.N)
		}
	}
}

func TestPodsAreDrawnInTheirNodes(t *testing.T) {
	d := draw(twoNodes(), false, nil)
	requireSound(t, d)
	require.True(t, d.box(t, "node").contains(d.box(t, "client")))
	for _, pod := range []string{"web", "shop/web"} {
		require.True(t, d.box(t, "node-2").contains(d.box(t, pod)))
	}
	require.Less(t, d.box(t, "internet").Y, d.box(t, "the router").Y)
	require.Less(t, d.box(t, "the router").Y, d.box(t, "node").Y)
	require.Equal(t, "10.0.1.11", d.box(t, "shop/web").Under)
	require.Equal(t, "fd11::11", draw(twoNodes(), true, nil).box(t, "shop/web").Under)
	require.Empty(t, d.Marks)
	for _, w := range d.Wires {
		require.False(t, w.Way)
	}
}

// A hook's mark is on the wire where the frame met it.
func TestHooksAreMarkedWhereTheFrameMetThem(t *testing.T) {
	d := draw(twoNodes(), false, &Walk{From: "client", Steps: []Step{
		{Hook: "from-container", Endpoint: "default/client", Action: "forward", Out: "device"},
		{Hook: "from-device", Endpoint: "node-2", Action: "forward"},
		{Hook: "to-container", Endpoint: "default/web", Action: "forward", But: "dropped it"},
		{Hook: "to-container", Endpoint: "default/web", Action: "drop", Reason: "policy-ingress"},
	}})
	requireSound(t, d)
	at := map[int]mark{}
	for _, m := range d.Marks {
		at[m.N] = m
	}
	require.Len(t, at, 4)
	client, node, web := d.box(t, "client"), d.box(t, "node-2"), d.box(t, "web")
	require.True(t, at[1].X < client.X && at[1].Y == client.Y+client.H/2, "%+v of %+v", at[1], client)
	require.True(t, at[2].Y < node.Y && at[2].X == node.X+busX, "%+v of %+v", at[2], node)
	for _, n := range []int{3, 4} {
		require.True(t, at[n].X < web.X && at[n].Y == web.Y+web.H/2, "%+v of %+v", at[n], web)
		require.Equal(t, "drop", at[n].Class)
	}
	require.Equal(t, "to-container of default/web: drop policy-ingress", at[4].Title)
	require.Contains(t, client.Class, "way")
	require.NotContains(t, d.box(t, "shop/web").Class, "way")
	ways := 0
	for _, w := range d.Wires {
		if w.Way {
			ways++
		}
	}
	require.Equal(t, 4, ways, "both pods' wires and both uplinks")
}

func TestAnyNetworkIsDrawn(t *testing.T) {
	require.Nil(t, draw(lab.Topology{}, false, nil))
	for nodes := 1; nodes <= 4; nodes++ {
		for _, pods := range []int{0, 1, 40} {
			for _, outside := range []int{0, 1, 6} {
				for _, uplinks := range []bool{false, true} {
					topology := lab.Topology{Uplinks: uplinks}
					walk := Walk{From: "nobody"}
					for i := range nodes {
						topology.Nodes = append(topology.Nodes, lab.Host{Name: fmt.Sprintf("node-%d", i)})
						walk.Steps = append(walk.Steps, Step{Endpoint: fmt.Sprintf("node-%d", i)}, Step{Endpoint: fmt.Sprintf("node-%d", i)}, Step{Endpoint: "gone"})
					}
					for i := range pods {
						topology.Pods = append(topology.Pods, host(fmt.Sprintf("a-namespace-with-a-very-long-name/a-pod-with-a-longer-name-%d", i), fmt.Sprintf("node-%d", i%nodes), "10.0.0.1", "fd10::1"))
					}
					for i := range outside {
						topology.Outside = append(topology.Outside, lab.Host{Name: fmt.Sprintf("outside-%d", i), Second: i == 1})
					}
					d := draw(topology, true, &walk)
					requireSound(t, d)
					require.Len(t, d.Marks, 2*nodes)
				}
			}
		}
	}
}

func TestALongNameIsCutAndToldWhole(t *testing.T) {
	topology := lab.Topology{Nodes: []lab.Host{{Name: "node-of-a-name-that-is-longer-than-anybody-would-draw-it"}}}
	b := draw(topology, false, nil).Boxes[0]
	require.Len(t, []rune(b.Name), mostWide)
	require.Equal(t, topology.Nodes[0].Name, b.Whole)
}
