// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// onOneCPU keeps a test's thread, which dies with it, on one CPU. The kernel's tables
// that forget what was used least (kernel/bpf/bpf_lru_list.c) keep what was written last
// by CPU: what was written on one is not forgotten for what is written on another.
func onOneCPU(t *testing.T) {
	t.Helper()
	var all, one unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &all))
	for cpu := 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	require.NoError(t, unix.SchedSetaffinity(0, &one))
}

// crowdable is a datapath whose tables of openings are small. Without shares,
// whoever opens most has all of them. No time passes there, however slow the machine.
func crowdable(t *testing.T, n *node, shares bool) *Datapath {
	t.Helper()
	onOneCPU(t)
	d := openDatapath(t, Options{
		StopClock: true, Unanswered: 4096, Room: map[string]uint32{bpf.ContainerMapFragments: 2048},
		Edit: func(spec *ebpf.CollectionSpec) error {
			for _, name := range []string{bpf.ContainerVarFlowShare, bpf.ContainerVarFragmentShare} {
				if v := spec.Variables[name]; v != nil && !shares {
					require.NoError(t, v.Set(uint32(1)<<31))
				}
			}
			return nil
		},
	})
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	return d
}

const floods = 4

// One pod opens flows for ever: what another has begun is found when its answer
// comes.
func TestAPodThatFloodsOpeningsForgetsItsOwn(t *testing.T) {
	n := newNode(t)
	uplink := withUplink(t, n)
	victim := translations(n, uplink)["masqueraded, ipv4"]
	for shares, kept := range map[bool]int{true: floods, false: 0} {
		d := crowdable(t, n, shares)
		found := 0
		for round := range floods {
			port := uint16(50000 + round)
			victim.there(t, d, port, "SYN")
			for i := range 6000 {
				data := tcpFrame(t, "10.0.0.2", fmt.Sprintf("203.0.%d.%d", round, 1+i%200), uint16(1024+i), 80, syn)
				_, err := d.Run(model.FromContainer, Frame{Data: data, Ifindex: n.web.Ifindex})
				require.NoError(t, err)
			}
			answer := victim.answer(t, d, port, "SYN+ACK").Decision
			if answer.Flow == FlowKnown && answer.Out == model.OutLocal {
				found++
			}
		}
		require.Equal(t, kept, found, "handshakes with 6000 openings of another pod in the middle; with shares: %v", shares)
		if shares {
			require.LessOrEqual(t, entriesOf(t, d, n.web.Ifindex), 2*4096/8, "halves that the flood has")
		}
	}
}

// entriesOf counts halves of flows that a pod has opened and nobody has answered.
func entriesOf(t *testing.T, d *Datapath, ifindex int) int {
	t.Helper()
	count := 0
	require.NoError(t, readBatches(d.maps[bpf.ContainerMapCtUnanswered], func(key flowKey, f flowValue) {
		if key.Ifindex == uint32(ifindex) || f.OtherIfindex == uint32(ifindex) {
			count++
		}
	}))
	return count
}

// A packet in two fragments is whole though another pod sends first fragments
// for ever in between.
func TestAPodThatFloodsFragmentsForgetsItsOwn(t *testing.T) {
	n := newNode(t)
	for shares, kept := range map[bool]int{true: floods, false: 0} {
		d := crowdable(t, n, shares)
		send := func(ifindex int, src, dst string, id uint16, off int, more bool) model.Action {
			f := tcpFrame(t, src, dst, 5000, 80, syn)
			word := uint16(off / 8)
			if more {
				word |= 0x2000
			}
			f[18], f[19], f[20], f[21] = byte(id>>8), byte(id), byte(word>>8), byte(word)
			ran, err := d.Run(model.FromContainer, Frame{Data: f, Ifindex: ifindex})
			require.NoError(t, err)
			return ran.Decision.Action
		}
		whole := 0
		for round := range floods {
			require.Equal(t, model.Forward, send(n.client.Ifindex, "10.0.0.1", "10.0.0.2", uint16(round), 0, true))
			for i := range 3000 {
				send(n.web.Ifindex, "10.0.0.2", "10.0.0.1", uint16(i+round*3000), 0, true)
			}
			if send(n.client.Ifindex, "10.0.0.1", "10.0.0.2", uint16(round), 24, false) == model.Forward {
				whole++
			}
		}
		require.Equal(t, kept, whole, "with shares: %v", shares)
		require.Equal(t, model.Forward, send(n.web.Ifindex, "10.0.0.2", "10.0.0.1", floods*3000-1, 24, false), "its latest is there")
		if shares {
			require.Equal(t, model.Drop, send(n.web.Ifindex, "10.0.0.2", "10.0.0.1", floods*3000-1000, 24, false), "its oldest made room")
		}
	}
}

// A pod that answers itself has its share of the table of answered flows, until
// they are over: another's flow that is answered then lives through any flood.
func TestAPodThatFloodsAnsweredFlowsLeavesRoom(t *testing.T) {
	n := newNode(t)
	uplink := withUplink(t, n)
	victim := translations(n, uplink)["masqueraded, ipv4"]
	const room, share = 4096, 1024
	for _, shares := range []bool{true, false} {
		d := openDatapath(t, Options{Unanswered: 4096, Flows: room, Edit: func(spec *ebpf.CollectionSpec) error {
			if v := spec.Variables[bpf.ContainerVarAnsweredShare]; v != nil && !shares {
				require.NoError(t, v.Set(uint32(1)<<31))
			}
			return nil
		}})
		_, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
		web := func(src, dst string, sport, dport uint16, flags func(*layers.TCP)) {
			_, err := d.Run(model.FromContainer, Frame{Data: tcpFrame(t, src, dst, sport, dport, flags), Ifindex: n.web.Ifindex})
			require.NoError(t, err)
		}
		for i := range uint16(3000) { // to itself by its service: it is the node for itself
			web("10.0.0.2", "10.96.0.1", 1100+i, 80, syn)
			web("10.0.0.2", "192.0.2.1", 8080, 1100+i, synAck)
			web("10.0.0.2", "10.96.0.1", 1100+i, 80, tcpFlags["ACK"])
		}
		held := func() (count int) {
			require.NoError(t, readBatches(d.maps[bpf.ContainerMapCtAnswered], func(key flowKey, _ flowValue) { count++ }))
			return count
		}
		if !shares {
			require.Equal(t, room, held(), "without a share it has all of it")
			continue
		}
		require.Equal(t, share, held())
		_, err = d.Collect()
		require.NoError(t, err)
		victim.establish(t, d, 50000)
		for i := range 6000 {
			web("10.0.0.2", fmt.Sprintf("203.0.113.%d", 1+i%200), uint16(1024+i), 80, syn)
		}
		answer := victim.answer(t, d, 50000, "ACK").Decision
		require.Equal(t, FlowKnown, answer.Flow)
		require.Equal(t, model.OutLocal, answer.Out)
		require.NoError(t, d.Advance(24*time.Hour))
		for range 3 { // marked, deleted, counted
			_, err = d.Collect()
			require.NoError(t, err)
			require.NoError(t, d.Advance(2*time.Second))
		}
		require.Zero(t, held())
		counts := 0
		require.NoError(t, readBatches(d.maps[bpf.ContainerMapCtAnsweredBy], func(uint32, uint32) { counts++ }))
		require.Zero(t, counts, "what is over counts no more")
	}
}
