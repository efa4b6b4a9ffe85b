// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"
	"net/netip"

	"github.com/weirnet/weir/model"
)

// Header is what a frame says of itself, as far as results tell it. Reading it
// allocates nothing.
type Header struct {
	EtherType uint16
	ARP       bool
	IP        bool
	Src, Dst  netip.Addr // of IP, or ARP's sender and target
	Protocol  model.Protocol
	HasPorts  bool
	Sport     uint16
	Dport     uint16
	TCPFlags  uint8
	// Fragment is zero of a whole packet, and of an atomic fragment (RFC 6946).
	Fragment Fragment

	// Needed is how many bytes of the frame its headers take, as far as they
	// say: a capture with fewer has cut them.
	Needed int
	l4     int  // offset, 0: none
	more   bool // a fragment that is not the last
}

const (
	etherLen  = 14
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherARP  = 0x0806

	maxExtensions = 8
)

// Fragment is a packet's place in its datagram.
type Fragment struct {
	Is    bool
	Later bool // not the first: it has no transport header
	ID    uint32
}

// readHeader reads an Ethernet frame. What is not there stays zero.
func readHeader(frame []byte) Header {
	h := Header{Needed: etherLen}
	if len(frame) < etherLen {
		return h
	}
	h.EtherType = binary.BigEndian.Uint16(frame[12:])
	switch h.EtherType {
	case etherIPv4:
		h.readIPv4(frame)
	case etherIPv6:
		h.readIPv6(frame)
	case etherARP:
		h.readARP(frame)
	}
	return h
}

func (h *Header) readARP(frame []byte) {
	h.Needed = etherLen + 28
	if len(frame) < h.Needed {
		return
	}
	b := frame[etherLen:]
	if binary.BigEndian.Uint16(b[2:]) != etherIPv4 || b[4] != 6 || b[5] != 4 {
		return
	}
	h.ARP = true
	h.Src, h.Dst = netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
}

func (h *Header) readIPv4(frame []byte) {
	h.Needed = etherLen + 20
	if len(frame) < h.Needed {
		return
	}
	b := frame[etherLen:]
	h.IP = true
	h.Src, h.Dst, h.Protocol = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), model.Protocol(b[9])
	length := int(b[0]&0x0f) * 4
	if b[0]>>4 != 4 || length < 20 {
		return
	}
	h.Needed = etherLen + length
	const offset, more = 0x1fff, 0x2000
	place := binary.BigEndian.Uint16(b[6:])
	if place&(offset|more) != 0 {
		h.Fragment = Fragment{true, place&offset != 0, uint32(binary.BigEndian.Uint16(b[4:]))}
	}
	h.more = place&more != 0
	if !h.Fragment.Later {
		h.readTransport(frame, etherLen+length)
	}
}

func (h *Header) readIPv6(frame []byte) {
	h.Needed = etherLen + 40
	if len(frame) < h.Needed {
		return
	}
	b := frame[etherLen:]
	h.IP = true
	h.Src, h.Dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	next, at := b[6], h.Needed
	for range maxExtensions {
		if !isExtension(next) {
			h.Protocol = model.Protocol(next)
			h.readTransport(frame, at)
			return
		}
		h.Protocol, h.Needed = model.Protocol(next), at+8
		if len(frame) < h.Needed {
			return
		}
		if next != nextFragment {
			next, at = frame[at], at+8+8*int(frame[at+1])
			continue
		}
		next, at = h.readFragment(frame[at:]), at+8
		if h.Fragment.Later {
			// What is behind an extension header that is elsewhere, nobody knows.
			if !isExtension(next) {
				h.Protocol = model.Protocol(next)
			}
			return
		}
	}
}

const (
	nextHopByHop    = 0
	nextRouting     = 43
	nextFragment    = 44
	nextDestination = 60
)

func isExtension(next byte) bool {
	return next == nextHopByHop || next == nextRouting || next == nextFragment || next == nextDestination
}

// readFragment reads a fragment header, and gives what is behind it.
func (h *Header) readFragment(b []byte) (next byte) {
	const offset, more = 0xfff8, 1
	if place := binary.BigEndian.Uint16(b[2:]); place&(offset|more) != 0 {
		h.Fragment = Fragment{true, place&offset != 0, binary.BigEndian.Uint32(b[4:])}
		h.more = place&more != 0
	}
	return b[0]
}

func (h *Header) readTransport(frame []byte, at int) {
	h.l4 = at
	needed, ports := 0, false
	switch h.Protocol {
	case model.ProtocolTCP:
		needed, ports = 20, true
	case model.ProtocolUDP:
		needed, ports = 8, true
	case model.ProtocolSCTP:
		needed, ports = 12, true
	case model.ProtocolICMP, model.ProtocolICMPv6:
		needed = h.neededOfICMP(frame[min(at, len(frame)):])
	}
	h.Needed = at + needed
	if ports && len(frame) >= at+4 {
		h.HasPorts = true
		h.Sport, h.Dport = binary.BigEndian.Uint16(frame[at:]), binary.BigEndian.Uint16(frame[at+2:])
	}
	if h.Protocol == model.ProtocolTCP && len(frame) >= at+14 {
		h.TCPFlags = frame[at+13]
	}
}

// neededOfICMP is how many bytes of an ICMP message are looked at: of an error
// the packet that it quotes, up to eight bytes behind its IP header, and of
// neighbour discovery the target.
func (h *Header) neededOfICMP(message []byte) int {
	const head, ports, target = 8, 8, 16
	if len(message) < head {
		return head
	}
	switch kind := message[0]; {
	case h.Protocol == model.ProtocolICMP && (kind == 3 || kind == 11 || kind == 12):
		quoted := 20
		if len(message) > head {
			quoted = max(quoted, int(message[head]&0x0f)*4)
		}
		return head + quoted + ports
	case h.Protocol == model.ProtocolICMPv6 && kind >= 1 && kind <= 4:
		return head + 40 + ports
	case h.Protocol == model.ProtocolICMPv6 && (kind == 135 || kind == 136):
		return head + target
	}
	return head
}

// about reads the packet that an ICMP error quotes, and says whether it is one.
func (h *Header) about(frame []byte) (quoted Header, is bool) {
	const head = 8
	at := h.l4 + head - etherLen // as if Ethernet was before the quote
	if h.l4 == 0 || h.Fragment.Is || len(frame) < h.l4+head {
		return quoted, false
	}
	switch kind := frame[h.l4]; {
	case h.Protocol == model.ProtocolICMP && h.Src.Is4() && (kind == 3 || kind == 11 || kind == 12):
		quoted.readIPv4(frame[at:])
	case h.Protocol == model.ProtocolICMPv6 && h.Src.Is6() && kind >= 1 && kind <= 4:
		quoted.readIPv6(frame[at:])
	}
	return quoted, quoted.IP
}

// tuple is what the header's flow is known by, and whether it has one.
func (h *Header) tuple() (model.Tuple, bool) {
	return model.Tuple{Src: h.Src, Dst: h.Dst, Sport: h.Sport, Dport: h.Dport, Protocol: h.Protocol}, h.IP
}

// hostAddress says whether a pod may have an address: it is no broadcast, no
// multicast, and not bound to a link.
func hostAddress(a netip.Addr) bool {
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a.Is4In6():
		return false
	case a.Is4():
		first := a.As4()[0]
		return first != 0 && first < 240
	}
	return true
}
