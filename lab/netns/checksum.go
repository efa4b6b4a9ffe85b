// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// finishChecksum computes the transport checksum of a frame of which the
// kernel says that nobody has yet, because an interface would do it
// (CHECKSUM_PARTIAL): the field then has the sum of the pseudo-header. A field
// that has anything else is left as it is: somebody changed the packet
// without the checksum, and whoever reads the frame is to see that.
func finishChecksum(frame []byte) {
	segment, pseudo, protocol, ok := transport(frame)
	if !ok {
		return
	}
	at := 16 // in TCP
	if protocol == unix.IPPROTO_UDP {
		at = 6
	}
	if len(segment) < at+2 || binary.BigEndian.Uint16(segment[at:]) != fold(pseudo) {
		return
	}
	sum := ^fold(add(0, segment))
	if sum == 0 && protocol == unix.IPPROTO_UDP {
		sum = 0xffff // RFC 768: 0 is no checksum
	}
	binary.BigEndian.PutUint16(segment[at:], sum)
}

// transport finds the TCP segment or UDP datagram of a frame, the innermost
// where there are tunnels, and the sum of its pseudo-header (RFC 9293, RFC 768,
// RFC 8200 section 8.1).
func transport(frame []byte) (segment []byte, pseudo uint32, protocol byte, ok bool) {
	at := 12
	for len(frame) >= at+4 && isVLAN(binary.BigEndian.Uint16(frame[at:])) {
		at += 4
	}
	if len(frame) < at+2 {
		return nil, 0, 0, false
	}
	ethertype, packet := binary.BigEndian.Uint16(frame[at:]), frame[at+2:]
	var addresses []byte
	for tunnelled := true; tunnelled; {
		switch ethertype {
		case unix.ETH_P_IP:
			segment, addresses, protocol = ipv4Payload(packet)
		case unix.ETH_P_IPV6:
			segment, addresses, protocol = ipv6Payload(packet)
		default:
			return nil, 0, 0, false
		}
		ethertype, packet, tunnelled = inside(protocol, segment)
	}
	if protocol != unix.IPPROTO_TCP && protocol != unix.IPPROTO_UDP {
		return nil, 0, 0, false
	}
	pseudo = add(0, addresses) + uint32(protocol)
	pseudo += uint32(len(segment)>>16) + uint32(len(segment)&0xffff)
	return segment, pseudo, protocol, true
}

// inside finds the packet that is in another one: by IPIP, or by Geneve without
// options whose datagram has no checksum of its own.
func inside(protocol byte, payload []byte) (ethertype uint16, packet []byte, ok bool) {
	const genevePort, headers = 6081, 8 + 8
	switch protocol {
	case unix.IPPROTO_IPIP:
		return unix.ETH_P_IP, payload, true
	case unix.IPPROTO_IPV6:
		return unix.ETH_P_IPV6, payload, true
	case unix.IPPROTO_UDP:
		if len(payload) >= headers && binary.BigEndian.Uint16(payload[2:]) == genevePort &&
			binary.BigEndian.Uint16(payload[6:]) == 0 && payload[8] == 0 {
			return binary.BigEndian.Uint16(payload[10:]), payload[headers:], true
		}
	}
	return 0, nil, false
}

func isVLAN(ethertype uint16) bool {
	return ethertype == unix.ETH_P_8021Q || ethertype == unix.ETH_P_8021AD
}

// ipv4Payload gives protocol 0 for what it cannot read.
func ipv4Payload(packet []byte) (payload, addresses []byte, protocol byte) {
	if len(packet) < 20 {
		return nil, nil, 0
	}
	header, total := int(packet[0]&0xf)*4, int(binary.BigEndian.Uint16(packet[2:]))
	fragment := binary.BigEndian.Uint16(packet[6:])&0x3fff != 0
	if header < 20 || total < header || total > len(packet) || fragment {
		return nil, nil, 0
	}
	return packet[header:total], packet[12:20], packet[9]
}

// ipv6Payload gives protocol 0 for what it cannot read.
func ipv6Payload(packet []byte) (payload, addresses []byte, protocol byte) {
	if len(packet) < 40 {
		return nil, nil, 0
	}
	total := 40 + int(binary.BigEndian.Uint16(packet[4:]))
	if total > len(packet) {
		return nil, nil, 0
	}
	payload, addresses, protocol = packet[40:total], packet[8:40], packet[6]
	for isExtension(protocol) {
		if len(payload) < 8 {
			return nil, nil, 0
		}
		length := 8 + 8*int(payload[1])
		if length > len(payload) {
			return nil, nil, 0
		}
		protocol, payload = payload[0], payload[length:]
	}
	return payload, addresses, protocol
}

func isExtension(protocol byte) bool {
	return protocol == unix.IPPROTO_HOPOPTS || protocol == unix.IPPROTO_ROUTING || protocol == unix.IPPROTO_DSTOPTS
}

// add is the one's complement sum of RFC 1071, not folded yet.
func add(sum uint32, data []byte) uint32 {
	for len(data) >= 2 {
		sum += uint32(binary.BigEndian.Uint16(data))
		data = data[2:]
		sum = sum&0xffff + sum>>16
	}
	if len(data) == 1 {
		sum += uint32(data[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
