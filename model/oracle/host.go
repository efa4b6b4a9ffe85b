// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

// atDevice judges what passes one of the node's own devices. What the kernel
// would know better is the kernel's.
func (j *judgement) atDevice() {
	h := j.headers
	switch {
	case len(j.wrong) > 0 && j.isLed():
	case j.feignsTunnel():
		j.wrong = j.wrong[:0]
		j.condemn(model.ReasonBadTunnel, "to the node of %s it would look like this node's tunnel", h.dst)
	case j.isMisled():
		j.tell("the kernel would lead it where nobody has judged it")
	case len(j.wrong) > 0 && j.guardsOdd():
	case len(j.wrong) > 0:
		j.wrong = j.wrong[:0]
		j.tell("the kernel is the judge of that")
		j.branches = append(j.branches, branch{reasons: j.unwelcome(), translation: j.unchanged()})
	case !h.isIP, h.nd != nil, isNobodys(h.dst):
		j.passBy("it is the kernel's own")
	case h.quote != nil:
		j.relatedAtDevice()
	case !h.hasTuple:
		j.passBy("it is the kernel's own")
	case j.at.Hook == model.FromDevice:
		j.decide(j.openFromDevice)
	default:
		j.decide(j.openToDevice)
	}
}

// isMisled is whether what is wrong with a packet first is such that not even the
// kernel is to have it: it names the way to others than its destination, or
// addresses of the other family.
func (j *judgement) isMisled() bool {
	if len(j.headers.wrong) == 0 {
		return false
	}
	switch j.headers.wrong[0] {
	case model.ReasonMartianSource, model.ReasonMartianDestination:
		return true
	case model.ReasonSourceRoute, model.ReasonBadIPOptions, model.ReasonRoutingHeader:
		return j.at.Hook == model.FromDevice
	}
	return false
}

// isGuarded is whether the packet is the node's own, which policies select:
// from or to its addresses, or link-local ones, which are nobody else's.
func (j *judgement) isGuarded() bool {
	if !j.isDevice() || !j.headers.isIP || isNobodys(j.headers.dst) || !j.world.guards(j.oracle.node) {
		return false
	}
	own := j.headers.src
	if j.at.Hook == model.FromDevice {
		own = j.headers.dst
	}
	return j.world.isHost(own) || own.IsLinkLocalUnicast()
}

// guardsOdd judges what is wrong with a packet of a node that policies select:
// what cannot be judged is dropped. A tunnel's UDP over IPv6 may lack a checksum,
// and is asked about by itself; ICMP that tells of something is the kernel's, and
// so is what has no IP header: the kernel refuses it.
func (j *judgement) guardsOdd() bool {
	h := j.headers
	ofHeaders := func(r model.Reason) bool {
		return r != model.ReasonTruncated && r != model.ReasonFragment && r != model.ReasonICMPNoFlow
	}
	tells := !h.nested && (h.message == errorMessage || h.message == unrelatedError) && !slices.ContainsFunc(j.wrong, ofHeaders)
	headless := slices.Contains(j.wrong, model.ReasonBadIPHeader) || slices.Contains(j.wrong, model.ReasonBadIPLength)
	if !j.isGuarded() || tells || headless {
		return false
	}
	if !slices.Equal(j.wrong, []model.Reason{model.ReasonBadUDPChecksum}) {
		j.tell("it is for nobody to judge, and policies select the node")
		return true
	}
	var reasons []model.Reason
	j.askAnew()
	if j.at.Hook == model.FromDevice {
		reasons = append(j.visitor(), j.nodeRules(model.Ingress, h.tuple)...)
	} else {
		reasons = j.nodeRules(model.Egress, h.tuple)
	}
	t := j.unchanged()
	t.Audit = j.audit
	j.wrong = j.wrong[:0]
	j.branches = append(j.branches, branch{reasons: reasons, translation: t})
	return true
}

