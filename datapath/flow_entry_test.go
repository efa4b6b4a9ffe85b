// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

func TestAnEntryIsFoundUnderTheTupleThatItsPacketsHave(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for name, a := range map[string]struct{ client, web, service string }{
		"IPv4": {"10.0.0.1", "10.0.0.2", "10.96.0.1"},
		"IPv6": {"fd00::1", "fd00::2", "fd96::1"},
	} {
		t.Log(name)
		tuple := func(src string, sport uint16, dst string, dport uint16) model.Tuple {
			return model.Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Sport: sport, Dport: dport, Protocol: model.ProtocolTCP}
		}
		opening, led := tuple(a.client, 40000, a.service, 80), tuple(a.client, 40000, a.web, 8080)
		r := d.FlowReader()
		requireNone := func(hook model.Hook, ifindex int, at model.Tuple) {
			t.Helper()
			_, there, err := r.Entry(hook, ifindex, at)
			require.NoError(t, err)
			require.False(t, there)
		}
		requireEntry := func(want FlowEntry, ifindex int, at model.Tuple) {
			t.Helper()
			got, there, err := r.Entry(model.FromContainer, ifindex, at)
			require.NoError(t, err)
			require.True(t, there)
			require.Positive(t, got.LastSeen)
			require.NotZero(t, got.AddrDiff)
			require.NotZero(t, got.PortDiff)
			require.Equal(t, got.Seen != 0, got.Sent.Known)
			require.Equal(t, got.Seen&uint8(bpf.ContainerFlowSeenSEEN_ACK) != 0, got.Acked.Known)
			got.Sent, got.Acked = SequenceNumber{}, SequenceNumber{}
			got.LastSeen, got.AddrDiff, got.PortDiff = 0, 0, 0
			require.Equal(t, want, got)
		}
		requireNone(model.FromContainer, n.client.Ifindex, opening)
		run(t, d, n.client, tcpFrame(t, a.client, a.service, 40000, 80, syn), model.Forward)
		there := FlowEntry{
			Leaves: led, Other: model.FromContainer, OtherIfindex: n.web.Ifindex, Translated: true, Current: true,
			Out: model.OutLocal, Ifindex: n.web.Ifindex, SMAC: [6]byte(n.web.MAC), DMAC: [6]byte(n.web.PodMAC),
			Service: model.PortRef{Namespace: "default", Name: "web", Port: "80"}, Seen: uint8(bpf.ContainerFlowSeenSEEN_SYN),
		}
		back := FlowEntry{
			Reply: true, Leaves: opening.Reversed(), Other: model.FromContainer, OtherIfindex: n.client.Ifindex, Translated: true, Current: true,
			Out: model.OutLocal, Ifindex: n.client.Ifindex, SMAC: [6]byte(n.client.MAC), DMAC: [6]byte(n.client.PodMAC),
			Service: model.PortRef{Namespace: "default", Name: "web", Port: "80"},
		}
		requireEntry(there, n.client.Ifindex, opening)
		requireEntry(back, n.web.Ifindex, led.Reversed())
		requireNone(model.FromContainer, n.web.Ifindex, opening)
		requireNone(model.ToContainer, n.client.Ifindex, opening)
		requireNone(model.FromDevice, n.client.Ifindex, opening)

		run(t, d, n.web, tcpFrame(t, a.web, a.client, 8080, 40000, synAck), model.Forward)
		run(t, d, n.client, tcpFrame(t, a.client, a.service, 40000, 80, ack), model.Forward)
		there.Answered, back.Answered = true, true
		there.Seen |= uint8(bpf.ContainerFlowSeenSEEN_ACK)
		back.Seen = uint8(bpf.ContainerFlowSeenSEEN_SYN | bpf.ContainerFlowSeenSEEN_ACK)
		requireEntry(there, n.client.Ifindex, opening) // among those answered
		requireEntry(back, n.web.Ifindex, led.Reversed())
	}
}

func TestReadingAnEntryAllocatesNothing(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	r := d.FlowReader()
	at := model.Tuple{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Protocol: model.ProtocolUDP}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, there, err := r.Entry(model.FromContainer, n.client.Ifindex, at); there || err != nil {
			t.Errorf("an entry (%t) of nothing: %v", there, err)
		}
	}))
}
