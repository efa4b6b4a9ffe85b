// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// reads are the tables that a program has noted as read, two bits each. Which ones
// these are follows from the hook and from what became of the packet.
type reads uint32

func (r reads) of(t bpf.ContainerTable) bool  { return r>>(2*t)&1 != 0 }
func (r reads) hit(t bpf.ContainerTable) bool { return r>>(2*t)&2 != 0 }

// without leaves out tables.
func (r reads) without(all ...bpf.ContainerTable) reads {
	for _, t := range all {
		r &^= 3 << (2 * t)
	}
	return r
}

const (
	inEndpoints  = bpf.ContainerTableTABLE_ENDPOINTS
	inAnswered   = bpf.ContainerTableTABLE_CT_ANSWERED
	inUnanswered = bpf.ContainerTableTABLE_CT_UNANSWERED
	inServices   = bpf.ContainerTableTABLE_SERVICES
	inSlots      = bpf.ContainerTableTABLE_SLOTS
	inBackends   = bpf.ContainerTableTABLE_BACKENDS
	inIPCache    = bpf.ContainerTableTABLE_IPCACHE
	inCIDRs      = bpf.ContainerTableTABLE_IPCACHE_CIDRS
	inEgress     = bpf.ContainerTableTABLE_RULES_EGRESS
	inIngress    = bpf.ContainerTableTABLE_RULES_INGRESS
	inRoutes     = bpf.ContainerTableTABLE_ROUTES
	inAffinities = bpf.ContainerTableTABLE_AFFINITIES
)

// reading is what is known of a packet whose reads are looked at.
type reading struct {
	reads
	hook   model.Hook
	lookup FlowLookup
	action model.Action
	reason model.Reason
	old    bool // an entry was met, and is judged anew
	led    bool // it came in a tunnel
	sticky bool // a backend was chosen of a service that keeps its clients
	origin uint32
	// judged: it got a flow, which is open, and reply is where its answers go.
	judged      bool
	open, reply *flowValue
	now         uint64
	// straight: it is no ICMP error, and has met a flow or none, but got none.
	straight bool
	met      *flowValue // what a straight one has met, as it was left; nil where there is none
	began    bool       // a new connection on the tuple of one that is over
	stored   bool       // an entry was stored under its key before
	// src is who sent it, and dst who gets it, as tables of addresses know them.
	src, dst                 resident
	own                      uint32 // the identity of the pod at whose device it is
	srcIdentity, dstIdentity uint32
}

// resident is what tables know of an address.
type resident struct {
	identity uint32
	exact    bool // the address itself; else a prefix, or nobody
	prefix   bool
}

// resident looks an address up as programs of an epoch do.
func (d *Datapath) resident(a tableAddr, epoch uint32) resident {
	half := epoch & 1
	if h := d.ipcache.have[a][half]; h.Identity != 0 {
		return resident{identity: h.Identity, exact: true}
	}
	octets := toBytes(a)
	longest, found := -1, ipcacheHalf{}
	for key, pair := range d.cidrs.have {
		if int(key.Bits) > longest && netip.PrefixFrom(netip.AddrFrom16(toBytes(key.Addr)), int(key.Bits)).Contains(netip.AddrFrom16(octets)) {
			longest, found = int(key.Bits), pair[half]
		}
	}
	if found.Identity != 0 {
		return resident{identity: found.Identity, prefix: true}
	}
	return resident{identity: uint32(model.IdentityWorld)}
}

