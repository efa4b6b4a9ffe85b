// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
)

// judge asks the model about everything that happens in a world. Each node is
// judged by itself: what is right on one says nothing of what others know.
type judge struct {
	benches   []*bench                // by the index of the node
	now       func() time.Time        // by the datapaths' clocks
	reasons   map[model.Reason]uint64 // steps by their reason
	disagreed []Disagreement
	story     []string
	looked    *oracle.Look                                        // at the frame that a hook is about to see
	expected  oracle.Expectation                                  // of the step before
	doubt     func([]byte, oracle.Expectation) oracle.Expectation // nil outside of tests
}

// bench is what is known of one node.
type bench struct {
	node      string
	oracle    *oracle.Oracle
	endpoints map[int]string // names of pods by their devices
}

// at gives the bench of a node; of the first for the empty name.
func (j *judge) at(node string) *bench {
	for _, b := range j.benches {
		if b.node == node {
			return b
		}
	}
	return j.benches[0]
}

// Disagreement is a frame on which model and datapath do not agree.
type Disagreement struct {
	Where    model.Where
	Expected string // by the model
	Got      string // from the datapath
	// Itself is set where the program does not agree with itself, and says which
	// of its two words is the odd one.
	Itself string
	// Entry is what is wrong with an entry of the flow table, where it is that.
	Entry string
}

// contradicts tells of a program that did something else than it noted.
func contradicts(c *datapath.Contradiction, where model.Where, e oracle.Expectation, noted oracle.Outcome) Disagreement {
	d := Disagreement{Where: where, Expected: e.String(), Got: c.Error()}
	switch {
	case e.Check(noted) == nil:
		d.Itself = "what the program did: its note is what the model expects"
	case c.Returned.Conduct() == conduct(&e):
		d.Itself = "the program's note: what it did is what the model expects"
	default:
		d.Itself = "the program: it neither noted nor did what the model expects"
	}
	return d
}

// conduct is what the kernel has to do with a frame, as the model sees it.
func conduct(e *oracle.Expectation) datapath.Conduct {
	stays := func(t oracle.Translation) bool { return t.Out == model.OutHost || t.Unchanged }
	switch {
	case e.Action == model.Drop:
		return datapath.Drops
	case e.Action == model.Forward && slices.ContainsFunc(e.Translations, stays):
		return datapath.Passes
	}
	return datapath.Redirects
}

func (d Disagreement) String() string {
	return fmt.Sprintf("%s: the datapath did %s, the model expects %s", d.Where, d.Got, d.Expected)
}

// newJudge makes a judge; locals are what each node knows of itself.
func newJudge(topo lab.Topology, locals []model.Local, now func() time.Time) *judge {
	j := &judge{now: now, reasons: map[model.Reason]uint64{}}
	for i, local := range locals {
		b := &bench{
			node: topo.Nodes[i].Name, oracle: oracle.NewOracle(topo.Nodes[i].Name, local),
			endpoints: make(map[int]string, len(local.Devices)),
		}
		if topo.SmallShares {
			b.oracle.FlowShare, b.oracle.FragmentShare = lab.SmallShare, lab.SmallShare
			b.oracle.Refusals = oracle.Refusals{Every: lab.SmallRefusals, Burst: lab.SmallShare}
		}
		for name, d := range local.Devices {
			b.endpoints[d.Ifindex] = name.String()
		}
		j.benches = append(j.benches, b)
	}
	return j
}

// reset forgets what was said of the step before.
func (j *judge) reset() { j.disagreed, j.story = nil, nil }

// see has the oracle of a node see the flow table of its datapath.
func (j *judge) see(node string, dp *datapath.Datapath) {
	b := j.at(node)
	node = b.node
	ifindexes := make(map[string]int, len(b.endpoints))
	for ifindex, name := range b.endpoints {
		ifindexes[name] = ifindex
	}
	reader := dp.FlowReader()
	b.oracle.Sight = func(at model.Where, t model.Tuple) (oracle.Entry, bool) {
		e, there, err := reader.Entry(at.Hook, ifindexes[at.Endpoint], t)
		if err != nil {
			j.disagreed = append(j.disagreed, Disagreement{Where: at, Expected: "a flow table that can be read", Got: err.Error()})
		}
		other := model.Where{Hook: e.Other, Endpoint: node}
		if e.OtherIfindex != 0 {
			other.Endpoint = b.endpoints[e.OtherIfindex]
		}
		return oracle.Entry{
			Reply: e.Reply, Leaves: e.Leaves, Other: other, Dead: e.Dead,
			Answered: e.Answered, Translated: e.Translated, Hairpin: e.Hairpin, Source: e.Source,
			Out: e.Out, Ifindex: e.Ifindex, SMAC: e.SMAC, DMAC: e.DMAC,
			Current: e.Current, Service: e.Service, Origin: e.Origin, Seen: e.Seen,
			LastSeen: e.LastSeen, Routed: e.Routed, AddrDiff: e.AddrDiff, PortDiff: e.PortDiff,
			Sent: oracle.Number(e.Sent), Acked: oracle.Number(e.Acked), Here: e.Here,
		}, there
	}
	b.oracle.Clock = func() (time.Duration, time.Duration) {
		least, most, err := reader.Now()
		if err != nil {
			j.disagreed = append(j.disagreed, Disagreement{Expected: "a clock that can be read", Got: err.Error()})
		}
		return least, most
	}
}

