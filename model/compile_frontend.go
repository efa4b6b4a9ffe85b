// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// frontendKey is where a frontend is, whatever the scope. A node port is
// claimed with the zero Addr too: it is one in the whole cluster.
type frontendKey struct {
	at       netip.AddrPort
	protocol Protocol
}

// claim is who said first that a frontend is theirs.
type claim struct {
	object string
	index  int // of the service's port: it may say so in several ways
	field  string
}

// publish makes the frontends of a service's port in one family. Those at
// which everybody else arrives come before those that are restricted, so that
// an address that a service names twice is not open by the second.
func (c *compiler) publish(p *servicePort) {
	spec := p.object.Spec
	port := uint16(p.port().Port)
	if c.claim(p.object, p.index, p.field("port"), netip.AddrPortFrom(p.cluster, port), p.common.Protocol) {
		c.addFrontend(p, KindClusterIP, ScopeInside, p.cluster, port, value(spec.InternalTrafficPolicy) == corev1.ServiceInternalTrafficPolicyLocal)
	}
	for i, ingress := range p.object.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(ingress.IP)
		if err != nil || value(ingress.IPMode) == corev1.LoadBalancerIPModeProxy {
			continue // what is led by a proxy must go through it
		}
		c.publishAt(p, KindLoadBalancer, addr, port, fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i))
	}
	for i, text := range spec.ExternalIPs {
		if addr, err := netip.ParseAddr(text); err == nil {
			c.publishAt(p, KindExternalIP, addr, port, fmt.Sprintf("spec.externalIPs[%d]", i))
		}
	}
	c.publishNodePort(p)
}

func (c *compiler) publishNodePort(p *servicePort) {
	port, field := uint16(p.port().NodePort), p.field("nodePort")
	first := p.cluster == clusterIPsOf(p.object)[0] // of the families: what is said of both is said once
	if port == 0 {
		if first && p.object.Spec.Type == corev1.ServiceTypeNodePort {
			c.fail(p.object, field, "is empty: give the port a number in %s", nodePortRange)
		}
		return
	}
	if !c.claim(p.object, p.index, field, netip.AddrPortFrom(netip.Addr{}, port), p.common.Protocol) {
		return
	}
	if first {
		c.warnOfNodePort(p.object, field, port)
	}
	for _, addr := range c.nodePortAddresses {
		c.publishAt(p, KindNodePort, addr, port, field)
	}
	if len(c.local.Uplinks) > 0 && c.returnsDirectly(p.common.Protocol) {
		c.publishAnyNode(p, port)
	}
}

// publishAnyNode makes the frontend under which a node finds what others lead
// to it: their clients came to an address that is not its own.
func (c *compiler) publishAnyNode(p *servicePort, port uint16) {
	anyNode := netip.IPv6Unspecified()
	if p.cluster.Is4() {
		anyNode = netip.IPv4Unspecified()
	}
	c.addFrontend(p, KindNodePort, ScopeOutside, anyNode, port, p.object.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal)
}

// returnsDirectly is whether backends of other nodes answer the clients of a
// protocol themselves.
func (c *compiler) returnsDirectly(protocol Protocol) bool {
	switch c.local.Options.Return {
	case ReturnDSR:
		return protocol == ProtocolTCP || protocol == ProtocolUDP
	case ReturnHybrid:
		return protocol == ProtocolTCP
	}
	return false
}

// publishAt makes the frontend of an address that the outside knows, in both
// scopes. Who comes from inside reaches every backend, whatever
// externalTrafficPolicy says: nothing would be won by sending them over
// another node.
func (c *compiler) publishAt(p *servicePort, kind ServiceKind, addr netip.Addr, port uint16, field string) {
	if addr.Is4() != p.cluster.Is4() || kind != KindNodePort && !c.mayLead(p.object, field, addr) {
		return
	}
	if !c.claim(p.object, p.index, field, netip.AddrPortFrom(addr, port), p.common.Protocol) {
		return
	}
	c.addFrontend(p, kind, ScopeInside, addr, port, false)
	if len(c.local.Uplinks) > 0 {
		c.addFrontend(p, kind, ScopeOutside, addr, port, p.object.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal)
	}
}

func (c *compiler) addFrontend(p *servicePort, kind ServiceKind, scope Scope, addr netip.Addr, port uint16, local bool) {
	frontend := p.common
	frontend.Kind, frontend.Scope, frontend.Address, frontend.Port, frontend.Local = kind, scope, addr, port, local
	frontend.DSR = scope == ScopeOutside && kind != KindHostPort && c.returnsDirectly(frontend.Protocol)
	frontend.Backends = p.anywhere
	if local {
		frontend.Backends = p.here
	}
	if kind == KindLoadBalancer {
		frontend.Sources = sourceRanges(p.object, addr)
	}
	c.frontends = append(c.frontends, frontend)
}

// sourceRanges gives the source ranges of an address's family: a table that keeps
// both in one trie would find IPv4 sources in ::/0. A service that has ranges
// of the other family alone lets in nobody: that is the range of the
// unspecified address, which no packet has.
func sourceRanges(svc *corev1.Service, addr netip.Addr) []netip.Prefix {
	var sources []netip.Prefix
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		if source, err := netip.ParsePrefix(text); err == nil && source.Addr().Is4() == addr.Is4() {
			sources = append(sources, source.Masked())
		}
	}
	if len(sources) == 0 && len(svc.Spec.LoadBalancerSourceRanges) > 0 {
		nobody := netip.IPv6Unspecified()
		if addr.Is4() {
			nobody = netip.IPv4Unspecified()
		}
		return []netip.Prefix{netip.PrefixFrom(nobody, nobody.BitLen())}
	}
	slices.SortFunc(sources, netip.Prefix.Compare)
	return slices.Compact(sources)
}

