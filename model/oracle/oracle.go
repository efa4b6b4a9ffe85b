// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model"
)

// Oracle says what should happen to frames on one node. It is for one
// goroutine at a time.
type Oracle struct {
	// RoutesUnknown is set where the kernel's routes are not those of
	// Local.Routes for sure: a frame that leaves by a device may then be
	// dropped for want of a route as well.
	RoutesUnknown bool
	// Terse leaves Story empty, for who asks a hundred thousand times a second.
	Terse bool

	node  string
	local model.Local
	world *knowledge
	epoch int // of the objects: flows of older ones are judged anew
	flows memory
	// fragments are the first ones of packets that came in parts.
	fragments map[fragmentKey]firstFragment
	// dying are keys of flows that the collector took, or will, and when: the
	// datapath gives their source ports to nobody until it comes again.
	dying map[flowKey]time.Time
	// vague are flows whose source port nobody has seen yet.
	vague []*flow
	// affinities are the backends that clients' flows stay with, as far as is
	// known: all that are possible.
	affinities map[affinityKey][]preference
}

// NewOracle gives an oracle that knows of no object and no flow yet.
func NewOracle(node string, local model.Local) *Oracle {
	return &Oracle{
		node: node, local: local, world: know(model.NewObjects(), node, local),
		flows: memory{}, fragments: map[fragmentKey]firstFragment{}, dying: map[flowKey]time.Time{},
		affinities: map[affinityKey][]preference{},
	}
}

// SetObjects gives the objects that hold from now on; the oracle keeps objs,
// so nobody may change it afterwards. Known flows are judged by them at their
// next packet. A service that no EndpointSlice belongs to is served by the
// pods that its selector matches.
func (o *Oracle) SetObjects(objs *model.Objects) {
	o.SetNetwork(objs, o.local)
}

// SetNetwork is SetObjects for when devices, gateways or routes change too.
func (o *Oracle) SetNetwork(objs *model.Objects, local model.Local) {
	before := o.world.frontends
	o.local = local
	o.world = know(objs, o.node, local)
	o.epoch++
	for key, s := range o.world.frontends {
		s.since = o.epoch
		if was, found := before[key]; found {
			s.since = was.since
		}
	}
}

// Evaluate says what should happen to frame at where; it changes nothing. The
// frame begins with its Ethernet header. Any bytes have an answer.
func (o *Oracle) Evaluate(frame []byte, at model.Where, now time.Time) Expectation {
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
	switch {
	case j.isDevice():
		j.atDevice()
	case at.Hook == model.ToContainer && (h.arp != nil || h.nd != nil):
		j.toContainer() // passes whatever is known of the pod
	case j.pod == nil:
		j.meetAll()
		j.condemn(model.ReasonNoEndpoint, "%s is not an endpoint of node %s", at.Endpoint, o.node)
		if h.quote != nil {
			j.condemn(model.ReasonICMPNoFlow, "what was known of its flows is out of date")
		}
	case at.Hook == model.ToContainer:
		j.toContainer()
	default:
		j.fromContainer()
	}
	e := j.expectation()
	h = *j.headers
	e.frame, e.at, e.met, e.chances = h, at, j.met, j.chances
	if h.hasTuple || h.quote != nil {
		e.Tuple = h.tuple
	}
	return e
}

