// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// mutator changes frames, by chance.
type mutator struct {
	rng      *rand.Rand
	captured [][]byte // frames of captures
}

// mutate gives a changed copy of a frame. Some changes leave its checksums
// right, some do not.
func (m *mutator) mutate(data []byte, addresses []netip.Addr) []byte {
	out := bytes.Clone(data)
	for range 1 + m.rng.IntN(3) {
		out = m.once(out, addresses)
	}
	if m.rng.IntN(3) == 0 {
		out = mend(out)
	}
	return out
}

func (m *mutator) once(data []byte, addresses []netip.Addr) []byte {
	p := frame.Decode(data)
	if inner, ok := p.Carried(); ok && m.rng.IntN(2) == 0 {
		return m.inside(p, inner, addresses)
	}
	switch m.rng.IntN(14) {
	case 0:
		return m.flip(data, 0, len(data))
	case 1: // in the headers
		return m.flip(data, min(12, len(data)), min(len(data), 80))
	case 2:
		if len(data) > 14 {
			return data[:14+m.rng.IntN(len(data)-13)]
		}
	case 3: // padding, whatever the lengths say
		return append(data, make([]byte, 1+m.rng.IntN(60))...)
	case 4:
		return m.extend(data, p)
	case 5, 6:
		return m.transport(data, p)
	case 7:
		return m.address(data, p, addresses)
	case 8:
		return m.tag(data)
	case 9:
		return m.splice(data, p)
	}
	if p.Version == 4 {
		return m.ipv4(data, p)
	}
	if p.Version == 6 {
		return m.ipv6(data, p)
	}
	return m.flip(data, min(12, len(data)), len(data))
}

func (m *mutator) flip(data []byte, from, to int) []byte {
	for range 1 + m.rng.IntN(4) {
		if from < to {
			data[from+m.rng.IntN(to-from)] ^= 1 << m.rng.IntN(8)
		}
	}
	return data
}

// near gives a number that is off by a little, or at the ends of its range.
func (m *mutator) near(n, bits int) int {
	switch m.rng.IntN(4) {
	case 0:
		return (n + 1 + m.rng.IntN(8)) & (1<<bits - 1)
	case 1:
		return (n - 1 - m.rng.IntN(8)) & (1<<bits - 1)
	case 2:
		return m.rng.IntN(1 << bits)
	}
	return []int{0, 1, 1<<bits - 1}[m.rng.IntN(3)]
}

// ttls are those at which something happens, and others.
var ttls = []uint8{0, 1, 2, 64, 255}

func (m *mutator) ipv4(data []byte, p *frame.Packet) []byte {
	h := data[p.L3:]
	switch m.rng.IntN(7) {
	case 0: // header length
		h[0] = h[0]&0xf0 | uint8(m.near(int(h[0]&15), 4))
	case 1:
		h[0] = h[0]&0x0f | uint8(m.near(int(h[0]>>4), 4))<<4
	case 2: // total length
		binary.BigEndian.PutUint16(h[2:], uint16(m.near(int(binary.BigEndian.Uint16(h[2:])), 16)))
	case 3: // fragments
		flags := []uint16{0x2000, 0x4000, 0x8000, 0x2000, 1, 0x1fff, 0x2001, 0x6000}[m.rng.IntN(8)]
		binary.BigEndian.PutUint16(h[6:], flags)
	case 4:
		h[8] = ttls[m.rng.IntN(len(ttls))]
	case 5: // protocol
		h[9] = []uint8{0, 1, 6, 17, 50, 51, 58, 132, 255, uint8(m.rng.IntN(256))}[m.rng.IntN(10)]
	case 6: // checksum
		binary.BigEndian.PutUint16(h[10:], uint16(m.near(int(binary.BigEndian.Uint16(h[10:])), 16)))
		return data
	}
	if m.rng.IntN(4) != 0 {
		recheck(h)
	}
	return data
}