// visitor is why nobody can have come to the node so.
func (j *judgement) visitor() []model.Reason {
	var reasons []model.Reason
	src := j.headers.src
	if isMartianDestination(src) && !src.IsLinkLocalUnicast() || j.world.isHost(src) {
		j.tell("nobody comes to the node from %s", src)
		reasons = append(reasons, model.ReasonMartianSource)
	}
	if local := j.world.endpointAt(src); local != nil {
		j.tell("%s is %s of this node, which is not outside", src, j.world.nameOf(local).Ref())
		reasons = append(reasons, model.ReasonSpoofedSource)
	}
	return reasons
}

// openToNode judges the first packet of a flow to a node that policies select.
func (j *judgement) openToNode() {
	t := j.headers.tuple
	to := way{out: model.OutHost}
	j.askAnew()
	reasons := append(j.visitor(), j.nodeRules(model.Ingress, t)...)
	j.leaveNew(t, to, j.newFlow(t, to, nil), reasons)
}

// isDevice is whether the packet is seen at one of the node's own devices.
func (j *judgement) isDevice() bool {
	return j.at.Hook == model.FromDevice || j.at.Hook == model.ToDevice
}

// isServedHere is whether the packet comes to a socket of the node's, to which a
// service leads others: with them it might be one to that socket.
func (j *judgement) isServedHere() bool {
	t := j.headers.tuple
	return j.world.sockets[place{t.Dst, t.Dport, t.Protocol}]
}

// isForMany is whether an address is multicast or the broadcast address.
func isForMany(addr netip.Addr) bool {
	return addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// isNobodys is whether no host has an address. What IPv4 keeps for later (class
// E) some networks have given to hosts of theirs.
func isNobodys(addr netip.Addr) bool {
	reserved := addr.Is4() && addr.As4()[0] >= 240 && !isForMany(addr)
	return isMartianDestination(addr) && !addr.IsLinkLocalUnicast() && !reserved
}

// passBy lets a packet go where it would have gone without a datapath, as it
// came.
func (j *judgement) passBy(why string) {
	j.tell("%s", why)
	if j.isLed() {
		j.tell("another node has led it here, where it is for nobody")
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonBadTunnel}})
		return
	}
	h := j.headers
	t := j.unchanged()
	switch {
	case h.later() && !h.hasTuple:
		t.Tuple, t.Portless = model.Tuple{Src: h.src, Dst: h.dst}, true
	case h.hasTuple, h.quote != nil:
		t.Tuple, t.Portless = h.tuple, h.later()
	}
	if h.quote != nil {
		t.Quoted = h.quote.tuple
	}
	j.branches = append(j.branches, branch{reasons: j.unwelcome(), translation: t})
}

// unwelcome is why the kernel is not to have what comes in by a device of the
// node: it would send on what is for a service's address.
func (j *judgement) unwelcome() []model.Reason {
	reasons := j.foreigner()
	h := j.headers
	if len(reasons) > 0 || j.at.Hook != model.FromDevice || !h.readable || h.nd != nil && len(h.wrong) == 0 || !j.world.services[h.dst] {
		return reasons
	}
	j.tell("%s is a service's address, and nobody else's", h.dst)
	return []model.Reason{model.ReasonNoFrontend}
}

// foreigner is why nobody beyond the node can have sent what comes in by a device
// of it. What neighbours say to each other, or to many, is let be, and so is who has
// no address yet and asks many for one.
func (j *judgement) foreigner() []model.Reason {
	h := j.headers
	if j.at.Hook != model.FromDevice || !h.readable || h.nd != nil && len(h.wrong) == 0 {
		return nil
	}
	neighbour, many := h.src.IsLinkLocalUnicast(), isForMany(h.dst)
	if neighbour && (many || h.dst.IsLinkLocalUnicast() || j.world.isHost(h.dst)) || many && h.src.IsUnspecified() {
		return nil
	}
	var reasons []model.Reason
	local := j.world.endpointAt(h.src)
	if local != nil {
		j.tell("%s is %s of this node, which does not come by a device of the node", h.src, j.world.nameOf(local).Ref())
		reasons = append(reasons, model.ReasonSpoofedSource)
	}
	switch {
	case j.world.isHost(h.src):
		j.tell("%s is this node's, and nobody else has it", h.src)
	case neighbour && j.world.endpointAt(h.dst) == nil:
		j.tell("%s is good on a link, and leads no farther", h.src)
	case isNobodys(h.src):
		j.tell("nobody has the source address %s", h.src)
	default:
		return reasons
	}
	return append(reasons, model.ReasonMartianSource)
}

