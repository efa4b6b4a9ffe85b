// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// publish bids for the frontends of a service's port in one family.
func (c *compiler) publish(p *servicePort) {
	spec := p.object.Spec
	port := uint16(p.port().Port)
	if c.clusterAt[p.cluster] == p.object {
		c.bid(p.bid(rankClusterIP, p.field("port"), netip.AddrPortFrom(p.cluster, port), func() {
			c.addFrontend(p, model.KindClusterIP, model.ScopeInside, p.cluster, port, ptr.Deref(spec.InternalTrafficPolicy, "") == corev1.ServiceInternalTrafficPolicyLocal)
		}))
	}
	for i, ingress := range manifest.BalancersOf(p.object) {
		addr, err := manifest.ParseLegacyAddr(ingress.IP)
		field := fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i)
		if err == nil && ptr.Deref(ingress.IPMode, "") != corev1.LoadBalancerIPModeProxy { // what is led by a proxy must go through it
			c.publishAt(p, rankLoadBalancer, addr, port, field)
		}
	}
	for i, text := range spec.ExternalIPs {
		addr, err := manifest.ParseLegacyAddr(text)
		if err == nil {
			c.publishAt(p, rankExternalIP, addr, port, fmt.Sprintf("spec.externalIPs[%d]", i))
		}
	}
	c.publishNodePort(p)
}

func (p *servicePort) bid(rank rank, field string, at netip.AddrPort, make func()) bid {
	if !p.served {
		make = func() {}
	}
	return bid{rank: rank, object: p.object, index: p.index, field: field, at: at, protocol: p.common.Protocol, make: make}
}

func (c *compiler) publishNodePort(p *servicePort) {
	port, field := uint16(p.port().NodePort), p.field("nodePort")
	first := p.cluster == manifest.ClusterIPsOf(p.object)[0] // of the families: what is said of both is said once
	if port == 0 {
		if first && p.object.Spec.Type == corev1.ServiceTypeNodePort {
			c.fail(p.object, field, "is empty: give the port a number in %s", nodePortRange)
		}
		return
	}
	c.bid(p.bid(rankNodePort, field, netip.AddrPortFrom(netip.Addr{}, port), func() {
		if first {
			c.warnOfNodePort(p.object, field, port)
		}
		for _, addr := range c.nodePortAddresses {
			if addr.Is4() != p.cluster.Is4() || int32(port) == p.port().Port && p.isBalancedAt(addr) {
				continue
			}
			at := p.bid(rankNodePort, field, netip.AddrPortFrom(addr, port), nil)
			if c.claim(&at) {
				c.addOutside(p, model.KindNodePort, addr, port)
			}
		}
		if len(c.local.Uplinks) > 0 && c.returnsDirectly(p.common.Protocol) {
			c.publishAnyNode(p, port)
		}
	}))
}

// isBalancedAt is whether an address is the service's load balancer's too: where
// its ports are equal it is restricted as the balancer is.
func (p *servicePort) isBalancedAt(addr netip.Addr) bool {
	return slices.ContainsFunc(manifest.BalancersOf(p.object), func(ingress corev1.LoadBalancerIngress) bool {
		at, err := manifest.ParseLegacyAddr(ingress.IP)
		return err == nil && at == addr && ptr.Deref(ingress.IPMode, "") != corev1.LoadBalancerIPModeProxy
	})
}

// publishAnyNode makes the frontend under which a node finds what others lead
// to it: their clients came to an address that is not its own.
func (c *compiler) publishAnyNode(p *servicePort, port uint16) {
	anyNode := netip.IPv6Unspecified()
	if p.cluster.Is4() {
		anyNode = netip.IPv4Unspecified()
	}
	c.addFrontend(p, model.KindNodePort, model.ScopeOutside, anyNode, port, p.object.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal)
}

// returnsDirectly is whether backends of other nodes answer the clients of a
// protocol themselves.
func (c *compiler) returnsDirectly(protocol model.Protocol) bool {
	switch c.local.Options.Return {
	case model.ReturnDSR:
		return protocol == model.ProtocolTCP || protocol == model.ProtocolUDP
	case model.ReturnHybrid:
		return protocol == model.ProtocolTCP
	}
	return false
}

// publishAt bids for an address that the outside knows.
func (c *compiler) publishAt(p *servicePort, rank rank, addr netip.Addr, port uint16, field string) {
	kind := model.KindLoadBalancer
	if rank == rankExternalIP {
		kind = model.KindExternalIP
	}
	if addr.Is4() != p.cluster.Is4() || !manifest.ReachesHost(addr) || !c.mayLead(p.object, rank, field, addr) || rank == rankExternalIP && !c.mayBeExternal(p.object, field, addr) {
		return
	}
	c.bid(p.bid(rank, field, netip.AddrPortFrom(addr, port), func() { c.addOutside(p, kind, addr, port) }))
}