// look reads a frame, and the flow that it is of, before a hook sees it.
func (j *judge) look(node string, at model.Where, data []byte, now time.Time, ledOn bool) {
	j.looked = j.at(node).oracle.Look(data, at, now)
	if ledOn {
		j.looked.LedOn()
	}
}

var lookups = map[datapath.FlowLookup]oracle.Lookup{
	datapath.FlowNew: oracle.Missed, datapath.FlowKnown: oracle.Met, datapath.FlowRejudged: oracle.Anew,
}

// step compares what a hook did to a frame with what the model expects.
func (j *judge) step(s lab.Step, now time.Time) {
	where := model.Where{Hook: s.Hook, Endpoint: s.Endpoint}
	b := j.at(s.Node)
	look, early := j.looked, j.looked != nil
	if j.looked = nil; !early {
		look = b.oracle.Look(s.In, where, now)
	}
	e := look.Judge(lookups[s.Decision.Flow])
	if j.doubt != nil {
		e = j.doubt(s.In, e)
	}
	j.expected = e
	j.story = append(j.story, e.Story...)
	j.reasons[s.Decision.Reason]++
	got := b.outcome(s)
	wrong := e.Check(got)
	if got.Action != model.Forward || wrong != nil {
		b.oracle.Meet(e, now)
	}
	if s.Contradiction != nil {
		j.disagreed = append(j.disagreed, contradicts(s.Contradiction, where, e, got))
		return
	}
	if wrong != nil {
		j.disagreed = append(j.disagreed, Disagreement{Where: where, Expected: e.String(), Got: got.String()})
		return
	}
	if got.Action == model.Forward {
		j.hops(s, where, e)
		j.untouched(s, where, e)
		b.oracle.Observe(e, got.Tuple, now)
	}
	if got.Action == model.Reply {
		b.oracle.Answered(e, got.Reason, now)
	}
	if early {
		j.left(look, where, oracle.Said{Origin: s.Decision.Origin, Ifindex: s.Decision.Ifindex, Dropped: s.Decision.Action == model.Drop})
	}
}

// left compares what is in the flow table of the frame that a hook has seen.
func (j *judge) left(look *oracle.Look, where model.Where, said oracle.Said) {
	for _, wrong := range look.Left(said) {
		j.disagreed = append(j.disagreed, Disagreement{Where: where, Expected: "another entry in the flow table", Got: "leave one that is wrong: " + wrong, Entry: wrong})
	}
}

func (b *bench) outcome(s lab.Step) oracle.Outcome {
	o := oracle.Outcome{Action: s.Decision.Action, Reason: s.Decision.Reason}
	if o.Action != model.Forward {
		return o
	}
	o.Told = true
	o.Out = s.Decision.Out
	if o.Out == model.OutLocal {
		o.Endpoint = b.endpoints[s.Decision.Ifindex]
		if s.Hook == model.ToContainer {
			o.Endpoint = s.Endpoint
		}
	}
	p := frame.Decode(s.Out)
	if t, ok := p.Tuple(); ok {
		o.Tuple = t
	}
	if inner, ok := p.Carried(); ok && o.Out == model.OutTunnel {
		o.Inner, _ = inner.Tuple()
		p = inner
	}
	if q, ok := p.Quoted(); ok {
		o.Quoted, _ = q.Tuple()
	}
	return o
}

