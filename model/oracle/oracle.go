// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Oracle says what should happen to frames on one node. It is for one
// goroutine at a time.
type Oracle struct {
	// RoutesUnknown is set where the kernel's routes are not those of
	// Local.Routes for sure: a frame that leaves by a device may then be
	// dropped for want of a route as well.
	RoutesUnknown bool
	// Sight is the datapath's flow table, where the world sees it; nil: it is not
	// seen, and flows are held to be there by what became of their packets.
	Sight Sight
	// Clock is the flow table's, where the world sees that; nil: times in it are
	// not looked at.
	Clock Clock
	// FlowShare is how many flows that nobody has answered a pod may have before its
	// first ones give way, and FragmentShare how many fragmented packets are
	// remembered of those that one hook of one endpoint has seen, where that is
	// known; 0: any number.
	FlowShare, FragmentShare int
	// Refusals bound how often senders are told why their packets go no farther.
	Refusals Refusals
	// Terse leaves Story empty, for who asks a hundred thousand times a second.
	Terse bool

	node  string
	local model.Local
	world *knowledge
	epoch int // of the objects: flows of older ones are judged anew
	flows memory
	// fragments are the first ones of packets that came in parts.
	fragments map[fragmentKey]firstFragment
	// openings and parts are what each hook has taken its turns with, of flows and of
	// fragmented packets, the oldest first.
	openings map[model.Where][]flowKey
	parts    map[model.Where][]fragmentKey
	// dying are keys of flows that the collector took, and when: the datapath
	// gives their source ports to nobody until it comes again.
	dying map[flowKey]time.Time
	// affinities are the backends that clients' flows stay with, as far as is
	// known.
	affinities map[affinityKey]preference
	// told is how far ahead of time each hook's refusals are.
	told map[model.Where]tolds
	// noted is what the packet that was judged last has met or made.
	noted noted
}

// NewOracle gives an oracle that knows of no object and no flow yet.
func NewOracle(node string, local model.Local) *Oracle {
	return &Oracle{
		node: node, local: local, world: know(manifest.NewObjects(), node, local),
		flows: memory{}, fragments: map[fragmentKey]firstFragment{}, openings: map[model.Where][]flowKey{}, parts: map[model.Where][]fragmentKey{}, dying: map[flowKey]time.Time{},
		affinities: map[affinityKey]preference{}, told: map[model.Where]tolds{}, Refusals: defaultRefusals,
	}
}

// SetObjects gives the objects that hold from now on; the oracle keeps objs,
// so nobody may change it afterwards. Known flows are judged by them at their
// next packet. A service that no EndpointSlice belongs to is served by the
// pods that its selector matches.
func (o *Oracle) SetObjects(objs *manifest.Objects) {
	o.SetNetwork(objs, o.local)
}

// SetNetwork is SetObjects for when devices, gateways or routes change too.
func (o *Oracle) SetNetwork(objs *manifest.Objects, local model.Local) {
	before := o.world.frontends
	o.local = local
	o.world = know(objs, o.node, local)
	o.epoch++
	kept := map[affinityKey]int{}
	for key, s := range before {
		if group := s.keeps(key.protocol, netip.Addr{}); s.affinity > 0 {
			kept[group] = s.stays
		}
	}
	for key, s := range o.world.frontends {
		s.since, s.stays = o.epoch, o.epoch
		if stays, found := kept[s.keeps(key.protocol, netip.Addr{})]; found {
			s.stays = stays
		}
		if was, found := before[key]; found {
			s.since = was.since
		}
	}
}

// Evaluate says what should happen to frame at where; it changes nothing. The
// frame begins with its Ethernet header. Any bytes have an answer.
func (o *Oracle) Evaluate(frame []byte, at model.Where, now time.Time) Expectation {
	return o.Look(frame, at, now).Judge(Untold)
}

// Judge says what should have happened to the frame; lookup is what the datapath
// says of its flow. It is called once.
func (l *Look) Judge(lookup Lookup) Expectation {
	j, at := l.j, l.j.at
	j.lookup, j.oracle.noted = lookup, noted{}
	switch h := j.headers; {
	case j.isDevice():
		j.atDevice()
	case at.Hook == model.ToContainer && (h.arp != nil || h.nd != nil):
		j.toContainer() // passes whatever is known of the pod
	case j.pod == nil:
		j.meetAll()
		j.condemn(model.ReasonNoEndpoint, "%s is not an endpoint of node %s", at.Endpoint, j.oracle.node)
		if perhaps, _ := j.strays(); perhaps {
			j.condemn(model.ReasonStraySYN, "and what was known of its flows is out of date")
		}
		if perhaps, _ := j.isOutside(); perhaps {
			j.condemn(model.ReasonOutOfWindow, "and what was known of its flows is out of date")
		}
		if h.quote != nil {
			j.condemn(model.ReasonICMPNoFlow, "what was known of its flows is out of date")
			j.wrong = append(j.wrong, j.impostor()...)
			if at.Hook == model.ToContainer && isMartianSource(h.src) {
				j.condemn(model.ReasonMartianSource, "no host has the source address %s", h.src)
			}
			if local := j.world.endpointAt(h.src); at.Hook == model.ToContainer && local != nil {
				j.condemn(model.ReasonSpoofedSource, "%s is %s of this node, whose packets never come this way", h.src, j.world.nameOf(local).Ref())
			}
		}
	case at.Hook == model.ToContainer:
		j.toContainer()
	default:
		j.fromContainer()
	}
	h := j.headers
	e := j.expectation()
	e.frame, e.at, e.met, e.illegal, e.unsent = *h, at, j.met, j.illegal, j.unsent
	if h.hasTuple || h.quote != nil {
		e.Tuple = h.tuple
	}
	return e
}

