// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"

	"github.com/weirnet/weir/model"
)

// fragment is what a frame says of being a part of a packet.
type fragment struct {
	id uint32
	// protocol tells packets with one id apart, in IPv4; 0 in IPv6, where
	// what is behind the fragment header of a later one says nothing.
	protocol model.Protocol
	offset   int // of the first byte behind the IP headers; 0 is the first fragment
	start    int // where the transport's header begins, counted like offset

	// learnable is whether a first fragment's headers were all sound: only
	// such a one lends its ports to the others.
	learnable bool
}

// later is whether the frame is a fragment without the transport's header.
func (h *headers) later() bool { return h.fragment != nil && h.fragment.offset > 0 }

// readFragmentHeader reads IPv6's, of 8 bytes (RFC 8200 section 4.5). An
// atomic fragment, first and last in one, is no fragment (RFC 6946).
func (h *headers) readFragmentHeader(b []byte) {
	const more, offset = 0x0001, 0xfff8
	field := binary.BigEndian.Uint16(b[2:])
	switch {
	case h.fragment != nil && field&(more|offset) != 0:
		h.condemn(model.ReasonFragment)
		h.nested = true
	case h.fragment != nil:
		h.fragment.start += 8
	case field&(more|offset) != 0:
		h.fragment = &fragment{id: binary.BigEndian.Uint32(b[4:]), offset: int(field & offset)}
	}
}
