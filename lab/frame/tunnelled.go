// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/weirnet/weir/model"
)

// outerTTL is what every tunnel's packet begins with.
const outerTTL = 64

// Tunnelled says what is wrong with what a datapath has put into a tunnel, in
// sentences: it has to be the packet before, or the one that came in a tunnel, with
// one hop less, and around it headers of the packet's family that are right to the
// last bit.
func Tunnelled(before, after []byte) []string {
	outer, was := Decode(after), Decode(before)
	inner, ok := outer.Carried()
	if !ok || outer.Version != was.Version {
		return []string{"the way out is the tunnel, but the frame has no packet in a packet of its family"}
	}
	var wrong []string
	faultf := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	got, want := inner.Data[inner.L3:], was.routed()[was.L3:]
	cameInTunnel := false
	if carried, ok := was.Carried(); ok {
		cameInTunnel = bytes.Equal(got, carried.routed()[carried.L3:])
	}
	if !cameInTunnel && !bytes.Equal(got, want) {
		faultf("the packet in the tunnel is not the one that came, with one hop less: %x, not %x", got, want)
	}
	head, own := outer.Data[outer.L3:], inner.Data[inner.L3:]
	length := int(binary.BigEndian.Uint16(head[2:]))
	if outer.Version == 6 {
		length = 40 + int(binary.BigEndian.Uint16(head[4:]))
	}
	if octets := inner.End - outer.L3; length != octets {
		faultf("the tunnel's packet says that it has %d octets, of %d", length, octets)
	}
	if outer.TTL != outerTTL {
		faultf("the tunnel's packet begins with a time to live of %d, not %d", outer.TTL, outerTTL)
	}
	if outer.Version == 4 {
		wrong = append(wrong, outer.tunnelled4(own[1])...)
	} else if !bytes.Equal(head[:4], own[:4]) {
		faultf("the tunnel's packet has traffic class and flow label %x, and what is in it %x", head[:4], own[:4])
	}
	if inner.L3 > outer.L4 {
		wrong = append(wrong, outer.tunnelledInGeneve(outer.Data[outer.L4:inner.L3])...)
		wrong = append(wrong, tunnelPort(binary.BigEndian.Uint16(outer.Data[outer.L4:]), inner)...)
	}
	return wrong
}

// tunnelPort checks the port that a datagram comes from: it tells routers of the
// flow inside (RFC 8926 3.3).
func tunnelPort(port uint16, inner *Packet) []string {
	tuple, ok := inner.Tuple()
	if !ok || inner.Fragment || tuple.Protocol != model.ProtocolTCP && tuple.Protocol != model.ProtocolUDP {
		return nil
	}
	if want := 0xc000 | uint16(Hash(tuple)&0x3fff); port >= 0xc000 && port != want {
		return []string{fmt.Sprintf("the tunnel's datagram comes from port %d, and its flow is of port %d", port, want)}
	}
	return nil
}

// routed is a copy of the frame as a router leads it on: a checksum that was
// wrong stays wrong (RFC 1141).
func (p *Packet) routed() []byte {
	data := bytes.Clone(p.Data)
	if p.Version == 6 {
		data[p.L3+7]--
		return data
	}
	data[p.L3+8]--
	check := data[p.L3+10 : p.L3+12]
	sum := uint32(binary.BigEndian.Uint16(check)) + 0x100
	if sum >= 0xffff {
		sum++
	}
	binary.BigEndian.PutUint16(check, uint16(sum))
	return data
}

func (p *Packet) tunnelled4(service byte) []string {
	var wrong []string
	head := p.Data[p.L3:]
	if p.Checksums().IP != Right {
		wrong = append(wrong, "the IPv4 header of the tunnel has a wrong checksum")
	}
	if id := binary.BigEndian.Uint16(head[4:]); id != 0 {
		wrong = append(wrong, fmt.Sprintf("the IPv4 header of the tunnel has the identification %d, and is no fragment", id))
	}
	if flags := binary.BigEndian.Uint16(head[6:]); flags != 0x4000 {
		wrong = append(wrong, fmt.Sprintf("the IPv4 header of the tunnel has flags and offset %#x, and not only 'do not fragment'", flags))
	}
	if head[1] != service {
		wrong = append(wrong, fmt.Sprintf("the tunnel's packet has type of service %#x, and what is in it %#x", head[1], service))
	}
	return wrong
}

// tunnelledInGeneve checks the headers between the two packets.
func (p *Packet) tunnelledInGeneve(h []byte) []string {
	var wrong []string
	if port := binary.BigEndian.Uint16(h); port < 0xc000 {
		wrong = append(wrong, fmt.Sprintf("the tunnel's datagram comes from port %d, which a socket may have", port))
	}
	if length := int(binary.BigEndian.Uint16(h[4:])); length != p.End-p.L4 {
		wrong = append(wrong, fmt.Sprintf("the tunnel's datagram says that it has %d octets, of %d", length, p.End-p.L4))
	}
	want := []byte{0, 0, 0, 0, p.Data[12], p.Data[13], 0, 0, 0, 0}
	if !bytes.Equal(h[6:], want) {
		wrong = append(wrong, fmt.Sprintf("checksum and Geneve header are %x, not %x", h[6:], want))
	}
	return wrong
}