// unchanged is how a packet leaves of which nothing is read.
func (j *judgement) unchanged() Translation {
	if j.at.Hook == model.ToDevice {
		return Translation{Out: model.OutDevice, Unchanged: true}
	}
	return Translation{Out: model.OutHost, Unchanged: true}
}

// openFromDevice judges the first packet of a flow that comes from beyond the
// node. Only what is for a service is anybody's but the kernel's.
func (j *judgement) openFromDevice() {
	s := j.frontend()
	if s == nil && (j.isGuarded() || j.isServedHere()) && !j.isLed() {
		j.openToNode()
		return
	}
	before := len(j.branches)
	switch {
	case j.isStray():
		j.refuseStray()
	case s == nil:
		j.passBy("no service is reached by that from outside")
		return
	default:
		j.choose(s, func(to server) { j.leadIn(s, to) })
	}
	doom := append(j.stranger(), j.answersAsTunnel()...)
	for i := range j.branches[before:] {
		if b := &j.branches[before+i]; len(doom) > 0 {
			b.reasons, b.answer = append(b.reasons, doom...), model.ReasonNone
		}
	}
}

// answersAsTunnel is why nobody may be led from where the packet comes from.
func (j *judgement) answersAsTunnel() []model.Reason {
	t := j.headers.tuple
	if j.world.tunnel() != model.TunnelGeneve || t.Protocol != model.ProtocolUDP || t.Sport != genevePort || !j.world.isPodOrWorkload(t.Src) {
		return nil
	}
	j.tell("its answers would look like this node's tunnel to the node of %s", t.Src)
	return []model.Reason{model.ReasonBadTunnel}
}

// stranger is why nobody outside can have sent the packet.
func (j *judgement) stranger() []model.Reason {
	t := j.headers.tuple
	var reasons []model.Reason
	if isMartianSource(t.Src) || j.world.isHost(t.Src) {
		j.tell("nobody outside has the source address %s", t.Src)
		reasons = append(reasons, model.ReasonMartianSource)
	}
	if local := j.world.endpointAt(t.Src); local != nil {
		j.tell("%s is %s of this node, which is not outside", t.Src, j.world.nameOf(local).Ref())
		reasons = append(reasons, model.ReasonSpoofedSource)
	}
	if t.Src == t.Dst {
		j.tell("source and destination are both %s", t.Src)
		reasons = append(reasons, model.ReasonSameAddress)
	}
	return reasons
}

// wayTo is where packets go that are sent to an address.
func (k *knowledge) wayTo(addr netip.Addr) way {
	if pod := k.endpointAt(addr); pod != nil {
		return way{model.OutLocal, k.nameOf(pod).String()}
	}
	if k.isHost(addr) {
		return way{out: model.OutHost}
	}
	return way{out: model.OutDevice}
}

// leadIn judges a flow from outside to one server of a service.
func (j *judgement) leadIn(s *served, server server) {
	t := j.headers.tuple
	t.Dst, t.Dport = server.addr, server.port
	to := j.world.wayIn(t.Src, t.Dst, t.Protocol)
	var reasons []model.Reason
	switch to.out {
	case model.OutLocal:
		reasons = j.ingress(j.world.endpointAt(t.Dst), t)
	case model.OutHost:
		reasons = j.nodeRules(model.Ingress, t)
	case model.OutDevice:
		if j.posesAsTunnel(t) {
			j.leave(Translation{Tuple: t, Out: to.out}, []model.Reason{model.ReasonBadTunnel})
			return
		}
		source, known := j.world.lent(t.Dst)
		if !known {
			j.tell("the node lends no address of that family, and the answer would not come back this way")
			j.leave(Translation{Tuple: t, Out: to.out}, []model.Reason{model.ReasonNoSourcePort})
			return
		}
		j.tell("it leaves with the node's address %s, so that its answer comes back this way", source)
		t.Src = source
		j.leaveByPort(t, to, s, nil)
		return
	}
	j.leaveNew(t, to, j.newFlow(t, to, s), reasons)
}

