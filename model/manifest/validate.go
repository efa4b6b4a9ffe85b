// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
)

// denials checks what a policy says of the packets that it denies.
func (v *validator) denials(obj metav1.Object) {
	for _, direction := range []model.Direction{model.Ingress, model.Egress} {
		key := annotationDenied(direction)
		if !slices.Contains(AnnotationsOf(obj), key) {
			continue
		}
		if _, err := DeniedOf(obj.GetAnnotations(), direction); err != nil {
			v.fail("metadata.annotations["+key+"]", "%v", err)
		}
	}
}

// Validate checks one object by itself, as the API server would, as far as the
// fields matter to a datapath.
func Validate(obj metav1.Object) []*model.FieldError {
	v := &validator{object: RefOf(obj)}
	v.metadata(obj)
	switch obj.(type) {
	case *corev1.Node, *corev1.Service, *discoveryv1.EndpointSlice:
	default:
		if _, _, err := AuditOf(obj.GetAnnotations()); err != nil {
			v.fail("metadata.annotations["+AnnotationAudit+"]", "%v", err)
		}
	}
	v.denials(obj)
	switch obj := obj.(type) {
	case *corev1.Pod:
		v.pod(obj)
	case *corev1.Node:
		v.node(obj)
	case *corev1.Service:
		v.service(obj)
	case *discoveryv1.EndpointSlice:
		v.endpointSlice(obj)
	case *networkingv1.NetworkPolicy:
		v.networkPolicy(obj)
	case *policyv1alpha2.ClusterNetworkPolicy:
		v.clusterPolicy(obj)
	case *CiliumNetworkPolicy:
		v.ciliumPolicy(false, obj.Spec, obj.Specs)
	case *CiliumClusterwideNetworkPolicy:
		v.ciliumPolicy(true, obj.Spec, obj.Specs)
	case *Workload:
		v.workload(obj)
	}
	return v.errs
}

type validator struct {
	object model.Ref
	errs   []*model.FieldError
}

func (v *validator) fail(field, format string, args ...any) {
	v.errs = append(v.errs, &model.FieldError{Object: v.object, Field: field, Problem: fmt.Sprintf(format, args...)})
}

func (v *validator) metadata(obj metav1.Object) {
	if name := obj.GetName(); name == "" {
		v.fail("metadata.name", "is missing: give the object a name")
	} else if !isPlain(name) {
		if problems := validation.IsDNS1123Subdomain(name); problems != nil {
			v.fail("metadata.name", "%q: %s", name, problems[0])
		}
	}
	if ns := obj.GetNamespace(); ns != "" && !isPlain(ns) {
		if problems := validation.IsDNS1123Label(ns); problems != nil {
			v.fail("metadata.namespace", "%q: %s", ns, problems[0])
		}
	}
	v.labels("metadata.labels", obj.GetLabels())
}

func (v *validator) labels(field string, labels map[string]string) {
	for key, value := range labels {
		if !isPlainKey(key) {
			if problems := validation.IsQualifiedName(key); problems != nil {
				v.fail(field, "key %q: %s", key, problems[0])
			}
		}
		if value == "" || isPlain(value) {
			continue
		}
		if problems := validation.IsValidLabelValue(value); problems != nil {
			v.fail(field+"["+key+"]", "%q: %s", value, problems[0])
		}
	}
}

