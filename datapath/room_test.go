// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/policygen"
)

// What a budget counts is what the tables hold, so that what is within budgets
// always finds room.
func TestAStateFillsTheTablesAsItIsCounted(t *testing.T) {
	d := openDatapath(t, small())
	seen := map[model.Table]int{}
	for seed := range uint64(30) {
		objs := policygen.Cluster(rand.New(rand.NewPCG(seed, 3)), policygen.Options{Nodes: 1, MaxPods: 6, MaxPolicies: 4})
		local := model.Local{Devices: map[model.Key]model.Device{}, Gateways: model.Gateways()}
		node, i := "", 0
		for name := range objs.Nodes {
			node = name
		}
		for name := range objs.Pods {
			i++
			mac := net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}
			local.Devices[model.ParseKey(name)] = model.Device{Name: fmt.Sprintf("veth-%d", i), Ifindex: 1000 + i, MAC: mac, PodMAC: mac}
		}
		state, _, err := compile.All(manifest.DeriveEndpointSlices(objs), node, local)
		require.NoError(t, err)
		for j, port := range []uint16{80, 81, 82} { // lists that are equal are there once
			more := model.Service{
				Name: model.PortRef{Namespace: "default", Name: "more", Port: "80"}, Address: addr("10.99.0.1"), Port: port, Protocol: model.ProtocolTCP,
				Backends: append(backends(13, 2), model.Backend{Address: addr("10.1.9.9"), Port: 7, Terminating: true}), DSR: j == 2,
			}
			if j > 0 {
				more.MaglevSize = 251
				more.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24")}
			}
			state.Services = state.Services.With(more)
		}
		_, err = d.Apply(state.Clone())
		require.NoError(t, err)
		_, err = d.Collect() // which takes away what the state before had
		require.NoError(t, err)
		held := map[model.Table]int{model.TableMaglev: d.maglev.taken()}
		for _, table := range d.Tables() {
			if table.Name != bpf.ContainerMapNodes {
				held[model.Table(table.Name)] = len(table.Entries)
			}
		}
		counted := compile.Fill(state)
		for _, table := range model.Tables() {
			require.Equal(t, held[table], counted[table], "seed %d: %s", seed, table)
			seen[table] += held[table]
		}
	}
	for _, table := range model.Tables() {
		require.Positive(t, seen[table], table)
	}
}

// What is in force is not cut: the table says what it lacks, and goes on as it was.
func TestATableThatHoldsMoreThanItsNewRoomStays(t *testing.T) {
	n := newNode(t)
	opts := pinnedOptions(pinDir(t))
	open := func(table string, room uint32) (*Datapath, error) {
		opts.Room = map[string]uint32{table: room}
		return Open(opts)
	}
	d, err := open(bpf.ContainerMapRules, 1000)
	require.NoError(t, err)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, d.Close())
	for _, table := range []string{bpf.ContainerMapServices, bpf.ContainerMapRules} { // a hash, a trie
		_, err = open(table, 1)
		require.ErrorIs(t, err, ErrNoRoom, table)
		require.ErrorContains(t, err, "move table "+table)
		require.ErrorContains(t, err, "more than the 1 entries")
	}
	d, err = open(bpf.ContainerMapRules, 1000)
	require.NoError(t, err)
	change, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.Zero(t, change.Services, "it is all there")
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, syn), model.Forward)
	require.NoError(t, d.Close())
}

func TestATableMovesToAnotherSizeAndBackUnlessItsRoomIsKept(t *testing.T) {
	n := newNode(t)
	n.state.Services.At(0).MaglevSize = 251
	opts := pinnedOptions(pinDir(t))
	rooms := map[bool]uint32{}
	for _, step := range []struct {
		room uint32
		keep bool
	}{{room: 1000}, {room: 5000}, {room: 1000, keep: true}} {
		opts.Room, opts.KeepRoom = map[string]uint32{bpf.ContainerMapMaglev: step.room, bpf.ContainerMapRules: step.room}, step.keep
		d, err := Open(opts)
		require.NoError(t, err)
		sizes, err := d.TableSizes()
		require.NoError(t, err)
		for _, size := range sizes {
			if size.Name == bpf.ContainerMapMaglev {
				rooms[step.keep] = size.Room
				require.Positive(t, size.Bytes)
			}
		}
		change, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
		if step.room != 1000 || step.keep {
			require.Zero(t, change.Services, "what was there is there")
		}
		run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, syn), model.Forward)
		require.NoError(t, d.Close())
	}
	require.Equal(t, map[bool]uint32{false: 5000, true: 5000}, rooms)
	opts.Room = map[string]uint32{"rulez": 7}
	_, err := Open(opts)
	require.ErrorContains(t, err, "rulez")
}
