// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// Frames of the tests, written byte by byte: what the oracle is tested with
// must not come from the code that it checks.

func ethernet(ethertype uint16, payload []byte) []byte {
	frame := make([]byte, 12, 14+len(payload))
	frame = binary.BigEndian.AppendUint16(frame, ethertype)
	return append(frame, payload...)
}

// ip makes a packet of the addresses' family with 64 hops.
func ip(src, dst string, protocol model.Protocol, payload []byte) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is4() {
		b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, byte(protocol), 0, 0}
		binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
		b = append(append(b, s.AsSlice()...), d.AsSlice()...)
		return ethernet(0x0800, append(b, payload...))
	}
	b := []byte{0x60, 0, 0, 0, 0, 0, byte(protocol), 64}
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b = append(append(b, s.AsSlice()...), d.AsSlice()...)
	return ethernet(0x86dd, append(b, payload...))
}

func tcp(sport, dport uint16, flags tcpFlags) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	b[12], b[13] = 5<<4, byte(flags)
	return b
}

func udp(sport, dport uint16, payload int) []byte {
	b := make([]byte, 8+payload)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	b[7] = 1 // a checksum, right or wrong
	return b
}

func icmp(kind, code uint8, identifier uint16) []byte {
	b := []byte{kind, code, 0, 0, 0, 0, 0, 1}
	binary.BigEndian.PutUint16(b[4:], identifier)
	return b
}

func neighbour(kind, code uint8, target string) []byte {
	return append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, netip.MustParseAddr(target).AsSlice()...)
}

func arp(operation uint16, senderMAC []byte, sender, target string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, byte(operation)}
	b = append(append(b, senderMAC...), netip.MustParseAddr(sender).AsSlice()...)
	b = append(append(b, make([]byte, 6)...), netip.MustParseAddr(target).AsSlice()...)
	return ethernet(0x0806, b)
}

// with gives a copy of a frame with some bytes changed.
func with(frame []byte, at int, bytes ...byte) []byte {
	changed := append([]byte(nil), frame...)
	copy(changed[at:], bytes)
	return changed
}

func tuple(protocol model.Protocol, src string, sport uint16, dst string, dport uint16) model.Tuple {
	return model.Tuple{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Sport: sport, Dport: dport, Protocol: protocol}
}

func TestFramesAreReadToTheirTuple(t *testing.T) {
	const a4, b4, a6, b6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
	syn := tcp(40000, 80, flagSYN)
	options := append([]byte{byte(model.ProtocolTCP), 0, 1, 4, 0, 0, 0, 0}, syn...) // PadN
	tests := []struct {
		name  string
		frame []byte
		want  model.Tuple
	}{
		{"TCP over IPv4", ip(a4, b4, model.ProtocolTCP, syn), tuple(model.ProtocolTCP, a4, 40000, b4, 80)},
		{"TCP over IPv6", ip(a6, b6, model.ProtocolTCP, syn), tuple(model.ProtocolTCP, a6, 40000, b6, 80)},
		{"TCP behind IPv4 options", ethernet(0x0800, append(append([]byte{0x46, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, 1, 1, 1, 0), syn...)), tuple(model.ProtocolTCP, a4, 40000, b4, 80)},
		{"TCP behind an IPv6 extension header", ip(a6, b6, 60, options), tuple(model.ProtocolTCP, a6, 40000, b6, 80)},
		{"Ethernet padding behind a short packet", append(ip(a4, b4, model.ProtocolUDP, udp(1, 2, 0)), make([]byte, 18)...), tuple(model.ProtocolUDP, a4, 1, b4, 2)},
		{"UDP over IPv4 without a checksum", with(ip(a4, b4, model.ProtocolUDP, udp(1, 2, 4)), 14+20+6, 0, 0), tuple(model.ProtocolUDP, a4, 1, b4, 2)},
		{"UDP shorter than its packet", with(ip(a4, b4, model.ProtocolUDP, udp(1, 2, 4)), 14+20+4, 0, 8), tuple(model.ProtocolUDP, a4, 1, b4, 2)},
		{"SCTP", ip(a4, b4, model.ProtocolSCTP, make([]byte, 12)), tuple(model.ProtocolSCTP, a4, 0, b4, 0)},
		{"an echo request", ip(a4, b4, model.ProtocolICMP, icmp(8, 0, 7)), tuple(model.ProtocolICMP, a4, 7, b4, 0)},
		{"an echo reply", ip(a4, b4, model.ProtocolICMP, icmp(0, 0, 7)), tuple(model.ProtocolICMP, a4, 0, b4, 7)},
		{"an ICMPv6 echo request", ip(a6, b6, model.ProtocolICMPv6, icmp(128, 0, 7)), tuple(model.ProtocolICMPv6, a6, 7, b6, 0)},
		{"an ICMPv6 echo reply", ip(a6, b6, model.ProtocolICMPv6, icmp(129, 0, 7)), tuple(model.ProtocolICMPv6, a6, 0, b6, 7)},
		{"no next header", ip(a6, b6, 59, nil), tuple(59, a6, 0, b6, 0)},
		{"ESP", ip(a6, b6, 50, nil), tuple(50, a6, 0, b6, 0)},
		{"an unknown protocol", ip(a4, b4, 253, []byte{1}), tuple(253, a4, 0, b4, 0)},
		{"ICMPv6 over IPv4, which is no ICMP there", ip(a4, b4, model.ProtocolICMPv6, nil), tuple(model.ProtocolICMPv6, a4, 0, b4, 0)},
		{"six extension headers", ip(a6, b6, 0, extensions(60, 6)), tuple(59, a6, 0, b6, 0)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := parseFrame(tt.frame)
			require.Empty(t, h.wrong)
			require.True(t, h.hasTuple)
			require.Equal(t, tt.want, h.tuple)
		})
	}
}