// addOutside makes the frontends of an address that the outside knows, in both
// scopes. Who comes from inside reaches every backend, whatever
// externalTrafficPolicy says: nothing would be won by sending them over
// another node.
func (c *compiler) addOutside(p *servicePort, kind model.ServiceKind, addr netip.Addr, port uint16) {
	c.addFrontend(p, kind, model.ScopeInside, addr, port, false)
	if len(c.local.Uplinks) > 0 {
		c.addFrontend(p, kind, model.ScopeOutside, addr, port, p.object.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal)
	}
}

func (c *compiler) addFrontend(p *servicePort, kind model.ServiceKind, scope model.Scope, addr netip.Addr, port uint16, local bool) {
	frontend := p.common
	// Where no other node has anybody either, a Local policy refuses as any does.
	frontend.Kind, frontend.Scope, frontend.Address, frontend.Port, frontend.Local = kind, scope, addr, port, local && !p.nobody
	frontend.DSR = scope == model.ScopeOutside && kind != model.KindHostPort && c.returnsDirectly(frontend.Protocol)
	frontend.Backends = p.anywhere
	if local {
		frontend.Backends = p.here
	}
	if kind == model.KindLoadBalancer {
		frontend.Sources = sourceRanges(p.object, addr)
	}
	c.frontends = append(c.frontends, frontend)
}

// sourceRange reads a range as kube-proxy does: blanks around it, zeros before
// numbers and bits beyond the length do not count.
func sourceRange(text string) (netip.Prefix, error) {
	return manifest.ParseLegacyBlock(strings.TrimSpace(text))
}

// sourceRanges gives the source ranges of an address's family: a table that keeps
// both in one trie would find IPv4 sources in ::/0. A family for which the
// service has none is open to everybody, as with kube-proxy, which has a firewall
// for each family and makes none without ranges.
func sourceRanges(svc *corev1.Service, addr netip.Addr) []netip.Prefix {
	var sources []netip.Prefix
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		if source, err := sourceRange(text); err == nil && source.Addr().Is4() == addr.Is4() {
			sources = append(sources, source)
		}
	}
	slices.SortFunc(sources, netip.Prefix.Compare)
	return slices.Compact(sources)
}

// warnOfOpenFamily warns of a balancer's address that everybody reaches, though the
// service restricts that of the other family.
func (c *compiler) warnOfOpenFamily(svc *corev1.Service, addresses []netip.Addr) {
	if len(svc.Spec.LoadBalancerSourceRanges) == 0 {
		return
	}
	const field = "spec.loadBalancerSourceRanges"
	for _, own := range addresses {
		balanced := slices.ContainsFunc(manifest.BalancersOf(svc), func(ingress corev1.LoadBalancerIngress) bool {
			at, err := manifest.ParseLegacyAddr(ingress.IP)
			return err == nil && at.Is4() == own.Is4() && manifest.ReachesHost(at) && ptr.Deref(ingress.IPMode, "") != corev1.LoadBalancerIPModeProxy
		})
		if balanced && len(sourceRanges(svc, own)) == 0 {
			c.warn(svc, field, "has no %s range, and everybody reaches the balancer's %[1]s address: add the ranges that may", manifest.FamilyOf(own))
		}
	}
}

// claimHealthCheck keeps others off the port on which the node says whether it
// has backends.
func (c *compiler) claimHealthCheck(svc *corev1.Service) {
	if port := svc.Spec.HealthCheckNodePort; port != 0 {
		c.bid(bid{rank: rankNodePort, object: svc, index: -1, field: "spec.healthCheckNodePort", at: netip.AddrPortFrom(netip.Addr{}, uint16(port)), protocol: model.ProtocolTCP, make: func() {}})
	}
}

const nodePortRange = "30000–32767"

// warnOfNodePort warns of a port that others may take: the API server gives
// those of the range alone, and masquerading and the node's own programs take
// those beyond.
func (c *compiler) warnOfNodePort(obj metav1.Object, field string, port uint16) {
	if port < 30000 || port > 32767 {
		c.warn(obj, field, "%d is not in %s, where the API server keeps node ports, and may be taken by others: use one of these", port, nodePortRange)
	}
}

// hostPorts bids for the frontends of this node's pods that ask for a port of
// their node. They lead to the pod ready or not, as long as it is there. A pod
// of the host's network has its ports without any frontend.
func (c *compiler) hostPorts() {
	for _, pod := range c.locals {
		if pod.pod != nil {
			c.hostPortsOf(pod)
		}
	}
	for _, object := range manifest.InOrder(c.objs.Pods) {
		if c.isOnHost(object) {
			c.hostSockets(object)
		}
	}
}

