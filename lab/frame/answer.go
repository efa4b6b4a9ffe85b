// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/weirnet/weir/model"
)

// Answer is what a datapath's answer to a frame has to be, to the last octet: an
// ARP reply (RFC 826) and a neighbour advertisement (RFC 4861 4.4) of the gateway
// whose hardware address is mac; a reset (RFC 9293 3.10.7.1), an ICMP error (RFC
// 792, RFC 4443 3.1 and 3.2) or an echo reply from whom the frame was sent to. pod is the hardware
// address of the pod that asks. An ICMP error's MTU is the one given, 0 of what
// says nothing of one. Checksums are 0: WithoutChecksums makes what was sent
// comparable. Nil for what has no answer that is known here.
func Answer(asked []byte, reason model.Reason, mac, pod []byte, mtu uint32) []byte {
	p := Decode(asked)
	refused := reason == model.ReasonNoBackend || reason == model.ReasonNoFrontend
	denied := reason == model.ReasonPolicyEgress || reason == model.ReasonPolicyIngress
	switch {
	case reason == model.ReasonARPAnswered:
		return arpAnswer(asked, mac)
	case reason == model.ReasonNDPAnswered:
		return neighbourAnswer(asked, mac, pod)
	case (refused || denied) && model.Protocol(p.Proto) == model.ProtocolTCP:
		return p.reset()
	case denied:
		return p.unreachable(prohibited, 0)
	case refused && (p.Proto == uint8(model.ProtocolICMP) || p.Proto == uint8(model.ProtocolICMPv6)):
		return p.echo()
	case reason == model.ReasonTooBig:
		return p.unreachable(tooBig, mtu)
	case refused:
		return p.unreachable(noPort, 0)
	}
	return nil
}

// answerTTL is what the datapath's own packets begin with.
const answerTTL = 64

func arpAnswer(asked, mac []byte) []byte {
	const sender, target = 14 + 8, 14 + 18
	out := bytes.Clone(asked)
	copy(out, asked[sender:sender+6])
	copy(out[6:], mac)
	out[21] = 2
	copy(out[sender:], mac)
	copy(out[sender+6:], asked[target+6:target+10])
	copy(out[target:], asked[sender:sender+10])
	return out
}

func neighbourAnswer(asked, mac, pod []byte) []byte {
	out := bytes.Clone(asked[:14+40+24])
	copy(out, pod)
	copy(out[6:], mac)
	binary.BigEndian.PutUint16(out[18:], 32)
	copy(out[22:], asked[62:78])   // from the target
	copy(out[38:], asked[22:38])   // to who asked
	copy(out[54:], []byte{136, 0}) // its code and checksum
	copy(out[58:], []byte{0xe0, 0, 0, 0})
	return append(append(out, 2, 1), mac...)
}

// turned is an Ethernet header that leads back.
func turned(asked []byte) []byte {
	return slices.Concat(asked[6:12], asked[:6], asked[12:14])
}

// reset is of a segment without IP options or extension headers.
func (p *Packet) reset() []byte {
	asked, segment := p.Data, p.Transport()
	out := append(turned(asked), asked[14:p.L4]...)
	if ip := out[14:]; p.Version == 4 {
		binary.BigEndian.PutUint16(ip[2:], 40)
		ip[8] = answerTTL
		copy(ip[12:], asked[14+16:14+20])
		copy(ip[16:], asked[14+12:14+16])
	} else {
		binary.BigEndian.PutUint16(ip[4:], 20)
		ip[7] = answerTTL
		copy(ip[8:], asked[14+24:14+40])
		copy(ip[24:], asked[14+8:14+24])
	}
	const fin, syn, rst, ack = 1, 2, 4, 16
	var tcp [20]byte
	copy(tcp[:], segment[2:4])
	copy(tcp[2:], segment[:2])
	tcp[12] = 5 << 4
	if flags := segment[13]; flags&ack != 0 {
		tcp[13] = rst
		copy(tcp[4:], segment[8:12])
	} else {
		tcp[13] = rst | ack
		length := uint32(len(segment)) - uint32(segment[12]>>4)*4
		for _, counts := range []byte{fin, syn} {
			if flags&counts != 0 {
				length++
			}
		}
		binary.BigEndian.PutUint32(tcp[8:], binary.BigEndian.Uint32(segment[4:])+length)
	}
	return append(out, tcp[:]...)
}

