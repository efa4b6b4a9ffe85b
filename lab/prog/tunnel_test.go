// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/frame"
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