// recheck makes an IPv4 header's checksum right, as far as the header is there.
func recheck(h []byte) {
	n := min(max(20, int(h[0]&15)*4), len(h)) &^ 1
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^fold(sum(0, h[:n])))
}

// sum and fold are the ones' complement sum of RFC 1071.
func sum(acc uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		acc += uint32(binary.BigEndian.Uint16(b))
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
	return uint16(acc)
}

func (m *mutator) ipv6(data []byte, p *frame.Packet) []byte {
	h := data[p.L3:]
	switch m.rng.IntN(5) {
	case 0:
		h[0] = h[0]&0x0f | uint8(m.near(int(h[0]>>4), 4))<<4
	case 1: // payload length
		binary.BigEndian.PutUint16(h[4:], uint16(m.near(int(binary.BigEndian.Uint16(h[4:])), 16)))
	case 2:
		h[7] = ttls[m.rng.IntN(len(ttls))]
	case 3: // next header
		h[6] = []uint8{0, 43, 44, 50, 51, 58, 59, 60, 6, 17, 1, uint8(m.rng.IntN(256))}[m.rng.IntN(12)]
	case 4: // flow label and class
		h[1], h[2], h[3] = uint8(m.rng.IntN(256)), uint8(m.rng.IntN(256)), uint8(m.rng.IntN(256))
	}
	return data
}

// extend puts something between IP header and transport: IPv4 options, or
// IPv6 extension headers.
func (m *mutator) extend(data []byte, p *frame.Packet) []byte {
	switch {
	case p.Version == 4 && p.L4 == p.L3+20:
		words := 1 + m.rng.IntN(10)
		out := append(bytes.Clone(data[:p.L4]), m.ipOptions(words*4)...)
		h := out[p.L3:]
		h[0] += uint8(words)
		binary.BigEndian.PutUint16(h[2:], binary.BigEndian.Uint16(h[2:])+uint16(words*4))
		recheck(h)
		return append(out, data[p.L4:]...)
	case p.Version == 6 && p.L3+40 <= len(data):
		return m.extend6(data, p)
	}
	return data
}

// ipOptions are so many octets of IPv4 options: mostly of those that do nothing,
// with some others between them, source routes and such that do not fit too.
func (m *mutator) ipOptions(octets int) []byte {
	out := bytes.Repeat([]byte{1}, octets)
	for at := 0; at+2 <= octets && m.rng.IntN(2) == 0; at += 2 + m.rng.IntN(6) {
		out[at] = []uint8{131, 137, 7, 68, 148, 0, uint8(m.rng.IntN(256))}[m.rng.IntN(7)]
		out[at+1] = uint8([]int{2, 3, 4, octets - at, octets - at + 1, m.rng.IntN(256)}[m.rng.IntN(6)])
	}
	return out
}

func (m *mutator) extend6(data []byte, p *frame.Packet) []byte {
	first := p.L3 + 6
	var chain []byte
	next := data[first]
	for range 1 + m.rng.IntN(8) {
		kind := []uint8{0, 43, 60, 60, 0, 44}[m.rng.IntN(6)]
		if kind == 44 && m.rng.IntN(2) == 0 {
			kind = 60
		}
		one := make([]byte, 8+8*m.rng.IntN(2)*m.rng.IntN(2))
		one[0], one[1], one[2], one[3] = next, uint8(len(one)/8-1), 1, 4
		switch kind {
		case 43: // routing: type 2, sometimes another, or with segments left
			one[2], one[3] = []uint8{2, 2, 2, 2, 0, 3, 4}[m.rng.IntN(7)], uint8(m.rng.IntN(5)/3)
		case 44: // atomic, or else
			one = one[:8]
			one[1], one[2], one[3] = 0, 0, uint8(m.rng.IntN(2)*m.rng.IntN(16))
		}
		next, chain = kind, append(one, chain...)
	}
	out := append(bytes.Clone(data[:p.L3+40]), chain...)
	out[first] = next
	binary.BigEndian.PutUint16(out[p.L3+4:], binary.BigEndian.Uint16(data[p.L3+4:])+uint16(len(chain)))
	return append(out, data[p.L3+40:]...)
}

