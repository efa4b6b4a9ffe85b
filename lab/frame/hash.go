// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"encoding/binary"
	"math/bits"

	"github.com/weirnet/weir/model"
)

// Hash is that of a tuple by which a datapath chooses, with a seed of 0: murmur3
// of 32 bits over the words of both addresses in turn, the ports and the protocol,
// as they lie in a little-endian machine's memory.
func Hash(t model.Tuple) uint32 {
	var h uint32
	mix := func(k uint32) {
		h ^= bits.RotateLeft32(k*0xcc9e2d51, 15) * 0x1b873593
		h = bits.RotateLeft32(h, 13)*5 + 0xe6546b64
	}
	src, dst := t.Src.As16(), t.Dst.As16()
	for i := 0; i < 16; i += 4 {
		mix(binary.LittleEndian.Uint32(src[i:]))
		mix(binary.LittleEndian.Uint32(dst[i:]))
	}
	mix(uint32(bits.ReverseBytes16(t.Sport))<<16 | uint32(bits.ReverseBytes16(t.Dport)))
	mix(uint32(t.Protocol))
	h = (h ^ h>>16) * 0x85ebca6b
	h = (h ^ h>>13) * 0xc2b2ae35
	return h ^ h>>16
}
