// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"time"
)

// Blocks of pcapng that are read but not written.
const (
	blockOldPacket    = 2
	blockSimplePacket = 3

	blockHeaderLen  = 8 // type, length
	blockTrailerLen = 4 // the length again
	packetFieldsLen = 20

	optTimeOffset = 14 // of an interface
)

// maxInterfaces bounds what a file that only has interfaces can cost.
const maxInterfaces = 1 << 16

// block is one block's header.
type block struct {
	kind  uint32
	total int64 // with header and trailer
}

func (r *Reader) firstSection() error {
	b, err := r.readBlockHeader()
	if err == nil {
		err = r.readSection(b)
	}
	if err == nil {
		err = r.skip()
	}
	if err != nil {
		return fmt.Errorf("read capture: %w", err)
	}
	return nil
}

// readBlockHeader looks at a block's header, and for a section takes its byte
// order.
func (r *Reader) readBlockHeader() (block, error) {
	h, err := r.peek(blockHeaderLen+4, "the file ends within a block's header")
	if err != nil {
		return block{}, err
	}
	if binary.LittleEndian.Uint32(h) == blockSection { // the same in both orders
		switch {
		case binary.LittleEndian.Uint32(h[blockHeaderLen:]) == byteOrderMagic:
			r.order = binary.LittleEndian
		case binary.BigEndian.Uint32(h[blockHeaderLen:]) == byteOrderMagic:
			r.order = binary.BigEndian
		default:
			return block{}, r.damagef("a section's byte order is % x, which is none", h[blockHeaderLen:])
		}
	}
	b := block{r.order.Uint32(h), int64(r.order.Uint32(h[4:]))}
	if b.total < blockHeaderLen+blockTrailerLen || b.total%4 != 0 {
		return b, r.damagef("a block of type %#x claims %d bytes, which no block has", b.kind, b.total)
	}
	return b, nil
}

// body gives what is between header and trailer, when the block is not longer
// than what is in memory; else as much as most.
func (r *Reader) body(b block, most int) ([]byte, error) {
	if b.total > readAhead {
		all, err := r.peek(most, "the file ends within a block")
		return all[min(len(all), blockHeaderLen):], err
	}
	all, err := r.in.Peek(int(b.total))
	if err != nil {
		return nil, r.damage(fmt.Sprintf("the file ends within a block of %d bytes", b.total), err)
	}
	end := len(all) - blockTrailerLen
	if again := r.order.Uint32(all[end:]); int64(again) != b.total {
		return nil, r.damagef("a block of type %#x claims %d bytes at its beginning and %d at its end", b.kind, b.total, again)
	}
	return all[blockHeaderLen:end], nil
}

// nextBlock reads on to the next packet.
func (r *Reader) nextBlock(p *Packet) error {
	for {
		if r.ended() {
			return io.EOF
		}
		b, err := r.readBlockHeader()
		if err != nil {
			return err
		}
		r.pending = b.total
		switch b.kind {
		case blockPacket, blockOldPacket:
			return r.readPacket(b, p)
		case blockSimplePacket:
			return r.readSimplePacket(b, p)
		case blockSection:
			err = r.readSection(b)
		case blockInterface:
			err = r.readInterface(b)
		}
		if err == nil {
			err = r.skip()
		}
		if err != nil {
			return err
		}
	}
}

func (r *Reader) readSection(b block) error {
	r.pending = b.total
	body, err := r.body(b, blockHeaderLen+16)
	if err != nil {
		return err
	}
	if len(body) < 16 {
		return r.damagef("a section header of %d bytes is too short", b.total)
	}
	if major := r.order.Uint16(body[4:]); major != 1 {
		return r.damagef("a section of pcapng version %d.%d is unknown, only 1 is read", major, r.order.Uint16(body[6:]))
	}
	r.section = len(r.interfaces)
	return nil
}

func (r *Reader) readInterface(b block) error {
	if b.total > readAhead {
		return r.damagef("an interface's description claims %d bytes", b.total)
	}
	body, err := r.body(b, 0)
	if err != nil {
		return err
	}
	if len(body) < 8 {
		return r.damagef("an interface's description of %d bytes is too short", b.total)
	}
	if len(r.interfaces) == maxInterfaces {
		return r.damagef("there are more than %d interfaces", maxInterfaces)
	}
	i := Interface{Link: LinkType(r.order.Uint16(body)), SnapLength: r.order.Uint32(body[4:]), resolution: microseconds}
	for rest := body[8:]; ; {
		var code uint16
		var value []byte
		if code, value, rest = r.option(rest); code == 0 {
			break
		}
		switch {
		case code == optName:
			i.Name = string(value)
		case code == optAbout:
			i.About = string(value)
		case code == optTimeUnits && len(value) >= 1:
			i.resolution = resolution(value[0])
		case code == optTimeOffset && len(value) >= 8:
			i.offset = int64(r.order.Uint64(value))
		}
	}
	r.interfaces = append(r.interfaces, i)
	return nil
}

