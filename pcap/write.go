// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// Block types and options of pcapng.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 6

	byteOrderMagic = 0x1a2b3c4d

	optComment   = 1
	optUserApp   = 4 // of a section
	optName      = 2 // of an interface
	optAbout     = 3 // of an interface
	optTimeUnits = 9 // of an interface
	optFlags     = 2 // of a packet
)

// Direction is which way a packet passed an interface.
type Direction uint32

// Directions, as epb_flags has them.
const (
	Unknown Direction = 0
	In      Direction = 1
	Out     Direction = 2
)

// Packet is one packet of a capture.
type Packet struct {
	Interface int       // as AddInterface gave it, or for Reader.Interface
	Time      time.Time // UTC; zero where the capture has none
	Data      []byte    // from the link layer's header on
	Length    int       // on the wire; written, 0 is as long as Data
	Direction Direction
	Comments  []string
}

// Writer writes one pcapng section.
type Writer struct {
	out        io.Writer
	interfaces int
	buf        []byte
}

// NewWriter begins a section. The comments are of the whole capture.
func NewWriter(out io.Writer, comments ...string) (*Writer, error) {
	w := &Writer{out: out}
	w.begin(blockSection)
	w.u32(byteOrderMagic)
	w.u16(1) // version 1.0
	w.u16(0)
	w.u64(^uint64(0)) // of a length that is not known
	for _, c := range comments {
		w.option(optComment, []byte(c))
	}
	w.option(optUserApp, []byte("weir"))
	w.endOptions()
	if err := w.end(); err != nil {
		return nil, fmt.Errorf("write capture: %w", err)
	}
	return w, nil
}

// AddInterface describes an Ethernet interface, and gives its number.
func (w *Writer) AddInterface(name, about string) (int, error) {
	return w.AddLink(LinkEthernet, name, about)
}

// AddLink describes an interface of any link type, and gives its number.
func (w *Writer) AddLink(link LinkType, name, about string) (int, error) {
	w.begin(blockInterface)
	w.u16(uint16(link))
	w.u16(0)
	w.u32(0) // no limit to a packet's length
	if name != "" {
		w.option(optName, []byte(name))
	}
	if about != "" {
		w.option(optAbout, []byte(about))
	}
	w.option(optTimeUnits, []byte{9}) // nanoseconds
	w.endOptions()
	if err := w.end(); err != nil {
		return 0, fmt.Errorf("write interface %s to capture: %w", name, err)
	}
	w.interfaces++
	return w.interfaces - 1, nil
}

// Write adds a packet.
func (w *Writer) Write(p Packet) error {
	if p.Interface < 0 || p.Interface >= w.interfaces {
		return fmt.Errorf("write packet: interface %d is not in the capture, which has %d: add it first", p.Interface, w.interfaces)
	}
	length := p.Length
	if length == 0 {
		length = len(p.Data)
	}
	stamp := uint64(0)
	if !p.Time.IsZero() {
		stamp = uint64(p.Time.UnixNano())
	}
	w.begin(blockPacket)
	w.u32(uint32(p.Interface))
	w.u32(uint32(stamp >> 32))
	w.u32(uint32(stamp))
	w.u32(uint32(len(p.Data)))
	w.u32(uint32(length))
	w.padded(p.Data)
	for _, c := range p.Comments {
		w.option(optComment, []byte(c))
	}
	if p.Direction != Unknown {
		w.option(optFlags, binary.LittleEndian.AppendUint32(nil, uint32(p.Direction)))
	}
	w.endOptions()
	if err := w.end(); err != nil {
		return fmt.Errorf("write packet to capture: %w", err)
	}
	return nil
}

func (w *Writer) u16(v uint16) { w.buf = binary.LittleEndian.AppendUint16(w.buf, v) }
func (w *Writer) u32(v uint32) { w.buf = binary.LittleEndian.AppendUint32(w.buf, v) }
func (w *Writer) u64(v uint64) { w.buf = binary.LittleEndian.AppendUint64(w.buf, v) }

func (w *Writer) padded(b []byte) {
	w.buf = append(w.buf, b...)
	for len(w.buf)%4 != 0 {
		w.buf = append(w.buf, 0)
	}
}

// begin starts a block, whose length end fills in at both of its ends.
func (w *Writer) begin(kind uint32) {
	w.buf = w.buf[:0]
	w.u32(kind)
	w.u32(0)
}

// option adds an option; its length has 16 bits, longer ones are cut.
func (w *Writer) option(code uint16, value []byte) {
	const most = 1<<16 - 4
	if len(value) > most {
		value = value[:most]
	}
	w.u16(code)
	w.u16(uint16(len(value)))
	w.padded(value)
}

func (w *Writer) endOptions() { w.u32(0) }

func (w *Writer) end() error {
	length := uint32(len(w.buf) + 4)
	w.u32(length)
	binary.LittleEndian.PutUint32(w.buf[4:], length)
	_, err := w.out.Write(w.buf)
	return err
}