// Observe tells the oracle how a frame that was forwarded left, so that it
// knows the flow: which backend was chosen, which source port a hairpin got.
// What e does not allow is not learned from.
func (o *Oracle) Observe(e Expectation, observed model.Tuple, now time.Time) {
	o.Meet(e, now)
	var matching []Translation
	nothing := false // a branch in which there is no flow
	for _, possible := range e.all() {
		for _, t := range possible.Translations {
			switch {
			case !t.leavesAs(observed):
			case t.flow == nil:
				nothing = true
			default:
				matching = append(matching, t)
			}
		}
	}
	if len(matching) == 0 {
		return
	}
	// When the frame may have met a known flow or made a new one, and looks
	// the same either way, the flow is kept, with its doubts.
	chosen := matching[0]
	for _, t := range matching {
		if t.known {
			chosen = t
			break
		}
	}
	for _, t := range matching {
		if t.known && t.flow != chosen.flow {
			t.flow.meet(&e.frame, t.reply, now)
			t.flow.perhapsJudged(t.reply, o.epoch)
		}
	}
	if chosen.Out == model.OutTunnel {
		observed = chosen.led
	}
	doubtful := slices.ContainsFunc(matching, func(t Translation) bool { return t.flow != chosen.flow })
	f := chosen.flow
	if nothing { // known or not: it may have been a reset of no flow
		f.meet(&e.frame, chosen.reply, now)
		f.perhapsJudged(chosen.reply, o.epoch)
		if !chosen.reply {
			o.flows.claim(f, now)
		}
		return
	}
	if !chosen.known {
		fresh := *f
		f = &fresh
		if chosen.Portless {
			observed = chosen.Tuple
			o.blur(f, chosen.AnySport)
		}
		f.translated = observed
		f.replies = f.answersAt()
		f.replyEpoch = o.epoch
		o.linger(f, now)
		o.flows.insert(f, now)
		o.learnAffinity(&e, f, doubtful)
	}
	_, sure := f.presence(now)
	overdue := chosen.known && !chosen.reply && !sure && f.isStale(false, o.epoch)
	switch {
	case chosen.reply || e.frame.quote != nil:
	case chosen.Portless:
		f.translated = chosen.Tuple
	default:
		f.translated, f.vague = observed, false
	}
	if key, same := f.leads(chosen.opens); !same && chosen.known && !chosen.reply && e.frame.resets() {
		// A reset opens nothing, so that it need not open another way either.
		o.flows.perhaps(f, key)
	} else {
		f.way = chosen.opens
		if o.flows.reroute(f, now); !chosen.reply {
			o.flows.claim(f, now)
		}
		f.judged(chosen.reply, o.epoch)
	}
	switch {
	case overdue && !doubtful:
		f.restart() // what is judged anew after its time may be made anew
	case !doubtful || !chosen.known:
	case chosen.reply:
		o.flows.suspect(matching, f, observed, o.epoch, now)
	default:
		f.restart() // it may have
		o.flows.contest(f, f.opening, now)
		if f.answered {
			o.dying[f.replies] = now.Add(idleTCPEstablished) // see linger
		}
	}
	if e.frame.quote != nil {
		return // an error does not keep a flow
	}
	f.see(&e.frame, chosen.reply, doubtful, now)
	if f.suspected {
		f.surely, f.gone = time.Time{}, time.Time{}
		f.over = f.over.Add(idleTCPEstablished)
	}
}

// judgement is one Evaluate in progress. Reasons in wrong hold whatever else
// is decided; branches are what may be decided.
type judgement struct {
	oracle  *Oracle
	world   *knowledge
	headers *headers
	at      model.Where
	now     time.Time
	pod     *corev1.Pod // nil when there is no endpoint
	through netip.Addr  // of the pod to which another node has led the packet

	wrong    []model.Reason
	branches []branch
	met      []entry // of the flows that the packet may be of
	again    bool    // a known flow looks for another backend, and has a source port
	kept     uint16  // that port
	chances  []chance
	audit    model.Reason // why the policies that were asked last would have dropped it, and only tell
	story    []string
}

// branch is one thing that may be decided: a drop for one of reasons, else an
// answer, else a translation.
type branch struct {
	reasons     []model.Reason
	answer      model.Reason
	translation Translation
}

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
			drop.Reasons = append(drop.Reasons, b.reasons...)
		case len(j.wrong) > 0:
		case b.answer != model.ReasonNone:
			reply.Reasons = append(reply.Reasons, b.answer)
		case !slices.Contains(forward.Translations, b.translation):
			forward.Translations = append(forward.Translations, b.translation)
		}
	}
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
