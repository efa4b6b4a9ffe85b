// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"net/netip"
)

// sum adds octets as 16-bit words to a ones' complement sum, RFC 1071.
func sum(acc uint32, b []byte) uint32 {
	for len(b) >= 2 {
		acc += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	return acc
}

func fold(acc uint32) uint16 {
	for acc>>16 != 0 {
		acc = acc&0xffff + acc>>16
	}
	return ^uint16(acc)
}

// pseudo is the sum of the pseudo header that TCP, UDP and ICMPv6 cover, RFC
// 9293 and RFC 8200 section 8.1.
func pseudo(src, dst netip.Addr, proto uint8, length int) uint32 {
	s, d := src.AsSlice(), dst.AsSlice()
	acc := sum(sum(0, s), d)
	var tail [8]byte
	binary.BigEndian.PutUint32(tail[:], uint32(length))
	tail[7] = proto
	return sum(acc, tail[:])
}

// Checksums is how a frame's checksums are.
type Checksums struct {
	// IP is of the IPv4 header; Transport of TCP, UDP, ICMP or ICMPv6. A
	// checksum that is not there or cannot be computed is Absent.
	IP, Transport Check
	// Quoted is of the IPv4 header that an ICMP error quotes.
	Quoted Check
}

// Check is the state of one checksum.
type Check uint8

// States of a checksum.
const (
	Absent Check = iota
	Right
	Wrong
)

func (c Check) String() string { return [...]string{"absent", "right", "wrong"}[c] }

func check(right bool) Check {
	if right {
		return Right
	}
	return Wrong
}

// Residue is the ones' complement sum of a first fragment's transport bytes
// and of the addresses that its checksum covers. Nobody can verify that
// checksum without the other fragments, but what a translation changes it has
// to make up for, so that the residue stays. False for all but first fragments
// of protocols that have such a checksum.
func (p *Packet) Residue() (uint16, bool) {
	body := p.Transport()
	if !p.Fragment || len(body) < 8 {
		return 0, false
	}
	switch {
	case p.Proto == protoTCP && len(body) >= 20, p.Proto == protoICMPv6 && p.Version == 6,
		p.Proto == protoUDP && binary.BigEndian.Uint16(body[6:]) != 0:
		// 0 and 0xffff are both zero; the length is not known, and no matter.
		return fold(sum(pseudo(p.Src, p.Dst, p.Proto, 0), body)) % 0xffff, true
	case p.Proto == protoICMP && p.Version == 4:
		return fold(sum(0, body)) % 0xffff, true
	}
	return 0, false
}

// Checksums verifies the checksums of a decoded frame. Those of fragments
// and of packets that are cut short cannot be, and are Absent.
func (p *Packet) Checksums() Checksums {
	var c Checksums
	if p.Version == 4 {
		c.IP = check(fold(sum(0, p.Data[p.L3:p.L3+p.headerLen])) == 0)
	}
	if p.L4 < 0 || p.Fragment || p.short || p.L4 >= p.End {
		return c
	}
	if q, ok := p.Quoted(); ok && q.Version == 4 {
		c.Quoted = check(fold(sum(0, p.Data[q.L3:q.L3+q.headerLen])) == 0)
	}
	body := p.Data[p.L4:p.End]
	switch p.Proto {
	case protoTCP:
		if len(body) >= 20 {
			c.Transport = check(fold(sum(pseudo(p.Src, p.Dst, p.Proto, len(body)), body)) == 0)
		}
	case protoUDP:
		if len(body) < 8 || binary.BigEndian.Uint16(body[6:]) == 0 {
			break
		}
		n := int(binary.BigEndian.Uint16(body[4:]))
		if n < 8 || n > len(body) {
			break
		}
		c.Transport = check(fold(sum(pseudo(p.Src, p.Dst, p.Proto, n), body[:n])) == 0)
	case protoICMP:
		if p.Version == 4 && len(body) >= 8 {
			c.Transport = check(fold(sum(0, body)) == 0)
		}
	case protoICMPv6:
		if p.Version == 6 && len(body) >= 8 {
			c.Transport = check(fold(sum(pseudo(p.Src, p.Dst, p.Proto, len(body)), body)) == 0)
		}
	}
	return c
}