// isPlain is whether a text is a DNS label (RFC 1123), which the API takes for a
// name, a namespace, and the value of a label. Most are, and the regular expressions
// that say what else it takes cost ten times as much.
func isPlain(text string) bool {
	const longest = 63
	if text == "" || len(text) > longest || text[0] == '-' || text[len(text)-1] == '-' {
		return false
	}
	for i := range len(text) {
		if c := text[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// isPlainKey is whether a text is a label's key that is plain in all of its parts, as
// "app" and "kubernetes.io/service-name" are.
func isPlainKey(text string) bool {
	const longest = 253
	domain, name, has := strings.Cut(text, "/")
	if !has {
		return isPlain(text)
	}
	if len(domain) > longest || !isPlain(name) {
		return false
	}
	for part := range strings.SplitSeq(domain, ".") {
		if !isPlain(part) {
			return false
		}
	}
	return true
}

func (v *validator) pod(pod *corev1.Pod) {
	v.containers("spec.containers", pod.Spec.Containers)
	v.containers("spec.initContainers", pod.Spec.InitContainers)
	v.hostPorts(pod)
	if _, err := WeightOf(pod); err != nil {
		v.fail("metadata.annotations["+AnnotationWeight+"]", "%v", err)
	}
	var addresses []string
	for _, ip := range pod.Status.PodIPs {
		addresses = append(addresses, ip.IP)
	}
	if ip := pod.Status.PodIP; ip != "" && len(addresses) > 0 && addresses[0] != ip {
		v.fail("status.podIP", "%s is not the first of status.podIPs, %s: make them equal", ip, addresses[0])
	}
	if len(addresses) == 0 && pod.Status.PodIP != "" {
		v.addresses("status.podIP", []string{pod.Status.PodIP})
		return
	}
	v.addresses("status.podIPs", addresses)
}

func (v *validator) containers(list string, containers []corev1.Container) {
	for c, container := range containers {
		for p, port := range container.Ports {
			before := len(v.errs)
			v.port("containerPort", int64(port.ContainerPort))
			v.protocol("protocol", port.Protocol)
			if port.Name != "" {
				v.portName("name", port.Name)
			}
			for _, bad := range v.errs[before:] { // nothing is named where nothing is wrong
				bad.Field = fmt.Sprintf("%s[%d].ports[%d].%s", list, c, p, bad.Field)
			}
		}
	}
}

// hostPorts checks the ports of the node that a pod asks for, each of which it
// may have once. A pod of the host's network has the node's ports as they are.
// hostPorts leaves hostIP to the compiler, which leaves out a port whose hostIP is
// none alone: the API takes anything there.
func (v *validator) hostPorts(pod *corev1.Pod) {
	type place struct {
		ip       string
		port     int32
		protocol corev1.Protocol
	}
	first := map[place]string{}
	EachHostPort(pod, func(field string, port corev1.ContainerPort) {
		v.port(field+".hostPort", int64(port.HostPort))
		if pod.Spec.HostNetwork && port.HostPort != port.ContainerPort {
			v.fail(field+".hostPort", "%d is not containerPort %d, and the pod is on the host's network: make them equal", port.HostPort, port.ContainerPort)
		}
		at := place{port.HostIP, port.HostPort, ProtocolOr(port.Protocol)}
		if other, twice := first[at]; twice {
			v.fail(field+".hostPort", "%d/%s is %s too: remove one", port.HostPort, at.protocol, other)
			return
		}
		first[at] = field + ".hostPort"
	})
}

// addresses checks a list of which each family may be there once.
func (v *validator) addresses(field string, addresses []string) {
	have := make(map[bool]string, 2)
	for i, text := range addresses {
		addr, err := ParseLegacyAddr(text)
		if err != nil || !ReachesHost(addr) {
			v.address(fmt.Sprintf("%s[%d]", field, i), text)
			continue
		}
		if first := have[addr.Is4()]; first != "" {
			v.fail(fmt.Sprintf("%s[%d]", field, i), "%s is of the same family as %s: keep one of each family", text, first)
		}
		have[addr.Is4()] = text
	}
}

func (v *validator) address(field, text string) {
	addr, err := ParseLegacyAddr(text)
	if err != nil {
		v.fail(field, "%q is not an IP address", text)
	} else if !ReachesHost(addr) {
		v.fail(field, "%s is not the address of a host that others reach: use a unicast address, neither loopback nor link-local", text)
	}
}

// ReachesHost is whether an address can be that of a host that others reach.
func ReachesHost(addr netip.Addr) bool {
	return addr.Zone() == "" && !addr.IsLoopback() && !addr.IsMulticast() && !addr.IsUnspecified() && !addr.IsLinkLocalUnicast()
}

// isSpecial is whether the API refuses an address of a service or an endpoint
// (ValidateNonSpecialIP). It takes multicast beyond the link, which no host has
// either.
func isSpecial(addr netip.Addr) bool {
	return addr.IsUnspecified() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsLinkLocalMulticast()
}

// node leaves its addresses to the compiler, which leaves out those that are
// none alone: the API takes anything there.
func (v *validator) node(node *corev1.Node) {
	if first := node.Spec.PodCIDR; first != "" {
		v.legacyBlock("spec.podCIDR", first)
		if all := node.Spec.PodCIDRs; len(all) > 0 && all[0] != first {
			v.fail("spec.podCIDR", "%s is not the first of spec.podCIDRs, %s: make them equal", first, all[0])
		}
	}
	for i, text := range node.Spec.PodCIDRs {
		v.legacyBlock(fmt.Sprintf("spec.podCIDRs[%d]", i), text)
	}
}

func (v *validator) endpointSlice(slice *discoveryv1.EndpointSlice) {
	switch slice.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	case discoveryv1.AddressTypeFQDN:
		return
	default:
		v.fail("addressType", "%q is not one of IPv4, IPv6, FQDN", slice.AddressType)
		return
	}
	for i, port := range slice.Ports {
		field := fmt.Sprintf("ports[%d]", i)
		if port.Port != nil {
			v.port(field+".port", int64(*port.Port))
		}
		if port.Protocol != nil {
			v.protocol(field+".protocol", *port.Protocol)
		}
	}
	is4 := slice.AddressType == discoveryv1.AddressTypeIPv4
	for i := range slice.Endpoints {
		addresses := slice.Endpoints[i].Addresses
		if len(addresses) == 0 {
			v.fail(fmt.Sprintf("endpoints[%d].addresses", i), "is empty: give the endpoint an address")
		}
		for j, text := range addresses {
			addr, err := ParseLegacyAddr(text)
			if err == nil && !isSpecial(addr) && addr.Is4() == is4 {
				continue
			}
			field := fmt.Sprintf("endpoints[%d].addresses[%d]", i, j)
			v.outsideAddress(field, text)
			if err == nil && addr.Is4() != is4 {
				v.fail(field, "%s does not belong into a slice of addressType %s: put it into another slice", text, slice.AddressType)
			}
		}
	}
}

func (v *validator) networkPolicy(policy *networkingv1.NetworkPolicy) {
	spec := policy.Spec
	v.selector("spec.podSelector", &spec.PodSelector)
	if len(spec.PolicyTypes) > 2 {
		v.fail("spec.policyTypes", "has %d entries, and the API takes two: name each direction once", len(spec.PolicyTypes))
	}
	for i, t := range spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			v.fail(fmt.Sprintf("spec.policyTypes[%d]", i), "%q is not one of Ingress, Egress", t)
		}
	}
	for i, rule := range spec.Ingress {
		field := fmt.Sprintf("spec.ingress[%d]", i)
		v.policyPorts(field, rule.Ports)
		v.policyPeers(field+".from", rule.From)
	}
	for i, rule := range spec.Egress {
		field := fmt.Sprintf("spec.egress[%d]", i)
		v.policyPorts(field, rule.Ports)
		v.policyPeers(field+".to", rule.To)
	}
}

