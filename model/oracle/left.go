// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"

	"github.com/weirnet/weir/model"
)

// noted is the half of a flow that a packet has met or made.
type noted struct {
	half
}

// Left says what is wrong with what a frame has left in the flow table, where the
// world sees that: the entry of its flow, as it was before and as it is now. It
// is called behind Judge, and behind Observe or Meet.
func (l *Look) Left() []string {
	j := l.j
	if j.oracle.Sight == nil || j.key == (flowKey{}) {
		return nil
	}
	a := aftermath{j: j, noted: j.oracle.noted}
	a.is, a.there = j.oracle.sees(j.key)
	a.judge()
	return a.wrong
}

// aftermath is one Left in progress.
type aftermath struct {
	j     *judgement
	noted noted
	is    Entry
	there bool
	wrong []string
}

func (a *aftermath) complain(format string, args ...any) {
	a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
}

// flags are the TCP flags of the packet. A later fragment has none, and what an
// error quotes is not seen.
func (a *aftermath) flags() uint8 {
	h := a.j.headers
	if h.tuple.Protocol != model.ProtocolTCP || h.later() || h.quote != nil {
		return 0
	}
	return uint8(h.tcp & (flagFIN | flagSYN | flagRST | flagACK))
}

func (a *aftermath) judge() {
	if a.noted.flow == nil {
		return
	}
	if !a.there {
		if !a.withoutRoom() {
			a.complain("the flow has no entry")
		}
		return
	}
	seen := a.flags()
	if !a.made() {
		seen |= a.j.entry.Seen
	}
	if a.is.Seen != seen {
		a.complain("the flow's entry has seen the flags %#x, and its packets have shown %#x", a.is.Seen, seen)
	}
}

// made is whether the packet has made its flow's entry, or had it lead elsewhere
// and so begin anew.
func (a *aftermath) made() bool {
	was := &a.j.entry
	return a.j.lookup != Met || was.Leaves != a.is.Leaves || was.Other != a.is.Other
}

// withoutRoom is whether the flow is one that the node itself opens, and its
// answers are another's: it leaves all the same, and is not noted.
func (a *aftermath) withoutRoom() bool {
	f := a.noted.flow
	if f.opening.where.Hook != model.ToDevice || f.service != "" {
		return false
	}
	answers, there := a.j.oracle.sees(f.replies)
	return !there || answers.Dead || !(half{f, true}).is(answers)
}