// wrong says what is wrong with what was read.
func (r *reading) wrong() []string {
	var faults []string
	demand := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf("the tables that are noted, %#x, are wrong: ", uint32(r.reads))+fmt.Sprintf(format, args...))
		}
	}
	for t := inEndpoints; t <= inAffinities; t++ {
		demand(r.of(t) || !r.hit(t), "table %d had what was not looked for", t)
	}
	demand(r.lookup == FlowNone || r.of(inAnswered), "a flow was looked up, and its table was not read")
	demand(r.lookup != FlowKnown && r.lookup != FlowRejudged || r.hit(inAnswered) || r.hit(inUnanswered), "a flow was met, and in no table")
	demand(r.lookup != FlowNew || r.began || r.stored || !r.hit(inAnswered) && !r.hit(inUnanswered), "a flow was met where none was ever stored")
	demand(!r.of(inAnswered) || r.hit(inAnswered) || r.of(inUnanswered), "a flow was missed, and not looked for among the unanswered")
	demand(!r.of(inUnanswered) || r.of(inAnswered), "a flow was looked for among the unanswered alone")
	demand(!r.of(inCIDRs) || r.of(inIPCache), "a prefix was looked for before the address")
	for _, t := range []bpf.ContainerTable{inSlots, inBackends, inAffinities} {
		demand(!r.of(t) || r.hit(inServices), "table %d was read for no service", t)
	}
	demand(r.origin == 0 || r.hit(inEgress) || r.hit(inIngress), "a rule has decided, and none was found")
	demand(r.reason != model.ReasonPolicyEgress || r.of(inEgress), "no rule of egress was asked")
	demand(r.reason != model.ReasonPolicyIngress || r.of(inIngress), "no rule of ingress was asked")
	demand(r.reason != model.ReasonNoBackend && r.reason != model.ReasonNoLocalBackend || r.hit(inServices), "there is no service to lack a backend")
	demand(r.reason != model.ReasonNoFrontend || r.hit(inServices), "the address is no service's")
	demand(r.reason != model.ReasonNoEndpoint || r.of(inEndpoints) || r.hit(inRoutes), "no pod was looked up to be missed")
	demand(r.reason != model.ReasonNoRoute || !r.hit(inRoutes), "there is a route")
	demand(r.reason != model.ReasonNoBackend && r.reason != model.ReasonNoLocalBackend || !r.hit(inSlots), "somebody was chosen")
	ofPod := r.hook == model.FromContainer || r.hook == model.ToContainer
	r.ofRefused(demand)
	// At devices it is asked of some whether they are of this node, which no prefix is.
	demand(!ofPod || !r.of(inIPCache) || r.hit(inIPCache) || r.of(inCIDRs), "an address was missed, and its prefix not looked for")
	before := []bpf.ContainerTable{inAnswered, inUnanswered}
	if !ofPod { // who may have sent a tunnel's packet was asked before
		before = append(before, inIPCache, inCIDRs)
	}
	switch {
	case r.judged:
		r.ofJudged(demand)
	case r.lookup == FlowNew && (r.reason == model.ReasonPolicyEgress || r.reason == model.ReasonPolicyIngress):
		r.ofDenied(demand)
	case r.lookup == FlowKnown && !r.straight, r.lookup == FlowNone && r.of(inAnswered) && ofPod:
		demand(r.without(inAnswered, inUnanswered, inIPCache, inCIDRs, inRoutes) == 0, "an error needs none of them but its flow, who sent it, and routes")
	case r.lookup == FlowKnown && r.straight:
		demand(r.without(append(before, inRoutes)...) == 0, "a known flow needs none of them but its own, and routes")
		r.ofRoute(demand)
	case r.lookup == FlowRejudged && r.straight && r.action == model.Forward && r.met != nil:
		r.ofRejudged(demand)
		r.ofRoute(demand)
	case r.lookup == FlowNone && !r.of(inAnswered) && ofPod:
		demand(r.without(inEndpoints) == 0, "nothing was to be looked up of a packet that is dropped as it is")
		neighbours := r.reason == model.ReasonBadARP || r.reason == model.ReasonBadNDP || r.action == model.Reply || r.action == model.Forward
		demand(r.hook != model.FromContainer || !neighbours || r.hit(inEndpoints), "of whom a pod asks was not looked up")
	}
	return faults
}

// ofRefused are the demands for what is turned away before its way is known.
func (r *reading) ofRefused(demand func(bool, string, ...any)) {
	known := func(t bpf.ContainerTable, reason model.Reason) {
		demand(r.reason != reason || r.hit(t) == (r.origin != 0), "it is dropped by rule %d, and table %d had one: %v", r.origin, t, r.hit(t))
	}
	known(inEgress, model.ReasonPolicyEgress)
	known(inIngress, model.ReasonPolicyIngress)
	if r.lookup != FlowNew {
		return
	}
	switch r.reason {
	case model.ReasonNoEndpoint:
		own := r.hook == model.FromContainer && r.of(inIPCache) // its own, and not its peer's
		demand(r.hit(inEndpoints) == own, "a pod was known: %v, and has to be %v", r.hit(inEndpoints), own)
	case model.ReasonNoBackend, model.ReasonNoLocalBackend, model.ReasonNoFrontend, model.ReasonSourceRange:
		asked := []bpf.ContainerTable{inAnswered, inUnanswered, inServices, inBackends, inAffinities}
		if r.hook == model.FromContainer {
			asked = append(asked, inEndpoints)
		} else {
			asked = append(asked, inIPCache, inCIDRs)
		}
		demand(r.without(asked...) == 0, "nobody was asked about it but services")
	}
}

