// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/model"
)

// flow is what the oracle remembers of an exchange that the datapath let pass.
type flow struct {
	opening    flowKey     // as the opener's packets come
	replies    flowKey     // as the answers to them come
	translated model.Tuple // the opener's packets as they leave
	way        way         // where to
	node       string      // of whose devices answers come, or go
	frontend   frontend
	service    string // whose frontend that is; empty when nothing is translated
	hairpin    bool

	// The objects under which each direction was judged last.
	openEpoch, replyEpoch int
	perhapsEpoch          int // under which the opener's may have been judged

	answered            bool
	answerUnsure        bool // an answer that was dropped may have been noted
	opened, accepted    bool // SYN seen of the opener, of the other
	ackedFirst          bool // the opener acknowledged before it had what to
	acknowledged        bool // the opener has acknowledged the other's SYN
	openerDone, peerEnd bool // FIN seen of the opener, of the other
	reset, peerReset    bool // RST
	// A FIN or RST may have been noted, or not: in a packet that was dropped
	// behind the flow table, or when the flow may have been gone.
	endUnsure, beginUnsure bool // beginUnsure: the same of a SYN

	// Until surely the flow is there; after gone it is not. Between them, and
	// without gone until the collector comes behind over, it may be either.
	surely, gone, over time.Time

	suspected bool      // it may be there or another in its place
	vague     bool      // nobody has seen its source port: a later fragment opened it
	restarted bool      // not answered since its way changed
	former    []flowKey // by which answers were found before its way changed
}

// way is where packets go.
type way struct {
	out      model.Out
	endpoint string // the pod there, for OutLocal
}

// flowKey is what one hook finds a flow by.
type flowKey struct {
	where model.Where
	tuple model.Tuple
}

// entry is one of the two entries of a flow.
type entry struct {
	flow  *flow
	reply bool
	// former is an entry of answers that come another way now: the datapath
	// may have it still.
	former bool
}

// memory holds flows by both keys. Two flows may share a key in the reply
// direction (a pod that is reached directly and through a service from one
// source port): the newest comes first.
type memory map[flowKey][]entry

func (m memory) insert(f *flow, now time.Time) {
	// The opener's entry replaces what was there under its key. The other
	// entry of a flow that loses one may still be found, or not, until it was
	// idle by what that one alone has shown.
	for _, old := range slices.Clone(m[f.opening]) {
		m.forget(old, f.opening)
		if old.flow.replies == f.replies {
			m.remove(old.flow)
		}
		old.flow.surely = time.Time{}
		old.flow.lose(old.reply)
		if f.opening.tuple.Protocol == model.ProtocolTCP {
			old.flow.over = old.flow.over.Add(idleTCPHalfClosed)
		}
	}
	m[f.opening] = []entry{{flow: f}}
	m.contest(f, f.replies, now)
	m[f.replies] = append([]entry{{flow: f, reply: true}}, m[f.replies]...)
}

// contest leaves in doubt the flows that have a key under which packets of
// another are found from now on.
func (m memory) contest(f *flow, key flowKey, now time.Time) {
	for _, e := range m[key] {
		if found, _ := e.flow.presence(now); found && e.flow != f {
			e.flow.suspected, e.flow.surely, e.flow.gone = true, time.Time{}, time.Time{}
			e.flow.over = e.flow.over.Add(idleTCPEstablished)
			e.flow.lose(e.reply)
		}
	}
}

// reroute has the answers of a flow found where they come now.
func (m memory) reroute(f *flow, now time.Time) {
	key := f.answersAt()
	if key == f.replies {
		return
	}
	m.forget(entry{flow: f, reply: true}, f.replies)
	m[f.replies] = append(m[f.replies], entry{flow: f, reply: true, former: true})
	f.former = append(f.former, f.replies)
	f.replies = key
	m.contest(f, f.replies, now)
	m.forget(entry{flow: f, reply: true, former: true}, key)
	m[key] = append([]entry{{flow: f, reply: true}}, m[key]...)
	f.restart()
}

