// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

func TestEventsTellBothTuplesDirectionAndFlags(t *testing.T) {
	n := newNode(t)
	n.state.RuleSets = append(n.state.RuleSets, model.RuleSet{Key: "closed", Rules: []model.Rule{{Direction: model.Egress}}})
	opts := small()
	opts.TraceAll = true
	d := openDatapath(t, opts)
	for _, a := range []struct{ client, web, service string }{{"10.0.0.1", "10.0.0.2", "10.96.0.1"}, {"fd00::1", "fd00::2", "fd96::1"}} {
		client, web, service := netip.MustParseAddr(a.client), netip.MustParseAddr(a.web), netip.MustParseAddr(a.service)
		there := model.Tuple{Src: client, Dst: service, Sport: 40000, Dport: 80, Protocol: model.ProtocolTCP}
		led := model.Tuple{Src: client, Dst: web, Sport: 40000, Dport: 8080, Protocol: model.ProtocolTCP}
		back := model.Tuple{Src: web, Dst: client, Sport: 8080, Dport: 40000, Protocol: model.ProtocolTCP}
		shown := model.Tuple{Src: service, Dst: client, Sport: 80, Dport: 40000, Protocol: model.ProtocolTCP}
		_, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
		run(t, d, n.client, tcpFrame(t, a.client, a.service, 40000, 80, syn), model.Forward)
		run(t, d, n.web, tcpFrame(t, a.web, a.client, 8080, 40000, synAck), model.Forward)
		run(t, d, n.client, tcpFrame(t, a.client, a.service, 40000, 80, func(tcp *layers.TCP) { tcp.ACK, tcp.PSH = true, true }), model.Forward)

		closed := n.state.Clone()
		closed.Endpoints[1].RuleSet = "closed"
		_, err = d.Apply(closed)
		require.NoError(t, err)
		run(t, d, n.web, tcpFrame(t, a.web, a.client, 8080, 40000, ack), model.Drop)
		run(t, d, n.client, tcpFrame(t, a.client, a.service, 40001, 80, syn), model.Drop)
		run(t, d, n.client, tcpFrame(t, a.client, a.service, 40002, 80, func(tcp *layers.TCP) { tcp.SYN, tcp.FIN = true, true }), model.Drop)

		events, err := d.Events()
		require.NoError(t, err)
		type told struct {
			action        model.Action
			flow          FlowLookup
			tuple, after  model.Tuple
			direction     model.Direction
			reply         bool
			flags         uint8
			src, dst, len bool
		}
		with := func(t model.Tuple, client uint16) model.Tuple { t.Sport = client; return t }
		broken := model.Tuple{Src: client, Dst: service, Protocol: model.ProtocolTCP}
		var got []told
		for i := range events {
			e := &events[i]
			got = append(got, told{e.Decision.Action, e.Decision.Flow, e.Tuple, e.After, e.Direction(), e.Reply, e.TCPFlags,
				e.SrcIdentity != 0, e.DstIdentity != 0, e.Length >= 54})
		}
		require.Equal(t, []told{
			{model.Forward, FlowNew, there, led, model.Egress, false, 0x02, true, true, true},
			{model.Forward, FlowKnown, back, shown, model.Egress, true, 0x12, false, false, true},
			{model.Forward, FlowKnown, there, led, model.Egress, false, 0x18, false, false, true},
			{model.Drop, FlowRejudged, back, shown, model.Egress, true, 0x10, false, false, true},
			{model.Drop, FlowNew, with(there, 40001), with(led, 40001), model.Egress, false, 0x02, true, true, true},
			{model.Drop, FlowNone, broken, broken, model.Egress, false, 0x03, false, false, true},
		}, got)
	}
}

func TestAnEventOfAnotherVersionIsNamedAndLeftOut(t *testing.T) {
	const version = uint8(bpf.ContainerEventVersionEVENT_VERSION)
	whole := make([]byte, 136)
	whole[0], whole[2] = version, 136
	_, err := rawEvent(whole)
	require.NoError(t, err)
	for want, change := range map[string]func(record []byte) []byte{
		"newer than":         func(r []byte) []byte { r[0]++; return append(r, 1, 2, 3, 4) },
		"older than":         func(r []byte) []byte { r[0]--; return r[:92] },
		"has 128 bytes":      func(r []byte) []byte { return r[:128] },
		"says 137":           func(r []byte) []byte { r[2]++; return r },
		"a record has 3 byt": func(r []byte) []byte { return r[:3] },
	} {
		_, err := rawEvent(change(append([]byte{}, whole...)))
		require.ErrorContains(t, err, want)
	}
	newer := append([]byte{}, whole...)
	newer[0]++
	_, err = rawEvent(newer)
	require.ErrorIs(t, err, ErrEventVersion)
}

func TestANoteOfAnotherVersionIsNamed(t *testing.T) {
	_, err := new(Datapath).decision(model.FromDevice, 1, &[5]uint32{noteMagic<<24 | (noteVersion+1)<<16})
	require.ErrorIs(t, err, ErrNoteVersion)
	require.ErrorContains(t, err, "this loader reads 3")
	_, err = new(Datapath).decision(model.FromDevice, 1, &[5]uint32{7})
	require.ErrorContains(t, err, "left 0x7")
}
