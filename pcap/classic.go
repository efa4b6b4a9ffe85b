// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Magic numbers of pcap, as written in the file's byte order.
const (
	magicMicroseconds = 0xa1b2c3d4
	magicNanoseconds  = 0xa1b23c4d

	classicHeaderLen = 24
	recordHeaderLen  = 16
)

// classicHeader is what a pcap file says of itself.
type classicHeader struct {
	nanoseconds  bool
	minorVersion uint16
}

// otherMagic are formats that people take for captures, for the error.
var otherMagic = map[uint32]string{
	0x28b52ffd: "zstd-compressed", 0xfd377a58: "xz-compressed", 0x425a6839: "bzip2-compressed", 0x04224d18: "lz4-compressed",
	0x736e6f6f: "snoop", 0x7f454c46: "an ELF file", 0xa1b2cd34: "pcap with Kuznetsov's headers", 0x34cdb2a1: "pcap with Kuznetsov's headers",
}

func (r *Reader) readClassicHeader(magic []byte) error {
	order, nanoseconds := classicOrder(magic)
	if order == nil {
		what := fmt.Sprintf("it begins with % x", magic)
		if other, ok := otherMagic[binary.BigEndian.Uint32(magic)]; ok {
			what = "it is " + other
		}
		return fmt.Errorf("read capture: %w: %s: convert it, or decompress it", ErrFormat, what)
	}
	h, err := r.peek(classicHeaderLen, "the file ends within its header")
	if err != nil {
		return fmt.Errorf("read capture: %w", err)
	}
	major := order.Uint16(h[4:])
	if major != 2 {
		return fmt.Errorf("read capture: %w: pcap version %d.%d is unknown, only 2 is read", ErrFormat, major, order.Uint16(h[6:]))
	}
	r.order = order
	r.classic = classicHeader{nanoseconds: nanoseconds, minorVersion: order.Uint16(h[6:])}
	// The upper bits tell how long the frames' check sequences are. They are
	// left in place: to an IP packet they are padding.
	r.interfaces = []Interface{{Link: LinkType(order.Uint32(h[20:]) & 0xffff), SnapLength: order.Uint32(h[16:])}}
	r.pending = classicHeaderLen
	return r.skip()
}

func classicOrder(magic []byte) (order binary.ByteOrder, nanoseconds bool) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(magic) {
		case magicMicroseconds:
			return order, false
		case magicNanoseconds:
			return order, true
		}
	}
	return nil, false
}

func (r *Reader) nextClassic(p *Packet) error {
	if r.ended() {
		return io.EOF
	}
	h, err := r.peek(recordHeaderLen, "the file ends within a packet's header")
	if err != nil {
		return err
	}
	captured, length := r.order.Uint32(h[8:]), r.order.Uint32(h[12:])
	// Files before version 2.3 have the two the other way round, those of 2.3
	// some (libpcap, sf-pcap.c).
	if r.classic.minorVersion < 3 || r.classic.minorVersion == 3 && captured > length {
		captured, length = length, captured
	}
	if captured > MaxPacket {
		return r.damagef("a packet claims %d bytes, more than the %d that any packet has", captured, MaxPacket)
	}
	fraction := int64(r.order.Uint32(h[4:]))
	if !r.classic.nanoseconds {
		fraction *= 1000
	}
	stamp := time.Unix(int64(r.order.Uint32(h)), fraction).UTC()
	all := recordHeaderLen + int(captured)
	b, err := r.in.Peek(all)
	if err != nil {
		return r.damage(fmt.Sprintf("the file ends within a packet of %d bytes", captured), err)
	}
	*p = Packet{Time: stamp, Data: b[recordHeaderLen:], Length: int(max(length, captured))}
	r.pending = int64(all)
	return nil
}