// Observe tells the oracle how a frame that was forwarded left, so that it
// knows the flow: which backend was chosen, which source port a hairpin got.
// What e does not allow is not learned from.
func (o *Oracle) Observe(e Expectation, observed model.Tuple, now time.Time) {
	o.learnFragment(&e, now)
	var chosen *Translation
	doubtful := false
	for _, possible := range e.all() {
		for i := range possible.Translations {
			t := &possible.Translations[i]
			switch {
			case !t.leavesAs(observed), o.hasNotOpened(t):
			case chosen == nil:
				chosen = t
			case t.flow != chosen.flow:
				doubtful = true
				// One that is known is kept, with its doubts.
				if t.known && !chosen.known {
					chosen = t
				}
			}
		}
	}
	switch {
	case chosen == nil, e.frame.quote != nil: // an error does not keep a flow
		return
	case chosen.flow == nil: // nothing says what became of those that it met
		for _, met := range e.met {
			met.tear(now)
		}
		return
	case chosen.Out == model.OutTunnel:
		observed = chosen.led
	}
	f := chosen.flow
	if chosen.known {
		f = o.goOn(half{f, chosen.reply}, &e.frame, chosen, observed, now)
	} else {
		f = o.open(f, &e.frame, chosen, e.met, observed, now)
		o.stick(f, doubtful, now)
	}
	if doubtful {
		f.tear(now)
	}
}

// hasNotOpened is whether a part of a packet has made nothing of a flow that would
// have a port of its own: the bytes of a later one do not tell.
func (o *Oracle) hasNotOpened(t *Translation) bool {
	if o.Sight == nil || !t.Portless || !t.AnySport || t.known || t.flow == nil {
		return false
	}
	e, there := o.sees(t.flow.opening)
	return !there || e.Dead
}

// Meet tells the oracle that a hook saw the frame that e is about, and did not
// forward it. The datapath looks flows up first: one whose packet it then dropped
// may have come as far as by one that passed.
func (o *Oracle) Meet(e Expectation, now time.Time) {
	o.learnFragment(&e, now)
	h := &e.frame
	if len(h.wrong) == 0 && h.quote == nil {
		for _, met := range e.met {
			is := met.effect(h, met.reply)
			if is&counts == 0 {
				continue
			}
			met.maySee(met.next(h, met.reply), now)
			met.shows(h, met.reply, false)
			if !met.reply {
				met.asks(h, may)
			}
		}
	}
	for i := range e.unsent {
		t := &e.unsent[i]
		if t.flow == nil || t.known {
			continue
		}
		before := o.flows[t.flow.opening]
		over := before.flow != nil && (before.ought(t.flow.opening.tuple.Protocol, now) == mustNot || h.begins() && before.states&^ended == 0)
		if made, seen := o.sees(t.flow.opening); seen && t.led == made.Leaves && (over || !before.is(made)) {
			o.stick(o.open(t.flow, h, t, e.met, t.led, now), false, now)
		}
	}
}

// goOn notes a packet of a known flow, and gives the flow that it is of now.
func (o *Oracle) goOn(f half, h *headers, t *Translation, observed model.Tuple, now time.Time) *flow {
	is := f.effect(h, f.reply) &^ outside
	next := f.next(h, f.reply)
	moved := *f.flow
	moved.way = t.opens
	if !t.Portless {
		moved.translated = observed
	}
	elsewhere := !f.reply && (moved.translated != f.translated || moved.answersAt() != f.replies)
	switch {
	case elsewhere && h.resets():
		f.asks(h, may)
		f.maySee(next, now) // it opens nothing, another way neither
		return f.flow
	case elsewhere:
		return o.open(f.flow, h, t, []half{f}, observed, now)
	case !f.reply && f.isStale(o.epoch) && t.kept != must: // judged anew, it has both its keys again
		if f.way = t.opens; f.ought(f.opening.tuple.Protocol, now) != must {
			next |= torn // its answers may have begun again
			f.sides[1] = f.sides[1].or(side{})
		}
		o.flows.take(f.replies, half{f.flow, true}, now)
	}
	switch is {
	case idles:
	case counts:
		f.see(next, now)
		f.shows(h, f.reply, true)
	default:
		f.maySee(next, now)
		f.shows(h, f.reply, false)
	}
	if !f.reply {
		f.asks(h, must)
	}
	f.judged(o.epoch)
	o.noted = noted{half: f, effect: is}
	return f.flow
}

