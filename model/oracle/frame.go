// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/weirnet/weir/model"
)

// headers is what the oracle reads of a frame. It reads plain bytes with code
// of its own: a parser shared with the tests or the datapath would hide its
// own mistakes.
type headers struct {
	// wrong are the reasons for which the bytes alone condemn the frame.
	wrong []model.Reason

	arp *arpPacket
	nd  *neighbourMessage

	isIP     bool // source, destination and hops are known
	src, dst netip.Addr
	hops     uint8 // TTL or hop limit
	length   int   // of the packet, as it says itself
	readable bool  // it is what it says it is, up to the transport header
	extended bool  // options, extension headers or a fragment: not quoted in answers
	cut      bool  // extended by being a fragment alone

	forMany bool // the link has carried it to several
	behind  int  // octets from the transport header on

	fragment *fragment // nil for a whole packet
	nested   bool      // a fragment of a fragment: what is behind says nothing
	transport
	tcp tcpFlags
	// sequence and acknowledged are TCP's numbers.
	sequence, acknowledged uint32

	quote *quote // of an ICMP error that may belong to a flow
}

// transport is what later fragments share with the first of their packet.
type transport struct {
	// hasTuple is whether the header was read, and is one that flows have.
	hasTuple  bool
	tuple     model.Tuple
	echoReply bool
	message   message
}

// message is what an ICMP message is to the datapath.
type message uint8

const (
	echoMessage    message = iota // or no ICMP at all
	errorMessage                  // quotes a packet, and belongs to its flow
	unrelatedError                // quotes a packet, and is let through for none
	discovery                     // of neighbours
	otherMessage
)

type tcpFlags uint8

// RFC 9293, section 3.1.
const (
	flagFIN tcpFlags = 0x01
	flagSYN tcpFlags = 0x02
	flagRST tcpFlags = 0x04
	flagACK tcpFlags = 0x10
)

// arpPacket is an ARP packet for IPv4 over Ethernet, RFC 826.
type arpPacket struct {
	complete   bool // long enough, and of these two kinds of addresses
	operation  uint16
	senderMAC  net.HardwareAddr
	senderAddr netip.Addr
	targetAddr netip.Addr
}

// neighbourMessage is an ICMPv6 message of types 133 to 137, RFC 4861.
type neighbourMessage struct {
	kind, code uint8
	hasTarget  bool // solicitations and advertisements that are long enough
	target     netip.Addr
}

const (
	ethernetLen = 14
	arpLen      = 28
	ipv4Len     = 20
	ipv6Len     = 40
	tcpLen      = 20
	udpLen      = 8
	sctpLen     = 12
	icmpLen     = 8
	ndLen       = 24 // with the target address

	// maxExtensions is how many IPv6 extension headers are walked.
	maxExtensions = 6
)

func (h *headers) condemn(reason model.Reason) { h.wrong = append(h.wrong, reason) }

// parseFrame reads an Ethernet frame. It never fails: what is wrong is in
// wrong, and what could not be read stays zero.
func parseFrame(frame []byte) headers {
	var h headers
	if len(frame) < ethernetLen {
		h.condemn(model.ReasonTruncated)
		return h
	}
	h.forMany = frame[0]&1 != 0
	payload := frame[ethernetLen:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0800:
		h.readIPv4(payload)
	case 0x86dd:
		h.readIPv6(payload)
	case 0x0806:
		h.readARP(payload)
	case 0x8100, 0x88a8:
		h.condemn(model.ReasonVLAN)
	default:
		h.condemn(model.ReasonUnknownEthertype)
	}
	return h
}

func (h *headers) readARP(b []byte) {
	h.arp = &arpPacket{}
	if len(b) < arpLen {
		return
	}
	ethernetAndIPv4 := binary.BigEndian.Uint16(b) == 1 && binary.BigEndian.Uint16(b[2:]) == 0x0800 && b[4] == 6 && b[5] == 4
	h.arp = &arpPacket{
		complete:   ethernetAndIPv4,
		operation:  binary.BigEndian.Uint16(b[6:]),
		senderMAC:  net.HardwareAddr(b[8:14]),
		senderAddr: netip.AddrFrom4([4]byte(b[14:18])),
		targetAddr: netip.AddrFrom4([4]byte(b[24:28])),
	}
}

