// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"slices"

	"github.com/weirnet/weir/model"
)

// Who ends a connection has to know where it is. A FIN or RST near what its receiver
// has acknowledged ends it; one that is only near what its own side sends, or not very
// far from either, passes and changes nothing, since the receiver looks closer (RFC
// 5961); any other is of nobody.

const (
	nearby  = 1 << 20
	farther = 16 << 20
)

// numbers are those that a number may be; none at all: it is not known.
type numbers []Number

// each calls do for every one.
func (n numbers) each(do func(Number)) {
	if len(n) == 0 {
		do(Number{})
	}
	for _, one := range n {
		do(one)
	}
}

// or are those of both.
func (n numbers) or(other numbers) numbers {
	var all numbers
	add := func(one Number) {
		if !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	n.each(add)
	other.each(add)
	return all
}

// within is whether a number is known, and no farther away than that.
func (n Number) within(distance int32, from uint32) bool {
	d := int32(from - n.Value)
	return n.Known && d >= -distance && d <= distance
}

// side is what one direction of a connection has shown of both.
type side struct {
	sent  numbers // where its last segment begins
	acked numbers // what that acknowledges
}

// after is a side after a packet of it.
func (s side) after(h *headers) side {
	switch {
	case h.tuple.Protocol != model.ProtocolTCP:
	case h.tcp&flagACK != 0:
		return side{numbers{{true, h.sequence}}, numbers{{true, h.acknowledged}}}
	case h.tcp&flagSYN != 0:
		return side{sent: numbers{{true, h.sequence}}}
	}
	return s
}

func (s side) or(other side) side {
	return side{s.sent.or(other.sent), s.acked.or(other.acked)}
}

// effect is a set of what a packet may be to a connection.
type effect uint8

const (
	counts  effect = 1 << iota // it takes part
	idles                      // it changes nothing
	outside                    // it is of nobody
)

// effect is that of a packet of one direction.
func (f *flow) effect(h *headers, reply bool) effect {
	if h.tuple.Protocol != model.ProtocolTCP || h.later() || h.tcp&(flagFIN|flagRST) == 0 {
		return counts
	}
	if f.states&torn != 0 {
		return counts | idles | outside // one half of it may be another's
	}
	own, receiver := f.sides[0], f.sides[1]
	switch {
	case f.opening == f.replies: // who speaks to itself by one port has one entry
		receiver = own
	case reply:
		own, receiver = receiver, own
	}
	var all effect
	own.sent.each(func(sent Number) {
		receiver.acked.each(func(acked Number) { all |= effectOf(h.sequence, sent, acked) })
	})
	return all
}

// effectBegun is that of a packet from which a flow begins, though it has perhaps met
// what was there before.
func (o *Oracle) effectBegun(h *headers, met []half) effect {
	all := effect(0)
	for _, m := range met {
		all |= m.effect(h, m.reply) &^ outside
	}
	if all == 0 || o.Sight == nil {
		all |= counts
	}
	return all
}

func effectOf(sequence uint32, sent, acked Number) effect {
	switch {
	case acked.within(nearby, sequence):
		return counts
	case !acked.Known && (!sent.Known || sent.within(nearby, sequence)):
		return counts
	case !acked.Known, acked.within(farther, sequence), sent.within(farther, sequence):
		return idles
	}
	return outside
}

// shows notes what a packet shows of its side.
func (f *flow) shows(h *headers, reply bool, sure bool) {
	s := &f.sides[0]
	if reply {
		s = &f.sides[1]
	}
	next := s.after(h)
	if !sure {
		next = next.or(*s)
	}
	*s = next
}

// isOutside is whether a packet ends a connection without knowing where that is:
// perhaps, and for sure.
func (j *judgement) isOutside() (perhaps, surely bool) {
	h := j.oracle.flows[j.key]
	if h.flow == nil || j.lookup != Untold {
		return false, false
	}
	there := h.ought(j.key.tuple.Protocol, j.now)
	if j.oracle.Sight != nil && !(j.seen && h.is(j.entry)) {
		there = mustNot
	}
	is := h.effect(j.headers, h.reply)
	return there != mustNot && is&outside != 0, there == must && is == outside
}
