// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
)

func set(t testing.TB, kind string, fields ...string) Layer {
	k, ok := KindOf(kind)
	require.True(t, ok, kind)
	l := Layer{Kind: kind}
	for i := 0; i < len(fields); i += 2 {
		spec, ok := k.Field(fields[i])
		require.True(t, ok, "%s has no field %s", kind, fields[i])
		v, err := Parse(spec, fields[i+1])
		require.NoError(t, err)
		l.Fields = append(l.Fields, Field{fields[i], v})
	}
	return l
}

func eth(t testing.TB) Layer {
	return set(t, "eth", "src", "02:00:00:00:00:01", "dst", "02:00:00:00:00:02")
}

func v4(t testing.TB, more ...string) Layer {
	return set(t, "ipv4", append([]string{"src", "10.0.0.1", "dst", "10.0.0.2"}, more...)...)
}

func v6(t testing.TB, more ...string) Layer {
	return set(t, "ipv6", append([]string{"src", "fd00::1", "dst", "fd00::2"}, more...)...)
}

// frames are built once and looked at by several tests.
func frames(t testing.TB) map[string][]Layer {
	quoted := set(t, "udp", "sport", "5000", "dport", "53")
	return map[string][]Layer{
		"TCP over IPv4":             {eth(t), v4(t), set(t, "tcp", "sport", "40000", "dport", "80", "flags", "S", "options", "020405b4")},
		"TCP over IPv6 with data":   {eth(t), v6(t), set(t, "tcp", "sport", "40000", "dport", "80", "flags", "PA"), set(t, "payload", "text", "hello")},
		"UDP over IPv4 odd length":  {eth(t), v4(t, "options", "01010100"), set(t, "udp", "sport", "1", "dport", "2"), set(t, "payload", "size", "7")},
		"UDP over IPv6":             {eth(t), v6(t), set(t, "udp", "sport", "1", "dport", "2")},
		"echo of IPv4":              {eth(t), v4(t), Lower(set(t, "echo", "id", "7", "seq", "1"), false)},
		"echo of IPv6":              {eth(t), v6(t), Lower(set(t, "echo", "id", "7", "seq", "1"), true)},
		"port unreachable of IPv4":  {eth(t), v4(t), Lower(set(t, "port-unreachable"), false), v4(t), quoted},
		"port unreachable of IPv6":  {eth(t), v6(t), Lower(set(t, "port-unreachable"), true), v6(t), quoted},
		"neighbour solicitation":    {eth(t), v6(t, "ttl", "255"), set(t, "ns", "target", "fd00::2", "lladdr", "02:00:00:00:00:01")},
		"neighbour advertisement":   {eth(t), v6(t, "ttl", "255"), set(t, "na", "target", "fd00::2", "flags", "SO")},
		"ARP":                       {eth(t), set(t, "arp", "op", "request", "spa", "10.0.0.1", "tpa", "10.0.0.2")},
		"VLAN":                      {eth(t), set(t, "vlan", "id", "5"), v4(t), set(t, "udp", "sport", "1", "dport", "2")},
		"extension headers":         {eth(t), v6(t), set(t, "hopopts"), set(t, "destopts"), set(t, "udp", "sport", "1", "dport", "2")},
		"atomic fragment":           {eth(t), v6(t), set(t, "fragment", "id", "9"), set(t, "udp", "sport", "1", "dport", "2")},
		"SCTP":                      {eth(t), v4(t), set(t, "sctp", "sport", "1", "dport", "2")},
		"padding behind the packet": {eth(t), v4(t), set(t, "udp", "sport", "1", "dport", "2"), set(t, "pad", "size", "18")},
	}
}

func TestWhatIsBuiltMatchesItsOwnDescription(t *testing.T) {
	for name, layers := range frames(t) {
		t.Run(name, func(t *testing.T) {
			data, err := Build(layers...)
			require.NoError(t, err)
			require.Empty(t, Match(layers, data), "%s", Line(data))
			sums := Decode(data).Checksums()
			require.NotEqual(t, Wrong, sums.IP)
			require.NotEqual(t, Wrong, sums.Transport)
		})
	}
}

func TestAnotherImplementationReadsTheSamePacket(t *testing.T) {
	for name, ls := range frames(t) {
		t.Run(name, func(t *testing.T) {
			data, err := Build(ls...)
			require.NoError(t, err)
			p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default)
			require.Nil(t, p.ErrorLayer(), "%v", p)
			own := Decode(data)
			if ip := p.NetworkLayer(); ip != nil {
				src, _ := netip.AddrFromSlice(ip.NetworkFlow().Src().Raw())
				require.Equal(t, src, own.Src)
			}
			if tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok {
				tuple, _ := own.Tuple()
				require.Equal(t, uint16(tcp.DstPort), tuple.Dport)
			}
		})
	}
}