// suspect keeps beside a flow the one that its answer may have opened instead,
// if the flow was gone: from then on both are possible.
func (m memory) suspect(matching []Translation, f *flow, observed model.Tuple, epoch int, now time.Time) {
	f.suspected = true
	there := func(e entry) bool {
		found, _ := e.flow.presence(now)
		return found && !e.reply && !e.flow.closing() && e.flow.translated == observed
	}
	for _, t := range matching {
		if t.known {
			continue
		}
		if i := slices.IndexFunc(m[t.flow.opening], there); i >= 0 {
			like := m[t.flow.opening][i].flow // may have lost its answers to others
			m.perhaps(like, like.answersAt())
			continue
		}
		g := *t.flow
		g.translated, g.replyEpoch, g.openEpoch = observed, epoch, epoch
		if t.Portless {
			g.translated = t.Tuple
		}
		g.replies = g.answersAt()
		g.suspected, g.over = true, now.Add(idleTCPEstablished+endsLate)
		g.former = []flowKey{g.replies}
		m[g.opening] = append(m[g.opening], entry{flow: &g})
		m[g.replies] = append(m[g.replies], entry{flow: &g, reply: true, former: true})
	}
}

// firstAt is whether a flow is the newest under a key.
func (m memory) firstAt(key flowKey, f *flow) bool { return len(m[key]) > 0 && m[key][0].flow == f }

// claim has the answers of a flow found, if another flow under the same key has
// put an end to that: whichever was seen last may have the key.
func (m memory) claim(f *flow, now time.Time) {
	if m.firstAt(f.replies, f) {
		return
	}
	m.contest(f, f.replies, now)
	if slices.ContainsFunc(m[f.replies], func(e entry) bool { return e.flow == f }) {
		f.suspected, f.surely = true, time.Time{}
		return
	}
	m.perhaps(f, f.replies)
}

// perhaps has the answers of a flow found under one more key, or not.
func (m memory) perhaps(f *flow, key flowKey) {
	if slices.ContainsFunc(m[key], func(e entry) bool { return e.flow == f && e.reply }) {
		return
	}
	m[key] = append(m[key], entry{flow: f, reply: true, former: true})
	f.former = append(f.former, key)
}

// leads is whether a flow's answers come by the same entry, once it goes a way.
func (f *flow) leads(to way) (key flowKey, same bool) {
	there := *f
	there.way = to
	key = there.answersAt()
	return key, key == f.replies
}

// restart leaves in doubt what was known of a flow that may begin again: its
// answers come another way now, or it was not there any more.
func (f *flow) restart() {
	f.restarted = true
	f.endUnsure = f.endUnsure || f.closing()
	f.beginUnsure, f.ackedFirst = true, true
	f.reset, f.peerReset, f.openerDone, f.peerEnd = false, false, false, false
}

// lose leaves in doubt how one direction ended: another flow took the entry
// that had noted it.
func (f *flow) lose(reply bool) {
	f.endUnsure = f.endUnsure || f.closing()
	if reply {
		f.peerEnd, f.peerReset = false, false
	} else {
		f.openerDone, f.reset = false, false
	}
}

// answersAt is where the answers of a flow come, by its way.
func (f *flow) answersAt() flowKey {
	at := f.opening.where
	switch {
	case f.way.out == model.OutTunnel:
		return f.nowhere()
	case at.Hook == model.ToContainer:
		at.Hook = model.FromContainer
	case f.way.out == model.OutLocal:
		at = model.Where{Hook: model.FromContainer, Endpoint: f.way.endpoint}
	case at.Hook == model.FromContainer && !f.masqueraded():
		at.Hook = model.ToContainer
	case at.Hook == model.FromDevice && f.way.out == model.OutHost:
		at = model.Where{Hook: model.ToDevice, Endpoint: f.node}
	default:
		at = model.Where{Hook: model.FromDevice, Endpoint: f.node}
	}
	return flowKey{at, f.translated.Reversed()}
}

func (m memory) forget(e entry, key flowKey) {
	rest := slices.DeleteFunc(slices.Clone(m[key]), func(other entry) bool { return other == e })
	if len(rest) == 0 {
		delete(m, key)
		return
	}
	m[key] = rest
}

func (m memory) remove(f *flow) {
	m.forget(entry{flow: f}, f.opening)
	m.forget(entry{flow: f, reply: true}, f.replies)
	for _, key := range f.former {
		m.forget(entry{flow: f, reply: true, former: true}, key)
	}
}