// ofRoute are the demands for a packet of a known flow on routes.
func (r *reading) ofRoute(demand func(bool, string, ...any)) {
	if r.met == nil || r.action != model.Forward {
		return
	}
	out := outs[r.met.Out]
	asks := (out == model.OutDevice || out == model.OutTunnel) &&
		(r.hook == model.FromContainer || r.hook == model.FromDevice || r.hook == model.ToDevice && r.met.Routed != 0)
	if !asks {
		demand(!r.of(inRoutes), "a route was asked for a flow that goes %q", out)
		return
	}
	demand(r.met.Routed <= r.now && r.now-r.met.Routed < uint64(time.Second), "a route of %d is used at %d", r.met.Routed, r.now)
	demand(!r.of(inRoutes) || r.hit(inRoutes) && r.met.Routed == r.now, "a route was asked at %d, and is noted at %d", r.now, r.met.Routed)
}

// ofRejudged are the demands for an answer of a flow that was judged before the
// tables changed.
func (r *reading) ofRejudged(demand func(bool, string, ...any)) {
	asked := func(endpoint, address, egress, ingress bool) {
		for _, one := range []struct {
			what     string
			is, want bool
		}{
			{"a pod was looked up", r.hit(inEndpoints), endpoint},
			{"an address was looked up", r.of(inIPCache), address},
			{"egress was asked", r.hit(inEgress), egress},
			{"ingress was asked", r.hit(inIngress), ingress},
		} {
			demand(one.is == one.want, "judged anew, %s: %v, and has to be %v", one.what, one.is, one.want)
		}
	}
	other := hooks[r.met.OtherHook]
	switch {
	case r.hook == model.ToContainer:
		asked(true, true, true, r.hit(inIngress))
	case r.hook == model.FromContainer && other == model.ToDevice:
		asked(true, false, false, false)
	case r.hook == model.FromContainer && other == model.FromDevice:
		asked(true, true, false, true)
	case r.hook == model.FromContainer && other == model.ToContainer:
		asked(true, true, false, outs[r.met.Out] != model.OutHost)
	case r.hook == model.FromContainer:
		straight := r.met.Flags&flowHairpin == 0
		asked(true, straight, straight, straight)
	case r.hook == model.FromDevice && other == model.FromContainer:
		asked(true, true, true, false)
	}
}

// ofAddresses are the demands on what was looked up of addresses for a packet that
// has got a flow.
func (r *reading) ofAddresses(demand func(bool, string, ...any)) {
	if r.hook == model.FromDevice || r.hook == model.ToDevice { // others were looked up, to know whose it is
		dst := r.dst.identity
		if r.hook == model.FromDevice && r.open.Service == 0 {
			dst = uint32(model.IdentityHost)
		}
		demand(r.dstIdentity == dst, "it is for identity %d, and is told to be for %d", dst, r.dstIdentity)
		src := r.src.identity
		if r.hook == model.ToDevice {
			src = uint32(model.IdentityHost)
		}
		demand(r.srcIdentity == src, "it is from identity %d, and is told to be from %d", src, r.srcIdentity)
		return
	}
	r.ofEnds(demand)
	src, dst := r.src.identity, r.dst.identity
	if r.hook == model.FromContainer { // of a pod at its own device its labels are told
		src = r.own
	} else {
		dst = r.own
	}
	demand(r.srcIdentity == src && r.dstIdentity == dst, "it is from identity %d for %d, and is told to be from %d for %d",
		src, dst, r.srcIdentity, r.dstIdentity)
}

// ofEnds are the demands on what was found at a pod's device about who sends and who
// gets it; of the pod itself it is asked only as the one who sends.
func (r *reading) ofEnds(demand func(bool, string, ...any)) {
	ends := []resident{r.src}
	if r.hook == model.FromContainer {
		ends = append(ends, r.dst)
	}
	var exact, prefixes, prefix bool
	for _, e := range ends {
		exact, prefixes, prefix = exact || e.exact, prefixes || !e.exact, prefix || e.prefix
	}
	demand(r.hit(inIPCache) == exact, "an address was known: %v, and has to be %v", r.hit(inIPCache), exact)
	demand(r.of(inCIDRs) == prefixes, "a prefix was looked for: %v, and has to be %v", r.of(inCIDRs), prefixes)
	demand(r.hit(inCIDRs) == prefix, "a prefix was known: %v, and has to be %v", r.hit(inCIDRs), prefix)
}