func (c *compiler) hostPortsOf(pod *party) {
	index := 0
	manifest.EachHostPort(pod.pod, func(field string, port corev1.ContainerPort) {
		c.hostPort(pod, index, field, port)
		index++
	})
}

// isOnHost is whether a pod is on this node's own network.
func (c *compiler) isOnHost(pod *corev1.Pod) bool {
	return pod.Spec.HostNetwork && !manifest.IsFinished(pod) && c.isLocal(pod)
}

// hostSockets keeps others off the ports of a pod that is on the host's network.
func (c *compiler) hostSockets(object *corev1.Pod) {
	index := 0
	manifest.EachPort(object, func(field string, port corev1.ContainerPort) {
		for _, addr := range c.hostAddresses(object, field, port.HostIP) {
			c.bid(bid{rank: rankHostPort, object: object, index: index, field: field + ".containerPort",
				at: netip.AddrPortFrom(addr, uint16(port.ContainerPort)), protocol: protocolNumber(port.Protocol), make: func() {}})
		}
		index++
	})
}

func (c *compiler) hostPort(pod *party, index int, field string, port corev1.ContainerPort) {
	protocol := protocolNumber(port.Protocol)
	if protocol == model.ProtocolSCTP && port.HostPort != port.ContainerPort {
		c.ignore(pod.pod, field+".hostPort", "%d would change the port of SCTP, which is not supported: make it equal to containerPort %d", port.HostPort, port.ContainerPort)
		return
	}
	name := port.Name
	if name == "" {
		name = strconv.Itoa(int(port.HostPort))
	}
	for _, addr := range c.hostAddresses(pod.pod, field, port.HostIP) {
		backend := slices.IndexFunc(pod.addresses, func(own netip.Addr) bool { return own.Is4() == addr.Is4() })
		if backend < 0 || addr.IsLoopback() && protocol == model.ProtocolSCTP {
			continue
		}
		frontend := model.Service{
			Name: model.PortRef{Namespace: manifest.NamespaceOr(pod.pod.Namespace), Name: pod.pod.Name, Port: name}, Kind: model.KindHostPort, Scope: model.ScopeInside, Address: addr, Port: uint16(port.HostPort), Protocol: protocol,
			Backends: []model.Backend{{Address: pod.addresses[backend], Port: uint16(port.ContainerPort)}},
		}
		c.bid(bid{rank: rankHostPort, object: pod.pod, index: index, field: field + ".hostPort",
			at: netip.AddrPortFrom(addr, uint16(port.HostPort)), protocol: protocol, make: func() { c.addHostPort(frontend) }})
	}
}

func (c *compiler) addHostPort(frontend model.Service) {
	if frontend.Address.IsLoopback() {
		c.loopback = append(c.loopback, frontend)
		return
	}
	c.frontends = append(c.frontends, frontend)
	if len(c.local.Uplinks) > 0 {
		frontend.Scope = model.ScopeOutside
		c.frontends = append(c.frontends, frontend)
	}
}

// hostAddresses are where a host port is: at hostIP, which has to be the node's,
// or, where that is empty or a family's unspecified address, at all of the
// node's that the operator allows, loopback too.
func (c *compiler) hostAddresses(pod *corev1.Pod, field, hostIP string) []netip.Addr {
	all := append(slices.Clone(c.self.Addresses), netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	addr, err := manifest.ParseLegacyAddr(hostIP)
	switch {
	case hostIP != "" && err != nil:
		c.ignore(pod, field+".hostIP", "%q is not an IP address: name one of %v, or none", hostIP, c.self.Addresses)
		return nil
	case hostIP == "" || addr.IsUnspecified():
		allowed := &c.local.Options.HostPorts
		all = slices.DeleteFunc(all, func(own netip.Addr) bool { return hostIP != "" && own.Is4() != addr.Is4() })
		open := slices.DeleteFunc(slices.Clone(all), func(own netip.Addr) bool { return !allowed.Allows(own) })
		if len(open) == 0 && len(all) > 0 && !pod.Spec.HostNetwork {
			c.loseOnce(pod, field+".hostIP", "names no address, and the operator allows none then, who says %s: name an address of the node", allowed)
		}
		if pod.Spec.HostNetwork {
			return all
		}
		return open
	case !addr.IsLoopback() && !slices.Contains(c.self.Addresses, addr):
		c.loseOnce(pod, field+".hostIP", "%s is no address of the pod's node %s: name one of %v, or none", addr, c.node, c.self.Addresses)
		return nil
	}
	return []netip.Addr{addr}
}
