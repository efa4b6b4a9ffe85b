// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func small() Options { return Options{Flows: 1024, Unanswered: 1024} }

// run passes a frame from a device and requires an action of it.
func run(t testing.TB, d *Datapath, dev model.Device, frame []byte, action model.Action) Ran {
	t.Helper()
	ran, err := d.Run(model.FromContainer, Frame{Data: frame, Ifindex: dev.Ifindex})
	require.NoError(t, err)
	require.Equalf(t, action, ran.Decision.Action, "decision: %+v", ran.Decision)
	return ran
}

func TestAServiceIsTranslatedThereAndBack(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)

	for name, a := range map[string]struct{ client, web, service string }{
		"IPv4": {"10.0.0.1", "10.0.0.2", "10.96.0.1"},
		"IPv6": {"fd00::1", "fd00::2", "fd96::1"},
	} {
		t.Log(name)
		there := run(t, d, n.client, tcpFrame(t, a.client, a.service, 40000, 80, syn), model.Forward)
		require.Equal(t, FlowNew, there.Decision.Flow)
		require.Equal(t, model.OutLocal, there.Decision.Out)
		require.Equal(t, n.web.Ifindex, there.Decision.Ifindex)
		want := tcpFrame(t, a.client, a.web, 40000, 8080, syn)
		requireRouted(t, want, there.Data)

		back := run(t, d, n.web, tcpFrame(t, a.web, a.client, 8080, 40000, synAck), model.Forward)
		require.Equal(t, FlowKnown, back.Decision.Flow)
		require.Equal(t, n.client.Ifindex, back.Decision.Ifindex)
		requireRouted(t, tcpFrame(t, a.service, a.client, 80, 40000, synAck), back.Data)

		known := run(t, d, n.client, tcpFrame(t, a.client, a.service, 40000, 80, ack), model.Forward)
		require.Equal(t, FlowKnown, known.Decision.Flow)
	}
	flows, err := d.Flows()
	require.NoError(t, err)
	require.Len(t, flows, 4)
	for _, f := range flows {
		require.Equal(t, StateEstablished, f.State)
		require.Truef(t, f.Answered, "%+v", f)
	}
}

// requireRouted compares IP packets, but for what a router changes: want's
// TTL is one higher.
func requireRouted(t testing.TB, want, got []byte) {
	t.Helper()
	const eth = 14
	want = append([]byte(nil), want...)
	if want[12] == 0x08 {
		ttl := eth + 8
		want[ttl]--
		ip := &layers.IPv4{}
		require.NoError(t, ip.DecodeFromBytes(want[eth:], nilFeedback{}))
		sum := uint32(ip.Checksum) + 0x100
		sum += sum >> 16
		want[eth+10], want[eth+11] = byte(sum>>8), byte(sum)
	} else {
		want[eth+7]--
	}
	require.Equal(t, want[eth:], got[eth:])
}

type nilFeedback struct{}

func (nilFeedback) SetTruncated() {}
