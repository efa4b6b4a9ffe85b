// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model"
)

// decide looks for the flow of a packet, and judges it as known, as new, or,
// where nobody can tell, as both.
func (j *judgement) decide(open func()) {
	h := j.headers
	f := j.search(true)
	if perhaps, surely := j.strays(); perhaps {
		j.tell("it opens a connection where the answers of another go")
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonStraySYN}})
		if surely {
			return
		}
	}
	if perhaps, surely := j.isOutside(); perhaps {
		j.tell("its sequence number is none of the connection's that it would end")
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonOutOfWindow}})
		if surely {
			j.strayed = true
			return
		}
	}
	switch {
	case f.ought == mustNot:
		if f.flow != nil && j.isLed() {
			j.met = append(j.met, f.half) // it was found, and another pod was chosen
		}
	default:
		j.met = append(j.met, f.half)
		j.known(f.half, open)
		if f.ought == must {
			return
		}
	}
	if h.echoReply && (!j.isDevice() || j.isGuarded() && !j.isLed()) {
		j.tell("it answers no ping that is known")
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonICMPNoFlow}})
		if j.answersGateway() {
			j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonMartianDestination}})
		}
		if j.at.Hook == model.ToContainer && j.strayLinkLocal() {
			j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonMartianSource}})
		}
		return
	}
	open()
}

// meetAll notes the flow of a packet that is dropped in any case.
func (j *judgement) meetAll() {
	if h := j.oracle.flows[j.key]; j.headers.hasTuple && h.flow != nil {
		j.met = append(j.met, h)
	}
}

// known judges a packet of a known flow.
func (j *judgement) known(f half, open func()) {
	stale := f.isStale(j.oracle.epoch)
	kept := j.keeps(f)
	if stale && kept != must && !f.reply && f.frontend.addr.IsUnspecified() && !j.isLed() {
		j.tell("the flow came by a tunnel, and this by none: it is for the node that it names")
		open()
		if kept == mustNot {
			return
		}
	}
	if stale && !f.reply && f.service.IsZero() && j.at.Hook != model.ToContainer && j.isStray() {
		j.tell("the address that the flow leads to has become a service's")
		open()
		return
	}
	if stale && !f.service.IsZero() && !j.stillServes(f.flow) {
		j.tell("the flow's backend %s no longer serves Service %s", f.translated.Dst, f.service)
		if !f.reply || !j.isDevice() {
			j.again = f.hairpin || f.masqueraded() || f.translated.Sport != f.opening.tuple.Sport
			j.kept = f.translated.Sport
			open()
			j.again, j.kept = false, 0
		}
		if !f.reply {
			return
		}
		// What its backend still sends is an answer all the same, or, since
		// the contract is silent, a flow of its own.
	}
	if s := j.world.frontends[f.frontend]; stale && !f.service.IsZero() && !f.reply && s != nil && s.since > f.openEpoch {
		j.tell("Service %s was away for a while: its flows may be led elsewhere", f.service)
		open()
	}
	opens := f.way
	var reasons []model.Reason
	j.askAnew()
	if stale {
		opens, reasons = j.judgeAnew(f.flow)
	}
	if kept == must && len(reasons) == 0 {
		j.askAnew() // they were not asked, and so nothing is told
	}
	if stale && !f.reply && !f.service.IsZero() && j.isDevice() && opens.out == model.OutDevice && j.posesAsTunnel(f.translated) {
		reasons = append(reasons, model.ReasonBadTunnel)
	}
	// Its client's address may be a pod's by now.
	if stale && !f.reply && !f.service.IsZero() && j.at.Hook == model.FromDevice {
		reasons = append(append(reasons, j.stranger()...), j.answersAsTunnel()...)
	}
	if f.reply {
		j.tell("it answers the flow %s", f.opening.tuple)
		back := j.replyWay(f.flow)
		j.leave(Translation{Tuple: f.leaves(), Out: back.out, Endpoint: back.endpoint, flow: f.flow, known: true, kept: kept, reply: true, opens: f.way}, reasons)
		return
	}
	j.tell("it belongs to the flow %s, which leaves as %s", f.opening.tuple, f.translated)
	t := Translation{Tuple: f.translated, Out: opens.out, Endpoint: opens.endpoint, flow: f.flow, known: true, kept: kept, opens: opens}
	if stale {
		var sourceless []model.Reason
		t, sourceless = j.resource(f.flow, opens, kept)
		reasons = append(reasons, sourceless...)
		j.maybeShutOut(f.flow)
	}
	j.leave(t, reasons)
	if stale && f.service.IsZero() && j.at.Hook != model.ToContainer && j.frontend() != nil {
		// The address has become a service's since: the contract asks for the
		// policies alone, but looking it up again is as good.
		open()
	}
}

