// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/pcap"
)

// Captures have packets as the stack hands them to a device that segments: up to
// 64 KiB and more, which no wire carries and no test run takes. A program meets
// them once, by their headers, with the size of their segments beside it.

const (
	// usualMTU is that of a flow whose ends have not told what they take.
	usualMTU = 1500
	// leastMSS bounds how many segments a packet makes (TCP_MIN_MSS of the kernel).
	leastMSS = 88
	// maxSizes bounds the flows whose segment sizes are kept.
	maxSizes = 1 << 16
)

// shape is where the parts of a frame are.
type shape struct {
	header  *Header
	wire    int // bytes of the frame on the wire
	body    int // where its payload begins
	end     int // where its payload ends
	size    int // payload bytes of a segment; 0: it is no super-packet
	claimed int // bytes of the IP packet, as its header says
}

// segments is how many a device would make of the packet.
func (s *shape) segments() int {
	if s.size == 0 {
		return 1
	}
	return (s.end - s.body + s.size - 1) / s.size
}

// cutter makes frames that a test run takes of packets that it does not.
type cutter struct {
	sizes map[flowID]uint16 // the least MSS that a flow's ends have told
	buf   []byte
	plain []byte // a frame without the header of a jumbogram
}

// tooMuch is why a packet is refused whose frame nobody can send.
func tooMuch(length int) string {
	return fmt.Sprintf("It claims %d bytes on the wire, more than the %d that any packet has.", length, pcap.MaxPacket)
}

const longHeaders = "Its headers are longer than what the kernel's test run takes."

// learn keeps the segment size that a SYN tells.
func (c *cutter) learn(h *Header, frame []byte) {
	const synFlag = 0x02
	if h.Protocol != model.ProtocolTCP || h.TCPFlags&synFlag == 0 || h.Fragment.Is {
		return
	}
	told := mssOf(frame[min(h.l4, len(frame)):])
	if told == 0 {
		return
	}
	if c.sizes == nil || len(c.sizes) == maxSizes {
		c.sizes = map[flowID]uint16{}
	}
	flow := h.flow()
	if known, ok := c.sizes[flow]; !ok || told < known {
		c.sizes[flow] = told
	}
}

// mssOf reads the option of a TCP header; 0 where it has none.
func mssOf(tcp []byte) uint16 {
	const fixed, end, nop, mss = 20, 0, 1, 2
	if len(tcp) < fixed {
		return 0
	}
	options := tcp[fixed:max(fixed, min(len(tcp), int(tcp[12]>>4)*4))]
	for len(options) > 0 && options[0] != end {
		if options[0] == nop {
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return 0
		}
		if options[0] == mss && options[1] == 4 {
			return binary.BigEndian.Uint16(options[2:])
		}
		options = options[options[1]:]
	}
	return 0
}

// shape looks at a frame of so many bytes on the wire.
func (c *cutter) shape(h *Header, frame []byte, wire int) shape {
	s := shape{header: h, wire: wire, body: h.bodyAt(frame), end: wire, claimed: h.claimed(frame)}
	big := s.claimed == 0 && (h.Protocol == model.ProtocolTCP || h.Protocol == model.ProtocolUDP)
	if h.IP && !big {
		s.end = min(wire, etherLen+s.claimed)
	}
	s.body = min(s.body, s.end)
	size := c.size(h, s.body)
	if size > 0 && s.end-s.body > size {
		s.size = size
	}
	return s
}

// size is how many bytes of payload a segment of a flow has; 0: it has none.
func (c *cutter) size(h *Header, body int) int {
	if h.Fragment.Is || h.l4 == 0 {
		return 0
	}
	headers := body - etherLen
	switch h.Protocol {
	case model.ProtocolTCP:
		if mss, ok := c.sizes[h.flow()]; ok {
			return max(int(mss)-(body-h.l4-20), leastMSS)
		}
		return max(usualMTU-headers, leastMSS)
	case model.ProtocolUDP:
		return max(usualMTU-headers, leastMSS)
	}
	return 0
}

