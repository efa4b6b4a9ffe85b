// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"

	"github.com/weirnet/weir/lab/frame"
)

// outerTTL is what every tunnel's packet begins with.
const outerTTL = 64

// verifyTunnel checks what a hook has put into a tunnel: the packet before with
// one hop less, and around it headers that are right to the last bit.
func (t *trip) verifyTunnel(before []byte) {
	outer, was := frame.Decode(t.data), frame.Decode(before)
	inner, ok := outer.Carried()
	if !ok || outer.Version != was.Version {
		t.faultf("the way out is the tunnel, but the frame has no packet in a packet of its family")
		return
	}
	routed := bytes.Clone(before)
	decrement(routed, was)
	if got, want := inner.Data[inner.L3:inner.End], routed[was.L3:was.End]; !bytes.Equal(got, want) {
		t.faultf("the packet in the tunnel is not the one that came, with one hop less: %x, not %x", got, want)
	}
	head, own := outer.Data[outer.L3:], inner.Data[inner.L3:]
	length := int(binary.BigEndian.Uint16(head[2:]))
	if outer.Version == 6 {
		length = 40 + int(binary.BigEndian.Uint16(head[4:]))
	}
	if octets := inner.End - outer.L3; length != octets {
		t.faultf("the tunnel's packet says that it has %d octets, of %d", length, octets)
	}
	if outer.TTL != outerTTL {
		t.faultf("the tunnel's packet begins with a time to live of %d, not %d", outer.TTL, outerTTL)
	}
	if outer.Version == 4 {
		if outer.Checksums().IP != frame.Right {
			t.faultf("the IPv4 header of the tunnel has a wrong checksum")
		}
		if flags := binary.BigEndian.Uint16(head[6:]); flags != 0x4000 {
			t.faultf("the IPv4 header of the tunnel has flags and offset %#x, and not only 'do not fragment'", flags)
		}
		if head[1] != own[1] {
			t.faultf("the tunnel's packet has type of service %#x, and what is in it %#x", head[1], own[1])
		}
	} else if !bytes.Equal(head[:4], own[:4]) {
		t.faultf("the tunnel's packet has traffic class and flow label %x, and what is in it %x", head[:4], own[:4])
	}
	if inner.L3 > outer.L4 {
		t.verifyGeneve(outer.Data[outer.L4:inner.L3], outer)
	}
}

// verifyGeneve checks the headers between the two packets.
func (t *trip) verifyGeneve(h []byte, outer *frame.Packet) {
	if port := binary.BigEndian.Uint16(h); port < 0xc000 {
		t.faultf("the tunnel's datagram comes from port %d, which a socket may have", port)
	}
	if length := int(binary.BigEndian.Uint16(h[4:])); length != outer.End-outer.L4 {
		t.faultf("the tunnel's datagram says that it has %d octets, of %d", length, outer.End-outer.L4)
	}
	want := []byte{0, 0, 0, 0, outer.Data[12], outer.Data[13], 0, 0, 0, 0}
	if !bytes.Equal(h[6:], want) {
		t.faultf("checksum and Geneve header are %x, not %x", h[6:], want)
	}
}