// hops compares by how much the time to live went down, where the model
// leaves no choice.
func (j *judge) hops(s lab.Step, where model.Where, e oracle.Expectation) {
	in, out := frame.Decode(s.In), frame.Decode(s.Out)
	before, wasIn := in.Carried()
	after, isIn := out.Carried()
	switch {
	case wasIn && !isIn: // taken out of a tunnel
		in = before
	case isIn && !wasIn:
		out = after
	case isIn && s.Decision.Out == model.OutTunnel:
		// It came in a tunnel and leaves in another, or is put into one as it is.
		if out = after; bytes.Equal(after.Transport(), before.Transport()) {
			in = before
		}
	}
	if in.Version == 0 || out.Version == 0 {
		return
	}
	got := int(in.TTL) - int(out.TTL)
	for _, t := range e.Translations {
		if t.Hops == got {
			return
		}
	}
	if len(e.Translations) > 0 {
		j.disagreed = append(j.disagreed, Disagreement{Where: where,
			Expected: fmt.Sprintf("the time to live to go down by %d", e.Translations[0].Hops), Got: fmt.Sprintf("let it go down by %d", got)})
	}
}

// untouched compares the bytes of a frame that is nobody's but the kernel's.
func (j *judge) untouched(s lab.Step, where model.Where, e oracle.Expectation) {
	changes := func(t oracle.Translation) bool { return !t.Unchanged }
	if bytes.Equal(s.In, s.Out) || len(e.Translations) == 0 || slices.ContainsFunc(e.Translations, changes) {
		return
	}
	j.disagreed = append(j.disagreed, Disagreement{Where: where, Expected: "the frame to leave as it came", Got: fmt.Sprintf("make %x of %x", s.Out, s.In)})
}

// Outcomes of an exchange, as stories call them.
const (
	answered  = "an answer"
	refusal   = "a refusal"
	timeout   = "a timeout"
	brokenOff = "a reset"
)

// intent is an exchange of real sockets, of which only the ends are seen.
type intent struct {
	outcome string
	server  netip.Addr     // who accepted; the zero Addr when nobody did
	peer    netip.AddrPort // whom the server saw
	// serves says whether somebody answers at an address: what the model
	// lets through to there has to be answered.
	serves func(model.Tuple) bool
	// next is the hook that a packet meets behind one that let it pass as t.
	next func(at place, t oracle.Translation) (place, bool)
}

// exchange compares an exchange with what the model expects of its first
// packet, hook by hook. What the model lets through may still be refused by
// who gets it.
func (j *judge) exchange(in intent, at place, t model.Tuple) {
	now := j.now()
	packet, err := opening(t)
	// More hooks than these no way has.
	for range 8 {
		if err != nil {
			return
		}
		b := j.at(at.node)
		e := b.expect(packet, at, now)
		j.story = append(j.story, e.Story...)
		expected, onwards := "", false
		switch {
		case e.Action == model.Drop:
			if len(e.Alternatives) == 0 && in.outcome != timeout {
				expected = timeout
			}
		case e.Action == model.Reply:
			replied := refusal
			if reason := e.Reasons[0]; (t.Protocol == model.ProtocolICMP || t.Protocol == model.ProtocolICMPv6) &&
				reason != model.ReasonPolicyEgress && reason != model.ReasonPolicyIngress {
				replied = answered // the datapath answers pings, but for policies
			}
			maybeDropped := slices.ContainsFunc(e.Alternatives, func(e oracle.Expectation) bool { return e.Action == model.Drop })
			if in.outcome != replied && !(maybeDropped && in.outcome == timeout) {
				expected = replied
			}
		case in.server.IsValid():
			var t oracle.Translation
			at, t, onwards, expected = b.towards(in, at, e, now)
			packet, err = leaving(t)
		case len(e.Translations) == 1:
			var next place
			if next, onwards = in.next(at, e.Translations[0]); onwards {
				at = next
				packet, err = leaving(e.Translations[0])
				break
			}
			fallthrough
		default:
			if in.outcome == timeout && len(e.Alternatives) == 0 && in.servedWherever(at, e) {
				expected = answered
			}
		}
		if expected != "" {
			j.disagreed = append(j.disagreed, Disagreement{Where: at.where, Expected: expected + " (" + e.String() + ")", Got: in.outcome})
		}
		if !onwards {
			return
		}
	}
}

