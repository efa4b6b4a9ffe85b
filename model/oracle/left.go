// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/model"
)

// What a frame leaves in the flow table decides about those that come later, if
// any come. So it is compared at once, field by field.

// noted is the half of a flow that a packet has met or made.
type noted struct {
	half
	// kept is whether the other half may be one that was there before.
	kept bool
	// effect is what the packet was to the flow.
	effect effect
}

// Said is what the datapath has noted of a frame, beside its verdict.
type Said struct {
	Origin  model.Origin // the rule that was asked last
	Ifindex int          // of the device of the way out
	Dropped bool         // for whatever reason
}

// grain is how exact the times in entries are.
const grain = time.Second

// Left says what is wrong with what a frame has left in the flow table, where the
// world sees that. It is called behind Judge, and behind Observe or Meet.
func (l *Look) Left(said Said) []string {
	j := l.j
	if j.oracle.Sight == nil || j.key == (flowKey{}) {
		return nil
	}
	noted := j.oracle.noted
	wrong := j.misnamed(said)
	switch {
	case j.lookup != Untold:
	case !j.was:
		return wrong // who looked for no flow has made none
	default:
		noted.half = half{} // it was let go, as if it had met none
	}
	a := aftermath{j: j, noted: noted, said: said, before: j.entry, wrong: wrong}
	if j.oracle.Clock != nil {
		_, a.to = j.oracle.Clock()
	}
	a.is, a.there = j.oracle.sees(j.key)
	switch f := a.noted.flow; {
	case f == nil && j.lookup == Missed && len(j.unsent) > 0: // made, and not sent
	case f == nil:
		a.unchanged()
	case f.states&torn != 0: // nothing says which flow it is of
	case a.there:
		a.met()
	case !a.withoutRoom():
		a.complain("the flow %s has no entry", f.opening.tuple)
	}
	return a.wrong
}

// misnamed says what is wrong with the rule that the datapath names for a packet
// that met no flow. Of several that allow the same, or deny it, it names any: it is
// at least of a policy that was asked. Nobody was where a packet is dropped before,
// where a pod speaks to itself, and on some of several ways that a packet may go.
func (j *judgement) misnamed(said Said) []string {
	if j.lookup != Missed {
		return nil
	}
	asked := j.rulings
	if said.Origin == (model.Origin{}) {
		if said.Dropped || len(asked) == 0 || len(j.branches) != 1 || j.branches[0].toItself() {
			return nil
		}
		// What was asked before the last has no say any more, but for a denial of which
		// the sender is told: it is the last that is asked.
		last := len(asked) - 1
		if denied := slices.IndexFunc(asked, func(r Ruling) bool { return !r.Allowed() }); denied >= 0 {
			last = denied
		}
		asked = asked[last : last+1]
	}
	for _, r := range asked {
		if r.Origin == said.Origin || slices.Contains(r.Selecting, said.Origin.Policy) {
			return nil
		}
	}
	return []string{fmt.Sprintf("the packet is said to be judged by %q, and was by others", said.Origin)}
}

// aftermath is one Left in progress.
type aftermath struct {
	j          *judgement
	noted      noted
	said       Said
	before, is Entry // of the packet's key
	there      bool
	to         time.Duration // when is was looked at
	wrong      []string
}

func (a *aftermath) complain(format string, args ...any) {
	a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
}

