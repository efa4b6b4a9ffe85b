// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

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
	inFlows      = bpf.ContainerTableTABLE_FLOWS
	inUnanswered = bpf.ContainerTableTABLE_UNANSWERED
	inServices   = bpf.ContainerTableTABLE_SERVICES
	inSlots      = bpf.ContainerTableTABLE_SLOTS
	inBackends   = bpf.ContainerTableTABLE_BACKENDS
	inAddresses  = bpf.ContainerTableTABLE_ADDRESSES
	inPrefixes   = bpf.ContainerTableTABLE_PREFIXES
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
	origin uint32
	// judged: it got a flow, which is open, and reply is where its answers go.
	judged      bool
	open, reply *flowValue
	now         uint64
	// straight: it is no ICMP error, and its flow was not judged anew.
	straight bool
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
	demand(r.lookup == FlowNone || r.of(inFlows), "a flow was looked up, and its table was not read")
	demand(r.lookup != FlowKnown && r.lookup != FlowRejudged || r.hit(inFlows) || r.hit(inUnanswered), "a flow was met, and in no table")
	demand(!r.of(inFlows) || r.hit(inFlows) || r.of(inUnanswered), "a flow was missed, and not looked for among the unanswered")
	demand(!r.of(inUnanswered) || r.of(inFlows), "a flow was looked for among the unanswered alone")
	demand(!r.of(inPrefixes) || r.of(inAddresses), "a prefix was looked for before the address")
	demand(!r.of(inAddresses) || r.hit(inAddresses) || r.of(inPrefixes), "an address was missed, and its prefix not looked for")
	for _, t := range []bpf.ContainerTable{inSlots, inBackends, inAffinities} {
		demand(!r.of(t) || r.hit(inServices), "table %d was read for no service", t)
	}
	demand(r.origin == 0 || r.hit(inEgress) || r.hit(inIngress), "a rule has decided, and none was found")
	demand(r.reason != model.ReasonPolicyEgress || r.of(inEgress), "no rule of egress was asked")
	demand(r.reason != model.ReasonPolicyIngress || r.of(inIngress), "no rule of ingress was asked")
	demand(r.reason != model.ReasonNoBackend && r.reason != model.ReasonNoLocalBackend || r.hit(inServices), "there is no service to lack a backend")
	ofPod := r.hook == model.FromContainer || r.hook == model.ToContainer
	before := []bpf.ContainerTable{inFlows, inUnanswered}
	if !ofPod { // who may have sent a tunnel's packet was asked before
		before = append(before, inAddresses, inPrefixes)
	}
	switch {
	case r.judged:
		r.ofJudged(demand)
	case r.lookup == FlowKnown && r.straight:
		demand(r.without(append(before, inRoutes)...) == 0, "a known flow needs none of them but its own, and routes")
	case r.lookup == FlowRejudged && r.straight && ofPod && r.action == model.Forward:
		demand(r.hit(inEndpoints), "whose device it is was not asked for a flow that is judged anew")
	case r.lookup == FlowNone && !r.of(inFlows) && ofPod:
		demand(r.without(inEndpoints) == 0, "nothing was to be looked up of a packet that is dropped as it is")
	}
	return faults
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
	demand(r.of(inAddresses), "nobody's address was looked up")
	equal("services were looked up", r.of(inServices), r.hook != model.ToContainer && (r.hook != model.FromDevice || r.of(inServices)))
	equal("there is a service", r.hit(inServices), service)
	demand(!r.hit(inAffinities) || r.hit(inBackends) && !r.of(inSlots), "a client stays with a backend that was not looked up, or has another")
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
	demand(r.open.Origin == r.origin, "rule %d has decided, and the flow keeps %d", r.origin, r.open.Origin)
}