// echo is the answer of a ping, by the same words and with the same payload.
func (p *Packet) echo() []byte {
	out := append(turned(p.Data), p.Data[14:]...)
	ip := out[14:]
	if p.Version == 4 {
		ip[8] = answerTTL
		copy(ip[12:], p.Data[14+16:14+20])
		copy(ip[16:], p.Data[14+12:14+16])
		out[p.L4] = 0
		return out
	}
	ip[7] = answerTTL
	copy(ip[8:], p.Data[14+24:14+40])
	copy(ip[24:], p.Data[14+8:14+24])
	out[p.L4] = 129
	return out
}

// icmpError is type and code of an ICMP error, in IPv4 (RFC 792, RFC 1812 5.2.7.1)
// and in IPv6 (RFC 4443 3.1 and 3.2).
type icmpError struct{ v4, v6 [2]byte }

var (
	noPort     = icmpError{v4: [2]byte{3, 3}, v6: [2]byte{1, 4}}
	prohibited = icmpError{v4: [2]byte{3, 13}, v6: [2]byte{1, 1}}
	tooBig     = icmpError{v4: [2]byte{3, 4}, v6: [2]byte{2, 0}}
)

// unreachable is the error about a packet, with an MTU where it tells of one. It
// quotes the transport header.
func (p *Packet) unreachable(kind icmpError, mtu uint32) []byte {
	asked := p.Data
	behind := 8
	if model.Protocol(p.Proto) == model.ProtocolTCP && !p.Fragment {
		behind = 20
	}
	quote := asked[14 : p.L4+behind]
	icmp := make([]byte, 8)
	var ip []byte
	if p.Version == 4 {
		ip = []byte{0x45, 0, 0, 0, 0, 0, 0, 0, answerTTL, 1, 0, 0}
		binary.BigEndian.PutUint16(ip[2:], uint16(20+8+len(quote)))
		ip = slices.Concat(ip, asked[14+16:14+20], asked[14+12:14+16])
		copy(icmp, kind.v4[:])
		binary.BigEndian.PutUint16(icmp[6:], uint16(mtu))
	} else {
		ip = []byte{0x60, 0, 0, 0, 0, 0, 58, answerTTL}
		binary.BigEndian.PutUint16(ip[4:], uint16(8+len(quote)))
		ip = slices.Concat(ip, asked[14+24:14+40], asked[14+8:14+24])
		copy(icmp, kind.v6[:])
		binary.BigEndian.PutUint32(icmp[4:], mtu)
	}
	return slices.Concat(turned(asked), ip, icmp, quote)
}

// WithoutChecksums is a copy of an answer whose own checksums are 0.
func WithoutChecksums(answer []byte) []byte {
	out := bytes.Clone(answer)
	p := Decode(out)
	if p.Version == 0 || p.L4 < 0 {
		return out
	}
	at := p.L4 + 2
	if model.Protocol(p.Proto) == model.ProtocolTCP {
		at = p.L4 + 16
	}
	copy(out[at:], []byte{0, 0})
	if p.Version == 4 {
		copy(out[p.L3+10:], []byte{0, 0})
	}
	return out
}

// SaidMTU is what an ICMP error says of an MTU; 0 where it says nothing of one.
func (p *Packet) SaidMTU() uint32 {
	b := p.Transport()
	switch {
	case len(b) < 8:
	case p.Version == 4 && p.Proto == 1 && b[0] == 3 && b[1] == 4:
		return uint32(binary.BigEndian.Uint16(b[6:]))
	case p.Version == 6 && p.Proto == 58 && b[0] == 2:
		return binary.BigEndian.Uint32(b[4:])
	}
	return 0
}
