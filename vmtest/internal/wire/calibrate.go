// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"hash/crc32"
	"syscall"
	"time"
)

// Calibrate does a fixed piece of work and says how long it took, the best of
// five. Guest and host run the same one: the ratio is how much slower the
// guest is, by which deadlines are stretched. Half of it is arithmetic, which
// an emulator does nearly as fast as the processor; the other half crosses
// into the kernel, where it is slowest.
func Calibrate() time.Duration {
	best := time.Duration(1<<63 - 1)
	table := crc32.MakeTable(0xd5828281) // no processor instruction knows this one
	data := make([]byte, 1<<16)
	for range 5 {
		start := time.Now()
		for range 4 {
			data[0] = byte(crc32.Update(0, table, data))
		}
		for range 1500 {
			syscall.Getppid()
		}
		best = min(best, time.Since(start))
	}
	return max(best, time.Nanosecond)
}