// openToDevice judges the first packet of a flow that the node itself opens to
// somewhere else.
func (j *judgement) openToDevice() {
	t := j.headers.tuple
	guarded := j.isGuarded()
	if !j.world.isHost(t.Src) && !guarded {
		j.passBy("the node only forwards it")
		return
	}
	if j.isStray() {
		j.refuseStray()
		return
	}
	if s := j.frontend(); s != nil {
		j.choose(s, func(to server) { j.leadOut(s, to) })
		return
	}
	to := way{out: model.OutDevice}
	j.askAnew()
	reasons := j.nodeRules(model.Egress, t)
	if !j.lends(t) && guarded {
		j.leaveNew(t, to, j.newFlow(t, to, nil), reasons)
		return
	}
	if !j.lends(t) {
		j.passBy("it is the node's own, and translated for nobody")
		return
	}
	// It is noted, so that nobody is lent its port.
	j.tell("it leaves from a port that flows may be lent")
	f := j.newFlow(t, to, nil)
	c := j.portsFor(flow{opening: flowKey{j.at, t}, translated: t, way: to})
	c.kept = j.kept
	if maybe, _ := c.ownTaken(); j.again || maybe && f != nil {
		// There is no room for it; or, the contract being silent of what
		// would come to its answers then, it is given another port.
		if hasPorts(t) {
			j.branches = append(j.branches, branch{reasons: reasons, refused: j.refusals(), translation: Translation{
				Tuple: t, Portless: j.headers.later(), AnySport: true, ports: c, Out: model.OutDevice, flow: f, opens: to, Audit: j.audit,
			}})
		}
		f = nil
		if before := j.oracle.flows[j.key]; before.flow != nil {
			j.met = append(j.met, before) // what it was is over
		}
	}
	j.branches = append(j.branches, branch{reasons: reasons, refused: j.refusals(), translation: Translation{
		Tuple: t, Portless: j.headers.later(), Unchanged: true, Out: model.OutDevice, flow: f, opens: to, Audit: j.audit,
	}})
}

// lends is whether a tuple's source is one that flows may be lent.
func (j *judgement) lends(t model.Tuple) bool {
	source, lends := j.world.lent(t.Src)
	first, last := j.world.lentPorts()
	ports := hasPorts(t) || t.Protocol == model.ProtocolSCTP
	return lends && source == t.Src && ports && t.Sport >= first && t.Sport <= last
}

// leadOut judges a flow of the node itself to one server of a service.
func (j *judgement) leadOut(s *served, server server) {
	t := j.headers.tuple
	t.Dst, t.Dport = server.addr, server.port
	to := j.world.wayTo(t.Dst)
	var reasons []model.Reason
	if to.out == model.OutDevice {
		reasons = j.nodeRules(model.Egress, t)
	}
	if to.out == model.OutDevice && j.posesAsTunnel(t) {
		reasons = append(reasons, model.ReasonBadTunnel)
	}
	if to.out == model.OutHost {
		to, reasons = j.notToItself()
	}
	if to.out == model.OutDevice && (j.world.isGateway(t.Src) || t.Src.IsLinkLocalUnicast()) {
		// It is the node's, and hardly an address to send from: the kernel's
		// routes may know none from there.
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoRoute}})
	}
	j.leaveByPort(t, to, s, reasons)
}

// notToItself is what becomes of what the node sends to an address of its own by a device.
func (j *judgement) notToItself() (way, []model.Reason) {
	j.tell("the kernel would not take back what it has sent to itself")
	return way{out: model.OutDevice}, []model.Reason{model.ReasonNoRoute}
}

