// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// withFlows is a datapath that has as many answered flows, from port 1000 on.
func withFlows(t *testing.T, flows int) (*node, *Datapath) {
	t.Helper()
	n := newNode(t)
	opts := small()
	opts.Edit = asAsked(t)
	d := openDatapath(t, opts)
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for i := range flows {
		establish(t, d, n, uint16(1000+i))
	}
	return n, d
}

// Time steps forward and the collector runs while packets of some flows keep
// coming: those flows stay, those that are silent go.
func TestTheCollectorDeletesNoLiveFlow(t *testing.T) {
	n, d := withFlows(t, 2)
	for range 20 {
		require.NoError(t, d.Advance(time.Hour))
		live := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, ack), model.Forward)
		require.Equal(t, FlowKnown, live.Decision.Flow)
		_, err := d.Collect()
		require.NoError(t, err)
	}
	flows, err := d.Flows()
	require.NoError(t, err)
	require.Len(t, flows, 2, "the two halves of the live flow")
	for _, f := range flows {
		require.Contains(t, []uint16{f.Tuple.Sport, f.Tuple.Dport}, uint16(1000))
	}
	silent := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1001, 80, ack), model.Forward)
	require.Equal(t, FlowNew, silent.Decision.Flow)
}

// What packets touch between the collector's look and its mark is not marked: the
// program that marks looks again, at each of as many entries as there are.
func TestAFlowThatWasTouchedIsNotMarked(t *testing.T) {
	const flows = 70 // more than two batches of halves
	n, d := withFlows(t, flows)
	seen, err := readFlows(d.maps[bpf.ContainerMapCtAnswered])
	require.NoError(t, err)
	require.Len(t, seen, 2*flows)
	require.Greater(t, 2*flows, 2*markBatch)
	var stale []*entry
	for _, e := range seen {
		stale = append(stale, e)
	}
	require.NoError(t, d.Advance(time.Minute))
	touched := map[uint16]bool{}
	for port := uint16(1000); port < 1000+flows; port += 7 {
		run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", port, 80, ack), model.Forward)
		touched[port] = true
	}
	marked, err := d.mark(stale)
	require.NoError(t, err)
	require.Equal(t, 2*flows-len(touched), marked, "only the halves that nothing has touched")
	now, err := readFlows(d.maps[bpf.ContainerMapCtAnswered])
	require.NoError(t, err)
	require.Len(t, now, 2*flows)
	for key, e := range now {
		isTouched := !e.reply() && touched[decodePort(key.Sport)]
		require.Equal(t, !isTouched, e.dead(), "%v", decodeTuple(&key))
		was := *seen[key]
		e.value.Flags &^= uint8(bpf.ContainerFlowFlagsFLOW_DEAD)
		if !isTouched {
			require.Equal(t, was.value, e.value, "nothing else of it has changed")
		}
	}
	none, err := d.mark(nil)
	require.NoError(t, err)
	require.Zero(t, none)
	gone, err := d.mark([]*entry{{key: flowKey{Proto: 6}}})
	require.NoError(t, err)
	require.Zero(t, gone, "what is not there any more is not marked")
}

// What an operator says of lifetimes holds for the collector, for what is listed, and
// for the programs, which tell by themselves when an unanswered flow is over.
func TestFlowsLiveAsLongAsTheOperatorSays(t *testing.T) {
	n := newNode(t)
	opts := small()
	opts.Lifetimes = model.Lifetimes{model.LifetimeTCPFinWait: 10 * time.Minute, model.LifetimeTCPUnanswered: 200 * time.Second}
	d := openDatapath(t, opts)
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	establish(t, d, n, 1000)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, func(tcp *layers.TCP) { tcp.FIN, tcp.ACK = true, true }), model.Forward)
	again := func(port uint16) FlowLookup {
		return run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", port, 80, ack), model.Forward).Decision.Flow
	}
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1001, 80, syn), model.Forward)
	require.NoError(t, d.Advance(190*time.Second))
	require.Equal(t, FlowKnown, again(1001), "nobody has answered for 190 of 200 s")
	require.NoError(t, d.Advance(210*time.Second))
	require.Equal(t, FlowNew, again(1001))
	_, err = d.Collect()
	require.NoError(t, err)
	require.Equal(t, FlowKnown, again(1000), "one side has closed 400 of 600 s ago")
	require.NoError(t, d.Advance(11*time.Minute))
	c, err := d.Collect()
	require.NoError(t, err)
	require.Equal(t, 2, c.Marked)
	require.Equal(t, FlowNew, again(1000))
}
