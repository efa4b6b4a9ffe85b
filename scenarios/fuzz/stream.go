// SPDX-License-Identifier: Apache-2.0

package fuzz

// stream is how far both sides of a connection are: where the next segment of each
// begins, the opener's first.
type stream [2]uint32

// numbers are those of a segment.
type numbers struct{ sequence, acknowledged uint32 }

func (t *talk) anyNumbers() numbers { return numbers{t.rng.Uint32(), t.rng.Uint32()} }

// number gives a turn its numbers: mostly those that are due. What ends a connection
// has others more often, about the distances at which it is not believed.
func (t *talk) number(c *conversation, now turn) numbers {
	if c.stream == nil {
		c.stream = &stream{t.rng.Uint32(), t.rng.Uint32()}
	}
	own, other := &c.stream[0], &c.stream[1]
	if now.by == answerer {
		own, other = other, own
	}
	if t.chance(3) { // much of it comes by another way
		*own += uint32(t.rng.IntN(40 << 20))
	}
	n := numbers{*own, *other}
	switch ends := now.flags&(fin|rst) != 0; {
	case t.chance(3):
		return t.anyNumbers()
	case ends && t.chance(30):
		n.sequence += t.distance()
		return n
	case t.chance(5): // repeated, or early
		n.sequence += uint32(t.rng.IntN(2000)) - 1000
		return n
	}
	*own += uint32(now.octets)
	if now.flags&(syn|fin) != 0 {
		*own++
	}
	return n
}

// distance is one at which something may change, or any.
func (t *talk) distance() uint32 {
	if t.chance(20) {
		return t.rng.Uint32()
	}
	d := pick(t.rng, []uint32{1 << 20, 16 << 20, 1 << 30, 1 << 31})
	if t.chance(50) {
		d = -d
	}
	return d + uint32(t.rng.IntN(5)) - 2
}