func (m *mutator) transport(data []byte, p *frame.Packet) []byte {
	b := p.Transport()
	if len(b) < 4 {
		return data
	}
	switch {
	case p.Proto == uint8(model.ProtocolTCP) && len(b) >= 14 && m.rng.IntN(2) == 0:
		if m.rng.IntN(2) == 0 {
			b[12] = uint8(m.near(int(b[12]>>4), 4)) << 4
		} else {
			b[13] = []uint8{0, 0xff, syn | fin, syn | rst, rst, fin, ack, syn, psh, uint8(m.rng.IntN(256))}[m.rng.IntN(10)]
		}
	case p.Proto == uint8(model.ProtocolUDP) && len(b) >= 8 && m.rng.IntN(2) == 0:
		at := 4 + 2*m.rng.IntN(2) // length or checksum
		binary.BigEndian.PutUint16(b[at:], uint16(m.near(int(binary.BigEndian.Uint16(b[at:])), 16)))
	case (p.Proto == uint8(model.ProtocolICMP) || p.Proto == uint8(model.ProtocolICMPv6)) && m.rng.IntN(2) == 0:
		b[m.rng.IntN(2)] = []uint8{0, 1, 2, 3, 4, 5, 8, 11, 12, 13, 128, 129, 130, 133, 134, 135, 136, 137, 143, 255}[m.rng.IntN(20)]
	default: // a port
		at := 2 * m.rng.IntN(2)
		port := []int{0, 1, int(ports[m.rng.IntN(len(ports))]), 40000 + m.rng.IntN(8), 65535}[m.rng.IntN(5)]
		binary.BigEndian.PutUint16(b[at:], uint16(port))
	}
	return data
}

