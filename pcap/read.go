// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// MaxPacket is the longest packet that is believed, in bytes: what
	// libpcap believes (MAXIMUM_SNAPLEN).
	MaxPacket = 262144
	// readAhead is how much of a file is in memory. Blocks of pcapng that are
	// longer are read without their options.
	readAhead = 2 * MaxPacket
)

// ErrFormat is a file that is no capture.
var ErrFormat = errors.New("neither pcap nor pcapng")

// DamageError is the place from which on a capture cannot be read.
type DamageError struct {
	Offset     int64 // in bytes; of the uncompressed data where the file is compressed
	Compressed bool
	Packets    int // that were read before it
	Problem    string
	Err        error // what the file or its decompression said; nil otherwise
}

func (e *DamageError) Error() string {
	of := ""
	if e.Compressed {
		of = " of the uncompressed data"
	}
	s := fmt.Sprintf("damaged at offset %d%s, after %d packets: %s", e.Offset, of, e.Packets, e.Problem)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *DamageError) Unwrap() error { return e.Err }

// Interface is where packets were captured. A pcap file has one.
type Interface struct {
	Name, About string // empty in pcap
	Link        LinkType
	SnapLength  uint32 // 0: no limit

	resolution resolution
	offset     int64 // seconds added to its times
}

// Reader reads the packets of a capture in the order of the file.
type Reader struct {
	in         *bufio.Reader
	at         int64 // offset of the next byte
	pending    int64 // bytes of the last packet, still to be passed
	compressed bool
	order      binary.ByteOrder
	next       func(*Packet) error
	packets    int
	err        error // that ended the reading

	interfaces []Interface
	section    int // pcapng: number of the section's first interface

	classic classicHeader
}

// NewReader reads the beginning of a capture: the bytes tell its format, its
// byte order and whether it is compressed. ErrFormat, or a *DamageError.
func NewReader(file io.Reader) (*Reader, error) {
	r := &Reader{in: bufio.NewReaderSize(file, readAhead)}
	if magic, _ := r.in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(r.in)
		if err != nil {
			return nil, fmt.Errorf("read capture: %w", &DamageError{Problem: "its compression has no header", Err: err})
		}
		r.in, r.compressed = bufio.NewReaderSize(z, readAhead), true
	}
	magic, err := r.in.Peek(4)
	switch {
	case len(magic) == 0 && errors.Is(err, io.EOF):
		return nil, fmt.Errorf("read capture: %w: the file is empty", ErrFormat)
	case len(magic) < 4:
		return nil, fmt.Errorf("read capture: %w", r.damage("the file ends within its first four bytes", err))
	case binary.LittleEndian.Uint32(magic) == blockSection:
		r.next = r.nextBlock
		return r, r.firstSection()
	}
	r.next = r.nextClassic
	return r, r.readClassicHeader(magic)
}

// Next reads a packet. Its Data is good until the next call. io.EOF at the
// end of the file, a *DamageError where it cannot be read on; both for good.
func (r *Reader) Next(p *Packet) error {
	if r.err != nil {
		return r.err
	}
	r.err = r.skip()
	if r.err == nil {
		r.err = r.next(p)
	}
	if r.err == nil {
		r.packets++
	}
	return r.err
}

// Offset is where the reader is in the file; of the uncompressed data where
// it is compressed.
func (r *Reader) Offset() int64 { return r.at }

// Interface describes the interface of a packet. There are as many as packets
// have named so far.
func (r *Reader) Interface(n int) Interface { return r.interfaces[n] }

// Interfaces is how many interfaces are known so far.
func (r *Reader) Interfaces() int { return len(r.interfaces) }

// damage makes the error for what is wrong here. A file that ends too early
// says so by err.
func (r *Reader) damage(problem string, err error) error {
	d := &DamageError{Offset: r.at, Compressed: r.compressed, Packets: r.packets, Problem: problem}
	if err != nil && !errors.Is(err, io.EOF) {
		d.Err = err
	}
	return d
}

func (r *Reader) damagef(format string, args ...any) error {
	return r.damage(fmt.Sprintf(format, args...), nil)
}

// peek gives the next n bytes without passing them. n is at most readAhead.
// When there are fewer, it fails with a problem.
func (r *Reader) peek(n int, problem string) ([]byte, error) {
	b, err := r.in.Peek(n)
	if err != nil {
		return b, r.damage(problem, err)
	}
	return b, nil
}

// ended says whether the file ends here, as it should between packets.
func (r *Reader) ended() bool {
	_, err := r.in.Peek(1)
	return errors.Is(err, io.EOF)
}

// skip passes what the last packet left.
func (r *Reader) skip() error {
	for r.pending > 0 {
		n, err := r.in.Discard(int(min(r.pending, 1<<30)))
		r.at += int64(n)
		r.pending -= int64(n)
		if err != nil {
			return r.damage(fmt.Sprintf("the file ends %d bytes too early", r.pending), err)
		}
	}
	return nil
}
