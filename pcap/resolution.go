// SPDX-License-Identifier: Apache-2.0

package pcap

import "math/bits"

const nanosecondDigits = 9

// split makes seconds and nanoseconds of ticks, for every resolution that a
// file may claim: the finest, 10^-127 and 2^-127, give 0.
func (r resolution) split(ticks uint64) (seconds, nanoseconds uint64) {
	exponent := int(r & 0x7f)
	if r&0x80 != 0 {
		return splitBinary(ticks, exponent)
	}
	unit, fits := powerOfTen(exponent)
	fraction := ticks
	if fits {
		seconds, fraction = ticks/unit, ticks%unit
	}
	if exponent <= nanosecondDigits {
		scale, _ := powerOfTen(nanosecondDigits - exponent)
		return seconds, fraction * scale
	}
	scale, fits := powerOfTen(exponent - nanosecondDigits)
	if !fits {
		return seconds, 0
	}
	return seconds, fraction / scale
}

func splitBinary(ticks uint64, exponent int) (seconds, nanoseconds uint64) {
	fraction := ticks
	if exponent < 64 {
		seconds = ticks >> exponent
		fraction = ticks & (1<<exponent - 1)
	}
	high, low := bits.Mul64(fraction, 1e9)
	switch {
	case exponent == 0:
		return seconds, 0
	case exponent < 64:
		return seconds, high<<(64-exponent) | low>>exponent
	}
	return seconds, high >> (exponent - 64)
}

// powerOfTen fails from 10^20 on, which 64 bits do not hold.
func powerOfTen(n int) (uint64, bool) {
	if n > 19 {
		return 0, false
	}
	p := uint64(1)
	for range n {
		p *= 10
	}
	return p, true
}
