// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
)

// A lab that runs other bytes than an agent proves something about other bytes.
// What may differ stands in lab.Differences, and nowhere else.
func TestTheLabRunsTheBytesThatAnAgentRuns(t *testing.T) {
	dir := t.TempDir()
	pins := filepath.Join(dir, "weir")
	require.NoError(t, mountBPF(pins))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	room, err := datapath.DefaultRoom()
	require.NoError(t, err)
	options := (&Options{Paths: Paths{Pins: pins, HostRoot: "/"}}).forDatapath(room)
	require.NotEmpty(t, options.Cgroup, "the machine has a cgroup2 hierarchy")
	d, err := datapath.Open(options)
	require.NoError(t, err)
	produced, err := d.Loaded()
	require.NoError(t, err)
	require.NoError(t, d.Remove())
	require.Len(t, produced.Programs, 13)

	topology := lab.Topology{Gateways: model.Gateways(), Sockets: true}
	for i, name := range []string{"one", "two"} {
		topology.Nodes = append(topology.Nodes, lab.Host{Name: name, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{198, 18, 0, byte(i + 2)})}})
	}
	compare := func(world string, w lab.World, small bool) {
		for _, node := range topology.Nodes {
			loaded, err := w.Datapath(node.Name).Loaded()
			require.NoError(t, err)
			first := node.Name == topology.Nodes[0].Name
			require.Equal(t, permitted(world, first, small, produced), different(produced, loaded), "node %s of world %s", node.Name, world)
		}
	}
	pool, err := prog.NewPool(1, datapath.Options{})
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pool.Use(t.Context(), topology, func(w *prog.World) { compare("prog", w, false) }))
	crowded := topology
	crowded.SmallShares = true
	require.NoError(t, pool.Use(t.Context(), crowded, func(w *prog.World) { compare("prog", w, true) }))
	world, err := netns.New(t.Context(), topology, netns.Options{})
	require.NoError(t, err)
	compare("netns", world, false)
	require.NoError(t, world.Close())
}

// different gives what is not the same, by kind and name, as the lab has it.
func different(agent, lab *datapath.Loaded) map[string]string {
	out := map[string]string{}
	add(out, "program", agent.Programs, lab.Programs)
	add(out, "table", agent.Tables, lab.Tables)
	add(out, "constant", agent.Constants, lab.Constants)
	add(out, "setting", agent.Settings, lab.Settings)
	return out
}

func add[V comparable](out map[string]string, kind string, agent, lab map[string]V) {
	for name := range maps.Keys(agent) {
		if got, ok := lab[name]; !ok {
			out[kind+" "+name] = "none"
		} else if got != agent[name] {
			out[kind+" "+name] = fmt.Sprint(got)
		}
	}
	for name := range lab {
		if _, ok := agent[name]; !ok {
			out[kind+" "+name] = "only the lab has it"
		}
	}
}

// permitted is what lab.Differences says of a node of a world.
func permitted(world string, first, small bool, agent *datapath.Loaded) map[string]string {
	out := map[string]string{}
	for _, d := range lab.Differences {
		if !slices.Contains(d.Worlds, world) || d.OtherNodes && first && !small || d.SmallShares && !small {
			continue
		}
		out[d.What] = d.In(agent)
	}
	return out
}
