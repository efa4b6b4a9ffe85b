// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// maxAffinitySeconds is a day, as in the API.
const maxAffinitySeconds = 86400

func (v *validator) service(svc *corev1.Service) {
	v.labels("spec.selector", svc.Spec.Selector)
	v.serviceType(svc)
	v.clusterIPs(svc)
	if len(svc.Spec.Ports) == 0 && !IsHeadless(svc) {
		v.fail("spec.ports", "is empty: give the service a port")
	}
	v.servicePorts(svc)
	v.outsideAddresses(svc)
	v.trafficPolicies(svc)
	v.affinity(svc)
	if _, err := AlgorithmOf(svc); err != nil {
		v.fail("metadata.annotations["+AnnotationAlgorithm+"]", "%v", err)
	}
}

// isOneOf complains of a word that the API does not know.
func isOneOf[T ~string](v *validator, field string, word T, known ...T) bool {
	if word == "" || slices.Contains(known, word) {
		return true
	}
	names := make([]string, len(known))
	for i, name := range known {
		names[i] = string(name)
	}
	v.fail(field, "%q is not one of %s", string(word), strings.Join(names, ", "))
	return false
}

func (v *validator) serviceType(svc *corev1.Service) {
	kind := svc.Spec.Type
	isOneOf(v, "spec.type", kind, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone && (kind == corev1.ServiceTypeNodePort || kind == corev1.ServiceTypeLoadBalancer) {
		v.fail("spec.clusterIP", "is None, which a service of type %s cannot be: give it an address", kind)
	}
	if kind != corev1.ServiceTypeLoadBalancer {
		v.onlyLoadBalancers(svc)
	}
}

// onlyLoadBalancers refuses what the API keeps for them. A status of one is the
// compiler's to leave out, alone: it may be left of a service that was one, and
// AllowServiceLBStatusOnNonLB has the API take it.
func (v *validator) onlyLoadBalancers(svc *corev1.Service) {
	const remedy = "has a meaning for type LoadBalancer alone: remove it"
	if len(svc.Spec.LoadBalancerSourceRanges) > 0 {
		v.fail("spec.loadBalancerSourceRanges", remedy)
	}
	if svc.Spec.AllocateLoadBalancerNodePorts != nil {
		v.fail("spec.allocateLoadBalancerNodePorts", remedy)
	}
	if svc.Spec.LoadBalancerClass != nil {
		v.fail("spec.loadBalancerClass", remedy)
	}
}

func (v *validator) clusterIPs(svc *corev1.Service) {
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return
	}
	ips := svc.Spec.ClusterIPs
	switch {
	case len(ips) == 0 && svc.Spec.ClusterIP != "":
		v.address("spec.clusterIP", svc.Spec.ClusterIP)
		ips = []string{svc.Spec.ClusterIP}
	case len(ips) > 0 && ips[0] != corev1.ClusterIPNone:
		if svc.Spec.ClusterIP != "" && ips[0] != svc.Spec.ClusterIP {
			v.fail("spec.clusterIP", "%s is not the first of spec.clusterIPs, %s: make them equal", svc.Spec.ClusterIP, ips[0])
		}
		v.addresses("spec.clusterIPs", ips)
	}
	for i, family := range svc.Spec.IPFamilies {
		field := fmt.Sprintf("spec.ipFamilies[%d]", i)
		if !isOneOf(v, field, family, corev1.IPv4Protocol, corev1.IPv6Protocol) || i >= len(ips) {
			continue
		}
		if addr, err := ParseLegacyAddr(ips[i]); err == nil && FamilyOf(addr) != family {
			v.fail(fmt.Sprintf("spec.clusterIPs[%d]", i), "%s is %s, and %s says %s: make them agree", ips[i], FamilyOf(addr), field, family)
		}
	}
}

// FamilyOf gives an address's family as Services name it.
func FamilyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// portOf is a port as a service has it once.
type portOf struct {
	number   int32
	protocol corev1.Protocol
}

func (p portOf) String() string { return fmt.Sprint(p.number, "/", p.protocol) }

func (v *validator) servicePorts(svc *corev1.Service) {
	names, ports, nodePorts := map[string]int{}, map[portOf]int{}, map[portOf]int{}
	for i, port := range svc.Spec.Ports {
		field := "spec.ports[" + strconv.Itoa(i) + "]"
		v.servicePort(field, port, len(svc.Spec.Ports) > 1)
		if first, twice := names[port.Name]; twice {
			v.fail(field+".name", "%q is the name of spec.ports[%d] too: name them apart", port.Name, first)
		}
		names[port.Name] = i
		key := portOf{port.Port, ProtocolOr(port.Protocol)}
		if first, twice := ports[key]; twice {
			v.fail(field+".port", "%s is spec.ports[%d] too: remove one", key, first)
		}
		ports[key] = i
		v.nodePort(svc, field+".nodePort", i, nodePorts)
	}
}

