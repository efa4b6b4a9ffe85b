// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

const (
	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoRouting  = 43
	protoFragment = 44
	protoICMPv6   = 58
	protoNone     = 59
	protoDestOpts = 60
	protoSCTP     = 132

	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
)

// What cannot be built.
var (
	// ErrNoAddress is a layer whose address was neither named nor known.
	ErrNoAddress = errors.New("no address")
	// ErrTooLong is a header that its own length cannot tell.
	ErrTooLong = errors.New("too long")
)

// options gives a header's options, padded to whole words.
func options(l *Layer) ([]byte, error) {
	const most = 40
	v, _ := l.Get("options")
	data := v.Bytes()
	if len(data) > most {
		return nil, fmt.Errorf("options of %d octets: %w: a header holds %d", len(data), ErrTooLong, most)
	}
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	return data, nil
}

// Build makes a frame of layers, the outermost first. What a layer does not
// name is made right: lengths, checksums, the number of the next protocol.
// Neutral kinds must have been lowered.
func Build(layers ...Layer) ([]byte, error) {
	b := builder{layers: layers, cut: -1}
	for i := len(layers) - 1; i >= 0; i-- {
		if err := b.put(i, &layers[i]); err != nil {
			return nil, fmt.Errorf("build %s: %w", layers[i].Kind, err)
		}
	}
	b.out = append(b.out, make([]byte, b.pad)...)
	if b.cut >= 0 && b.cut < len(b.out) {
		b.out = b.out[:b.cut]
	}
	return b.out, nil
}

type builder struct {
	layers []Layer
	out    []byte // what is behind the layer that is being put
	pad    int
	cut    int
}

func (b *builder) prepend(header []byte) { b.out = append(header, b.out...) }

func (b *builder) put(i int, l *Layer) error {
	switch l.Kind {
	case "eth":
		return b.putEthernet(i, l)
	case "vlan":
		h := make([]byte, 4)
		binary.BigEndian.PutUint16(h, uint16(l.number("prio", 0)<<13|l.number("id", 0)))
		binary.BigEndian.PutUint16(h[2:], uint16(l.number("type", b.etherType(i+1))))
		b.prepend(h)
	case "arp":
		return b.putARP(l)
	case "ipv4":
		return b.putIPv4(i, l)
	case "ipv6":
		return b.putIPv6(i, l)
	case "hopopts", "destopts", "routing":
		return b.putExtension(i, l)
	case "fragment":
		h := make([]byte, 8)
		h[0] = uint8(l.number("next", b.next(i)))
		binary.BigEndian.PutUint16(h[2:], uint16(l.number("offset", 0)<<3|l.number("more", 0)))
		binary.BigEndian.PutUint32(h[4:], uint32(l.number("id", 0)))
		b.prepend(h)
	case "tcp":
		return b.putTCP(i, l)
	case "udp":
		return b.putUDP(i, l)
	case "sctp":
		h := make([]byte, 12)
		putPorts(h, l)
		binary.BigEndian.PutUint32(h[4:], uint32(l.number("tag", 0)))
		binary.BigEndian.PutUint32(h[8:], uint32(l.number("checksum", 0)))
		b.prepend(h)
	case "geneve":
		h := make([]byte, geneveLen)
		h[0], h[1] = uint8(l.number("version", 0)<<6|l.number("options", 0)), uint8(l.number("flags", 0))
		binary.BigEndian.PutUint16(h[2:], uint16(l.number("type", b.etherType(i+1))))
		binary.BigEndian.PutUint32(h[4:], uint32(l.number("vni", 0)<<8))
		b.prepend(h)
	case "icmp", "icmpv6":
		return b.putICMP(i, l)
	case "ns", "na":
		return b.putNeighbour(i, l)
	case "payload":
		b.prepend(payload(l))
	case "raw":
		v, _ := l.Get("hex")
		b.prepend(v.Bytes())
	case "pad":
		b.pad += int(l.number("size", 0))
	case "truncate":
		b.cut = int(l.number("size", 0))
	default:
		return fmt.Errorf("a %s layer has no bytes of its own", l.Kind)
	}
	return nil
}

func payload(l *Layer) []byte {
	if v, ok := l.Get("size"); ok {
		out := make([]byte, v.num)
		for i := range out {
			out[i] = 'a' + byte(i%26)
		}
		return out
	}
	if v, ok := l.Get("hex"); ok {
		return v.Bytes()
	}
	v, _ := l.Get("text")
	return v.Bytes()
}