func (j *judgement) stillServes(f *flow) bool {
	s := j.world.frontends[f.frontend]
	if s == nil || s.service != f.service {
		return false
	}
	server, listed := s.serverAt(f.translated.Dst, f.translated.Dport)
	return listed && (server.eligible || f.opening.tuple.Protocol == model.ProtocolTCP || j.isLed())
}

// judgeAnew asks the policies of a flow's opening direction again, and where
// it leads now.
func (j *judgement) judgeAnew(f *flow) (way, []model.Reason) {
	opener := j.world.endpoint(f.opening.where.Endpoint)
	switch {
	case f.opening.where.Hook == model.FromDevice || f.opening.where.Hook == model.ToDevice:
		return j.judgeDeviceAnew(f)
	case opener == nil:
		j.tell("%s, which the flow belongs to, is no longer an endpoint", refOf(f.opening.where.Endpoint))
		return f.way, append(j.foreigner(), model.ReasonNoEndpoint, model.ReasonPolicyEgress, model.ReasonPolicyIngress)
	case !j.owns(opener, f):
		j.tell("%s, which the flow belongs to, has its address no longer", refOf(f.opening.where.Endpoint))
		return f.way, append(j.foreigner(), model.ReasonNoEndpoint)
	case f.opening.where.Hook == model.ToContainer:
		return f.way, j.ingress(opener, f.opening.tuple)
	case f.hairpin:
		return f.way, nil
	}
	t := f.translated
	t.Src = f.opening.tuple.Src // policy sees no masquerading
	way, reasons := j.permit(opener, t)
	if j.at.Hook != model.FromDevice {
		return way, reasons
	}
	// Where an answer came in by a device, only the opener's own policy is asked.
	if j.audit == model.ReasonAuditIngress {
		j.audit = model.ReasonNone
		j.heed(j.world.rule(model.Egress, opener, j.world.party(t.Dst), t.Protocol, t.Dport))
	}
	reasons = slices.DeleteFunc(reasons, func(r model.Reason) bool { return r == model.ReasonPolicyIngress })
	return f.way, append(reasons, j.foreigner()...)
}

// owns is whether the pod at whose hook a flow was opened still has the address
// that it had in it.
func (j *judgement) owns(pod *corev1.Pod, f *flow) bool {
	own := f.opening.tuple.Src
	if f.opening.where.Hook == model.ToContainer {
		own = f.opening.tuple.Dst
	}
	return slices.Contains(j.world.addresses[pod], own)
}

// replyWay is where the answers of a flow go: back where it was opened.
func (j *judgement) replyWay(f *flow) way {
	switch hook := f.opening.where.Hook; {
	case hook == model.FromContainer:
		return way{model.OutLocal, f.opening.where.Endpoint}
	case hook == model.FromDevice:
		return way{out: model.OutDevice}
	case hook == model.ToDevice:
		return way{out: model.OutHost}
	case j.world.isHost(f.opening.tuple.Src):
		return way{out: model.OutHost}
	}
	return way{out: model.OutDevice}
}

// openFromContainer judges the first packet of a flow that the pod opens.
func (j *judgement) openFromContainer() {
	t := j.headers.tuple
	if j.answersGateway() {
		j.tell("it answers nothing that came from the gateway %s", t.Dst)
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonMartianDestination}})
		return
	}
	if j.isStray() {
		j.refuseStray()
		return
	}
	s := j.frontend()
	if s == nil {
		j.askAnew()
		j.open(t, nil)
		return
	}
	j.choose(s, func(to server) {
		translated := t
		translated.Dst, translated.Dport = to.addr, to.port
		if to.addr == t.Src {
			j.hairpin(translated, s)
			return
		}
		j.open(translated, s)
	})
}

