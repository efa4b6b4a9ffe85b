// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"

	"github.com/weirnet/weir/model"
)

// learnServiceAddresses notes the addresses that stand for services and for nobody
// else, so that nobody but a service can be meant by them.
func (k *knowledge) learnServiceAddresses() {
	k.services = map[netip.Addr]bool{}
	for addr, svc := range k.clusterAt {
		if svc.Spec.ClusterIP != "None" && string(svc.Spec.Type) != "ExternalName" && isOurs(svc) {
			k.services[addr] = true
		}
	}
	for at, s := range k.frontends {
		if s.kind == model.KindLoadBalancer || s.kind == model.KindExternalIP {
			k.services[at.addr] = true
		}
	}
	for at := range k.apiSockets() {
		delete(k.services, at.Addr())
	}
	for addr := range k.services {
		_, ofNode := k.nodeOf[addr]
		if ofNode || k.isPodOrWorkload(addr) || k.isGateway(addr) {
			delete(k.services, addr)
		}
	}
}

// isStray is whether a packet comes to a service's address, and to no frontend that
// is reached from here.
func (j *judgement) isStray() bool {
	return j.world.services[j.headers.tuple.Dst] && !j.isLed() && j.frontend() == nil
}

// refuseStray judges what comes to a service's address, and to no port that a
// service has there: who asks is told, and it goes nowhere else.
func (j *judgement) refuseStray() {
	h := j.headers
	t := h.tuple
	j.askAnew()
	j.tell("%s is a service's address, which has nothing at port %d of %s", t.Dst, t.Dport, t.Protocol)
	if h.echoReply && j.at.Hook == model.ToDevice {
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonICMPNoFlow}})
		return
	}
	silent := h.resets() || h.echoReply || h.later() || h.extended
	ping := model.ProtocolICMPv6
	if t.Dst.Is4() {
		ping = model.ProtocolICMP
	}
	switch {
	case t.Protocol == ping:
		silent = silent || j.world.local.Options.ServicePings == model.PingsDropped
	case t.Protocol != model.ProtocolTCP && t.Protocol != model.ProtocolUDP:
		silent = true
	}
	if silent {
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonNoFrontend}})
		return
	}
	j.branches = append(j.branches, branch{answer: model.ReasonNoFrontend})
}
