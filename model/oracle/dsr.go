// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model"
)

// Direct server return: the node that a client comes to leads its packets, as
// they are, to the pod's node, whose pod answers the client without a detour.

const (
	genevePort = 6081
	geneveLen  = 8
	// A node's device carries so much where nobody says otherwise.
	usualMTU = 1500
	// protocolIPv4 and protocolIPv6 are packets inside of packets.
	protocolIPv4 model.Protocol = 4
	protocolIPv6 model.Protocol = 41
)

// tunnel is by what packets are led to the nodes of pods.
func (k *knowledge) tunnel() model.Tunnel {
	o := &k.local.Options
	switch {
	case len(k.local.Uplinks) == 0, o.Return != model.ReturnDSR && o.Return != model.ReturnHybrid:
		return model.TunnelNone
	case o.Tunnel == model.TunnelGeneve:
		return model.TunnelGeneve
	}
	return model.TunnelIPIP
}

// answersItself is whether pods of other nodes answer clients of a protocol
// themselves.
func (k *knowledge) answersItself(p model.Protocol) bool {
	return k.tunnel() != model.TunnelNone &&
		(p == model.ProtocolTCP || p == model.ProtocolUDP && k.local.Options.Return == model.ReturnDSR)
}

// wayIn is where packets from outside go that are for a server.
func (k *knowledge) wayIn(client, server netip.Addr, p model.Protocol) way {
	to := k.wayTo(server)
	// Only pods are known to be behind a node that takes packets out again. And
	// where a client of the cluster is, its packets cannot come from outside.
	_, isNode := k.nodeOf[client]
	inside := isNode || k.isPodOrWorkload(client)
	if to.out == model.OutDevice && k.answersItself(p) && k.isPodOrWorkload(server) && !inside {
		to.out = model.OutTunnel
	}
	return to
}

// isOtherNode is whether an address is another node's.
func (k *knowledge) isOtherNode(addr netip.Addr) bool {
	node, isNode := k.nodeOf[addr]
	return isNode && node != k.node && !k.isHost(addr)
}

// learnAnyNode finds the node port as clients know it who came to another node:
// under the address of none.
func (k *knowledge) learnAnyNode(svc *corev1.Service, port corev1.ServicePort) {
	if !k.answersItself(numberOf(port.Protocol)) {
		return
	}
	for _, own := range clusterAddresses(svc) {
		local := k.onlyHere(svc, model.KindNodePort, model.ScopeOutside)
		everybody := k.listedFor(svc, port, own.Is4())
		k.frontends[frontend{anyNode(own), uint16(port.NodePort), numberOf(port.Protocol), model.ScopeOutside}] = &served{
			service: keyOf(svc), kind: model.KindNodePort, port: uint16(port.NodePort), of: uint16(port.Port),
			local: local && k.anybody(everybody), affinity: affinityOf(svc),
			servers: k.serve(svc, everybody, local),
		}
	}
}