// differs complains where a field is not what it has to be.
func differs[T comparable](a *aftermath, which, field string, is, want T) {
	if is != want {
		a.complain("%s has %s %v, and not %v", which, field, is, want)
	}
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

// now is whether a time in an entry is that of the packet.
func (a *aftermath) now(t time.Duration) bool { return t >= a.j.from && t <= a.to }

// made is whether the packet has made its flow's entry, or had it lead elsewhere
// and so begin anew.
func (a *aftermath) made() bool {
	return !a.j.lookup.found() || a.before.Leaves != a.is.Leaves || a.before.Other != a.is.Other
}

// met judges the entry that the packet has met or made.
func (a *aftermath) met() {
	const which = "the flow's entry"
	made := a.made()
	a.common(which, &a.is, a.noted.half)
	differs(a, which, "been judged under the present objects", a.is.Current, true)
	if !made && a.noted.effect&idles != 0 && (a.noted.effect == idles || a.untouched()) {
		a.requireUntouched(which)
	} else {
		a.shown(which, made)
		a.touched(which, made)
		a.answered(which, made)
	}
	a.routed(which, made)
	if made {
		a.named(which, &a.is)
		differs(a, which, "the origin", a.is.Origin, a.said.Origin)
		a.opposite()
	}
}

// untouched is whether an entry does not tell that the packet came.
func (a *aftermath) untouched() bool {
	was, is := a.before, a.is
	return is.Seen == was.Seen && is.LastSeen == was.LastSeen && is.Answered == was.Answered && is.Sent == was.Sent && is.Acked == was.Acked
}

// begunAnew is whether an entry, whose own time may have been over while the other half
// lived on, was judged anew and so made anew, of a packet that shows nothing.
func (a *aftermath) begunAnew() bool {
	is := a.is
	return !a.before.Current && is.Seen == 0 && a.now(is.LastSeen) && !is.Answered && !is.Sent.Known && !is.Acked.Known
}

func (a *aftermath) requireUntouched(which string) {
	if !a.untouched() && !a.begunAnew() {
		a.complain("%s was changed by a packet that may be anybody's", which)
	}
}

// shown judges what an entry holds of what its direction has shown.
func (a *aftermath) shown(which string, made bool) {
	seen, before := a.flags(), side{}
	if made && a.noted.effect&idles != 0 && a.is.Seen == 0 {
		seen = 0
	}
	if !made {
		seen |= a.before.Seen
		before = side{numbers{a.before.Sent}, numbers{a.before.Acked}}
	}
	differs(a, which, "seen the flags", a.is.Seen, seen)
	if h := a.j.headers; h.quote == nil && seen != 0 {
		before = before.after(h)
	}
	before.sent.each(func(n Number) { differs(a, which, "the number", a.is.Sent, n) })
	before.acked.each(func(n Number) { differs(a, which, "acknowledged the number", a.is.Acked, n) })
}

// common judges what an entry holds all its life, and where it leads now.
func (a *aftermath) common(which string, e *Entry, h half) {
	if !h.is(*e) || e.Dead {
		a.complain("%s leads to %s, with the other half at %s, and not to %s", which, e.Leaves, e.Other, h.leaves())
		return
	}
	own := h.opening.tuple
	if h.reply {
		own = h.replies.tuple
	}
	tunnelled := h.way.out == model.OutTunnel
	translated := !tunnelled && own != e.Leaves
	differs(a, which, "a translation", e.Translated, translated)
	differs(a, which, "a hairpin", e.Hairpin, h.hairpin)
	if h.opening.where.Hook == model.ToContainer && !h.reply || h.replies.where.Hook == model.ToContainer && h.reply {
		differs(a, which, "been made by the node", e.Here, e.Current && a.j.world.isHost(own.Src) || !e.Current && e.Here)
	}
	differs(a, which, "a source port of its own", e.Source, a.holdsPort(h.flow))
	var addrs, ports uint16
	if translated {
		addrs = difference(octets(own), octets(e.Leaves))
		ports = difference(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, own.Sport), own.Dport),
			binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, e.Leaves.Sport), e.Leaves.Dport))
	}
	differs(a, which, "a difference of addresses", remainder(e.AddrDiff), addrs)
	differs(a, which, "a difference of ports", remainder(e.PortDiff), ports)
	a.leads(which, e, h)
}