func TestAWrongChecksumIsSeen(t *testing.T) {
	for name, ls := range frames(t) {
		t.Run(name, func(t *testing.T) {
			data, err := Build(ls...)
			require.NoError(t, err)
			p := Decode(data)
			if p.Checksums().Transport == Absent {
				require.Nil(t, Match(ls, data))
				return
			}
			data[p.End-1] ^= 0xff
			require.Equal(t, Wrong, Decode(data).Checksums().Transport)
		})
	}
}

func TestMalformedFramesAreBuiltAsNamed(t *testing.T) {
	tests := map[string]struct {
		layers []Layer
		check  func(*testing.T, []byte)
	}{
		"a header length under 20": {[]Layer{eth(t), v4(t, "ihl", "4")}, func(t *testing.T, b []byte) { require.Equal(t, byte(0x44), b[14]) }},
		"a length beyond the frame": {[]Layer{eth(t), v4(t, "length", "1000")}, func(t *testing.T, b []byte) {
			require.Equal(t, Absent, Decode(b).Checksums().Transport)
			require.Len(t, b, 34)
		}},
		"a frame cut short":           {[]Layer{eth(t), v4(t), set(t, "tcp"), set(t, "truncate", "size", "40")}, func(t *testing.T, b []byte) { require.Len(t, b, 40) }},
		"a checksum that is named":    {[]Layer{eth(t), v4(t), set(t, "udp", "checksum", "0")}, func(t *testing.T, b []byte) { require.Equal(t, []byte{0, 0}, b[40:42]) }},
		"a data offset that is named": {[]Layer{eth(t), v4(t), set(t, "tcp", "offset", "15")}, func(t *testing.T, b []byte) { require.Equal(t, byte(0xf0), b[46]) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			data, err := Build(test.layers...)
			require.NoError(t, err)
			test.check(t, data)
		})
	}
}

func TestWhatCannotBeBuiltIsRefused(t *testing.T) {
	long := strings.Repeat("01", 41)
	tests := map[string]struct {
		layers []Layer
		want   error
	}{
		"no destination":              {[]Layer{eth(t), set(t, "ipv4", "src", "10.0.0.1")}, ErrNoAddress},
		"no Ethernet address":         {[]Layer{{Kind: "eth"}}, ErrNoAddress},
		"IPv4 options over the limit": {[]Layer{eth(t), v4(t, "options", long)}, ErrTooLong},
		"TCP options over the limit":  {[]Layer{eth(t), v4(t), set(t, "tcp", "options", long)}, ErrTooLong},
		"an extension over the limit": {[]Layer{eth(t), v6(t), set(t, "destopts", "data", strings.Repeat("00", 2048))}, ErrTooLong},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Build(test.layers...)
			require.ErrorIs(t, err, test.want)
		})
	}
}

func TestDifferencesNameTheField(t *testing.T) {
	data, err := Build(eth(t), v4(t), set(t, "tcp", "sport", "1", "dport", "80", "flags", "S"))
	require.NoError(t, err)
	got := Match([]Layer{set(t, "ipv4", "ttl", "63"), set(t, "tcp", "flags", "SA"), set(t, "payload", "text", "x")}, data)
	require.Equal(t, []Difference{
		{"ipv4", "ttl", "63", "64"}, {"tcp", "flags", "SA", "S"}, {Layer: "payload", Want: "a payload layer", Got: "none"},
	}, got)
}

func TestChangesAreMarked(t *testing.T) {
	before, err := Build(eth(t), v4(t), set(t, "tcp", "sport", "1", "dport", "80", "flags", "S"))
	require.NoError(t, err)
	after, err := Build(eth(t), v4(t, "ttl", "63"), set(t, "tcp", "sport", "1", "dport", "8080", "flags", "S"))
	require.NoError(t, err)
	line := Changes(before, after)
	require.Contains(t, line, "ttl=64→63")
	require.Contains(t, line, "dport=80→8080")
	require.NotContains(t, line, "eth(")
}

