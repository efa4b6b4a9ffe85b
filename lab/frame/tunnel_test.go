// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATunnelsPacketIsReadToTheOneInside(t *testing.T) {
	v6 := set(t, "ipv6", "src", "fd00::1", "dst", "fd00::2")
	inner4, inner6 := set(t, "ipv4", "src", "192.0.2.1", "dst", "192.0.2.2"), set(t, "ipv6", "src", "2001:db8::1", "dst", "2001:db8::2")
	segment := set(t, "tcp", "sport", "5000", "dport", "80", "flags", "S")
	datagram := set(t, "udp", "sport", "50000", "dport", "6081", "checksum", "0")
	tests := map[string]struct {
		layers []Layer
		inside string
	}{
		"IPv4 in IPv4":         {[]Layer{v4(t), inner4, segment}, "tcp 192.0.2.1:5000 -> 192.0.2.2:80"},
		"IPv6 in IPv6":         {[]Layer{v6, inner6, segment}, "tcp [2001:db8::1]:5000 -> [2001:db8::2]:80"},
		"IPv4 in Geneve":       {[]Layer{v4(t), datagram, {Kind: "geneve"}, inner4, segment}, "tcp 192.0.2.1:5000 -> 192.0.2.2:80"},
		"IPv6 in Geneve":       {[]Layer{v6, datagram, {Kind: "geneve"}, inner6, segment}, "tcp [2001:db8::1]:5000 -> [2001:db8::2]:80"},
		"one family in other":  {[]Layer{v6, inner4, segment}, ""},
		"a part of a tunnel's": {[]Layer{set(t, "ipv4", "src", "10.0.0.1", "dst", "10.0.0.2", "flags", "M"), inner4, segment}, ""},
		"another port":         {[]Layer{v4(t), set(t, "udp", "dport", "6082"), {Kind: "geneve"}, inner4, segment}, ""},
		"options to the end":   {[]Layer{v4(t), datagram, set(t, "geneve", "options", "63"), inner4, segment}, ""},
		"nothing":              {[]Layer{v4(t), datagram, {Kind: "geneve"}}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			layers := append([]Layer{eth(t)}, test.layers...)
			data, err := Build(layers...)
			require.NoError(t, err)
			p := Decode(data)
			inner, ok := p.Carried()
			require.Equal(t, test.inside != "", ok)
			if !ok {
				return
			}
			tuple, ok := inner.Tuple()
			require.True(t, ok)
			require.Equal(t, test.inside, tuple.String())
			require.Equal(t, Right, inner.Checksums().Transport)
			require.Empty(t, Match(layers, data), "what was built is found, in its order")
		})
	}
}

func TestAGeneveHeaderIsBuiltAsItIsTold(t *testing.T) {
	data, err := Build(eth(t), v4(t), set(t, "udp", "dport", "6081"),
		set(t, "geneve", "version", "1", "options", "2", "flags", "128", "type", "0x6558", "vni", "0x010203"), set(t, "payload", "hex", "00"))
	require.NoError(t, err)
	p := Decode(data)
	require.Equal(t, []byte{0x42, 0x80, 0x65, 0x58, 1, 2, 3, 0, 0}, p.Transport()[8:])
}