func (v *validator) policyPorts(field string, ports []networkingv1.NetworkPolicyPort) {
	for i, port := range ports {
		at := fmt.Sprintf("%s.ports[%d]", field, i)
		if port.Protocol != nil {
			v.protocol(at+".protocol", *port.Protocol)
		}
		switch {
		case port.Port == nil:
			if port.EndPort != nil {
				v.fail(at+".endPort", "%d has no port to begin at: give ports[%d].port", *port.EndPort, i)
			}
		case port.Port.Type == intstr.String:
			v.portName(at+".port", port.Port.StrVal)
			if port.EndPort != nil {
				v.fail(at+".endPort", "%d cannot end a range that begins at a name: give ports[%d].port as a number", *port.EndPort, i)
			}
		default:
			v.port(at+".port", int64(port.Port.IntVal))
			if port.EndPort == nil {
				continue
			}
			v.port(at+".endPort", int64(*port.EndPort))
			if *port.EndPort < port.Port.IntVal {
				v.fail(at+".endPort", "%d is less than port %d: swap them", *port.EndPort, port.Port.IntVal)
			}
		}
	}
}

func (v *validator) policyPeers(field string, peers []networkingv1.NetworkPolicyPeer) {
	for i, peer := range peers {
		at := fmt.Sprintf("%s[%d]", field, i)
		if peer.PodSelector == nil && peer.NamespaceSelector == nil && peer.IPBlock == nil {
			v.fail(at, "is empty: give a podSelector, a namespaceSelector or an ipBlock")
		}
		if peer.IPBlock != nil && (peer.PodSelector != nil || peer.NamespaceSelector != nil) {
			v.fail(at+".ipBlock", "cannot stand beside a selector: make it a peer of its own")
		}
		if peer.PodSelector != nil {
			v.selector(at+".podSelector", peer.PodSelector)
		}
		if peer.NamespaceSelector != nil {
			v.selector(at+".namespaceSelector", peer.NamespaceSelector)
		}
		if peer.IPBlock != nil {
			v.ipBlock(at+".ipBlock", peer.IPBlock)
		}
	}
}