// open notes a flow that begins, or begins again another way.
func (o *Oracle) open(like *flow, h *headers, t *Translation, met []half, observed model.Tuple, now time.Time) *flow {
	f := *like
	f.way, f.translated = t.opens, observed
	is := o.effectBegun(h, met)
	f.openEpoch, f.replyEpoch = o.epoch, o.epoch
	f.begin(h, is, now)
	if t.Portless { // its bytes do not tell the port
		made, seen := o.sees(f.opening)
		if f.translated = t.Tuple; t.AnySport && seen {
			f.translated = made.Leaves
		} else if t.AnySport {
			f.tear(now)
		}
	}
	f.replies = f.answersAt()
	before := o.flows[f.replies]
	again := before.reply && before.opening == f.opening
	// It has led elsewhere meanwhile, and back: what its answers were is there.
	if again && o.flows[f.opening].flow != before.flow {
		f.states |= before.states
	}
	if e, seen := o.sees(f.replies); again && seen && !e.Current {
		f.replyEpoch = before.replyEpoch // it is still what it was
	}
	kept := again && !(h.begins() && before.states&^ended == 0)
	if kept {
		f.sides[1] = before.sides[1].or(side{})
	}
	o.noted = noted{half: half{&f, false}, kept: kept, effect: is}
	_, goesOn := o.flows[f.opening]
	o.flows.insert(&f, now)
	if !goesOn {
		o.takeTurn(f.opening)
	}
	return &f
}

func (o *Oracle) sees(key flowKey) (Entry, bool) {
	if o.Sight == nil {
		return Entry{}, false
	}
	return o.Sight(key.where, key.tuple)
}

// judgement is one Look in progress. Reasons in wrong hold whatever else
// is decided; branches are what may be decided.
type judgement struct {
	oracle  *Oracle
	world   *knowledge
	headers *headers
	at      model.Where
	ledOn   bool // it came in by some device, and the node did not make it
	now     time.Time
	pod     *corev1.Pod   // nil when there is no endpoint
	through netip.Addr    // of the pod to which another node has led the packet
	key     flowKey       // by which its flow is looked for
	entry   Entry         // that was there
	was     bool          // there
	from    time.Duration // by the flow table's clock, when that was looked at
	seen    bool          // and alive
	lookup  Lookup
	illegal string        // what should have been met
	unsent  []Translation // that open a flow, and are not sent

	wrong    []model.Reason
	branches []branch
	met      []half         // that the packet may have met
	strayed  bool           // it is of no flow, whatever it says
	again    bool           // a known flow looks for another backend, and has a source port
	kept     uint16         // that port
	audit    model.Reason   // why the policies that were asked last would have dropped it, and only tell
	refused  []model.Reason // for which the policies that were asked last have its sender told
	rulings  []Ruling       // that were asked for
	story    []string
}

// branch is one thing that may be decided: a drop for one of reasons, or an answer
// where that is one of refused; else an answer, else a translation.
type branch struct {
	reasons     []model.Reason
	refused     []model.Reason
	answer      model.Reason
	translation Translation
}

// toItself is whether it leads a pod to itself.
func (b *branch) toItself() bool { return b.translation.flow != nil && b.translation.flow.hairpin }

func (j *judgement) tell(format string, args ...any) {
	if j.oracle.Terse {
		return
	}
	j.story = append(j.story, fmt.Sprintf(format, args...))
}

func (j *judgement) condemn(reason model.Reason, format string, args ...any) {
	j.wrong = append(j.wrong, reason)
	j.tell(format, args...)
}

// forward lets pass what is no flow.
func (j *judgement) forward(out model.Out, endpoint string) {
	j.branches = append(j.branches, branch{translation: Translation{Out: out, Endpoint: endpoint}})
}

// expectation gathers all branches. What condemns the frame by itself leaves
// only drops.
func (j *judgement) expectation() Expectation {
	forward := Expectation{Action: model.Forward}
	reply := Expectation{Action: model.Reply}
	drop := Expectation{Action: model.Drop, Reasons: slices.Clone(j.wrong)}
	for _, b := range j.branches {
		switch {
		case len(b.reasons) > 0:
			for _, reason := range b.reasons {
				if len(j.wrong) == 0 && slices.Contains(b.refused, reason) {
					reply.Reasons = append(reply.Reasons, reason)
					continue
				}
				drop.Reasons = append(drop.Reasons, reason)
			}
		case len(j.wrong) > 0:
		case b.answer != model.ReasonNone:
			reply.Reasons = append(reply.Reasons, b.answer)
		case !slices.Contains(forward.Translations, b.translation):
			forward.Translations = append(forward.Translations, b.translation)
		}
	}
	answered, silent := j.bound(reply.Reasons)
	reply.Reasons, drop.Reasons = answered, append(drop.Reasons, silent...)
	var right []Expectation
	if len(forward.Translations) > 0 {
		right = append(right, forward)
	}
	for _, e := range []Expectation{reply, drop} {
		slices.Sort(e.Reasons)
		e.Reasons = slices.Compact(e.Reasons)
		if len(e.Reasons) > 0 {
			right = append(right, e)
		}
	}
	e := right[0]
	e.Alternatives = right[1:]
	e.Story = j.story
	return e
}