// leads judges the way out of an entry.
func (a *aftermath) leads(which string, e *Entry, h half) {
	to := h.way
	if h.reply {
		to = a.j.replyWay(h.flow)
	}
	differs(a, which, "the way out", e.Out, to.out)
	if to.out != model.OutLocal {
		return
	}
	device := a.j.world.device(to.endpoint)
	differs(a, which, "the device", e.Ifindex, device.Ifindex)
	differs(a, which, "the source MAC", e.SMAC, hardware(device.MAC))
	differs(a, which, "the destination MAC", e.DMAC, hardware(device.PodMAC))
}

// holdsPort is whether a flow has its answers under a port that is its alone.
func (a *aftermath) holdsPort(f *flow) bool {
	if f.opening.where.Hook == model.ToDevice && f.translated.Sport == f.opening.tuple.Sport {
		return !f.service.IsZero() || a.j.lends(f.opening.tuple)
	}
	return f.hasSource()
}

// touched judges when the entry says that its last packet came.
func (a *aftermath) touched(which string, made bool) {
	switch was, is := a.before.LastSeen, a.is.LastSeen; {
	case a.j.oracle.Clock == nil, a.now(is):
	case made, is != was, is <= a.j.from-grain, a.is.Answered && !a.before.Answered:
		a.complain("%s was last seen at %s, before at %s, and the packet came between %s and %s", which, is, was, a.j.from, a.to)
	}
}

// answered judges whether the entry knows that both sides were seen: the one that
// answers by its own packets, the opener's when that has been, and where nobody
// sees answers by what acknowledges them.
func (a *aftermath) answered(which string, made bool) {
	want := false
	switch {
	case made:
	case a.noted.reply, a.before.Answered:
		want = true
	case a.noted.way.out == model.OutTunnel:
		want = a.is.Seen&uint8(flagACK) != 0
	default:
		other, there := a.j.oracle.sees(a.noted.replies)
		if there && !other.Dead && a.before.Current {
			want = other.Answered
		} else {
			want = a.is.Answered // the other half may have been made anew since
		}
	}
	differs(a, which, "been answered", a.is.Answered, want)
}

// routed judges when the device of the way out was asked for. The kernel chooses
// it for what it sends itself.
func (a *aftermath) routed(which string, made bool) {
	out, hook := a.is.Out, a.j.at.Hook
	asks := hook == model.FromContainer || hook == model.FromDevice || hook == model.ToDevice && !a.noted.reply && !a.noted.service.IsZero()
	switch {
	case out != model.OutDevice && out != model.OutTunnel, !asks:
		if made {
			differs(a, which, "asked for a device at", a.is.Routed, 0)
		}
	case a.j.oracle.Clock != nil && !a.now(a.is.Routed) && (made || a.is.Routed <= a.j.from-grain):
		a.complain("%s has asked for its device at %s, and the packet came between %s and %s", which, a.is.Routed, a.j.from, a.to)
	case a.said.Ifindex != 0:
		differs(a, which, "the device", a.is.Ifindex, a.said.Ifindex)
	}
}

// named judges whose frontend an entry says that the flow came by.
func (a *aftermath) named(which string, e *Entry) {
	if e.Service.Object() != a.noted.service {
		a.complain("%s is of the service %q, and not of %q", which, e.Service, a.noted.service)
	}
}

// opposite judges the other half of a flow that a packet has made.
func (a *aftermath) opposite() {
	// Who speaks to itself, from the port to which it speaks, answers under the
	// very tuple that it opens with.
	if a.noted.way.out == model.OutTunnel || a.noted.replies == a.noted.opening {
		return
	}
	const which = "the entry of answers"
	e, there := a.j.oracle.sees(a.noted.replies)
	if !there {
		a.complain("the flow %s has no entry of answers", a.noted.opening.tuple)
		return
	}
	a.common(which, &e, half{a.noted.flow, true})
	if a.noted.kept && !a.now(e.LastSeen) {
		return
	}
	if a.j.oracle.Clock != nil && !a.now(e.LastSeen) {
		a.complain("%s was last seen at %s, and was made between %s and %s", which, e.LastSeen, a.j.from, a.to)
	}
	differs(a, which, "seen the flags", e.Seen, 0)
	differs(a, which, "the number", e.Sent, Number{})
	differs(a, which, "acknowledged the number", e.Acked, Number{})
	differs(a, which, "been answered", e.Answered, false)
	differs(a, which, "been judged under the present objects", e.Current, true)
	differs(a, which, "asked for a device at", e.Routed, 0)
	a.named(which, &e)
}

