// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"math/bits"
)

// Path is which of n next hops a router takes for a frame, as routers do that
// spread flows over several: by both addresses and the protocol, and by ports
// where TCP or UDP shows them behind the IP header and the packet is whole. So
// an ICMP error goes another way than what it quotes, and a fragment than a
// whole packet. It is the same in every world: see PathWords.
func Path(data []byte, n int) int {
	if n < 2 || len(data) < 14 {
		return 0
	}
	const tcp, udp = 6, 17
	var words [PathWords]uint32
	word := func(at int) uint32 {
		if len(data) < at+4 {
			return 0
		}
		return binary.BigEndian.Uint32(data[at:])
	}
	ports := 0
	switch binary.BigEndian.Uint16(data[12:]) {
	case 0x0800:
		if len(data) < 14+20 {
			return 0
		}
		words[0], words[4], words[9] = word(14+12), word(14+16), uint32(data[14+9])
		if binary.BigEndian.Uint16(data[14+6:])&0x3fff == 0 {
			ports = 14 + int(data[14]&0xf)*4
		}
	case 0x86dd:
		if len(data) < 14+40 {
			return 0
		}
		for i := range 8 {
			words[i] = word(14 + 8 + 4*i)
		}
		words[9], ports = uint32(data[14+6]), 14+40
	default:
		return 0
	}
	if ports > 0 && (words[9] == tcp || words[9] == udp) {
		words[8] = word(ports)
	}
	var h uint32
	for _, w := range words {
		h = bits.RotateLeft32((h^w)*PathFactor, PathRotation)
	}
	h = (h ^ h>>16) * PathFactor
	return int(uint64(h>>16) * uint64(n) >> 16)
}

// What Path computes, for worlds that compute it elsewhere: each word is xored
// into the hash, which is multiplied then and rotated. The words are those of
// the source, then of the destination, an IPv4 address having three of zero
// behind it, then both ports, then the protocol; all as they are read on a wire.
// At last the upper half is xored into the lower one, all is multiplied once more,
// and the upper half is scaled to the number of next hops.
const (
	PathWords    = 10
	PathFactor   = 0x9e3779b1
	PathRotation = 13
)
