// SPDX-License-Identifier: Apache-2.0

package frame_test

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

func TestWhatIsWrongInATunnelIsSeen(t *testing.T) {
	outer := frame.Layer{Kind: "ipv4"}.With("src", frame.Addr(netip.MustParseAddr("198.18.0.2"))).
		With("dst", frame.Addr(netip.MustParseAddr("10.0.1.12"))).With("flags", frame.Num(2)).With("tos", frame.Num(8))
	datagram := frame.Layer{Kind: "udp"}.With("sport", frame.Num(50513)).With("dport", frame.Num(6081)).With("checksum", frame.Num(0))
	geneve := frame.Layer{Kind: "geneve"}
	tests := map[string]struct {
		after []byte
		fault string
	}{
		"IPIP":                      {wrapped(t, 63, outer), ""},
		"Geneve":                    {wrapped(t, 63, outer, datagram, geneve), ""},
		"no tunnel at all":          {wrapped(t, 63), "has no packet in a packet"},
		"a hop too many":            {wrapped(t, 62, outer), "is not the one that came"},
		"a length that is too long": {wrapped(t, 63, outer.With("length", frame.Num(49))), "says that it has 49 octets"},
		"another time to live":      {wrapped(t, 63, outer.With("ttl", frame.Num(63))), "time to live of 63"},
		"a wrong checksum":          {wrapped(t, 63, outer.With("checksum", frame.Num(1))), "wrong checksum"},
		"routers may cut it":        {wrapped(t, 63, outer.With("flags", frame.Num(0))), "do not fragment"},
		"a number of fragments":     {wrapped(t, 63, outer.With("id", frame.Num(1))), "identification 1"},
		"another class":             {wrapped(t, 63, outer.With("tos", frame.Num(0))), "type of service 0x0"},
		"a socket's port":           {wrapped(t, 63, outer, datagram.With("sport", frame.Num(5000)), geneve), "comes from port 5000"},
		"another flow's port":       {wrapped(t, 63, outer, datagram.With("sport", frame.Num(50514)), geneve), "and its flow is of port 50513"},
		"a datagram too short":      {wrapped(t, 63, outer, datagram.With("length", frame.Num(20)), geneve), "says that it has 20 octets"},
		"a checksum of UDP":         {wrapped(t, 63, outer, datagram.With("checksum", frame.Num(7)), geneve), "0007"},
		"a network's number":        {wrapped(t, 63, outer, datagram, geneve.With("vni", frame.Num(5))), "0000050"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			wrong := frame.Tunnelled(wrapped(t, 64), test.after)
			if test.fault == "" {
				require.Empty(t, wrong)
				return
			}
			require.Len(t, wrong, 1)
			require.Contains(t, wrong[0], test.fault)
		})
	}
}
