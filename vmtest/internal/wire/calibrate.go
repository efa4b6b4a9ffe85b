// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"hash/crc32"
	"time"
)

// Calibrate does a fixed piece of integer work and says how long it took, the
// best of three. Guest and host run the same one: the ratio is how much slower
// the guest is, by which deadlines are stretched.
func Calibrate() time.Duration {
	best := time.Duration(1<<63 - 1)
	table := crc32.MakeTable(0xd5828281) // no processor instruction knows this one
	data := make([]byte, 1<<16)
	for range 3 {
		start := time.Now()
		sum := uint32(0)
		for range 4 {
			sum = crc32.Update(sum, table, data)
			data[0] = byte(sum)
		}
		best = min(best, time.Since(start))
	}
	return max(best, time.Nanosecond)
}