// bodyAt is where the payload of a frame begins.
func (h *Header) bodyAt(frame []byte) int {
	if h.Protocol == model.ProtocolTCP && h.l4 != 0 && len(frame) > h.l4+12 {
		return h.l4 + max(int(frame[h.l4+12]>>4)*4, 20)
	}
	return h.Needed
}

// claimed is how long an IP packet says that it is; 0 of a jumbogram.
func (h *Header) claimed(frame []byte) int {
	switch {
	case !h.IP:
		return 0
	case h.EtherType == etherIPv4:
		return int(binary.BigEndian.Uint16(frame[etherLen+2:]))
	}
	length := int(binary.BigEndian.Uint16(frame[etherLen+4:]))
	if length == 0 {
		return 0
	}
	return length + 40
}

// withoutJumbo takes the header off with which the kernel says the length of a
// packet of more than 64 KiB (RFC 2675): no wire carries it. The frame is a copy then.
func (c *cutter) withoutJumbo(frame []byte) []byte {
	const ip6, at, option, optionLen = 40, etherLen + 40, 0xc2, 4
	if len(frame) < at+8 || binary.BigEndian.Uint16(frame[12:]) != etherIPv6 || frame[etherLen+6] != nextHopByHop ||
		binary.BigEndian.Uint16(frame[etherLen+4:]) != 0 || frame[at+1] != 0 || frame[at+2] != option || frame[at+3] != optionLen {
		return frame
	}
	c.plain = append(append(c.plain[:0], frame[:at]...), frame[at+8:]...)
	c.plain[etherLen+6] = frame[at]
	return c.plain
}

// headers gives a packet that is too long with as much of its payload as a test
// run takes, and a super-packet with that of one segment. It fails with a sentence.
func (c *cutter) headers(frame []byte, s *shape) (cut []byte, why string) {
	if !s.header.IP || s.end <= datapath.MaxRunBytes { // the rest is padding, or nobody's
		return filled(&c.buf, frame, min(s.wire, datapath.MaxRunBytes)), ""
	}
	if s.body > datapath.MaxRunBytes {
		return nil, longHeaders
	}
	n := datapath.MaxRunBytes - s.body
	if s.size > 0 {
		n = min(n, s.size)
	}
	return c.part(frame, s, s.body, n), ""
}

// segment gives one of a super-packet's segments, from 0, as the kernel makes
// them (net/ipv4/tcp_offload.c, udp_offload.c): one that a test run does not take
// has less payload.
func (c *cutter) segment(frame []byte, s *shape, number int) []byte {
	from := s.body + number*s.size
	n := min(s.size, s.end-from)
	cut := c.part(frame, s, from, min(n, datapath.MaxRunBytes-s.body))
	h := s.header
	if h.EtherType == etherIPv4 {
		id := cut[etherLen+4 : etherLen+6]
		change16(cut[etherLen:], id, binary.BigEndian.Uint16(id)+uint16(number))
	}
	if h.Protocol == model.ProtocolTCP {
		const fin, psh, cwr = 0x01, 0x08, 0x80
		seq := cut[h.l4+4 : h.l4+8]
		binary.BigEndian.PutUint32(seq, binary.BigEndian.Uint32(seq)+uint32(number*s.size))
		if number > 0 {
			cut[h.l4+13] &^= cwr
		}
		if from+n < s.end {
			cut[h.l4+13] &^= fin | psh
		}
	}
	h.sum(cut)
	return cut
}