// Idle times. Those of flows that nobody has answered end the flow by
// themselves, the others give it to the collector.
const (
	idleTCPUnanswered   = 60 * time.Second
	idleUDPUnanswered   = 30 * time.Second
	idleICMPUnanswered  = 30 * time.Second
	idleOtherUnanswered = 60 * time.Second

	idleTCPEstablished = 6 * time.Hour
	idleTCPHandshake   = 60 * time.Second
	idleTCPHalfClosed  = 120 * time.Second
	idleTCPClosed      = 60 * time.Second
	idleTCPReset       = 10 * time.Second
	idleUDP            = 180 * time.Second
	idleICMP           = 30 * time.Second
	idleOther          = 600 * time.Second

	// Frames reach the datapath a moment before or after the oracle is
	// asked, and the datapath notes a packet's time once a second. So near
	// to the end of a flow, both answers are right.
	endsEarly = 2 * time.Second
	endsLate  = time.Second
)

// resets is whether a packet is a TCP reset.
func (h *headers) resets() bool { return h.tuple.Protocol == model.ProtocolTCP && h.tcp&flagRST != 0 }

func isICMP(p model.Protocol) bool { return p == model.ProtocolICMP || p == model.ProtocolICMPv6 }

func (f *flow) idleUnanswered() time.Duration {
	switch p := f.opening.tuple.Protocol; {
	case p == model.ProtocolTCP:
		return idleTCPUnanswered
	case p == model.ProtocolUDP:
		return idleUDPUnanswered
	case isICMP(p):
		return idleICMPUnanswered
	}
	return idleOtherUnanswered
}

// idleAnswered is how long a flow is there at least, with what is in doubt.
func (f *flow) idleAnswered() time.Duration {
	least := f.idleNoted()
	if f.endUnsure {
		least = min(least, idleTCPReset)
	}
	if f.beginUnsure {
		least = min(least, idleTCPHandshake)
	}
	return least
}

// idleNoted is by what was noted of the flow for sure.
func (f *flow) idleNoted() time.Duration {
	switch p := f.opening.tuple.Protocol; {
	case p == model.ProtocolUDP:
		return idleUDP
	case isICMP(p):
		return idleICMP
	case p != model.ProtocolTCP:
		return idleOther
	}
	switch {
	case f.reset || f.peerReset:
		return idleTCPReset
	case f.openerDone && f.peerEnd:
		return idleTCPClosed
	case f.openerDone || f.peerEnd:
		return idleTCPHalfClosed
	case f.opened && !(f.accepted && f.acknowledged):
		return idleTCPHandshake // or, where only one side's SYN was seen, longer
	}
	return idleTCPEstablished
}

// idleAtMost is by when the collector takes an answered flow, whatever is in
// doubt about it.
func (f *flow) idleAtMost() time.Duration {
	oddly := f.beginUnsure || f.opened && (!f.accepted || f.ackedFirst)
	if f.opening.tuple.Protocol == model.ProtocolTCP && !f.closing() && (f.endUnsure || oddly) {
		return idleTCPEstablished
	}
	return f.idleNoted()
}

// see notes a packet of the flow that was let through. When the flow may have
// been gone (doubtful), so may what was known of it.
func (f *flow) see(h *headers, reply, doubtful bool, now time.Time) {
	switch {
	case h.tuple.Protocol != model.ProtocolTCP:
	case doubtful:
		f.seeTCP(h.tcp&^(flagFIN|flagRST), reply)
		f.doubtEnd(h)
	default:
		f.seeTCP(h.tcp, reply)
	}
	if f.way.out == model.OutTunnel {
		f.seeLed(h, f.over.IsZero())
	}
	f.restarted = f.restarted && !reply
	f.answerUnsure = f.answerUnsure && !reply
	doubtful = doubtful || f.restarted || f.answerUnsure
	perhapsAnswered := f.answered || reply || f.answerUnsure
	f.answered = f.answered || reply
	unanswered, answered := f.idleUnanswered(), f.idleAnswered()
	switch {
	case !perhapsAnswered:
		f.over = now.Add(unanswered + endsLate)
	case doubtful:
		f.over = now.Add(max(unanswered, f.idleAtMost()) + endsLate)
	default:
		f.over = now.Add(f.idleAtMost() + endsLate)
	}
	switch {
	case doubtful && perhapsAnswered:
		f.surely, f.gone = now.Add(min(unanswered, answered)-endsEarly), time.Time{}
	case f.answered:
		f.surely, f.gone = now.Add(answered-endsEarly), time.Time{}
	default:
		f.surely, f.gone = now.Add(unanswered-endsEarly), now.Add(unanswered+endsLate)
	}
}