// refuse answers that nobody serves; an answer may quote the packet, which is
// not done for one with options or extension headers. A reset is never
// answered (RFC 9293 3.5.2), and neither is SCTP, nor what a tunnel has led here: the
// kernel does not let a program cut that.
func (j *judgement) refuse() {
	if j.isLed() || j.headers.resets() || j.headers.tuple.Protocol == model.ProtocolSCTP {
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoBackend}})
		return
	}
	j.branches = append(j.branches, branch{answer: model.ReasonNoBackend})
	if j.headers.extended {
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoBackend}})
	}
}

// open judges a new flow as it would leave.
func (j *judgement) open(translated model.Tuple, s *served) {
	to, reasons := j.permit(j.pod, translated)
	if source, _ := j.sourceFor(translated.Src, translated.Dst, j.at.Hook, to.out); source != translated.Src {
		j.tell("it leaves the cluster, and sees its source become %s", source)
		translated.Src = source
		j.leaveByPort(translated, to, s, reasons)
		return
	}
	j.leaveNew(translated, to, j.newFlow(translated, to, s), reasons)
}

func (j *judgement) leaveNew(translated model.Tuple, to way, f *flow, reasons []model.Reason) {
	if to.out != model.OutTunnel {
		c := j.portsFor(flow{opening: flowKey{j.at, j.headers.tuple}, translated: translated, way: to})
		c.plain = true
		j.leaveApart(translated, to, f, c, reasons)
		return
	}
	j.leave(Translation{Tuple: translated, Out: to.out, Endpoint: to.endpoint, flow: f, opens: to}, reasons)
}

// hairpin sends a pod's packet back to itself with the node's address, so that
// its answer comes by the datapath. No policy is asked: a pod never blocks
// itself.
func (j *judgement) hairpin(translated model.Tuple, s *served) {
	source, known := j.world.source(translated.Dst)
	if !known {
		j.tell("the pod would reach itself, and the node has no address of that family to stand between")
		j.leave(Translation{Tuple: translated, Out: model.OutLocal, Endpoint: j.at.Endpoint}, []model.Reason{model.ReasonNoSourcePort})
		return
	}
	j.tell("the pod reaches itself, and sees the node's address %s", source)
	translated.Src = source
	self := way{model.OutLocal, j.at.Endpoint}
	f := j.newFlow(translated, self, s)
	if f != nil {
		f.hairpin = true
	}
	taken, _ := j.portsFor(flow{opening: flowKey{j.at, j.headers.tuple}, translated: translated, way: self, hairpin: true}).ownTaken()
	busy := taken || j.again
	if busy && !hasPorts(translated) {
		busy = false
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoSourcePort}})
	}
	j.leave(Translation{Tuple: translated, AnySport: busy, Out: self.out, Endpoint: self.endpoint, flow: f, opens: self}, nil)
}

// newFlow is what would be remembered. A reset opens nothing.
func (j *judgement) newFlow(translated model.Tuple, to way, s *served) *flow {
	if j.headers.resets() {
		return nil
	}
	f := &flow{opening: flowKey{j.at, j.headers.tuple}, translated: translated, way: to, node: j.oracle.node}
	f.replies = f.answersAt()
	if s != nil {
		f.service, f.frontend = s.service, j.place()
		if s.affinity > 0 && !j.isLed() {
			f.sticks = s.keeps(j.headers.tuple.Protocol, j.headers.tuple.Src)
		}
	}
	return f
}