func (h *headers) readIPv4(b []byte) {
	if len(b) < ipv4Len {
		h.condemn(model.ReasonTruncated)
		return
	}
	h.isIP = true
	h.src, h.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	h.hops = b[8]
	headerLen := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	h.length = total
	h.extended = headerLen > ipv4Len

	readable := true
	if b[0]>>4 != 4 || headerLen < ipv4Len {
		h.condemn(model.ReasonBadIPHeader)
		readable = false
	}
	if total < max(headerLen, ipv4Len) || total > len(b) {
		h.condemn(model.ReasonBadIPLength)
		readable = false
	}
	if headerLen > len(b) {
		h.condemn(model.ReasonTruncated)
	}
	if h.readable = readable; readable {
		h.readOptions(b[ipv4Len:headerLen])
	}
	const more, offset = 0x2000, 0x1fff
	if field := binary.BigEndian.Uint16(b[6:]); field&(more|offset) != 0 {
		h.cut = !h.extended
		h.extended = true
		h.fragment = &fragment{
			id:       uint32(binary.BigEndian.Uint16(b[4:])),
			protocol: model.Protocol(b[9]),
			offset:   int(field&offset) * 8,
		}
	}
	if readable && !h.later() {
		h.readTransport(model.Protocol(b[9]), b[headerLen:total])
	}
}

// readOptions reads IPv4 options (RFC 791, section 3.1). Those that name the way
// of a packet are for nobody.
func (h *headers) readOptions(b []byte) {
	const end, noOperation, looseRoute, strictRoute = 0, 1, 131, 137
	for len(b) > 0 && b[0] != end {
		switch {
		case b[0] == noOperation:
			b = b[1:]
			continue
		case len(b) < 2 || b[1] < 2 || int(b[1]) > len(b):
			h.condemn(model.ReasonBadIPOptions)
			return
		case b[0] == looseRoute, b[0] == strictRoute:
			h.condemn(model.ReasonSourceRoute)
			return
		}
		b = b[b[1]:]
	}
}