// etherType is what announces layer i.
func (b *builder) etherType(i int) uint64 {
	if i >= len(b.layers) {
		return 0xffff
	}
	switch l := &b.layers[i]; l.Kind {
	case "vlan":
		return l.number("tpid", etherVLAN)
	case "arp":
		return etherARP
	case "ipv4":
		return etherIPv4
	case "ipv6":
		return etherIPv6
	}
	return 0xffff
}

func (b *builder) putEthernet(i int, l *Layer) error {
	h := make([]byte, 14)
	for at, name := range []string{"dst", "src"} {
		v, ok := l.Get(name)
		if !ok {
			return fmt.Errorf("%w: %s", ErrNoAddress, name)
		}
		copy(h[at*6:], v.data)
	}
	binary.BigEndian.PutUint16(h[12:], uint16(l.number("type", b.etherType(i+1))))
	b.prepend(h)
	return nil
}

func (b *builder) putARP(l *Layer) error {
	h := make([]byte, 28)
	binary.BigEndian.PutUint16(h, uint16(l.number("htype", 1)))
	binary.BigEndian.PutUint16(h[2:], uint16(l.number("ptype", etherIPv4)))
	h[4], h[5] = uint8(l.number("hlen", 6)), uint8(l.number("plen", 4))
	binary.BigEndian.PutUint16(h[6:], uint16(l.number("op", 1)))
	for _, f := range [...]struct {
		name string
		at   int
	}{{"sha", 8}, {"spa", 14}, {"tha", 18}, {"tpa", 24}} {
		v, ok := l.Get(f.name)
		switch {
		case !ok:
		case v.kind == Address && !v.addr.Is4():
			return fmt.Errorf("%s=%s is not an IPv4 address", f.name, v)
		case v.kind == Address:
			copy(h[f.at:], v.addr.AsSlice())
		default:
			copy(h[f.at:], v.data)
		}
	}
	b.prepend(h)
	return nil
}

// next is the protocol number of the layer behind layer i.
func (b *builder) next(i int) uint64 {
	if i+1 >= len(b.layers) {
		return protoNone
	}
	switch b.layers[i+1].Kind {
	case "icmp":
		return protoICMP
	case "tcp":
		return protoTCP
	case "udp":
		return protoUDP
	case "sctp":
		return protoSCTP
	case "icmpv6", "ns", "na":
		return protoICMPv6
	case "hopopts":
		return protoHopByHop
	case "destopts":
		return protoDestOpts
	case "routing":
		return protoRouting
	case "fragment":
		return protoFragment
	case "ipv4":
		return 4
	case "ipv6":
		return 41
	}
	return protoNone
}

func addressesOf(l *Layer, v6 bool) (src, dst netip.Addr, err error) {
	one := func(name string) netip.Addr {
		v, ok := l.Get(name)
		switch {
		case err != nil:
		case !ok:
			err = fmt.Errorf("%w: %s", ErrNoAddress, name)
		case v.addr.Is6() != v6:
			err = fmt.Errorf("%s=%s is of the other family", name, v)
		}
		return v.addr
	}
	src, dst = one("src"), one("dst")
	return src, dst, err
}

func (b *builder) putIPv4(i int, l *Layer) error {
	src, dst, err := addressesOf(l, false)
	if err != nil {
		return err
	}
	options, err := options(l)
	if err != nil {
		return err
	}
	h := make([]byte, 20+len(options))
	h[0] = uint8(l.number("version", 4)<<4 | l.number("ihl", uint64(len(h)/4)))
	h[1] = uint8(l.number("tos", 0))
	binary.BigEndian.PutUint16(h[2:], uint16(l.number("length", uint64(len(h)+len(b.out)))))
	binary.BigEndian.PutUint16(h[4:], uint16(l.number("id", 0)))
	binary.BigEndian.PutUint16(h[6:], uint16(l.number("flags", 0)<<13|l.number("frag", 0)))
	h[8], h[9] = uint8(l.number("ttl", 64)), uint8(l.number("proto", b.next(i)))
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	copy(h[20:], options)
	binary.BigEndian.PutUint16(h[10:], uint16(l.number("checksum", uint64(fold(sum(0, h))))))
	b.prepend(h)
	return nil
}

func (b *builder) putIPv6(i int, l *Layer) error {
	src, dst, err := addressesOf(l, true)
	if err != nil {
		return err
	}
	h := make([]byte, 40)
	binary.BigEndian.PutUint32(h, uint32(l.number("version", 6)<<28|l.number("tos", 0)<<20|l.number("label", 0)))
	binary.BigEndian.PutUint16(h[4:], uint16(l.number("length", uint64(len(b.out)))))
	h[6], h[7] = uint8(l.number("proto", b.next(i))), uint8(l.number("ttl", 64))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	b.prepend(h)
	return nil
}