// part makes a frame of a packet's headers and n bytes of its payload, with
// lengths that are as right or wrong as they were, and sound sums.
func (c *cutter) part(frame []byte, s *shape, from, n int) []byte {
	h := s.header
	if h.more { // whose payload counts in eights
		ip := etherLen + 40
		if h.EtherType == etherIPv4 {
			ip = etherLen + int(frame[etherLen]&0x0f)*4
		}
		n -= (s.body + n - ip) % 8
	}
	cut := filled(&c.buf, frame[:min(len(frame), s.body)], s.body)
	if from < len(frame) {
		cut = append(cut, frame[from:min(len(frame), from+n)]...)
	}
	c.buf = zeros(cut, s.body+n)
	cut = c.buf
	less := s.end - s.body - n
	h.shorten(cut, s, less)
	h.sum(cut)
	return cut
}

// shorten takes bytes off the lengths that headers tell.
func (h *Header) shorten(cut []byte, s *shape, less int) {
	claimed := s.claimed
	if claimed == 0 {
		claimed = s.end - etherLen
	}
	if ip := cut[etherLen:]; h.EtherType == etherIPv4 {
		change16(ip, ip[2:4], uint16(claimed-less))
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(claimed-less-40))
	}
	if h.Protocol != model.ProtocolUDP || h.l4 == 0 || h.Fragment.Is || len(cut) < h.l4+8 {
		return
	}
	length := cut[h.l4+4 : h.l4+6]
	told := int(binary.BigEndian.Uint16(length))
	if told == 0 || told > less {
		told = max(told, s.end-h.l4)
	}
	binary.BigEndian.PutUint16(length, uint16(told-less))
}

// change16 changes two bytes of an IPv4 header: its checksum is as right or wrong
// afterwards as it was (RFC 1624).
func change16(ip, field []byte, value uint16) {
	was := binary.BigEndian.Uint16(field)
	binary.BigEndian.PutUint16(field, value)
	sum := uint32(^binary.BigEndian.Uint16(ip[10:])) + uint32(^was) + uint32(value)
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum&0xffff+sum>>16))
}

// filled makes a frame as long as it was on the wire.
func filled(buf *[]byte, frame []byte, length int) []byte {
	*buf = zeros(append((*buf)[:0], frame[:min(len(frame), length)]...), length)
	return *buf
}

// zeros fills up to a length.
func zeros(b []byte, length int) []byte {
	have := len(b)
	if have >= length {
		return b
	}
	b = slices.Grow(b, length-have)[:length]
	clear(b[have:])
	return b
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum writes the checksum of a whole packet's transport.
func (h *Header) sum(frame []byte) {
	if h.l4 == 0 || h.Fragment.Is || h.l4 > len(frame) {
		return
	}
	message := frame[h.l4:]
	at, pseudo := 0, true
	switch h.Protocol {
	case model.ProtocolTCP:
		at = 16
	case model.ProtocolUDP:
		at = 6
	case model.ProtocolICMP:
		at, pseudo = 2, false
	case model.ProtocolICMPv6:
		at = 2
	case model.ProtocolSCTP:
		if len(message) >= 12 {
			clear(message[8:12])
			binary.LittleEndian.PutUint32(message[8:], crc32.Checksum(message, castagnoli))
		}
		return
	default:
		return
	}
	if len(message) < at+2 || h.Protocol == model.ProtocolUDP && h.Src.Is4() && message[6]|message[7] == 0 {
		return
	}
	clear(message[at : at+2])
	var total uint64
	if pseudo {
		ends := frame[etherLen+12 : etherLen+20]
		if h.EtherType == etherIPv6 {
			ends = frame[etherLen+8 : etherLen+40]
		}
		total = added(ends) + uint64(h.Protocol) + uint64(len(message))
	}
	total += added(message)
	for total>>16 != 0 {
		total = total&0xffff + total>>16
	}
	check := ^uint16(total)
	if check == 0 && h.Protocol == model.ProtocolUDP {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(message[at:], check)
}

// added is the sum of bytes as numbers of 16 bits.
func added(b []byte) (sum uint64) {
	for ; len(b) >= 4; b = b[4:] {
		v := binary.BigEndian.Uint32(b)
		sum += uint64(v>>16) + uint64(v&0xffff)
	}
	for ; len(b) >= 2; b = b[2:] {
		sum += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	return sum
}