// permit asks the policies of both ends of what a pod of this node opens, and
// says where it goes. What the sender's own deny, the other end's have no say in.
func (j *judgement) permit(from *corev1.Pod, t model.Tuple) (way, []model.Reason) {
	var reasons []model.Reason
	egress := j.world.rule(model.Egress, from, j.world.party(t.Dst), t.Protocol, t.Dport)
	j.tell("%s", egress)
	j.heed(egress)
	if !egress.Allowed() {
		reasons = append(reasons, model.ReasonPolicyEgress)
	}
	if target := j.world.endpointAt(t.Dst); target != nil {
		ingress := j.world.rule(model.Ingress, target, j.world.party(t.Src), t.Protocol, t.Dport)
		j.tell("%s", ingress)
		if j.heed(ingress); !ingress.Allowed() && egress.Allowed() {
			reasons = append(reasons, model.ReasonPolicyIngress)
		}
		return way{model.OutLocal, j.world.nameOf(target).String()}, reasons
	}
	if j.world.isHost(t.Dst) {
		if ingress := j.nodeRules(model.Ingress, t); egress.Allowed() {
			reasons = ingress
		}
		return way{out: model.OutHost}, reasons
	}
	return way{out: model.OutDevice}, reasons
}

// nodeRules asks the policies of the node, if any select it, about a flow of its
// own.
func (j *judgement) nodeRules(direction model.Direction, t model.Tuple) []model.Reason {
	if !j.world.guards(j.oracle.node) {
		return nil
	}
	peer, denied := t.Src, model.ReasonPolicyIngress
	if direction == model.Egress {
		peer, denied = t.Dst, model.ReasonPolicyEgress
	}
	ruling := j.world.ruleNode(direction, j.oracle.node, j.world.party(peer), t.Protocol, t.Dport)
	j.tell("%s", ruling)
	j.heed(ruling)
	if ruling.Allowed() {
		return nil
	}
	return []model.Reason{denied}
}

// openToContainer judges the first packet of a flow that comes to the pod from
// the node or from beyond it.
func (j *judgement) openToContainer() {
	t := j.headers.tuple
	self := way{model.OutLocal, j.at.Endpoint}
	j.askAnew()
	reasons := j.ingress(j.pod, t)
	if j.strayLinkLocal() || j.ledOn && j.world.isHost(t.Src) {
		reasons = append(reasons, model.ReasonMartianSource)
	}
	j.leaveNew(t, self, j.newFlow(t, self, nil), reasons)
}

// ingress asks the policies of a pod about what does not come from a pod of
// this node.
func (j *judgement) ingress(target *corev1.Pod, t model.Tuple) []model.Reason {
	if j.world.isHost(t.Src) {
		j.tell("it comes from the node itself, which no policy shuts out")
		return nil
	}
	ruling := j.world.rule(model.Ingress, target, j.world.party(t.Src), t.Protocol, t.Dport)
	j.tell("%s", ruling)
	j.heed(ruling)
	if ruling.Allowed() {
		return nil
	}
	return []model.Reason{model.ReasonPolicyIngress}
}

func (j *judgement) noRoute(t model.Tuple) []model.Reason {
	if !j.world.hasRoute(t.Dst) {
		j.tell("the node has no route to %s", t.Dst)
		return []model.Reason{model.ReasonNoRoute}
	}
	if j.oracle.RoutesUnknown {
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoRoute}})
	}
	return nil
}

// leave adds a branch: a drop for reasons, else the translation. What this
// node routes needs a hop left, and loses it.
func (j *judgement) leave(t Translation, reasons []model.Reason) {
	t.Portless, t.Audit = j.headers.later(), j.audit
	routed := (j.at.Hook == model.FromContainer || j.at.Hook == model.FromDevice) && (t.Out == model.OutLocal || t.Out == model.OutDevice || t.Out == model.OutTunnel)
	if routed {
		t.Hops = 1
	}
	if routed && t.Out != model.OutLocal {
		reasons = append(reasons, j.noRoute(t.Tuple)...)
	}
	if routed && j.headers.hops <= 1 {
		j.tell("its TTL or hop limit is %d, and it would be routed", j.headers.hops)
		reasons = append(reasons, model.ReasonTTLExceeded)
	}
	if t.Out == model.OutTunnel {
		j.leaveWrapped(t, reasons)
		return
	}
	j.branches = append(j.branches, branch{reasons: reasons, refused: j.refusals(), translation: t})
}