// relatedAtDevice judges an ICMP error by the flow of the packet that it
// quotes; without one it is the kernel's.
func (j *judgement) relatedAtDevice() {
	h := j.headers
	quoted := h.quote.tuple
	f := j.search(false)
	if h.dst != quoted.Src {
		f.ought = mustNot
	}
	if f.ought != mustNot {
		stale := f.isStale(j.oracle.epoch)
		stranger := h.src != quoted.Dst && (isMartianSource(h.src) || j.world.isHost(h.src) || j.world.endpointAt(h.src) != nil)
		switch {
		case len(j.foreigner()) > 0, stranger && j.at.Hook == model.FromDevice:
			j.passBy("no router that has told of " + quoted.String() + " has such an address")
			return
		case stale || stranger:
			// Judged anew or, since an error opens nothing, the kernel's; and no
			// router has such an address.
			f.ought = may
		}
		switch {
		case f.reply || !stale || j.keeps(f.half) != mustNot:
			j.relatedTo(f.half)
		case h.quote.tiny:
			j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonICMPMTU}})
		}
	}
	if f.ought != must && j.ledElsewhere() {
		return
	}
	if f.ought != must && j.ledUnseen() {
		j.tell("another node may have led %s here", quoted.Reversed())
		j.branches = append(j.branches, branch{translation: j.unchanged()})
	}
	if f.ought != must || j.at.Hook == model.ToDevice {
		j.passBy("it is an error about " + quoted.String() + ", of which no flow is known")
	}
}

// judgeDeviceAnew judges the opening direction of a flow that came by one of
// the node's devices, or that the node itself opened.
func (j *judgement) judgeDeviceAnew(f *flow) (way, []model.Reason) {
	if j.isAnswerAtDevice(f) {
		switch reasons := j.foreigner(); {
		case len(reasons) == 0:
		case f.opening.where.Hook == model.ToDevice:
			// The node itself has sent there, and its answers may have been
			// judged with that.
			j.branches = append(j.branches, branch{reasons: reasons})
		default:
			return f.way, reasons
		}
		if f.opening.where.Hook == model.ToDevice {
			return f.way, j.nodeRules(model.Egress, f.translated)
		}
		return f.way, nil // led to whoever it was
	}
	to := j.world.wayTo(f.translated.Dst)
	if f.opening.where.Hook == model.FromDevice {
		to = j.world.wayIn(f.opening.tuple.Src, f.translated.Dst, f.translated.Protocol)
	}
	t := f.opening.tuple
	t.Dst, t.Dport = f.translated.Dst, f.translated.Dport
	switch {
	case f.service.IsZero() && f.opening.where.Hook == model.ToDevice:
		return f.way, j.nodeRules(model.Egress, t) // the node's own
	case f.service.IsZero():
		return f.way, j.nodeRules(model.Ingress, t)
	case f.opening.where.Hook == model.ToDevice && to.out == model.OutDevice:
		return to, j.nodeRules(model.Egress, t)
	case f.opening.where.Hook == model.ToDevice && to.out == model.OutHost:
		return j.notToItself()
	case f.opening.where.Hook == model.FromDevice && to.out == model.OutHost:
		return to, j.nodeRules(model.Ingress, t)
	case f.opening.where.Hook == model.ToDevice || to.out != model.OutLocal:
		return to, nil
	}
	return to, j.ingress(j.world.endpointAt(t.Dst), t)
}

// isAnswerAtDevice is whether the packet comes in by a device to answer a flow,
// or is an error about what the flow sent.
func (j *judgement) isAnswerAtDevice(f *flow) bool {
	t := j.headers.tuple
	if j.headers.quote != nil {
		t = j.headers.quote.tuple.Reversed()
	}
	return j.at.Hook == model.FromDevice && t != f.opening.tuple
}

// maybeShutOut allows that a flow judged anew is held against the source
// ranges of its service, or that it stays what it was.
func (j *judgement) maybeShutOut(f *flow) {
	s := j.world.frontends[f.frontend]
	if s != nil && !f.service.IsZero() && j.at.Hook != model.ToDevice && !s.admits(f.opening.tuple.Src) {
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonSourceRange}})
	}
}