// led compares an exchange of a node whose sockets have programs with where the
// model says that they lead it, and gives the packet that leaves then; false
// where none does, or where nobody can tell which.
func (j *judge) led(in intent, node string, t model.Tuple) (model.Tuple, bool) {
	l := j.at(node).oracle.Lead(netip.AddrPortFrom(t.Dst, t.Dport), t.Protocol)
	j.story = append(j.story, l.Story...)
	disagree := func(expected, got string) (model.Tuple, bool) {
		j.disagreed = append(j.disagreed, Disagreement{Where: model.Where{Hook: datapath.Socket, Endpoint: node}, Expected: expected, Got: got})
		return t, false
	}
	switch {
	case l.Refused != model.ReasonNone && in.outcome != refusal:
		return disagree(refusal+" ("+string(l.Refused)+")", in.outcome)
	case l.Refused != model.ReasonNone:
		return t, false
	case len(l.Servers) == 0:
		return t, true
	case !in.server.IsValid() && len(l.Servers) > 1:
		return t, false
	}
	for _, s := range l.Servers {
		if !in.server.IsValid() || s.Addr() == in.server {
			t.Dst, t.Dport = s.Addr(), s.Port()
			return t, true
		}
	}
	return disagree(fmt.Sprintf("one of the servers %s", l.Servers), "the server "+in.server.String())
}

// expect is what the model says of a packet at a hook.
func (b *bench) expect(packet []byte, at place, now time.Time) oracle.Expectation {
	look := b.oracle.Look(packet, at.where, now)
	if at.ledOn {
		look = look.LedOn()
	}
	return look.Judge(oracle.Untold)
}

// servedWherever says whether all that the model lets the packet become is
// answered, as far as no other hook has a say.
func (in intent) servedWherever(at place, e oracle.Expectation) bool {
	for _, t := range e.Translations {
		if _, onwards := in.next(at, t); onwards || !in.serves(t.Tuple) {
			return false
		}
	}
	return true
}

// towards finds which of the possible translations led to who accepted, tells
// the oracle, and gives the next hook on the way, if there is one. When none
// did, it says what was expected.
func (b *bench) towards(in intent, at place, e oracle.Expectation, now time.Time) (next place, got oracle.Translation, onwards bool, expected string) {
	for _, t := range straightFirst(e.Translations, in.server) {
		got = t
		next, onwards = in.next(at, t)
		switch {
		case t.Out == model.OutTunnel && t.Tuple.Dst != in.server, t.Tuple.Dst != in.server && !onwards:
			continue
		case t.Out != model.OutTunnel && t.Tuple.Dst == in.server:
			got.Tuple.Src, got.Tuple.Sport = in.peer.Addr(), in.peer.Port()
		}
		if e.Check(oracle.Outcome{Action: model.Forward, Tuple: got.Tuple}) == nil {
			b.oracle.Observe(e, got.Tuple, now)
			return next, got, onwards, ""
		}
	}
	return at, got, false, "another server than " + in.server.String() + ", or another address seen by it than " + in.peer.String()
}

// straightFirst puts what leads to the server itself before what another hook
// may still lead there.
func straightFirst(ways []oracle.Translation, server netip.Addr) []oracle.Translation {
	var straight, rest []oracle.Translation
	for _, t := range ways {
		if t.Tuple.Dst == server {
			straight = append(straight, t)
		} else {
			rest = append(rest, t)
		}
	}
	return append(straight, rest...)
}

// onTheWire gives the tuple of the packet that left for one that is to come to
// a pod as t: another, where a tunnel leads there.
func onTheWire(t model.Tuple, all []oracle.Translation) model.Tuple {
	for _, possible := range all {
		if possible.Out == model.OutTunnel && possible.Tuple.Dst == t.Dst {
			return possible.Tuple
		}
	}
	return t
}

// sent compares by which counters rose what became of a frame. Other packets
// are counted too: one counter that fits is enough. leftAs knows what became
// of a tuple, where the model leaves a choice.
func (j *judge) sent(data []byte, at place, before, after map[model.Reason]uint64, leftAs func(model.Tuple) (model.Tuple, bool)) error {
	now := j.now()
	b := j.at(at.node)
	e := b.expect(data, at, now)
	j.story = e.Story
	var rose []string
	for reason, n := range after {
		if n == before[reason] {
			continue
		}
		if reason == model.ReasonNone {
			rose = append(rose, "forward")
		} else {
			rose = append(rose, string(reason))
		}
		for _, possible := range append([]oracle.Expectation{e}, e.Alternatives...) {
			if reason == model.ReasonNone && possible.Action == model.Forward {
				first := possible.Translations[0]
				if len(possible.Translations) == 1 && !first.AnySport {
					b.oracle.Observe(e, first.Tuple, now)
				} else if left, ok := leftAs(e.Tuple); ok {
					b.oracle.Observe(e, onTheWire(left, possible.Translations), now)
				}
				return nil
			}
			if slices.Contains(possible.Reasons, reason) {
				b.oracle.Meet(e, now)
				return nil
			}
		}
	}
	slices.Sort(rose)
	return mismatch("the counters do not say what the model expects").with(at.where.String(), e.String(), "counters that rose: "+strings.Join(rose, ", "))
}