// option takes the first option off. Code 0 is the end of them, and of those
// that are not whole.
func (r *Reader) option(b []byte) (code uint16, value, rest []byte) {
	if len(b) < 4 {
		return 0, nil, nil
	}
	code = r.order.Uint16(b)
	length := int(r.order.Uint16(b[2:]))
	b = b[4:]
	if code == 0 || length > len(b) {
		return 0, nil, nil
	}
	return code, b[:length], b[min(len(b), (length+3)&^3):]
}

// readPacket reads an enhanced packet block, or its obsolete forerunner.
func (r *Reader) readPacket(b block, p *Packet) error {
	if b.total < blockHeaderLen+packetFieldsLen+blockTrailerLen {
		return r.damagef("a packet's block of %d bytes is too short", b.total)
	}
	h, err := r.peek(blockHeaderLen+packetFieldsLen, "the file ends within a packet's block")
	if err != nil {
		return err
	}
	h = h[blockHeaderLen:]
	number := r.order.Uint32(h)
	if b.kind == blockOldPacket {
		number = uint32(r.order.Uint16(h))
	}
	ticks := uint64(r.order.Uint32(h[4:]))<<32 | uint64(r.order.Uint32(h[8:]))
	captured, length := r.order.Uint32(h[12:]), r.order.Uint32(h[16:])
	i, err := r.interfaceOf(number)
	if err != nil {
		return err
	}
	data, options, err := r.packetData(b, packetFieldsLen, captured)
	if err != nil {
		return err
	}
	stamp, ok := i.time(ticks)
	if !ok {
		return r.damagef("a packet's time is not between the years 1970 and %d: interface %d has an if_tsoffset of %d seconds, and %d ticks of its if_tsresol %#x are added", lastSecond.Year(), number, i.offset, ticks, uint8(i.resolution))
	}
	*p = Packet{
		Interface: r.section + int(number), Time: stamp,
		Data: data, Length: int(max(length, captured)),
	}
	r.readPacketOptions(p, options)
	return nil
}

func (r *Reader) interfaceOf(number uint32) (*Interface, error) {
	if known := len(r.interfaces) - r.section; int64(number) >= int64(known) {
		return nil, r.damagef("a packet is of interface %d, but its section has described %d", number, known)
	}
	return &r.interfaces[r.section+int(number)], nil
}

// packetData gives a packet's bytes, behind so many of fields, and the options
// behind them.
func (r *Reader) packetData(b block, fields int, captured uint32) (data, options []byte, err error) {
	if captured > MaxPacket {
		return nil, nil, r.damagef("a packet claims %d bytes, more than the %d that any packet has", captured, MaxPacket)
	}
	if room := b.total - int64(blockHeaderLen+fields+blockTrailerLen); int64(captured) > room {
		return nil, nil, r.damagef("a packet claims %d bytes, but its block has room for %d", captured, room)
	}
	body, err := r.body(b, blockHeaderLen+fields+int(captured))
	if err != nil {
		return nil, nil, err
	}
	end := fields + int(captured)
	return body[fields:end:end], body[min(len(body), (end+3)&^3):], nil
}

func (r *Reader) readPacketOptions(p *Packet, options []byte) {
	for {
		var code uint16
		var value []byte
		code, value, options = r.option(options)
		switch {
		case code == 0:
			return
		case code == optComment:
			p.Comments = append(p.Comments, string(value))
		case code == optFlags && len(value) >= 4:
			p.Direction = Direction(r.order.Uint32(value) & 3)
		}
	}
}

// readSimplePacket reads a packet that has neither a time nor an interface of
// its own.
func (r *Reader) readSimplePacket(b block, p *Packet) error {
	if b.total < blockHeaderLen+4+blockTrailerLen {
		return r.damagef("a packet's block of %d bytes is too short", b.total)
	}
	h, err := r.peek(blockHeaderLen+4, "the file ends within a packet's block")
	if err != nil {
		return err
	}
	i, err := r.interfaceOf(0)
	if err != nil {
		return err
	}
	length := r.order.Uint32(h[blockHeaderLen:])
	captured := length
	if i.SnapLength != 0 {
		captured = min(captured, i.SnapLength)
	}
	data, _, err := r.packetData(b, 4, captured)
	*p = Packet{Interface: r.section, Data: data, Length: int(length)}
	return err
}

// resolution is an interface's if_tsresol: its upper bit says whether the rest
// is a negative power of 2 or of 10.
type resolution uint8

const microseconds resolution = 6

// lastSecond is where times end: their nanoseconds since 1970 have 63 bits, as those
// that are written.
var lastSecond = time.Unix(math.MaxInt64/int64(time.Second)-1, 0).UTC()

// time makes a time of an interface's ticks. The offset is any number of seconds of
// 64 bits with a sign; Wireshark adds it and lets the sum wrap around. Here a time
// must be one that a capture can have been made at: an offset alone may be far away,
// as that of ticks since 1601.
func (i *Interface) time(ticks uint64) (stamp time.Time, ok bool) {
	seconds, nanoseconds := i.resolution.split(ticks)
	sum, carry := bits.Add64(seconds, uint64(i.offset), 0)
	if before := i.offset < 0; (carry == 1) != before || sum > uint64(lastSecond.Unix()) {
		return time.Time{}, false
	}
	return time.Unix(int64(sum), int64(nanoseconds)).UTC(), true
}
