// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// atDevice judges what passes one of the node's own devices. What the kernel
// would know better is the kernel's.
func (j *judgement) atDevice() {
	h := j.headers
	switch {
	case len(j.wrong) > 0 && j.isLed():
	case len(j.wrong) > 0:
		j.wrong = j.wrong[:0]
		j.tell("the kernel is the judge of that")
		j.branches = append(j.branches, branch{translation: j.unchanged()})
	case !h.isIP, h.nd != nil, isForMany(h.dst):
		j.passBy("it is the kernel's own")
	case h.quote != nil:
		j.relatedAtDevice()
	case !h.hasTuple:
		j.passBy("it is the kernel's own")
	case j.at.Hook == FromDevice:
		j.decide(j.openFromDevice)
	default:
		j.decide(j.openToDevice)
	}
}

// isDevice is whether the packet is seen at one of the node's own devices.
func (j *judgement) isDevice() bool { return j.at.Hook == FromDevice || j.at.Hook == ToDevice }

// isForMany is whether an address is multicast or the broadcast address.
func isForMany(addr netip.Addr) bool {
	return addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// passBy lets a packet go where it would have gone without a datapath, as it
// came.
func (j *judgement) passBy(why string) {
	j.tell("%s", why)
	if j.isLed() {
		j.tell("another node has led it here, where it is for nobody")
		j.branches = append(j.branches, branch{reasons: []Reason{ReasonBadTunnel}})
		return
	}
	h := j.headers
	t := j.unchanged()
	switch {
	case h.later() && !h.hasTuple:
		t.Tuple, t.Portless = Tuple{Src: h.src, Dst: h.dst}, true
	case h.hasTuple, h.quote != nil:
		t.Tuple, t.Portless = h.tuple, h.later()
	}
	if h.quote != nil {
		t.Quoted = h.quote.tuple
	}
	j.branches = append(j.branches, branch{translation: t})
}

// unchanged is how a packet leaves of which nothing is read.
func (j *judgement) unchanged() Translation {
	if j.at.Hook == ToDevice {
		return Translation{Out: OutDevice, Unchanged: true}
	}
	return Translation{Out: OutHost, Unchanged: true}
}

// openFromDevice judges the first packet of a flow that comes from beyond the
// node. Only what is for a service is anybody's but the kernel's.
func (j *judgement) openFromDevice() {
	s := j.frontend()
	if s == nil {
		j.passBy("no service is reached by that from outside")
		return
	}
	before := len(j.branches)
	j.choose(s, func(to server) { j.leadIn(s, to) })
	doom := j.stranger()
	for i := range j.branches[before:] {
		if b := &j.branches[before+i]; len(doom) > 0 {
			b.reasons, b.answer = append(b.reasons, doom...), ReasonNone
		}
	}
}

// stranger is why nobody outside can have sent the packet.
func (j *judgement) stranger() []Reason {
	t := j.headers.tuple
	var reasons []Reason
	if isMartianSource(t.Src) || j.world.isHost(t.Src) {
		j.tell("nobody outside has the source address %s", t.Src)
		reasons = append(reasons, ReasonMartianSource)
	}
	if local := j.world.endpointAt(t.Src); local != nil {
		j.tell("%s is Pod %s of this node, which is not outside", t.Src, podName(local))
		reasons = append(reasons, ReasonSpoofedSource)
	}
	if t.Src == t.Dst {
		j.tell("source and destination are both %s", t.Src)
		reasons = append(reasons, ReasonSameAddress)
	}
	return reasons
}

// wayTo is where packets go that are sent to an address.
func (k *knowledge) wayTo(addr netip.Addr) way {
	if pod := k.endpointAt(addr); pod != nil {
		return way{OutLocal, podName(pod)}
	}
	if k.isHost(addr) {
		return way{out: OutHost}
	}
	return way{out: OutDevice}
}

// leadIn judges a flow from outside to one server of a service.
func (j *judgement) leadIn(s *served, server server) {
	t := j.headers.tuple
	t.Dst, t.Dport = server.addr, server.port
	to := j.world.wayIn(t.Src, t.Dst, t.Protocol)
	var reasons []Reason
	switch to.out {
	case OutLocal:
		reasons = j.ingress(j.world.endpointAt(t.Dst), t)
	case OutDevice:
		source, known := j.world.lent(t.Dst)
		if !known {
			j.tell("the node lends no address of that family, and the answer would not come back this way")
			j.leave(Translation{Tuple: t, Out: to.out}, []Reason{ReasonNoSourcePort})
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
	if !j.world.isHost(t.Src) {
		j.passBy("the node only forwards it")
		return
	}
	if s := j.frontend(); s != nil {
		j.choose(s, func(to server) { j.leadOut(s, to) })
		return
	}
	if !j.lends(t) {
		j.passBy("it is the node's own, and translated for nobody")
		return
	}
	// It is noted, so that nobody is lent its port.
	j.tell("it leaves from a port that flows may be lent")
	to := way{out: OutDevice}
	f := j.newFlow(t, to, nil)
	c := j.portsFor(flow{opening: flowKey{j.at, t}, translated: t, way: to})
	c.kept = j.kept
	if maybe, _ := c.taken(c.answers); j.again || maybe && f != nil {
		// There is no room for it; or, the contract being silent of what
		// would come to its answers then, it is given another port.
		if f != nil {
			f.suspected = true
		}
		j.branches = append(j.branches, branch{translation: Translation{
			Tuple: t, Portless: j.headers.later(), AnySport: hasPorts(t), ports: c, Out: OutDevice, flow: j.newFlow(t, to, nil), opens: to,
		}})
	}
	j.branches = append(j.branches, branch{translation: Translation{
		Tuple: t, Portless: j.headers.later(), Unchanged: true, Out: OutDevice, flow: f, opens: to,
	}})
}

// lends is whether a tuple's source is one that flows may be lent.
func (j *judgement) lends(t Tuple) bool {
	source, lends := j.world.lent(t.Src)
	first, last := j.world.lentPorts()
	ports := hasPorts(t) || t.Protocol == ProtocolSCTP
	return lends && source == t.Src && ports && t.Sport >= first && t.Sport <= last
}

// leadOut judges a flow of the node itself to one server of a service.
func (j *judgement) leadOut(s *served, server server) {
	t := j.headers.tuple
	t.Dst, t.Dport = server.addr, server.port
	to := j.world.wayTo(t.Dst)
	var reasons []Reason
	if to.out == OutHost {
		j.tell("the kernel would not take back what it has sent to itself")
		to, reasons = way{out: OutDevice}, []Reason{ReasonNoRoute}
	}
	if to.out == OutDevice && j.world.isGateway(t.Src) {
		// It is the node's, and hardly an address to send from.
		j.branches = append(j.branches, branch{reasons: []Reason{ReasonNoRoute}})
	}
	j.leaveByPort(t, to, s, reasons)
}

// relatedAtDevice judges an ICMP error by the flow of the packet that it
// quotes; without one it is the kernel's.
func (j *judgement) relatedAtDevice() {
	h := j.headers
	quoted := h.quote.tuple
	surelyKnown := false
	for _, e := range j.oracle.entriesAt(flowKey{j.at, quoted.Reversed()}) {
		found, sure := e.flow.presence(j.now)
		if !found || h.dst != quoted.Src {
			continue
		}
		if e.flow.isStale(e.reply, j.oracle.epoch) {
			// Judged anew or, since an error opens nothing, the kernel's.
			sure = false
		}
		if h.src != quoted.Dst && (isMartianSource(h.src) || j.world.isHost(h.src) || j.world.endpointAt(h.src) != nil) {
			sure = false // no router has that address
		}
		switch {
		case e.reply || !e.flow.isStale(false, j.oracle.epoch):
			j.relatedTo(e)
		case h.quote.tiny:
			j.branches = append(j.branches, branch{reasons: []Reason{ReasonICMPMTU}})
		}
		surelyKnown = surelyKnown || sure && !e.former
	}
	if !surelyKnown || j.at.Hook == ToDevice {
		j.passBy("it is an error about " + quoted.String() + ", of which no flow is known")
	}
}

// judgeDeviceAnew judges the opening direction of a flow that came by one of
// the node's devices, or that the node itself opened.
func (j *judgement) judgeDeviceAnew(f *flow) (way, []Reason) {
	if j.isAnswerAtDevice(f) {
		return f.way, nil // led to whoever it was
	}
	to := j.world.wayTo(f.translated.Dst)
	if f.opening.where.Hook == FromDevice {
		to = j.world.wayIn(f.opening.tuple.Src, f.translated.Dst, f.translated.Protocol)
	}
	if f.service == "" {
		return f.way, nil // the node's own, and only noted
	}
	if f.opening.where.Hook == ToDevice || to.out != OutLocal {
		return to, nil
	}
	t := f.opening.tuple
	t.Dst, t.Dport = f.translated.Dst, f.translated.Dport
	return to, j.ingress(j.world.endpointAt(t.Dst), t)
}

// isAnswerAtDevice is whether the packet comes in by a device to answer a flow,
// or is an error about what the flow sent.
func (j *judgement) isAnswerAtDevice(f *flow) bool {
	t := j.headers.tuple
	if j.headers.quote != nil {
		t = j.headers.quote.tuple.Reversed()
	}
	return j.at.Hook == FromDevice && t != f.opening.tuple
}

// maybeShutOut allows that a flow judged anew is held against the source
// ranges of its service, or that it stays what it was.
func (j *judgement) maybeShutOut(f *flow) {
	s := j.world.frontends[f.frontend]
	if s != nil && f.service != "" && j.at.Hook != ToDevice && !s.admits(f.opening.tuple.Src) {
		j.branches = append(j.branches, branch{reasons: []Reason{ReasonSourceRange}})
	}
}