// mayLead refuses an address that is a pod's or the gateway's: what is sent
// there would reach its owner no more.
func (c *compiler) mayLead(obj metav1.Object, field string, addr netip.Addr) bool {
	owner := ""
	switch {
	case c.podAt[addr] != nil:
		owner = titleOf(c.podAt[addr])
	case slices.Contains(c.self.Gateways, addr):
		owner = c.owners[addr]
	default:
		return true
	}
	c.failOnce(obj, field, "%s is the address of %s too: give one of them another", addr, owner)
	return false
}

// claim records whose a frontend is. It complains when it is another's; when
// the same port of the same service has it already, one is enough.
func (c *compiler) claim(obj metav1.Object, index int, field string, at netip.AddrPort, protocol Protocol) bool {
	key := frontendKey{at, protocol}
	mine := claim{titleOf(obj), index, field}
	first, taken := c.claims[key]
	if !taken {
		c.claims[key] = mine
		return true
	}
	place := fmt.Sprintf("%s (%s)", at, protocol)
	if !at.Addr().IsValid() {
		place = fmt.Sprintf("%d (%s)", at.Port(), protocol)
	}
	switch {
	case first.object != mine.object || first.index != index:
		c.failOnce(obj, field, "%s is claimed by %s, %s, too: give one of them another", place, first.object, first.field)
	case first.field != field:
		c.warn(obj, field, "%s is what %s says already: remove one", place, first.field)
	default:
		return !at.Addr().IsValid() // the number itself, in another family
	}
	return false
}

// failOnce complains of a field once for each object that it collides with:
// every address of the node would say the same.
func (c *compiler) failOnce(obj metav1.Object, field, format string, args ...any) {
	key := titleOf(obj) + field + fmt.Sprint(args[1:]...)
	if !c.failed[key] {
		c.fail(obj, field, format, args...)
	}
	if c.failed == nil {
		c.failed = map[string]bool{}
	}
	c.failed[key] = true
}

// claimHealthCheck keeps others off the port on which the node says whether it
// has backends.
func (c *compiler) claimHealthCheck(svc *corev1.Service) {
	if port := svc.Spec.HealthCheckNodePort; port != 0 {
		c.claim(svc, -1, "spec.healthCheckNodePort", netip.AddrPortFrom(netip.Addr{}, uint16(port)), ProtocolTCP)
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

// hostPorts makes the frontends of this node's pods that ask for a port of
// their node. They lead to the pod ready or not, as long as it is there.
func (c *compiler) hostPorts() {
	for _, pod := range c.pods {
		if !pod.local {
			continue
		}
		index := 0
		eachHostPort(pod.object, func(field string, port corev1.ContainerPort) {
			c.hostPort(pod, index, field, port)
			index++
		})
	}
}

// eachHostPort goes through the ports of containers that run beside each
// other, with their path.
func eachHostPort(pod *corev1.Pod, do func(field string, port corev1.ContainerPort)) {
	each := func(list string, i int, container *corev1.Container) {
		for j, port := range container.Ports {
			if port.HostPort != 0 {
				do(fmt.Sprintf("spec.%s[%d].ports[%d]", list, i, j), port)
			}
		}
	}
	for i := range pod.Spec.Containers {
		each("containers", i, &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if container := &pod.Spec.InitContainers[i]; isSidecar(container) {
			each("initContainers", i, container)
		}
	}
}

func (c *compiler) hostPort(pod *compiledPod, index int, field string, port corev1.ContainerPort) {
	protocol := protocolNumber(port.Protocol)
	if protocol == ProtocolSCTP && port.HostPort != port.ContainerPort {
		c.fail(pod.object, field+".hostPort", "%d would change the port of SCTP, which is not supported: make it equal to containerPort %d", port.HostPort, port.ContainerPort)
		return
	}
	name := port.Name
	if name == "" {
		name = strconv.Itoa(int(port.HostPort))
	}
	for _, addr := range c.hostAddresses(pod, field, port.HostIP) {
		backend := slices.IndexFunc(pod.addresses, func(own netip.Addr) bool { return own.Is4() == addr.Is4() })
		if backend < 0 || addr.IsLoopback() && protocol == ProtocolSCTP || !c.claim(pod.object, index, field+".hostPort", netip.AddrPortFrom(addr, uint16(port.HostPort)), protocol) {
			continue
		}
		frontend := Service{
			Name: pod.name + ":" + name, Kind: KindHostPort, Scope: ScopeInside, Address: addr, Port: uint16(port.HostPort), Protocol: protocol,
			Backends: []Backend{{Address: pod.addresses[backend], Port: uint16(port.ContainerPort)}},
		}
		if addr.IsLoopback() {
			c.loopback = append(c.loopback, frontend)
			continue
		}
		c.frontends = append(c.frontends, frontend)
		if len(c.local.Uplinks) > 0 {
			frontend.Scope = ScopeOutside
			c.frontends = append(c.frontends, frontend)
		}
	}
}

// hostAddresses are where a host port is: at hostIP, which need not be among
// the node's known addresses, or, where that is empty or a family's
// unspecified address, at all of the node's, loopback too.
func (c *compiler) hostAddresses(pod *compiledPod, field, hostIP string) []netip.Addr {
	all := append(slices.Clone(c.self.Addresses), netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
	if hostIP == "" {
		return all
	}
	addr, err := netip.ParseAddr(hostIP)
	switch {
	case err != nil:
		return nil // Validate has complained
	case addr.IsUnspecified():
		return slices.DeleteFunc(all, func(own netip.Addr) bool { return own.Is4() != addr.Is4() })
	case !c.mayLead(pod.object, field+".hostIP", addr):
		return nil
	}
	return []netip.Addr{addr}
}
