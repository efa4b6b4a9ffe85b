// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// wrapped builds a packet with the given time to live, inside of others.
func wrapped(t *testing.T, ttl int, outer ...frame.Layer) []byte {
	t.Helper()
	mac := frame.MAC([]byte{2, 0, 0, 0, 0, 1})
	ip := frame.Layer{Kind: "ipv4"}.With("src", frame.Addr(netip.MustParseAddr("203.0.113.10"))).
		With("dst", frame.Addr(netip.MustParseAddr("198.18.0.2"))).With("ttl", frame.Num(ttl)).With("tos", frame.Num(8))
	udp := frame.Layer{Kind: "udp"}.With("sport", frame.Num(5000)).With("dport", frame.Num(53))
	layers := append([]frame.Layer{frame.Layer{Kind: "eth"}.With("src", mac).With("dst", mac)}, outer...)
	data, err := frame.Build(append(layers, ip, udp)...)
	require.NoError(t, err)
	return data
}

func TestAPacketThatComesOutOfATunnelIsComparedWithTheOneInside(t *testing.T) {
	outer := frame.Layer{Kind: "ipv4"}.With("src", frame.Addr(netip.MustParseAddr("198.18.0.2"))).
		With("dst", frame.Addr(netip.MustParseAddr("10.0.1.12")))
	trip := &trip{data: wrapped(t, 63)}
	trip.walk.Sent = wrapped(t, 64, outer)
	require.Equal(t, netip.MustParseAddr("203.0.113.10"), trip.sent().Src)
	trip.data = wrapped(t, 64, outer)
	require.Equal(t, netip.MustParseAddr("198.18.0.2"), trip.sent().Src)
}

// unreachable builds what a frame is refused by: it quotes the datagram.
func unreachable(t *testing.T, asked []byte) []byte {
	t.Helper()
	p, mac := frame.Decode(asked), frame.MAC([]byte{2, 0, 0, 0, 0, 1})
	ip := frame.Layer{Kind: "ipv4"}.With("src", frame.Addr(p.Dst)).With("dst", frame.Addr(p.Src))
	data, err := frame.Build(frame.Layer{Kind: "eth"}.With("src", mac).With("dst", mac), ip,
		frame.Layer{Kind: "icmp"}.With("type", frame.Num(3)).With("code", frame.Num(3)),
		frame.Layer{Kind: "raw"}.With("hex", frame.Data(asked[p.L3:p.L4+8])))
	require.NoError(t, err)
	return data
}

func TestAnAnswerIsComparedWithWhatItsSenderWasAsked(t *testing.T) {
	to := func(dst string) []byte {
		return wrapped(t, 64, frame.Layer{Kind: "ipv4"}.With("src", frame.Addr(netip.MustParseAddr("198.18.0.3"))).
			With("dst", frame.Addr(netip.MustParseAddr(dst))),
			frame.Layer{Kind: "udp"}.With("sport", frame.Num(50513)).With("dport", frame.Num(6081)), frame.Layer{Kind: "geneve"})
	}
	elsewhere, same := to("10.0.1.12"), to("198.18.0.2")
	for name, c := range map[string]struct {
		asked, answered []byte
		right           bool
	}{
		"taken out of the tunnel":               {elsewhere, frame.Decode(elsewhere).TakenOut(), true},
		"left in it":                            {elsewhere, elsewhere, true},
		"left in it, both for one address":      {same, same, true},
		"taken out of it, both for one address": {same, frame.Decode(same).TakenOut(), false},
	} {
		t.Run(name, func(t *testing.T) {
			faults := (&node{}).misanswered(model.ReasonNoFrontend, c.asked, unreachable(t, c.answered), 0)
			require.Equal(t, c.right, len(faults) == 0, faults)
		})
	}
}
