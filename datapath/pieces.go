// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"hash/fnv"

	"golang.org/x/sys/unix"
)

// piecesKernel is the first kernel that takes frames in pieces: data_end of the
// context says where the first one ends, and the rest lies in pages. Older ones refuse
// a data_end. The header of IP has to be in the first piece, as for all frames that it
// takes.
const piecesKernel = "6.19"

// mostOfHeaders is how far into a frame the first piece may reach: headers, with
// options and an error's quote, end before it.
const mostOfHeaders = 160

// callInPieces runs a frame as one of which only a part lies where programs can read
// it in place, where the kernel can do that. Devices that put headers apart, and
// stacks that send what lies in pages, bring such frames.
func (r *Runner) callInPieces(frame []byte) error {
	r.in.DataEnd = 0
	if !r.whole {
		r.in.DataEnd = firstPiece(frame)
	}
	err := r.call(frame)
	if r.in.DataEnd == 0 || !errors.Is(err, unix.EINVAL) {
		return err
	}
	// An older kernel, or a frame that none takes: it has not run.
	r.in.DataEnd = 0
	if err = r.call(frame); err == nil {
		r.whole = true
	}
	return err
}

// firstPiece is where the first piece of a frame ends. It is the same each time for
// the same headers, and all places have their turn; 0 leaves the frame in one.
func firstPiece(frame []byte) uint32 {
	const ethernet, ipv4, ipv6 = 14, 20, 40
	if len(frame) <= ethernet {
		return 0
	}
	first := ethernet
	switch {
	case isIPv6(frame):
		first += ipv6
	case binary.BigEndian.Uint16(frame[12:]) == 0x0800:
		first += ipv4
	}
	places := min(len(frame), mostOfHeaders) - first
	if places <= 0 {
		return 0
	}
	sum := fnv.New32a()
	sum.Write(frame[:min(len(frame), mostOfHeaders)])
	return uint32(first) + sum.Sum32()%uint32(places)
}