// withoutRoom is whether the flow is one that the node itself opens, and its
// answers are another's: it leaves all the same, and is not noted.
func (a *aftermath) withoutRoom() bool {
	f := a.noted.flow
	if f.opening.where.Hook != model.ToDevice || !f.service.IsZero() {
		return false
	}
	answers, there := a.j.oracle.sees(f.replies)
	return !there || answers.Dead || !(half{f, true}).is(answers)
}

// unchanged judges the entry that a packet found which has made none, and is of
// none: that it came is all that may be noted.
func (a *aftermath) unchanged() {
	const which = "the entry that was there"
	was, is := a.before, a.is
	switch {
	case !a.j.was && a.there:
		a.complain("the flow %s has an entry, and nothing should have made one", a.j.key.tuple)
		return
	case !a.there && a.j.was && a.j.at.Hook != model.ToDevice:
		a.complain("%s is gone", which)
		return
	case !a.there:
		return
	}
	if a.j.strayed {
		a.requireUntouched(which)
		return
	}
	if is.Seen != was.Seen|a.flags() {
		differs(a, which, "seen the flags", is.Seen, was.Seen)
	}
	if h := a.j.headers; h.quote == nil && (is.Sent != was.Sent || is.Acked != was.Acked) {
		s := side{numbers{was.Sent}, numbers{was.Acked}}.after(h)
		s.sent.each(func(n Number) { differs(a, which, "the number", is.Sent, n) })
		s.acked.each(func(n Number) { differs(a, which, "acknowledged the number", is.Acked, n) })
		was.Sent, was.Acked = is.Sent, is.Acked
	}
	if is.LastSeen != was.LastSeen && a.j.oracle.Clock != nil && !a.now(is.LastSeen) {
		a.complain("%s was last seen at %s, and at %s before", which, is.LastSeen, was.LastSeen)
	}
	if !was.Current { // it may have been judged anew
		was.Current, was.Out, was.Ifindex, was.SMAC, was.DMAC, was.Origin, was.Service = is.Current, is.Out, is.Ifindex, is.SMAC, is.DMAC, is.Origin, is.Service
	}
	if is.Routed != was.Routed { // it was dropped behind that
		was.Ifindex = is.Ifindex
	}
	was.Seen, was.LastSeen, was.Answered, was.Routed = is.Seen, is.LastSeen, is.Answered, is.Routed
	differs(a, which, "become", is, was)
}

// hardware is an address of Ethernet; zeros, where there is none.
func hardware(mac net.HardwareAddr) [6]byte {
	var six [6]byte
	copy(six[:], mac)
	return six
}

// octets are those of a tuple's addresses.
func octets(t model.Tuple) []byte {
	var b []byte
	for _, addr := range []netip.Addr{t.Src, t.Dst} {
		whole := addr.As16()
		b = append(b, whole[:]...)
	}
	return b
}

// difference is by how much the one's complement sum of octets grows (RFC 1071),
// in the host's order.
func difference(from, to []byte) uint16 {
	sum := uint64(0)
	for i := 0; i < len(from); i += 2 {
		// A negative number is its complement.
		sum += uint64(binary.NativeEndian.Uint16(to[i:])) + uint64(^binary.NativeEndian.Uint16(from[i:]))
	}
	return uint16(sum % 0xffff)
}

// remainder of a sum is the same for all sums that stand for one number.
func remainder(sum uint32) uint16 { return uint16(sum % 0xffff) }