// martians are addresses that nobody has, and some that nobody should claim.
var martians = []netip.Addr{
	netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("0.1.2.3"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("224.0.0.1"),
	netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("240.0.0.1"), netip.MustParseAddr("169.254.7.7"), netip.MustParseAddr("223.255.255.255"),
	netip.MustParseAddr("::"), netip.MustParseAddr("::1"), netip.MustParseAddr("::2"), netip.MustParseAddr("::ffff:10.1.0.1"), netip.MustParseAddr("::ffff:10.0.0.10"), netip.MustParseAddr("::ffff:198.18.0.2"), netip.MustParseAddr("::ffff:10.96.0.10"),
	netip.MustParseAddr("fe80::1"), netip.MustParseAddr("fe80::7"), netip.MustParseAddr("febf::1"), netip.MustParseAddr("fec0::1"),
	netip.MustParseAddr("ff02::1"), netip.MustParseAddr("ff0e::7"),
}

func (m *mutator) address(data []byte, p *frame.Packet, addresses []netip.Addr) []byte {
	if p.Version == 0 {
		return data
	}
	from := addresses
	if m.rng.IntN(3) == 0 {
		from = martians
	}
	a := from[m.rng.IntN(len(from))]
	if (p.Version == 4) != a.Is4() {
		return data
	}
	h := data[p.L3:]
	near := m.rng.IntN(3) == 0 // one that is there, but for a word
	if p.Version == 6 {
		at := 8 + 16*m.rng.IntN(2)
		if near && len(h) >= 40 {
			h[at+4*m.rng.IntN(4)+3] ^= 1 << m.rng.IntN(8)
			return data
		}
		b := a.As16()
		copy(h[at:], b[:])
		return data
	}
	at := 12 + 4*m.rng.IntN(2)
	if near && len(h) >= 20 {
		h[at+m.rng.IntN(4)] ^= 1 << m.rng.IntN(8)
	} else {
		b := a.As4()
		copy(h[at:20], b[:])
	}
	if m.rng.IntN(4) != 0 {
		recheck(h)
	}
	return data
}

// tag puts a VLAN tag in, or changes the Ethernet type.
func (m *mutator) tag(data []byte) []byte {
	if len(data) < 14 {
		return data
	}
	kind := []uint16{0x8100, 0x88a8, 0x9100, 0x88e5, 0x0800, 0x86dd, 0x0806, 0x0004, 0x88cc}[m.rng.IntN(9)]
	if m.rng.IntN(2) == 0 {
		binary.BigEndian.PutUint16(data[12:], kind)
		return data
	}
	out := append(bytes.Clone(data[:12]), byte(kind>>8), byte(kind), 0, byte(m.rng.IntN(256)))
	return append(out, data[12:]...)
}

// splice takes what is behind the addresses of IP from a captured frame, or
// all of it behind the Ethernet header.
func (m *mutator) splice(data []byte, p *frame.Packet) []byte {
	if len(m.captured) == 0 || len(data) < 14 {
		return data
	}
	other := m.captured[m.rng.IntN(len(m.captured))]
	q := frame.Decode(other)
	if m.rng.IntN(3) == 0 || q.Version != p.Version || p.Version == 0 {
		return append(bytes.Clone(data[:12]), other[min(12, len(other)):]...)
	}
	out := append(bytes.Clone(data[:12]), other[12:]...)
	at := frame.Decode(out)
	if at.Version != p.Version {
		return out
	}
	if p.Version == 6 {
		copy(out[at.L3+8:at.L3+40], data[p.L3+8:p.L3+40])
		return out
	}
	copy(out[at.L3+12:at.L3+20], data[p.L3+12:p.L3+20])
	recheck(out[at.L3:])
	return out
}

// mend makes a frame's transport checksum right, so that what lies behind a
// translation is compared with a right one.
func mend(data []byte) []byte {
	p := frame.Decode(data)
	b := p.Transport()
	at, covers := 0, len(b)
	switch model.Protocol(p.Proto) {
	case model.ProtocolTCP:
		at = 16
	case model.ProtocolUDP:
		at = 6
	case model.ProtocolICMP, model.ProtocolICMPv6:
		at = 2
	}
	if at == 0 || len(b) < at+2 {
		return data
	}
	if at == 6 {
		covers = min(covers, max(8, int(binary.BigEndian.Uint16(b[4:]))))
	}
	b[at], b[at+1] = 0, 0
	acc := sum(0, b[:covers])
	if model.Protocol(p.Proto) != model.ProtocolICMP {
		acc = sum(sum(acc, p.Src.AsSlice()), p.Dst.AsSlice()) + uint32(p.Proto) + uint32(covers)
	}
	c := ^fold(acc)
	if c == 0 && at == 6 {
		c = 0xffff // RFC 768: 0 means that there is none
	}
	binary.BigEndian.PutUint16(b[at:], c)
	return data
}

// The subnets of the uplink, of which the kernel has addresses that no object
// tells: its own, broadcast and anycast. What its routes say of them the model
// cannot know.
var (
	subnet4 = netip.MustParsePrefix("198.18.0.0/24")
	subnet6 = netip.MustParsePrefix("fd00:198:18::/64")
)

// longestFrame is what devices of world prog carry: the kernel asks them, where it is
// asked for a route, and the model knows nothing of it.
const (
	linkMTU      = 1500
	longestFrame = ethernetLen + linkMTU
)

// deliverable says whether the kernel would run a program on a frame, and
// whether the model can know where its routes lead. known are the addresses
// of nodes that objects tell.
func deliverable(data []byte, known []netip.Addr) bool {
	if len(data) < 14 || len(data) > longestFrame {
		return false
	}
	p := frame.Decode(data)
	here := p.Version != 0 && (subnet4.Contains(p.Dst) || subnet6.Contains(p.Dst))
	return !here || p.Dst == other4 || p.Dst == other6 || slices.Contains(known, p.Dst)
}
