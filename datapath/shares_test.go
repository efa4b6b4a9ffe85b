// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// crowdable is a datapath whose tables of openings are small. Without shares,
// whoever opens most has all of them.
func crowdable(t *testing.T, n *node, shares bool) *Datapath {
	t.Helper()
	d := openDatapath(t, Options{
		Unanswered: 4096, Room: map[string]uint32{bpf.ContainerMapFragments: 2048},
		Edit: func(spec *ebpf.CollectionSpec) error {
			for _, name := range []string{bpf.ContainerVarFlowShare, bpf.ContainerVarFragmentShare} {
				if v := spec.Variables[name]; v != nil && !shares {
					require.NoError(t, v.Set(uint32(1)<<31))
				}
			}
			return nil
		},
	})
	_, err := d.Apply(n.state)
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
	require.NoError(t, readBatches(d.maps[bpf.ContainerMapUnanswered], func(key flowKey, f flowValue) {
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
