// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"net/netip"

	"github.com/weirnet/weir/model"
)

// Packet is a frame whose headers have been found. Offsets are into Data.
type Packet struct {
	Data []byte

	EtherType uint16 // behind all VLAN tags
	tags      int    // how many VLAN tags

	Version  int // 4, 6, or 0 where there is no readable IP header
	Src, Dst netip.Addr
	TTL      uint8
	Proto    uint8 // behind all IPv6 extension headers
	Fragment bool

	L3  int // the IP or ARP header, -1 where there is none
	L4  int // behind IP and its extensions, -1 where they are not readable
	End int // of the IP packet; what is behind is padding

	headerLen  int
	extensions []extension
	short      bool // the IP length goes beyond the frame
}

type extension struct {
	proto     uint8
	at, bytes int
}

// Decode finds the headers of a frame. It never fails: what cannot be found
// is -1 or 0, and Layers gives it as raw bytes.
func Decode(data []byte) *Packet {
	p := &Packet{Data: data, L3: -1, L4: -1, End: len(data)}
	if len(data) < 14 {
		return p
	}
	p.EtherType = binary.BigEndian.Uint16(data[12:])
	at := 14
	for (p.EtherType == etherVLAN || p.EtherType == etherQinQ) && len(data) >= at+4 {
		p.EtherType = binary.BigEndian.Uint16(data[at+2:])
		p.tags++
		at += 4
	}
	p.L3 = at
	switch p.EtherType {
	case etherIPv4, etherIPv6:
		p.decodeIP(at)
	}
	return p
}

// decodeIP reads an IP header at an offset, for the outer and quoted packets.
func (p *Packet) decodeIP(at int) {
	switch {
	case p.EtherType == etherIPv4 && len(p.Data) >= at+20:
		p.decodeIPv4(p.Data[at:])
	case p.EtherType == etherIPv6 && len(p.Data) >= at+40:
		p.decodeIPv6(p.Data[at:])
	}
}

func (p *Packet) decodeIPv4(h []byte) {
	p.headerLen = int(h[0]&15) * 4
	total := int(binary.BigEndian.Uint16(h[2:]))
	if h[0]>>4 != 4 || p.headerLen < 20 || p.headerLen > len(h) {
		return
	}
	p.Version = 4
	p.Src, p.Dst = netip.AddrFrom4([4]byte(h[12:16])), netip.AddrFrom4([4]byte(h[16:20]))
	p.TTL, p.Proto = h[8], h[9]
	frag := binary.BigEndian.Uint16(h[6:])
	p.Fragment = frag&0x3fff != 0
	p.setEnd(total)
	if total >= p.headerLen && frag&0x1fff == 0 {
		p.L4 = p.L3 + p.headerLen
	}
}

// setEnd sets where the packet ends, from its own length.
func (p *Packet) setEnd(total int) {
	p.End = p.L3 + total
	if p.End > len(p.Data) {
		p.End, p.short = len(p.Data), true
	}
}

func (p *Packet) decodeIPv6(h []byte) {
	if h[0]>>4 != 6 {
		return
	}
	p.Version, p.headerLen = 6, 40
	p.Src, p.Dst = netip.AddrFrom16([16]byte(h[8:24])), netip.AddrFrom16([16]byte(h[24:40]))
	p.TTL, p.Proto = h[7], h[6]
	p.setEnd(40 + int(binary.BigEndian.Uint16(h[4:])))
	at := p.L3 + 40
	for {
		switch p.Proto {
		case protoHopByHop, protoRouting, protoDestOpts, protoFragment:
		default:
			p.L4 = at
			return
		}
		if at+8 > p.End {
			return
		}
		e := extension{p.Proto, at, (int(p.Data[at+1]) + 1) * 8}
		if p.Proto == protoFragment {
			e.bytes = 8
		}
		if at+e.bytes > p.End {
			return
		}
		p.extensions = append(p.extensions, e)
		p.Proto = p.Data[at]
		at += e.bytes
		if e.proto == protoFragment {
			field := binary.BigEndian.Uint16(p.Data[e.at+2:])
			if field&^6 != 0 {
				p.Fragment = true
			}
			if field&^7 != 0 { // not the first: no transport header follows
				return
			}
		}
	}
}

// Later says whether the packet is a fragment without a transport header.
func (p *Packet) Later() bool { return p.Fragment && p.L4 < 0 }

// Behind gives the bytes from the end of the IP header, its options included
// and extension headers not, to the packet's end.
func (p *Packet) Behind() []byte {
	if p.Version == 0 || p.L3+p.headerLen > p.End {
		return nil
	}
	return p.Data[p.L3+p.headerLen : p.End]
}

// Transport gives the bytes from the transport header to the packet's end,
// or nothing where there is no such header.
func (p *Packet) Transport() []byte {
	if p.L4 < 0 || p.L4 > p.End {
		return nil
	}
	return p.Data[p.L4:p.End]
}

// Tuple is what the packet's flow is known by. False where it has none. A
// later fragment has addresses, and a protocol without ports.
func (p *Packet) Tuple() (model.Tuple, bool) {
	t := model.Tuple{Src: p.Src, Dst: p.Dst, Protocol: model.Protocol(p.Proto)}
	switch {
	case p.Version == 0:
		return model.Tuple{}, false
	case p.L4 < 0:
		return t, p.Fragment
	}
	body := p.Transport()
	switch p.Proto {
	case protoTCP, protoUDP, protoSCTP:
		if len(body) < 4 {
			return t, false
		}
		t.Sport, t.Dport = binary.BigEndian.Uint16(body), binary.BigEndian.Uint16(body[2:])
	case protoICMP, protoICMPv6:
		if !p.speaksICMP() {
			break
		}
		if len(body) < 8 {
			return t, false
		}
		id := binary.BigEndian.Uint16(body[4:])
		switch {
		case p.Proto == protoICMP && body[0] == 8, p.Proto == protoICMPv6 && body[0] == 128:
			t.Sport = id
		case p.Proto == protoICMP && body[0] == 0, p.Proto == protoICMPv6 && body[0] == 129:
			t.Dport = id
		}
	}
	return t, true
}

// Quoted gives the packet that an ICMP error quotes, as far as it does.
func (p *Packet) Quoted() (*Packet, bool) {
	body := p.Transport()
	if len(body) < 8 || !p.speaksICMP() || !isError(p.Proto, body[0]) {
		return nil, false
	}
	q := &Packet{Data: p.Data[:p.End], EtherType: p.EtherType, L3: p.L4 + 8, L4: -1, End: p.End}
	q.decodeIP(q.L3)
	if q.Version == 4 && binary.BigEndian.Uint16(q.Data[q.L3+6:])&0x1fff == 0 {
		q.L4 = q.L3 + q.headerLen
	}
	q.End = p.End // a quote is mostly cut, whatever length it tells
	return q, q.Version != 0
}

// speaksICMP says whether the packet is ICMP of its own family: the other's is
// a protocol like any other.
func (p *Packet) speaksICMP() bool {
	return p.Proto == protoICMP && p.Version == 4 || p.Proto == protoICMPv6 && p.Version == 6
}

func isError(proto, icmpType uint8) bool {
	if proto == protoICMPv6 {
		return icmpType < 128
	}
	switch icmpType {
	case 3, 4, 5, 11, 12:
		return proto == protoICMP
	}
	return false
}
