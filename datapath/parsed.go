// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"net/netip"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// parsed compares what a program has read of a frame of which all is right with the
// frame: addresses, ports, lengths, places of headers, hop limit, flags. Much of it
// shows in few packets, as in those that are refused or do not fit into a tunnel. Only
// frames without IP options and extension headers are looked at, which are no parts of
// others.
func parsed(frame []byte, left *bpf.ContainerScratch) []string {
	const ethernet = 14
	family := uint8(bpf.ContainerFamilyFAMILY_IPV4)
	header, at := 20, frame[ethernet:]
	var length int
	var src, dst netip.Addr
	var proto, hops uint8
	switch {
	case binary.BigEndian.Uint16(frame[12:]) == 0x0800 && at[0] == 0x45 && binary.BigEndian.Uint16(at[6:])&0x3fff == 0:
		length, proto, hops = int(binary.BigEndian.Uint16(at[2:])), at[9], at[8]
	case isIPv6(frame) && at[0]>>4 == 6 && len(at) >= 40 && !extends(at[6]):
		family, header = uint8(bpf.ContainerFamilyFAMILY_IPV6), 40
		length, proto, hops = header+int(binary.BigEndian.Uint16(at[4:])), at[6], at[7]
	default:
		return nil
	}
	if length > len(at) || length < header {
		return nil
	}
	if header == 40 {
		src, dst = netip.AddrFrom16([16]byte(at[8:])), netip.AddrFrom16([16]byte(at[24:]))
	} else {
		src, dst = netip.AddrFrom4([4]byte(at[12:])), netip.AddrFrom4([4]byte(at[16:]))
	}
	l4 := at[header:length]
	pkt := &left.Pkt
	want := *pkt
	want.Key.Src, want.Key.Dst = encodeAddr(src), encodeAddr(dst)
	want.Key.Family, want.Key.Proto, want.Key.Pad = family, proto, 0
	want.Len, want.L4Off, want.L4Len, want.Ttl, want.Plain = uint32(length), uint32(ethernet+header), uint32(len(l4)), hops, 1
	want.Fragment, want.FragmentId, want.FragmentOff, want.L4Start = 0, 0, 0, 0
	want.TcpFlags, want.IcmpType = 0, 0
	icmp, request, reply := model.ProtocolICMP, uint8(8), uint8(0)
	if header == 40 {
		icmp, request, reply = model.ProtocolICMPv6, 128, 129
	}
	switch p := model.Protocol(proto); {
	case p == model.ProtocolTCP && len(l4) >= 20:
		want.TcpFlags = l4[13]
		fallthrough
	case (p == model.ProtocolUDP || p == model.ProtocolSCTP) && len(l4) >= 8:
		want.Key.Sport, want.Key.Dport = binary.NativeEndian.Uint16(l4), binary.NativeEndian.Uint16(l4[2:])
	case p == icmp && len(l4) >= 8:
		if want.IcmpType = l4[0]; l4[1] != 0 && (l4[0] == request || l4[0] == reply) {
			want.IcmpType = typeNone
		}
	}
	if *pkt != want {
		return []string{"what it has read of the frame: " + differing(*pkt, want, "and has to be")}
	}
	return nil
}

// leavesAs is the tuple of a frame without IP options, extension headers and
// fragmentation that has ports; false for any other.
func leavesAs(frame []byte) (model.Tuple, bool) {
	const ethernet = 14
	var t model.Tuple
	at := frame[ethernet:]
	switch {
	case binary.BigEndian.Uint16(frame[12:]) == 0x0800 && len(at) >= 28 && at[0] == 0x45 && binary.BigEndian.Uint16(at[6:])&0x3fff == 0:
		t.Protocol = model.Protocol(at[9])
		t.Src, t.Dst = netip.AddrFrom4([4]byte(at[12:])), netip.AddrFrom4([4]byte(at[16:]))
		at = at[20:]
	case isIPv6(frame) && len(at) >= 48:
		t.Protocol = model.Protocol(at[6])
		t.Src, t.Dst = netip.AddrFrom16([16]byte(at[8:])), netip.AddrFrom16([16]byte(at[24:]))
		at = at[40:]
	}
	if t.Protocol != model.ProtocolTCP && t.Protocol != model.ProtocolUDP {
		return t, false
	}
	t.Sport, t.Dport = binary.BigEndian.Uint16(at), binary.BigEndian.Uint16(at[2:])
	return t, true
}

// typeNone is ICMP_TYPE_NONE of bpf/lib/packet.h.
const typeNone = 255

// extends says whether a next header is an extension that is walked.
func extends(next uint8) bool { return next == 0 || next == 43 || next == 44 || next == 60 }
