// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

func (j *judgement) hasAddress(addr netip.Addr) bool {
	for _, own := range j.world.addresses[j.pod] {
		if own == addr {
			return true
		}
	}
	return false
}

func isLinkLocal(addr netip.Addr) bool {
	b := addr.As16()
	return addr.Is6() && b[0] == 0xfe && b[1]&0xc0 == 0x80
}

// fromContainer judges what the pod sent.
func (j *judgement) fromContainer() {
	h := j.headers
	switch {
	case h.arp != nil:
		j.arpFromContainer()
		return
	case h.nd != nil:
		j.neighbourFromContainer()
		return
	case !h.isIP, h.message == discovery:
		return
	}
	if !j.hasAddress(h.src) {
		j.condemn(model.ReasonSpoofedSource, "%s is not an address of %s", h.src, refOf(j.at.Endpoint))
	}
	j.judgeAddresses(isMartianSource(h.src))
	switch {
	case h.quote != nil:
		j.related()
	case h.hasTuple:
		j.decide(j.openFromContainer)
	}
}

func (j *judgement) judgeAddresses(martianSource bool) {
	h := j.headers
	if martianSource {
		j.condemn(model.ReasonMartianSource, "no host has the source address %s", h.src)
	}
	if isMartianDestination(h.dst) && !j.answersGateway() {
		j.condemn(model.ReasonMartianDestination, "nothing is routed to the destination address %s", h.dst)
	}
	if h.src == h.dst {
		j.condemn(model.ReasonSameAddress, "source and destination are both %s", h.src)
	}
}

func (j *judgement) arpFromContainer() {
	const request, reply = 1, 2
	arp := j.headers.arp
	fromItself := arp.complete && j.hasAddress(arp.senderAddr)
	device := j.world.device(j.at.Endpoint)
	switch {
	case fromItself && arp.operation == request && j.world.isGatewayOf(j.at.Endpoint, arp.targetAddr):
		j.tell("ARP asks for the gateway %s, which the datapath plays", arp.targetAddr)
		j.branches = append(j.branches, branch{answer: model.ReasonARPAnswered})
	case fromItself && arp.operation == reply && bytes.Equal(arp.senderMAC, device.PodMAC):
		j.tell("ARP tells the node the pod's own address")
		j.forward(model.OutHost, "")
	default:
		j.condemn(model.ReasonBadARP, "ARP is neither the pod's question for the gateway nor its answer about itself")
		if !arp.complete {
			j.wrong = append(j.wrong, model.ReasonTruncated)
		}
	}
}

const (
	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
)

func (j *judgement) neighbourFromContainer() {
	h := j.headers
	nd := h.nd
	// A pod without an IPv6 address has no business with IPv6's neighbours.
	fromItself := j.hasAddress(h.src) || isLinkLocal(h.src) && slices.ContainsFunc(j.world.addresses[j.pod], netip.Addr.Is6)
	sound := h.hops == 255 && nd.code == 0 && nd.hasTarget && fromItself
	switch {
	case sound && nd.kind == neighbourSolicitation && j.world.isGatewayOf(j.at.Endpoint, nd.target):
		j.tell("a neighbour solicitation asks for the gateway %s, which the datapath plays", nd.target)
		j.branches = append(j.branches, branch{answer: model.ReasonNDPAnswered})
		j.doubtDiscovery()
	case sound && nd.kind == neighbourAdvertisement && j.hasAddress(nd.target):
		j.tell("a neighbour advertisement tells the node the pod's own address")
		j.forward(model.OutHost, "")
		j.doubtDiscovery()
	default:
		j.condemn(model.ReasonBadNDP, "neighbour discovery (type %d) is neither the pod's question for the gateway nor its answer about itself", nd.kind)
		if !nd.hasTarget {
			j.wrong = append(j.wrong, model.ReasonTruncated)
		}
	}
}

// toContainer judges what the node's stack sends to the pod.
func (j *judgement) toContainer() {
	h := j.headers
	switch {
	case h.arp != nil:
		j.tell("ARP from the node's stack passes")
		j.forward(model.OutLocal, j.at.Endpoint)
		return
	case h.nd != nil:
		j.neighbourToContainer()
		return
	case !h.isIP, h.message == discovery:
		return
	}
	if !j.hasAddress(h.dst) {
		j.condemn(model.ReasonNotForEndpoint, "%s is not an address of %s", h.dst, refOf(j.at.Endpoint))
	}
	if local := j.world.endpointAt(h.src); local != nil {
		j.condemn(model.ReasonSpoofedSource, "%s is %s of this node, whose packets never come this way", h.src, j.world.nameOf(local).Ref())
	}
	j.judgeAddresses(isMartianSource(h.src) && !j.isNodeOrGateway(h.src) && !j.strayLinkLocal())
	if j.ledOn && h.quote == nil && j.world.isHost(h.src) {
		j.condemn(model.ReasonMartianSource, "the node has not made it, and %s is the node's", h.src)
	}
	switch {
	case h.quote != nil:
		j.related()
	case h.hasTuple:
		j.decide(j.openToContainer)
	}
}

// answersGateway is whether a packet goes to the gateway's link-local address:
// what came from there may be answered, and nothing be opened to it.
func (j *judgement) answersGateway() bool {
	dst := j.headers.dst
	return j.at.Hook == model.FromContainer && isLinkLocal(dst) && j.world.isGateway(dst)
}

// strayLinkLocal is whether a packet comes from an IPv4 link-local address,
// which pods may send to: it may answer them, and open nothing.
func (j *judgement) strayLinkLocal() bool {
	src := j.headers.src
	return src.Is4() && src.IsLinkLocalUnicast() && !j.isNodeOrGateway(src)
}

func (j *judgement) isNodeOrGateway(addr netip.Addr) bool {
	_, isNode := j.world.nodeOf[addr]
	return isNode || j.world.isGateway(addr)
}

func (j *judgement) neighbourToContainer() {
	nd := j.headers.nd
	asked := nd.kind == neighbourSolicitation || nd.kind == neighbourAdvertisement
	if !asked || j.headers.hops != 255 || nd.code != 0 {
		j.condemn(model.ReasonBadNDP, "neighbour discovery (type %d, code %d, hop limit %d) is not for a pod", nd.kind, nd.code, j.headers.hops)
		if asked && !nd.hasTarget {
			j.wrong = append(j.wrong, model.ReasonTruncated)
		}
		return
	}
	if !nd.hasTarget {
		j.condemn(model.ReasonTruncated, "neighbour discovery without a target is cut off")
		if j.headers.extended {
			j.wrong = append(j.wrong, model.ReasonBadNDP)
		}
		return
	}
	j.tell("neighbour discovery from the node's stack passes")
	j.forward(model.OutLocal, j.at.Endpoint)
	j.doubtDiscovery()
}

// doubtDiscovery allows the drop of what comes behind extension headers, of
// which the contract is silent. Nobody sends it so, and behind a fragment
// header, even an atomic one, nobody may (RFC 6980).
func (j *judgement) doubtDiscovery() {
	if j.headers.extended {
		j.branches = append(j.branches, branch{reasons: []model.Reason{model.ReasonBadNDP}})
	}
}
