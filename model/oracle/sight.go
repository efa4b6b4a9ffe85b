// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"time"

	"github.com/weirnet/weir/model"
)

// Entry is an entry of the datapath's flow table.
type Entry struct {
	Reply  bool        // for packets that answer
	Leaves model.Tuple // how packets that meet it leave
	Other  model.Where // where packets of the other direction are seen
	Dead   bool        // its key is taken, and no packet meets it

	Answered   bool // both directions were seen
	Translated bool // its packets leave under another tuple
	Hairpin    bool // of a pod with itself
	Source     bool // its answers are told from others' by a port that is held

	Out        model.Out
	Ifindex    int           // of the device there
	SMAC, DMAC [6]byte       // that packets into a pod get
	Current    bool          // judged under the objects that hold now
	Service    model.PortRef // by whose frontend it is translated
	Origin     model.Origin
	Seen       uint8 // TCP flags of its direction, ever
	// LastSeen is when its last packet was seen, to a second, and Routed when the
	// device was last asked for; 0: never.
	LastSeen, Routed time.Duration
	// AddrDiff and PortDiff are what translation adds to a checksum: one's
	// complement sums in the host's order.
	AddrDiff, PortDiff uint32
	// Sent is where its direction's last segment of TCP begins, and Acked what that
	// has acknowledged.
	Sent, Acked Number
	Here        bool // at a pod: its packets are made by the node itself
}

// Number is a sequence number of TCP.
type Number struct {
	Known bool
	Value uint32
}

// Sight is what a world sees of the datapath's flow table: the entry under a
// tuple at a hook, now.
type Sight func(at model.Where, t model.Tuple) (Entry, bool)

// Clock tells the time by which the flow table goes: it is not before least, nor
// behind most.
type Clock func() (least, most time.Duration)

// Lookup is what the datapath says of its search for a frame's flow.
type Lookup int8

// Lookups.
const (
	Untold Lookup = iota // nothing is said: it need not have searched
	Missed               // it found none
	Met                  // it found the entry that was there, and goes by what was decided of it
	Anew                 // it found that too, and decides anew
)

// found is whether it found an entry.
func (l Lookup) found() bool { return l == Met || l == Anew }

// Look is a frame that is about to meet a hook, and what is seen there of its
// flow before it does.
type Look struct {
	j     *judgement
	frame []byte
}

// Look reads a frame, which begins with its Ethernet header, and, where the
// oracle has a Sight, the entry that it may meet. It changes nothing.
func (o *Oracle) Look(frame []byte, at model.Where, now time.Time) *Look {
	h := parseFrame(frame)
	j := &judgement{oracle: o, world: o.world, headers: &h, at: at, now: now, pod: o.world.endpoint(at.Endpoint)}
	j.wrong = make([]model.Reason, 0, 4)
	for _, reason := range h.wrong {
		j.condemn(reason, "the frame's bytes are wrong: %s", reason)
	}
	if h.later() {
		j.recall()
	}
	if j.isWrapped() {
		j.unwrap(frame)
	}
	switch h := j.headers; {
	case h.quote != nil:
		j.key = flowKey{at, h.quote.tuple.Reversed()}
	case h.hasTuple:
		j.key = flowKey{at, h.tuple}
	default:
		return &Look{j, frame}
	}
	if o.Sight != nil {
		j.entry, j.was = o.Sight(at, j.key.tuple)
		j.seen = j.was && !j.entry.Dead
	}
	if o.Clock != nil {
		j.from, _ = o.Clock()
	}
	return &Look{j, frame}
}

// LedOn says that the frame is not made by the node: it came in by a device that
// has no hook of its own, and the node's stack leads it on.
func (l *Look) LedOn() *Look {
	l.j.ledOn = true
	return l
}

// search is what the packet's key leads to.
type search struct {
	half        // none where its flow is nil
	ought ought // whether it is met
}

// search gives the flow that the packet may or must have met. What a world has
// seen decides, and is held against what may be there by all that came before.
// Packets may begin another flow in the place of an old one, if reusable.
func (j *judgement) search(reusable bool) search {
	h := j.oracle.flows[j.key]
	f := search{half: h}
	if h.flow != nil {
		f.ought = h.ought(j.key.tuple.Protocol, j.now)
		if reusable {
			f.ought = min(f.ought, j.goesOn(h))
		}
	}
	if j.oracle.Sight == nil {
		return f
	}
	there := j.seen && h.is(j.entry)
	switch {
	case j.lookup.found() && !j.seen:
		j.complain("the flow table to have an entry before one is met")
	case j.lookup.found() && (!there || f.ought == mustNot):
		j.complain("no entry to be met that leads to %s", j.entry.Leaves)
	case !there && f.ought == must:
		j.complain("the flow table to have the flow %s, which leaves as %s", h.opening.tuple, h.translated)
	case j.lookup == Missed && f.ought == must:
		j.complain("the packet to meet the flow %s, which leaves as %s", h.opening.tuple, h.translated)
	}
	switch {
	case j.lookup.found() && h.flow != nil:
		f.ought = must
	case j.lookup != Untold || !there:
		f.ought = mustNot
	}
	return f
}

// goesOn is whether a packet under a flow's key is of it, and begins no other: a
// SYN does where a connection has ended, and what another node leads to another
// pod than before.
func (j *judgement) goesOn(h half) ought {
	switch {
	case j.isLed() && !h.reply && h.translated.Dst != j.through:
		return mustNot
	case j.headers.begins() && h.reply:
		return mustNot // or it strays
	case !j.headers.begins() || h.states&(ended|torn) == 0:
		return must
	case h.states&^ended == 0:
		return mustNot
	}
	return may
}

// strays is whether a packet opens a connection where the answers of another go,
// which that one's opener has asked for: perhaps, and for sure.
func (j *judgement) strays() (perhaps, surely bool) {
	h := j.oracle.flows[j.key]
	if h.flow == nil || !h.reply || !j.headers.begins() {
		return false, false
	}
	there := h.ought(j.key.tuple.Protocol, j.now)
	if j.oracle.Sight != nil && !(j.seen && h.is(j.entry)) {
		there = mustNot
	}
	perhaps = there != mustNot && h.states&^ended != 0 && h.asked != mustNot
	surely = there == must && h.states&(ended|torn) == 0 && h.asked == must
	return perhaps, surely
}

func (j *judgement) complain(format string, args ...any) {
	if j.illegal == "" {
		j.illegal = fmt.Sprintf(format, args...)
	}
}