// ipBlock takes what the API takes. The compiler warns of what is not written
// as it is meant.
func (v *validator) ipBlock(field string, block *networkingv1.IPBlock) {
	read := func(field, text string) (netip.Prefix, bool) {
		prefix, err := ParseLegacyBlock(text)
		if err != nil {
			v.fail(field, "%q is not an address block like 10.0.0.0/8 or fd00::/16", text)
		}
		return prefix, err == nil
	}
	cidr, ok := read(field+".cidr", block.CIDR)
	for i, text := range block.Except {
		at := fmt.Sprintf("%s.except[%d]", field, i)
		except, okToo := read(at, text)
		if !ok || !okToo {
			continue
		}
		if !cidr.Contains(except.Addr()) || except.Bits() <= cidr.Bits() {
			v.fail(at, "%s is not strictly within %s: make it smaller or remove it", text, block.CIDR)
		}
	}
}

// legacyBlock takes what the API takes where bits beyond the length do not count.
func (v *validator) legacyBlock(field, text string) {
	if _, err := ParseLegacyBlock(text); err != nil {
		v.fail(field, "%q is not an address block like 10.0.0.0/8 or fd00::/16", text)
	}
}

func (v *validator) selector(field string, selector *metav1.LabelSelector) {
	v.labels(field+".matchLabels", selector.MatchLabels)
	for i, e := range selector.MatchExpressions {
		at := fmt.Sprintf("%s.matchExpressions[%d]", field, i)
		if problems := validation.IsQualifiedName(e.Key); problems != nil {
			v.fail(at+".key", "%q: %s", e.Key, problems[0])
		}
		switch e.Operator {
		case metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn:
			if len(e.Values) == 0 {
				v.fail(at+".values", "is empty: operator %s needs a value", e.Operator)
			}
		case metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist:
			if len(e.Values) > 0 {
				v.fail(at+".values", "must be empty with operator %s: remove it", e.Operator)
			}
		default:
			v.fail(at+".operator", "%q is not one of In, NotIn, Exists, DoesNotExist", e.Operator)
		}
		for j, value := range e.Values {
			if problems := validation.IsValidLabelValue(value); problems != nil {
				v.fail(fmt.Sprintf("%s.values[%d]", at, j), "%q: %s", value, problems[0])
			}
		}
	}
}

func (v *validator) port(field string, port int64) {
	if port < 1 || port > 65535 {
		v.fail(field, "%d is not in 1–65535", port)
	}
}

func (v *validator) portName(field, name string) {
	if problems := validation.IsValidPortName(name); problems != nil {
		v.fail(field, "%q is not the name of a port: %s", name, problems[0])
	}
}

func (v *validator) protocol(field string, protocol corev1.Protocol) {
	switch protocol {
	case "", corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		v.fail(field, "%q is not one of TCP, UDP, SCTP%s", protocol, protocolRemedy(string(protocol), "TCP", "UDP", "SCTP"))
	}
}

// protocolRemedy says which protocol was probably meant; nothing where none is alike.
func protocolRemedy(written string, protocols ...string) string {
	meant := Closest(written, protocols...)
	switch {
	case meant == "":
		return ""
	case strings.EqualFold(meant, written):
		return ": write " + meant
	}
	return ": did you mean " + meant + "?"
}

// ProtocolOr gives the protocol of a port that names none: TCP.
func ProtocolOr(protocol corev1.Protocol) corev1.Protocol {
	if protocol == "" {
		return corev1.ProtocolTCP
	}
	return protocol
}