func TestWrongValuesAreRefusedWithWhatWasExpected(t *testing.T) {
	tests := map[string]struct{ kind, field, value, want string }{
		"a port too large":    {"tcp", "dport", "70000", "from 0 to 65535"},
		"an unknown flag":     {"tcp", "flags", "SX", "letters of FSRPAUEC"},
		"odd hex":             {"raw", "hex", "123", "even number"},
		"a MAC of 8 octets":   {"eth", "src", "02:00:00:00:00:00:00:01", "hardware address"},
		"a word for a number": {"ipv4", "ttl", "many", "a number"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			k, _ := KindOf(test.kind)
			spec, ok := k.Field(test.field)
			require.True(t, ok)
			_, err := Parse(spec, test.value)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func FuzzDecode(f *testing.F) {
	for _, ls := range frames(f) {
		data, err := Build(ls...)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := Decode(data)
		p.Checksums()
		p.Tuple()
		if line := Line(data); len(data) > 14 && p.Version != 0 && line == "" {
			t.Errorf("a packet of version %d has no description", p.Version)
		}
		Changes(data, data)
	})
}

func BenchmarkBuildTCP(b *testing.B) {
	mac := MAC(net.HardwareAddr{2, 0, 0, 0, 0, 1})
	ls := []Layer{{"eth", []Field{{"src", mac}, {"dst", mac}}}, v4(b), set(b, "tcp", "sport", "1", "dport", "2")}
	for b.Loop() {
		if _, err := Build(ls...); err != nil {
			b.Fatal(err)
		}
	}
}

// fragmentOf builds the first fragment of a datagram, of a family.
func fragmentOf(t *testing.T, v6 bool, transport Layer) []byte {
	layers := []Layer{eth(t), set(t, "ipv4", "src", "10.0.0.1", "dst", "10.0.0.2", "flags", "M"), transport, payloadOf(t)}
	if v6 {
		layers = []Layer{eth(t), set(t, "ipv6", "src", "fd00::1", "dst", "fd00::2"), set(t, "fragment", "more", "1"), transport, payloadOf(t)}
	}
	data, err := Build(layers...)
	require.NoError(t, err)
	return data
}

func payloadOf(t *testing.T) Layer { return set(t, "payload", "text", "0123456789abcdef") }

func TestTheResidueOfAFirstFragmentOutlivesATranslationThatMendsItsChecksum(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		// Built anew with another port, the checksum is right for it.
		before, ok := Decode(fragmentOf(t, v6, set(t, "udp", "sport", "1", "dport", "80"))).Residue()
		require.True(t, ok)
		translated := fragmentOf(t, v6, set(t, "udp", "sport", "1", "dport", "8080"))
		after, ok := Decode(translated).Residue()
		require.True(t, ok)
		require.Equal(t, before, after)

		p := Decode(translated)
		p.Data[p.L4+2]++ // the port alone
		changed, ok := Decode(p.Data).Residue()
		require.True(t, ok)
		require.NotEqual(t, before, changed)
	}
}

func TestOnlyFirstFragmentsWithAChecksumHaveAResidue(t *testing.T) {
	whole, err := Build(eth(t), v4(t), set(t, "udp", "sport", "1", "dport", "2"))
	require.NoError(t, err)
	later, err := Build(eth(t), set(t, "ipv4", "src", "10.0.0.1", "dst", "10.0.0.2", "frag", "3", "proto", "17"), payloadOf(t))
	require.NoError(t, err)
	none := fragmentOf(t, false, set(t, "udp", "sport", "1", "dport", "2", "checksum", "0"))
	for name, data := range map[string][]byte{"a whole packet": whole, "a later fragment": later, "no checksum": none} {
		t.Run(name, func(t *testing.T) {
			_, ok := Decode(data).Residue()
			require.False(t, ok)
		})
	}
}

func TestALaterFragmentHasAddressesAndNoPorts(t *testing.T) {
	data, err := Build(eth(t), set(t, "ipv6", "src", "fd00::1", "dst", "fd00::2"), set(t, "fragment", "offset", "3", "next", "17"), payloadOf(t))
	require.NoError(t, err)
	p := Decode(data)
	tuple, ok := p.Tuple()
	require.True(t, ok)
	require.Equal(t, "udp fd00::1 -> fd00::2", tuple.String())
	require.True(t, p.Later())
	require.Len(t, p.Behind(), 8+16)
}

func TestAWrongChecksumOfAQuotedHeaderIsSeen(t *testing.T) {
	data, err := Build(eth(t), v4(t), set(t, "icmp", "type", "3", "code", "3"), v4(t), set(t, "udp", "sport", "1", "dport", "2"))
	require.NoError(t, err)
	require.Equal(t, Right, Decode(data).Checksums().Quoted)
	q, ok := Decode(data).Quoted()
	require.True(t, ok)
	data[q.L3+8]--
	require.Equal(t, Wrong, Decode(data).Checksums().Quoted)
}

func TestNothingIsCarriedByAPacketWhoseHeaderGoesBeyondItsEnd(t *testing.T) {
	data, err := Build(eth(t), set(t, "ipv4", "src", "10.0.0.1", "dst", "10.0.0.2", "proto", "4", "length", "10"), payloadOf(t))
	require.NoError(t, err)
	_, carries := Decode(data).Carried()
	require.False(t, carries)
}
