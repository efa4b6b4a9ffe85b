// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"time"

	"github.com/weirnet/weir/model"
)

// states is a set of states in which a connection may be: of one where all its
// packets were seen, and what became of them, there is one.
type states uint16

// States of a connection. Nobody has answered in those of the first line.
const (
	opening   states = 1 << iota // TCP: a SYN of the opener
	premature                    // TCP: the same, and an acknowledgement of what it has not got
	joined                       // TCP: first seen in its middle
	quit                         // TCP: the opener has ended what nobody has answered
	aborted                      // TCP: the opener has reset what nobody has answered
	asking                       // not TCP

	challenged  // TCP: a SYN of the opener, and an answer without one
	accepted    // TCP: SYNs both ways, not acknowledged by the opener
	established // TCP
	left        // TCP: the opener has ended its direction
	parted      // TCP: the other side has
	closing     // TCP: both have
	reset       // TCP: one side has reset it
	talking     // not TCP
	torn        // one of its entries is another's by now: the rest is in doubt

	unanswered = opening | premature | joined | quit | aborted | asking
	ended      = quit | aborted | left | parted | closing | reset
)

// The longest that a connection is there without a packet, by docs/datapath.md,
// "Flows". Those that nobody has answered end by themselves, the others when the
// collector comes.
func (s states) lifetime(p model.Protocol) time.Duration {
	switch s {
	case opening, premature, joined, quit, aborted, challenged, accepted, closing:
		return 60 * time.Second
	case left, parted:
		return 240 * time.Second // RFC 5382 REQ-5
	case reset:
		return 10 * time.Second
	case asking:
		return byProtocol(p, 30*time.Second, 30*time.Second, 60*time.Second)
	case talking:
		return byProtocol(p, 180*time.Second, 30*time.Second, 600*time.Second)
	case torn:
		return byProtocol(p, 180*time.Second, 60*time.Second, 6*time.Hour)
	}
	return 6 * time.Hour // established
}

func byProtocol(p model.Protocol, udp, icmp, other time.Duration) time.Duration {
	switch {
	case p == model.ProtocolUDP:
		return udp
	case isICMP(p):
		return icmp
	}
	return other
}

// each calls do for every state of a set.
func (s states) each(do func(states)) {
	for one := states(1); one <= s; one <<= 1 {
		if s&one != 0 {
			do(one)
		}
	}
}

// began is where a connection is whose first packet has these flags. A reset
// begins none.
func began(p model.Protocol, flags tcpFlags) states {
	switch {
	case p != model.ProtocolTCP:
		return asking
	case flags&flagFIN != 0:
		return quit
	case flags&flagSYN == 0:
		return joined
	case flags&flagACK != 0:
		return premature
	}
	return opening
}

// after is where a connection is after one more packet, of either side.
func (s states) after(flags tcpFlags, reply bool) states {
	var next states
	s.each(func(one states) {
		if reply {
			next |= one.answered(flags)
		} else {
			next |= one.continued(flags)
		}
	})
	return next
}

// continued is after a packet of the opener.
func (s states) continued(flags tcpFlags) states {
	switch {
	case s&(asking|talking|torn|reset|aborted) != 0:
		return s
	case flags&flagRST != 0 && s&unanswered != 0:
		return aborted
	case flags&flagRST != 0:
		return reset
	case flags&flagFIN != 0 && s&unanswered != 0:
		return quit
	case flags&flagFIN != 0 && s&(parted|closing) != 0:
		return closing
	case flags&flagFIN != 0:
		return left
	}
	switch {
	case s == opening && flags&flagACK != 0:
		return premature
	case s == joined && flags&flagSYN != 0:
		return began(model.ProtocolTCP, flags) | premature
	case s == accepted && flags&flagACK != 0:
		return established
	case s == established && flags&flagSYN != 0:
		return established | challenged // nothing says which
	}
	return s
}

// answered is after a packet of the other side.
func (s states) answered(flags tcpFlags) states {
	switch {
	case s&(asking|talking) != 0:
		return talking
	case s&(torn|reset) != 0:
		return s
	case s == aborted, flags&flagRST != 0:
		return reset
	case flags&flagFIN != 0 && s&(quit|left|closing) != 0:
		return closing
	case flags&flagFIN != 0:
		return parted
	}
	syn := flags&flagSYN != 0
	switch {
	case s == opening && syn:
		return accepted
	case s&(premature|challenged) != 0 && syn:
		return accepted | established // it need not acknowledge again
	case s&(opening|premature) != 0:
		return challenged
	case s == joined:
		return established
	case s == quit:
		return left
	}
	return s
}

// relayed takes the opener's word for what the other side did, which nobody
// sees: who acknowledges has been answered.
func (s states) relayed(flags tcpFlags) states {
	if flags&flagACK == 0 || s&unanswered == 0 {
		return s
	}
	var next states
	s.each(func(one states) {
		switch one {
		case opening, premature, joined:
			one = established
		case quit:
			one = left
		case aborted:
			one = reset
		}
		next |= one
	})
	return next
}

const (
	// Frames reach the datapath a moment before or after the oracle is
	// asked, and the datapath notes a packet's time once a second. So near
	// to the end of a connection, it may be there or not.
	endsEarly = 2 * time.Second
	endsLate  = time.Second
)

// life is how far a connection has come.
type life struct {
	states      states
	first, last time.Time // of its latest packet: for sure, and perhaps
}

// least and most bound for how long it is there without a packet.
func (l *life) least(p model.Protocol) time.Duration {
	if l.states&torn != 0 {
		return 0
	}
	least := 6 * time.Hour
	l.states.each(func(one states) { least = min(least, one.lifetime(p)) })
	return least
}

func (l *life) most(p model.Protocol) time.Duration {
	var most time.Duration
	l.states.each(func(one states) { most = max(most, one.lifetime(p)) })
	return most
}

// over is whether a connection's time is over for sure.
func (l *life) over(p model.Protocol, now time.Time) bool {
	return now.After(l.last.Add(l.most(p) + endsLate))
}

// ought is whether something is to be there.
type ought int8

const (
	mustNot ought = iota
	may
	must
)

// ought is whether a connection is there. One that was answered is the
// collector's to end.
func (l *life) ought(p model.Protocol, now time.Time) ought {
	switch {
	case l.states&torn == 0 && !now.After(l.first.Add(l.least(p)-endsEarly)):
		return must
	case l.states&^unanswered == 0 && l.over(p, now):
		return mustNot
	}
	return may
}

// see notes a packet that the connection has met.
func (l *life) see(next states, now time.Time) {
	l.states, l.first, l.last = next, now, now
}

// maySee notes a packet that it may have met.
func (l *life) maySee(next states, now time.Time) {
	l.states, l.last = l.states|next, now
}

// tear leaves in doubt what was known: one of its entries is another's.
func (l *life) tear(now time.Time) {
	l.states |= torn
	l.last = now
}