// extensions makes a chain of count headers of 8 bytes, each naming kind as
// the next, the last naming no next header.
func extensions(kind byte, count int) []byte {
	var b []byte
	for i := range count {
		next := kind
		if i == count-1 {
			next = 59
		}
		b = append(b, next, 0, 1, 4, 0, 0, 0, 0) // PadN
	}
	return b
}

func TestFramesThatAreWrongAreCondemned(t *testing.T) {
	const a4, b4, a6, b6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
	syn := tcp(40000, 80, flagSYN)
	v4, v6 := ip(a4, b4, model.ProtocolTCP, syn), ip(a6, b6, model.ProtocolTCP, syn)
	udp4, udp6 := ip(a4, b4, model.ProtocolUDP, udp(1, 2, 4)), ip(a6, b6, model.ProtocolUDP, udp(1, 2, 4))
	tests := []struct {
		name  string
		frame []byte
		want  []model.Reason
	}{
		{"nothing", nil, []model.Reason{model.ReasonTruncated}},
		{"less than an Ethernet header", v4[:13], []model.Reason{model.ReasonTruncated}},
		{"less than an IPv4 header", v4[:33], []model.Reason{model.ReasonTruncated}},
		{"less than an IPv6 header", v6[:53], []model.Reason{model.ReasonTruncated}},
		{"a VLAN tag", ethernet(0x8100, v4[12:]), []model.Reason{model.ReasonVLAN}},
		{"a provider's VLAN tag", ethernet(0x88a8, v4[12:]), []model.Reason{model.ReasonVLAN}},
		{"an unknown ethertype", ethernet(0x88cc, nil), []model.Reason{model.ReasonUnknownEthertype}},
		{"IPv4 that calls itself version 6", with(v4, 14, 0x65), []model.Reason{model.ReasonBadIPHeader}},
		{"IPv6 that calls itself version 4", with(v6, 14, 0x40), []model.Reason{model.ReasonBadIPHeader}},
		{"an IPv4 header of 16 bytes", with(v4, 14, 0x44), []model.Reason{model.ReasonBadIPHeader}},
		{"an IPv4 header beyond the total length", with(v4, 14, 0x4f), []model.Reason{model.ReasonBadIPLength, model.ReasonTruncated}},
		{"an IPv4 total length beyond the frame", with(v4, 16, 0, 41), []model.Reason{model.ReasonBadIPLength}},
		{"an IPv4 total length under the header", with(v4, 16, 0, 19), []model.Reason{model.ReasonBadIPLength}},
		{"an IPv6 payload length beyond the frame", with(v6, 18, 0, 21), []model.Reason{model.ReasonBadIPLength}},
		{"TCP cut off", ip(a4, b4, model.ProtocolTCP, syn[:19]), []model.Reason{model.ReasonTruncated}},
		{"TCP cut off by the total length, with padding behind", append(ip(a4, b4, model.ProtocolTCP, syn[:19]), 0, 0), []model.Reason{model.ReasonTruncated}},
		{"a TCP header of 16 bytes", with(v4, 14+20+12, 4<<4), []model.Reason{model.ReasonBadTCPHeader}},
		{"a TCP header beyond the packet", with(v4, 14+20+12, 6<<4), []model.Reason{model.ReasonBadTCPHeader}},
		{"TCP without flags", with(v4, 14+20+13, 0), []model.Reason{model.ReasonBadTCPFlags}},
		{"TCP with PSH and URG alone", with(v4, 14+20+13, 0x28), []model.Reason{model.ReasonBadTCPFlags}},
		{"TCP with SYN and FIN", with(v6, 14+40+13, 3), []model.Reason{model.ReasonBadTCPFlags}},
		{"TCP with SYN and RST", with(v6, 14+40+13, 6), []model.Reason{model.ReasonBadTCPFlags}},
		{"TCP with all flags", with(v6, 14+40+13, 0xff), []model.Reason{model.ReasonBadTCPFlags}},
		{"UDP cut off", ip(a4, b4, model.ProtocolUDP, udp(1, 2, 0)[:7]), []model.Reason{model.ReasonTruncated}},
		{"a UDP length under 8", with(udp4, 14+20+4, 0, 7), []model.Reason{model.ReasonBadUDPLength}},
		{"a UDP length beyond the packet", with(udp4, 14+20+4, 0, 13), []model.Reason{model.ReasonBadUDPLength}},
		{"UDP over IPv6 without a checksum", with(udp6, 14+40+6, 0, 0), []model.Reason{model.ReasonBadUDPChecksum}},
		{"SCTP cut off", ip(a4, b4, model.ProtocolSCTP, make([]byte, 11)), []model.Reason{model.ReasonTruncated}},
		{"ICMP cut off", ip(a4, b4, model.ProtocolICMP, make([]byte, 7)), []model.Reason{model.ReasonTruncated}},
		{"a source quench", ip(a4, b4, model.ProtocolICMP, icmp(4, 0, 0)), []model.Reason{model.ReasonICMPNoFlow}},
		{"a redirect", ip(a4, b4, model.ProtocolICMP, icmp(5, 1, 0)), []model.Reason{model.ReasonICMPNoFlow}},
		{"an ICMP timestamp request", ip(a4, b4, model.ProtocolICMP, icmp(13, 0, 0)), []model.Reason{model.ReasonICMPType}},
		{"an echo request with a code", ip(a4, b4, model.ProtocolICMP, icmp(8, 1, 0)), []model.Reason{model.ReasonICMPType}},
		{"a multicast listener report", ip(a6, b6, model.ProtocolICMPv6, icmp(143, 0, 0)), []model.Reason{model.ReasonICMPType}},
		{"seven extension headers", ip(a6, b6, 0, extensions(60, 7)), []model.Reason{model.ReasonExtensionLimit}},
		{"a fragment header behind six others", ip(a6, b6, 0, with(extensions(60, 7), 40, 44)), []model.Reason{model.ReasonExtensionLimit}},
		{"an extension header beyond the packet", ip(a6, b6, 60, []byte{6, 1, 1, 4, 0, 0, 0, 0}), []model.Reason{model.ReasonTruncated}},
		{"an extension header cut off", ip(a6, b6, 60, []byte{6, 0}), []model.Reason{model.ReasonTruncated}},
		{"a routing header of type 0", ip(a6, b6, 43, []byte{59, 0, 0, 0, 0, 0, 0, 0}), []model.Reason{model.ReasonRoutingHeader}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, parseFrame(tt.frame).wrong)
		})
	}
}