// anyNode is the address that stands for all nodes' of a family.
func anyNode(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// isLed is whether the packet is one that another node has led here.
func (j *judgement) isLed() bool { return j.through.IsValid() }

// isWrapped is whether the frame holds a packet that another node leads to a
// pod of this node. What is between others is their own affair.
func (j *judgement) isWrapped() bool {
	h := j.headers
	// RFC 6935: over IPv6 only tunnels leave out the checksum of UDP.
	sound := !slices.ContainsFunc(j.wrong, func(r model.Reason) bool { return r != model.ReasonBadUDPChecksum })
	if j.at.Hook != model.FromDevice || !h.isIP || !sound || !h.hasTuple || h.extended ||
		!j.world.isOtherNode(h.src) || j.world.endpointAt(h.dst) == nil {
		return false
	}
	switch p := h.tuple.Protocol; j.world.tunnel() {
	case model.TunnelIPIP:
		return p == carrierOf(h.src)
	case model.TunnelGeneve:
		return p == model.ProtocolUDP && h.tuple.Dport == genevePort
	}
	return false
}

// posesAsTunnel is whether what a service leads to another node would be taken
// there for a packet of this node's tunnel.
func (j *judgement) posesAsTunnel(t model.Tuple) bool {
	poses := j.world.tunnel() == model.TunnelGeneve && t.Protocol == model.ProtocolUDP && t.Dport == genevePort
	if poses {
		j.tell("to the node of %s it would look like this node's tunnel", t.Dst)
	}
	return poses
}

// feignsTunnel is whether a socket of the node's own sends to a pod of another node
// what would be taken there for a packet of this node's tunnel.
func (j *judgement) feignsTunnel() bool {
	h := j.headers
	sound := !slices.ContainsFunc(h.wrong, func(r model.Reason) bool { return r != model.ReasonBadUDPChecksum })
	return j.at.Hook == model.ToDevice && sound && h.hasTuple && !h.extended && j.world.tunnel() == model.TunnelGeneve &&
		h.tuple.Protocol == model.ProtocolUDP && h.tuple.Dport == genevePort &&
		j.world.isHost(h.src) && j.world.isPodOrWorkload(h.dst) && j.world.endpointAt(h.dst) == nil
}

// carrierOf is the protocol by which a packet of a family is said to be inside
// of another one.
func carrierOf(like netip.Addr) model.Protocol {
	if like.Is4() {
		return protocolIPv4
	}
	return protocolIPv6
}

// unwrap takes the packet out that another node has led here, and goes on with
// it. What holds none is good for nothing.
func (j *judgement) unwrap(frame []byte) {
	outer := j.headers
	j.through, j.wrong = outer.dst, j.wrong[:0]
	at := ethernetLen + ipv4Len
	if outer.src.Is6() {
		at = ethernetLen + ipv6Len
	}
	if j.world.tunnel() == model.TunnelGeneve {
		at += udpLen
		if len(frame) < at+geneveLen || frame[at] != 0 ||
			binary.BigEndian.Uint16(frame[at+2:]) != binary.BigEndian.Uint16(frame[12:]) {
			j.condemn(model.ReasonBadTunnel, "the tunnel's header has options, or announces something else than a packet of the family")
			return
		}
		at += geneveLen
	}
	inner := parseFrame(slices.Concat(frame[:ethernetLen], frame[at:]))
	deaf := inner.isIP && congestion(frame[ethernetLen:]) == congested && congestion(frame[at:]) == untold
	j.headers = &inner
	j.tell("%s leads it to the pod at %s by the tunnel", outer.src, outer.dst)
	if deaf {
		j.wrong = j.wrong[:0]
		if inner.fragment != nil {
			inner.fragment.learnable = false // nobody has looked at it
		}
		j.condemn(model.ReasonBadTunnel, "it has met congestion in the tunnel, and its sender can be told by nothing but a loss")
		return
	}
	if inner.later() {
		j.recall()
	}
	if len(inner.wrong) > 0 || len(j.wrong) > 0 {
		j.wrong = j.wrong[:0]
		j.condemn(model.ReasonBadTunnel, "what is in the tunnel cannot be read")
	}
}

// Of the four values that RFC 3168 has: who knows nothing of congestion, and that
// there was some.
const (
	untold    = 0
	congested = 3
)

// congestion is what an IP header says of it.
func congestion(header []byte) uint8 {
	if header[0]>>4 == 4 {
		return header[1] & 3
	}
	return header[1] >> 4 & 3
}

// led gives, of those who serve, the ones that another node may have chosen:
// it has named the address. Nobody leads what comes for a port of the pod's own
// node, or of a protocol whose answers go back by the node that was asked.
func (j *judgement) led(s *served) []server {
	var may []server
	if s.kind == model.KindHostPort || !j.world.answersItself(j.headers.tuple.Protocol) {
		return nil
	}
	for _, b := range s.servers {
		if b.addr == j.through {
			may = append(may, b)
		}
	}
	return may
}

// overhead is by how much packets grow in the tunnel.
func (k *knowledge) overhead(like netip.Addr) int {
	outer := ipv6Len
	if like.Is4() {
		outer = ipv4Len
	}
	if k.tunnel() == model.TunnelGeneve {
		return outer + udpLen + geneveLen
	}
	return outer
}

// tooLong is whether a packet does not fit into the tunnel.
func (j *judgement) tooLong() bool {
	mtu := 0
	for _, uplink := range j.world.local.Uplinks {
		own := uplink.MTU
		if own == 0 {
			own = usualMTU
		}
		if mtu == 0 || own < mtu {
			mtu = own
		}
	}
	return j.headers.length > mtu-j.world.overhead(j.headers.dst)
}

// leaveWrapped adds a branch for what is led to another node: t.Tuple is how it
// is to reach the pod there.
func (j *judgement) leaveWrapped(t Translation, reasons []model.Reason) {
	h := j.headers
	source, has := j.world.lent(t.Tuple.Dst)
	t.led, t.Portless = t.Tuple, false
	t.Inner = model.Tuple{Src: h.src, Dst: h.dst, Sport: h.tuple.Sport, Dport: h.tuple.Dport, Protocol: h.tuple.Protocol}
	if h.later() {
		t.Inner.Sport, t.Inner.Dport = 0, 0
	}
	t.Tuple = model.Tuple{Src: source, Dst: t.led.Dst, Protocol: carrierOf(t.led.Dst)}
	if j.world.tunnel() == model.TunnelGeneve {
		t.Tuple.Protocol, t.Tuple.Dport, t.AnySport = model.ProtocolUDP, genevePort, true
	}
	if j.tooLong() {
		j.unsent = append(j.unsent, t)
	}
	switch {
	case !j.tooLong():
	case h.extended && !(h.cut && !h.later()) || h.quote != nil:
		// An answer would quote more than there is room for; of parts the first
		// is enough; and no error is told about an error (RFC 1122 3.2.2, RFC
		// 4443 2.4).
		j.tell("it is too long for the tunnel, and nobody can be told")
		reasons = append(reasons, model.ReasonTooBig)
	default:
		j.tell("it is too long for the tunnel")
		j.branches = append(j.branches, branch{answer: model.ReasonTooBig})
		if has && len(reasons) == 0 {
			return
		}
	}
	if !has {
		j.tell("the node has no address of that family to lead it from")
		reasons = append(reasons, model.ReasonNoSourcePort)
	}
	j.branches = append(j.branches, branch{reasons: reasons, refused: j.refusals(), translation: t})
}

// nowhere is where the answers of a flow come that this node does not see.
func (f *flow) nowhere() flowKey { return flowKey{model.Where{}, f.opening.tuple.Reversed()} }