func (b *builder) putExtension(i int, l *Layer) error {
	const most = 256 * 8
	data, _ := l.Get("data")
	if len(data.data) > most-4 {
		return fmt.Errorf("data of %d octets: %w: the header holds %d", len(data.data), ErrTooLong, most-4)
	}
	h := []byte{uint8(l.number("next", b.next(i))), 0}
	if l.Kind == "routing" {
		h = append(h, uint8(l.number("type", 2)), uint8(l.number("left", 0)))
	}
	h = append(h, data.data...)
	if len(data.data) == 0 && l.Kind != "routing" {
		h = append(h, 1, 4, 0, 0, 0, 0) // PadN over the six octets that are left
	}
	for len(h)%8 != 0 {
		h = append(h, 0)
	}
	h[1] = uint8(l.number("len", uint64(len(h)/8-1)))
	b.prepend(h)
	return nil
}

// covered is the pseudo header's sum for the layer at i, from the nearest IP
// header before it.
func (b *builder) covered(i int, proto uint8, length int) (uint32, error) {
	for i--; i >= 0; i-- {
		l := &b.layers[i]
		if l.Kind != "ipv4" && l.Kind != "ipv6" {
			continue
		}
		src, dst, err := addressesOf(l, l.Kind == "ipv6")
		if err != nil {
			return 0, err
		}
		return pseudo(src, dst, proto, length), nil
	}
	return 0, nil
}

func putPorts(h []byte, l *Layer) {
	binary.BigEndian.PutUint16(h, uint16(l.number("sport", 0)))
	binary.BigEndian.PutUint16(h[2:], uint16(l.number("dport", 0)))
}

// finish puts the header in front and its checksum at an offset.
func (b *builder) finish(i int, l *Layer, h []byte, proto uint8, at int) error {
	b.prepend(h)
	var acc uint32
	var err error
	if proto != protoICMP {
		if acc, err = b.covered(i, proto, len(b.out)); err != nil {
			return err
		}
	}
	c := fold(sum(acc, b.out))
	if c == 0 && proto == protoUDP {
		c = 0xffff // RFC 768: 0 means that there is none
	}
	binary.BigEndian.PutUint16(b.out[at:], uint16(l.number("checksum", uint64(c))))
	return nil
}

func (b *builder) putTCP(i int, l *Layer) error {
	options, err := options(l)
	if err != nil {
		return err
	}
	h := make([]byte, 20+len(options))
	putPorts(h, l)
	binary.BigEndian.PutUint32(h[4:], uint32(l.number("seq", 1)))
	binary.BigEndian.PutUint32(h[8:], uint32(l.number("ack", 0)))
	h[12] = uint8(l.number("offset", uint64(len(h)/4)) << 4)
	h[13] = uint8(l.number("flags", 0x10))
	binary.BigEndian.PutUint16(h[14:], uint16(l.number("window", 65535)))
	binary.BigEndian.PutUint16(h[18:], uint16(l.number("urgent", 0)))
	copy(h[20:], options)
	return b.finish(i, l, h, protoTCP, 16)
}

func (b *builder) putUDP(i int, l *Layer) error {
	h := make([]byte, 8)
	putPorts(h, l)
	binary.BigEndian.PutUint16(h[4:], uint16(l.number("length", uint64(8+len(b.out)))))
	return b.finish(i, l, h, protoUDP, 6)
}

func (b *builder) putICMP(i int, l *Layer) error {
	h := make([]byte, 8)
	h[0], h[1] = uint8(l.number("type", 0)), uint8(l.number("code", 0))
	rest := l.number("mtu", 0) | l.number("id", 0)<<16 | l.number("seq", 0)
	binary.BigEndian.PutUint32(h[4:], uint32(l.number("rest", rest)))
	if l.Kind == "icmp" {
		return b.finish(i, l, h, protoICMP, 2)
	}
	return b.finish(i, l, h, protoICMPv6, 2)
}

func (b *builder) putNeighbour(i int, l *Layer) error {
	h := make([]byte, 24)
	option := byte(1) // source link-layer address
	h[0] = 135
	if l.Kind == "na" {
		h[0], option = 136, 2
	}
	h[0], h[1] = uint8(l.number("type", uint64(h[0]))), uint8(l.number("code", 0))
	h[4] = uint8(l.number("flags", 0) << 5)
	if v, ok := l.Get("target"); ok {
		if !v.addr.Is6() {
			return fmt.Errorf("target=%s is not an IPv6 address", v)
		}
		copy(h[8:], v.addr.AsSlice())
	}
	if v, ok := l.Get("lladdr"); ok {
		h = append(append(h, option, 1), v.data...)
	}
	return b.finish(i, l, h, protoICMPv6, 2)
}