// meet notes a packet of the flow of which it is not known yet what became. The
// datapath looks flows up first: one whose packet it then dropped may last
// longer by it.
func (f *flow) meet(h *headers, reply bool, now time.Time) {
	f.gone = time.Time{}
	f.answerUnsure = f.answerUnsure || reply && !f.answered
	f.doubtEnd(h)
	f.ackedFirst = f.ackedFirst || h.tcp&flagACK != 0
	f.beginUnsure = f.beginUnsure || h.tcp&flagSYN != 0
	if lasts := now.Add(max(f.idleUnanswered(), f.idleAtMost()) + endsLate); lasts.After(f.over) {
		f.over = lasts
	}
	if h.tcp&(flagFIN|flagRST|flagSYN) != 0 { // it may have less time from now on
		if least := now.Add(min(f.idleUnanswered(), f.idleAnswered()) - endsEarly); least.Before(f.surely) {
			f.surely = least
		}
	}
}

func (f *flow) doubtEnd(h *headers) {
	f.endUnsure = f.endUnsure || h.tcp&(flagFIN|flagRST) != 0
}

func (f *flow) judged(reply bool, epoch int) {
	if reply {
		f.replyEpoch = epoch
	} else {
		f.openEpoch = epoch
	}
}

func (f *flow) perhapsJudged(reply bool, epoch int) {
	if !reply {
		f.perhapsEpoch = epoch
	}
}

// isStale is whether a direction was judged under other objects than now.
func (f *flow) isStale(reply bool, epoch int) bool {
	if reply {
		return f.replyEpoch != epoch
	}
	return f.openEpoch != epoch
}

func (f *flow) seeTCP(flags tcpFlags, reply bool) {
	if reply {
		f.peerReset = f.peerReset || flags&flagRST != 0
		f.accepted = f.accepted || flags&flagSYN != 0
		f.peerEnd = f.peerEnd || flags&flagFIN != 0
		return
	}
	f.opened = f.opened || flags&flagSYN != 0
	f.ackedFirst = f.ackedFirst || !f.accepted && flags&flagACK != 0
	f.acknowledged = f.acknowledged || f.accepted && flags&flagACK != 0
	f.openerDone = f.openerDone || flags&flagFIN != 0
	f.reset = f.reset || flags&flagRST != 0
}

// closing is whether a SYN under the same tuple begins another flow.
func (f *flow) closing() bool { return f.openerDone || f.peerEnd || f.reset || f.peerReset }

// presence is whether a flow is found at some time: surely, surely not, or
// neither.
func (f *flow) presence(now time.Time) (found, sure bool) {
	if !now.After(f.surely) {
		return true, true
	}
	if !f.gone.IsZero() && now.After(f.gone) {
		return false, true
	}
	return true, false
}

// Collect says that the datapath's collector ran at a time: the answered flows
// whose idle time was over are gone.
func (o *Oracle) Collect(now time.Time) {
	var over []*flow
	for _, entries := range o.flows {
		for _, e := range entries {
			if now.After(e.flow.over) {
				over = append(over, e.flow)
			}
		}
	}
	for key, since := range o.dying {
		if now.Sub(since) > endsEarly {
			delete(o.dying, key)
		}
	}
	for _, f := range over {
		o.flows.remove(f)
		f.vague = false
		for _, key := range append(f.former, f.opening, f.replies) {
			if o.dying[key].Before(now) { // else another lingers there
				o.dying[key] = now
			}
		}
	}
	o.forgetFragments(now)
}

// isMartianSource is whether no host can have sent from an address.
func isMartianSource(addr netip.Addr) bool {
	return isMartianDestination(addr) || addr.Is4() && addr.As4()[0] == 169 && addr.As4()[1] == 254
}

// isMartianDestination is whether nothing can be sent to an address through a
// router.
func isMartianDestination(addr netip.Addr) bool {
	if addr.Is4() {
		first := addr.As4()[0]
		return first == 0 || first == 127 || first >= 224
	}
	b := addr.As16()
	if addr.Is4In6() || b[0] == 0xff || b[0] == 0xfe && b[1]&0xc0 == 0x80 {
		return true
	}
	for _, octet := range b[:15] {
		if octet != 0 {
			return false
		}
	}
	return b[15] <= 1 // :: and ::1
}
