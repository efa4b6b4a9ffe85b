// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"time"

	"github.com/weirnet/weir/model"
)

// flow is what the datapath decided about a connection that it let pass, and
// how far that has come.
type flow struct {
	opening    flowKey     // as the opener's packets come
	replies    flowKey     // as the answers to them come
	translated model.Tuple // the opener's packets as they leave
	way        way         // where to
	node       string      // of whose devices answers come, or go
	frontend   frontend
	service    model.Key // whose frontend that is; zero when nothing is translated
	hairpin    bool
	sticks     affinityKey // by which its client's next flow goes where it does; zero: it does not

	// The objects under which each direction was judged last.
	openEpoch, replyEpoch int
	// asked is whether its opener's direction has had a SYN: of what was first
	// seen in its middle, nobody knows who opened it.
	asked ought
	// sides are the opener's and the answering one's.
	sides [2]side
	life
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

// half is one of the two entries of a flow.
type half struct {
	*flow
	reply bool
}

// leaves is how packets of this half leave.
func (h half) leaves() model.Tuple {
	if h.reply {
		return h.opening.tuple.Reversed()
	}
	return h.translated
}

// is whether the half is what a world sees in the table.
func (h half) is(e Entry) bool {
	switch {
	case h.flow == nil || h.reply != e.Reply || h.leaves() != e.Leaves:
		return false
	case h.reply:
		return e.Other == h.opening.where
	}
	return e.Other == h.replies.where || h.way.out == model.OutTunnel
}

// isStale is whether a direction was judged under other objects than now.
func (h half) isStale(epoch int) bool {
	if h.reply {
		return h.replyEpoch != epoch
	}
	return h.openEpoch != epoch
}

// keeps is whether the datapath goes by what it decided of a direction under other
// objects than now: it may where nothing has changed that this depends on, and then
// to judge it anew gives the same.
func (j *judgement) keeps(h half) ought {
	switch {
	case !h.isStale(j.oracle.epoch) || j.lookup == Anew:
		return mustNot
	case j.lookup == Met:
		return must
	}
	return may
}

func (h half) judged(epoch int) {
	if h.reply {
		h.replyEpoch = epoch
	} else {
		h.openEpoch = epoch
	}
}

// memory holds flows by both keys. A key has the newest.
type memory map[flowKey]half

// insert gives a flow that begins both its keys. What had one of them has lost
// it: what is left may be there for its time, or not. Where both are one the
// opening half is written last.
func (m memory) insert(f *flow, now time.Time) {
	m.take(f.replies, half{f, true}, now)
	m.take(f.opening, half{f, false}, now)
}

func (m memory) take(key flowKey, h half, now time.Time) {
	if old := m[key]; old.flow != nil && old.flow != h.flow {
		if old.opening == h.opening && old.replies == h.replies && !h.reply {
			m.remove(old.flow)
		} else {
			old.tear(now)
		}
	}
	m[key] = h
}

func (m memory) remove(f *flow) {
	for _, key := range []flowKey{f.opening, f.replies} {
		if m[key].flow == f {
			delete(m, key)
		}
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

// resets is whether a packet is a TCP reset.
func (h *headers) resets() bool { return h.tuple.Protocol == model.ProtocolTCP && h.tcp&flagRST != 0 }

// begins is whether a packet begins a connection where one has ended.
func (h *headers) begins() bool {
	return h.tuple.Protocol == model.ProtocolTCP && h.tcp&(flagSYN|flagACK) == flagSYN
}

// next is where a flow is after a packet.
func (f *flow) next(h *headers, reply bool) states {
	next := f.states.after(h.tcp, reply)
	if f.way.out == model.OutTunnel {
		next = next.relayed(h.tcp)
	}
	return next
}

// asks notes that a packet of the opener's may be what opened the connection.
func (f *flow) asks(h *headers, sure ought) {
	if h.tcp&flagSYN != 0 {
		f.asked = max(f.asked, sure)
	}
}

// begin is where a flow is after the packet that opens it.
func (f *flow) begin(h *headers, is effect, now time.Time) {
	f.asked = mustNot
	f.asks(h, must)
	f.sides = [2]side{}
	var first states
	if is&counts != 0 {
		first |= began(f.opening.tuple.Protocol, h.tcp)
		f.shows(h, false, is == counts)
	}
	if is&idles != 0 { // as if it had said nothing
		first |= began(f.opening.tuple.Protocol, 0)
	}
	if f.way.out == model.OutTunnel {
		first |= first.relayed(h.tcp) // the datapath may make that of it or not
	}
	f.see(first, now)
}

// Collect says that the datapath's collector ran at a time: the flows whose
// time was over are gone.
func (o *Oracle) Collect(now time.Time) {
	for key, since := range o.dying {
		_, there := o.sees(key) // as are flows that nobody answered, until others need the room
		if now.Sub(since) > endsEarly && !there {
			delete(o.dying, key)
		}
	}
	for key, h := range o.flows {
		if !h.over(h.opening.tuple.Protocol, now) {
			continue
		}
		// What nobody answered stays until others need the room: a flow that takes the
		// place of its answers makes it seem alive.
		if _, there := o.sees(key); there && h.states&^unanswered == 0 {
			continue
		}
		delete(o.flows, key)
		o.dying[key] = now
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