func (v *validator) nodePort(svc *corev1.Service, field string, i int, seen map[portOf]int) {
	port := svc.Spec.Ports[i]
	if port.NodePort == 0 {
		return
	}
	if kind := svc.Spec.Type; kind != corev1.ServiceTypeNodePort && kind != corev1.ServiceTypeLoadBalancer {
		v.fail(field, "%d has no meaning for type %s: remove it, or use NodePort", port.NodePort, orClusterIP(kind))
		return
	}
	v.port(field, int64(port.NodePort))
	key := portOf{port.NodePort, ProtocolOr(port.Protocol)}
	if first, twice := seen[key]; twice {
		v.fail(field, "%s is the node port of spec.ports[%d] too: give one of them another", key, first)
	}
	seen[key] = i
	if port.NodePort == svc.Spec.HealthCheckNodePort && ProtocolOr(port.Protocol) == corev1.ProtocolTCP {
		v.fail(field, "%d is spec.healthCheckNodePort too: give one of them another", port.NodePort)
	}
}

func orClusterIP(kind corev1.ServiceType) corev1.ServiceType {
	if kind == "" {
		return corev1.ServiceTypeClusterIP
	}
	return kind
}

func (v *validator) servicePort(field string, port corev1.ServicePort, severalPorts bool) {
	v.port(field+".port", int64(port.Port))
	v.protocol(field+".protocol", port.Protocol)
	if port.Name == "" && severalPorts {
		v.fail(field+".name", "is missing: with several ports, each needs a name")
	}
	switch target := port.TargetPort; {
	case target.Type == intstr.String:
		v.portName(field+".targetPort", target.StrVal)
	case target.IntVal != 0:
		v.port(field+".targetPort", int64(target.IntVal))
	}
}

// outsideAddresses checks the addresses that those outside know a service by.
func (v *validator) outsideAddresses(svc *corev1.Service) {
	for i, text := range svc.Spec.ExternalIPs {
		v.outsideAddress(fmt.Sprintf("spec.externalIPs[%d]", i), text)
	}
	for i, ingress := range svc.Status.LoadBalancer.Ingress {
		field := fmt.Sprintf("status.loadBalancer.ingress[%d]", i)
		mode := ptr.Deref(ingress.IPMode, "")
		isOneOf(v, field+".ipMode", mode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)
		switch {
		case ingress.IP != "":
			v.balancerAddress(field+".ip", ingress.IP)
		case mode != "":
			v.fail(field+".ipMode", "%s is the mode of no address: give the ip, or remove the mode", mode)
		}
	}
	for i, text := range svc.Spec.LoadBalancerSourceRanges {
		v.legacyBlock(fmt.Sprintf("spec.loadBalancerSourceRanges[%d]", i), strings.TrimSpace(text))
	}
}

// balancerAddress takes what the API takes: what is no host's is the compiler's to
// leave out, alone.
func (v *validator) balancerAddress(field, text string) {
	if _, err := ParseLegacyAddr(text); err != nil {
		v.fail(field, "%q is not an IP address", text)
	}
}

// outsideAddress takes what the API takes: an address of a family that the service
// has not, or of many hosts, is the compiler's to leave out, alone.
func (v *validator) outsideAddress(field, text string) {
	addr, err := ParseLegacyAddr(text)
	switch {
	case err != nil:
		v.fail(field, "%q is not an IP address", text)
	case isSpecial(addr):
		v.fail(field, "%s is not the address of a host that others reach: use a unicast address, neither loopback nor link-local", text)
	}
}

func (v *validator) trafficPolicies(svc *corev1.Service) {
	spec := svc.Spec
	isOneOf(v, "spec.internalTrafficPolicy", ptr.Deref(spec.InternalTrafficPolicy, ""), corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	external := spec.ExternalTrafficPolicy
	isOneOf(v, "spec.externalTrafficPolicy", external, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	outside := spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer ||
		orClusterIP(spec.Type) == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0
	if external != "" && !outside {
		v.fail("spec.externalTrafficPolicy", "%s has no meaning for a service that is not reached from outside: remove it, or use type NodePort or LoadBalancer", external)
	}
	isOneOf(v, "spec.trafficDistribution", ptr.Deref(spec.TrafficDistribution, ""),
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
	if port := spec.HealthCheckNodePort; port != 0 {
		v.port("spec.healthCheckNodePort", int64(port))
		if spec.Type != corev1.ServiceTypeLoadBalancer || external != corev1.ServiceExternalTrafficPolicyLocal {
			v.fail("spec.healthCheckNodePort", "%d has a meaning for type LoadBalancer with externalTrafficPolicy Local alone: remove it", port)
		}
	}
}

func (v *validator) affinity(svc *corev1.Service) {
	spec := svc.Spec
	isOneOf(v, "spec.sessionAffinity", spec.SessionAffinity, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)
	if spec.SessionAffinityConfig == nil {
		return
	}
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		v.fail("spec.sessionAffinityConfig", "has a meaning for sessionAffinity ClientIP alone: remove it")
		return
	}
	const field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
	config := spec.SessionAffinityConfig.ClientIP
	if config == nil || config.TimeoutSeconds == nil {
		v.fail(field, "is missing: give a number in 1–%d, or remove sessionAffinityConfig", maxAffinitySeconds)
		return
	}
	if seconds := *config.TimeoutSeconds; seconds < 1 || seconds > maxAffinitySeconds {
		v.fail(field, "%d is not in 1–%d", seconds, maxAffinitySeconds)
	}
}