// ofDenied are the demands for a new packet that a policy stops: whom it was asked
// about.
func (r *reading) ofDenied(demand func(bool, string, ...any)) {
	src, dst := r.src.identity, r.dst.identity
	switch r.hook {
	case model.FromContainer:
		src = r.own
	case model.ToContainer:
		dst = r.own
	case model.FromDevice:
		if r.straight { // to a service it is the number that policies have of the backend
			dst = uint32(model.IdentityHost)
		}
	case model.ToDevice:
		src = uint32(model.IdentityHost)
	}
	if r.hook == model.FromContainer || r.hook == model.ToContainer {
		r.ofEnds(demand)
	}
	demand(r.srcIdentity == src && r.dstIdentity == dst, "it is denied from identity %d for %d, and is told to be from %d for %d",
		src, dst, r.srcIdentity, r.dstIdentity)
}

// ofJudged are the demands on the reads for a packet that has got a flow.
func (r *reading) ofJudged(demand func(bool, string, ...any)) {
	equal := func(what string, is, want bool) {
		demand(is == want, "%s: %v, and has to be %v", what, is, want)
	}
	out := outs[r.open.Out]
	hairpin := r.open.Flags&flowHairpin != 0
	service := r.open.Service != 0
	for t := inEndpoints; t <= inAffinities; t++ {
		if t == inEndpoints || t >= inEgress && t <= inRoutes || t == inSlots {
			demand(!r.of(t) || r.hit(t), "it goes on, and table %d had nothing for it", t)
		}
	}
	demand(r.of(inIPCache), "nobody's address was looked up")
	equal("services were looked up", r.of(inServices), r.hook != model.ToContainer && (r.hook != model.FromDevice || r.of(inServices)))
	equal("there is a service", r.hit(inServices), service)
	demand(!r.hit(inAffinities) || r.hit(inBackends) && !r.of(inSlots), "a client stays with a backend that was not looked up, or has another")
	equal("the client's backend was looked up", r.of(inAffinities), r.sticky)
	if service && !r.of(inSlots) {
		demand(r.hit(inAffinities) || r.old && r.hit(inBackends) || r.led, "nobody has chosen the backend")
	}
	switch r.hook {
	case model.FromContainer:
		equal("the pod was looked up", r.hit(inEndpoints), true)
		equal("egress was asked", r.of(inEgress), !hairpin)
		if out != model.OutHost {
			equal("ingress was asked", r.of(inIngress), out == model.OutLocal && !hairpin)
		}
		equal("a route was asked", r.of(inRoutes), out == model.OutDevice)
	case model.ToContainer:
		equal("the pod was looked up", r.hit(inEndpoints), true)
		equal("egress was asked", r.of(inEgress), false)
		equal("ingress was asked", r.of(inIngress), outs[r.reply.Out] != model.OutHost)
		equal("a route was asked", r.of(inRoutes), false)
	case model.FromDevice:
		equal("a pod was looked up", r.hit(inEndpoints), out == model.OutLocal)
		equal("egress was asked", r.of(inEgress), false)
		if out != model.OutHost {
			equal("ingress was asked", r.of(inIngress), out == model.OutLocal)
		}
		equal("a route was asked", r.of(inRoutes), out == model.OutDevice || out == model.OutTunnel)
	case model.ToDevice:
		equal("a pod was looked up", r.hit(inEndpoints), out == model.OutLocal)
		equal("ingress was asked", r.of(inIngress), false)
		equal("a route was asked", r.of(inRoutes), out == model.OutDevice && service)
	}
	if r.of(inRoutes) {
		demand(r.open.Routed == r.now, "a route was found at %d, and is noted at %d", r.now, r.open.Routed)
	} else {
		demand(r.open.Routed == 0, "no route was asked, and one is noted at %d", r.open.Routed)
	}
	r.ofAddresses(demand)
	demand(r.open.Origin == r.origin, "rule %d has decided, and the flow keeps %d", r.origin, r.open.Origin)
}