func (h *headers) readIPv6(b []byte) {
	if len(b) < ipv6Len {
		h.condemn(model.ReasonTruncated)
		return
	}
	h.isIP = true
	h.src, h.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	h.hops = b[7]
	readable := true
	if b[0]>>4 != 6 {
		h.condemn(model.ReasonBadIPHeader)
		readable = false
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	h.length = ipv6Len + length
	if length > len(b)-ipv6Len {
		h.condemn(model.ReasonBadIPLength)
		readable = false
	}
	h.readable = readable
	if readable && h.src.Is4In6() {
		h.condemn(model.ReasonMartianSource)
	}
	if readable && h.dst.Is4In6() {
		h.condemn(model.ReasonMartianDestination)
	}
	if readable {
		h.walkExtensions(b[6], b[ipv6Len:ipv6Len+length])
	}
}

// IPv6 extension headers that others are behind.
const hopByHop, routing, fragmentation, destination = 0, 43, 44, 60

// extends is whether a header of that number is one of them.
func extends(next uint8) bool {
	switch next {
	case hopByHop, routing, fragmentation, destination:
		return true
	}
	return false
}

// walkExtensions follows the chain of next headers to the one that is final.
func (h *headers) walkExtensions(next uint8, b []byte) {
	for count := 1; ; count++ {
		if !extends(next) {
			h.cut = h.fragment != nil && count == 2
			h.readTransport(model.Protocol(next), b)
			return
		}
		h.extended = true
		if count > maxExtensions {
			h.condemn(model.ReasonExtensionLimit)
			return
		}
		if len(b) < 8 {
			h.condemn(model.ReasonTruncated)
			return
		}
		if next == routing && (b[2] == 0 || b[3] > 0) {
			h.condemn(model.ReasonRoutingHeader)
		}
		length := 8 + 8*int(b[1])
		if next == fragmentation {
			length = 8
			if h.readFragmentHeader(b); h.later() {
				return
			}
		} else if h.fragment != nil {
			h.fragment.start += length
		}
		if length > len(b) {
			h.condemn(model.ReasonTruncated)
			return
		}
		next, b = b[0], b[length:]
	}
}

func (h *headers) readTransport(protocol model.Protocol, b []byte) {
	h.behind = len(b)
	h.tuple = model.Tuple{Src: h.src, Dst: h.dst, Protocol: protocol}
	isV6 := h.src.Is6()
	switch {
	case protocol == model.ProtocolTCP:
		h.readTCP(b)
	case protocol == model.ProtocolUDP:
		h.readUDP(b, isV6)
	case protocol == model.ProtocolSCTP:
		if h.needs(b, sctpLen) {
			h.readPorts(b)
		}
	case protocol == model.ProtocolICMP && !isV6:
		h.readICMP(b, 8, 0)
	case protocol == model.ProtocolICMPv6 && isV6:
		h.readICMP(b, 128, 129)
	default:
		h.hasTuple = true
	}
	if h.fragment != nil {
		h.fragment.learnable = len(h.wrong) == 0
	}
	for _, reason := range h.messageReasons() {
		h.condemn(reason)
	}
}

func (h *headers) needs(b []byte, length int) bool {
	if len(b) < length {
		h.condemn(model.ReasonTruncated)
		return false
	}
	return true
}

func (h *headers) readPorts(b []byte) {
	h.hasTuple = true
	h.tuple.Sport, h.tuple.Dport = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
}

func (h *headers) readTCP(b []byte) {
	if !h.needs(b, tcpLen) {
		return
	}
	h.readPorts(b)
	if offset := int(b[12]>>4) * 4; offset < tcpLen || offset > len(b) {
		h.condemn(model.ReasonBadTCPHeader)
	}
	h.sequence, h.acknowledged = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	h.tcp = tcpFlags(b[13])
	none := h.tcp&(flagSYN|flagACK|flagRST) == 0
	synAndEnd := h.tcp&flagSYN != 0 && h.tcp&(flagFIN|flagRST) != 0
	if none || synAndEnd {
		h.condemn(model.ReasonBadTCPFlags)
	}
}

func (h *headers) readUDP(b []byte, isV6 bool) {
	if !h.needs(b, udpLen) {
		return
	}
	h.readPorts(b)
	// The length counts the fragments that are not here.
	length, known := int(binary.BigEndian.Uint16(b[4:])), h.fragment == nil
	if length < udpLen || known && length > len(b) {
		h.condemn(model.ReasonBadUDPLength)
	}
	if isV6 && binary.BigEndian.Uint16(b[6:]) == 0 {
		h.condemn(model.ReasonBadUDPChecksum)
	}
}

// readICMP reads a message of either family: a request's identifier stands
// where a source port would, a reply's where a destination port would.
func (h *headers) readICMP(b []byte, request, reply uint8) {
	if !h.needs(b, icmpLen) {
		return
	}
	kind, code := b[0], b[1]
	identifier := binary.BigEndian.Uint16(b[4:])
	switch {
	case kind == request && code == 0:
		h.hasTuple = true
		h.tuple.Sport = identifier
	case kind == reply && code == 0:
		h.hasTuple, h.echoReply = true, true
		h.tuple.Dport = identifier
	default:
		h.message = messageOf(kind, h.src.Is6())
	}
	switch {
	case h.fragment != nil: // judged by its kind alone
	case h.message == errorMessage:
		h.readQuote(b[:icmpLen], b[icmpLen:])
	case h.message == discovery:
		h.nd = &neighbourMessage{kind: kind, code: code}
		if len(b) >= ndLen {
			h.nd.hasTarget, h.nd.target = true, netip.AddrFrom16([16]byte(b[8:24]))
		}
	}
}

func messageOf(kind uint8, isV6 bool) message {
	switch {
	case isV6 && kind >= 1 && kind <= 4, !isV6 && (kind == 3 || kind == 11 || kind == 12):
		return errorMessage
	case !isV6 && (kind == 4 || kind == 5): // source quench, redirect
		return unrelatedError
	case isV6 && kind >= 133 && kind <= 137:
		return discovery
	}
	return otherMessage
}

// messageReasons are those for which an ICMP message is dropped by its kind.
func (h *headers) messageReasons() []model.Reason {
	inParts := h.fragment != nil
	switch {
	case h.message == otherMessage:
		return []model.Reason{model.ReasonICMPType}
	case h.message == unrelatedError && inParts:
		return []model.Reason{model.ReasonICMPNoFlow, model.ReasonFragment}
	case h.message == unrelatedError:
		return []model.Reason{model.ReasonICMPNoFlow}
	case h.message == errorMessage && inParts:
		return []model.Reason{model.ReasonFragment}
	case h.message == discovery && inParts:
		return []model.Reason{model.ReasonBadNDP}
	}
	return nil
}
