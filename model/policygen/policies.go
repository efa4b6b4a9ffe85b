// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"math/rand/v2"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model/manifest"
)

// Kinds of policies.
var Kinds = []string{"NetworkPolicy", "ClusterNetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"}

// Policy makes a policy of a kind, in any of the namespaces where the kind has
// one. It passes manifest.Validate; a compiler may refuse networks and nodes that
// it does not tell apart.
func Policy(r *rand.Rand, w *Words, kind, name string) metav1.Object {
	m := &maker{Rand: r, w: w}
	switch kind {
	case "NetworkPolicy":
		return m.networkPolicy(name)
	case "ClusterNetworkPolicy":
		return m.clusterPolicy(name)
	case "CiliumNetworkPolicy":
		return m.ciliumPolicy(name)
	}
	return m.clusterwidePolicy(name)
}

func some[T any](m *maker, most int, one func() T) []T {
	var list []T
	for range m.IntN(most + 1) {
		list = append(list, one())
	}
	return list
}

func (m *maker) networkPolicy(name string) *networkingv1.NetworkPolicy {
	policy := &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pick(m, m.w.Namespaces...), Name: name},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: m.selector(m.w.plain())},
	}
	policy.Spec.Ingress = some(m, 2, func() networkingv1.NetworkPolicyIngressRule {
		return networkingv1.NetworkPolicyIngressRule{Ports: some(m, 2, m.port), From: some(m, 2, m.peer)}
	})
	policy.Spec.Egress = some(m, 2, func() networkingv1.NetworkPolicyEgressRule {
		return networkingv1.NetworkPolicyEgressRule{Ports: some(m, 2, m.port), To: some(m, 2, m.peer)}
	})
	policy.Spec.PolicyTypes = pick(m, nil, nil, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"})
	return policy
}

func (m *maker) peer() networkingv1.NetworkPolicyPeer {
	pods, namespaces := m.selector(m.w.plain()), m.selector(m.w.plain())
	switch m.IntN(4) {
	case 0:
		return networkingv1.NetworkPolicyPeer{PodSelector: &pods}
	case 1:
		return networkingv1.NetworkPolicyPeer{NamespaceSelector: &namespaces}
	case 2:
		return networkingv1.NetworkPolicyPeer{PodSelector: &pods, NamespaceSelector: &namespaces}
	}
	set := m.block()
	return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: set.CIDR, Except: set.Except}}
}

func (m *maker) block() manifest.CiliumCIDRRule { return pick(m, m.w.Blocks...) }

func (m *maker) port() networkingv1.NetworkPolicyPort {
	var port networkingv1.NetworkPolicyPort
	if protocol := pick[corev1.Protocol](m, "", "TCP", "UDP", "SCTP"); protocol != "" {
		port.Protocol = &protocol
	}
	switch m.IntN(4) {
	case 0:
		name := intstr.FromString(pick(m, m.w.Names...))
		port.Port = &name
	case 1:
		number := intstr.FromInt32(pick(m, m.w.Ports...))
		port.Port = &number
	case 2:
		first, last := m.numbers()
		number := intstr.FromInt32(first)
		port.Port, port.EndPort = &number, &last
	}
	return port
}

func (m *maker) numbers() (first, last int32) {
	return pick(m, m.w.Firsts...), pick(m, m.w.Lasts...)
}

func (m *maker) clusterPolicy(name string) *policyv1alpha2.ClusterNetworkPolicy {
	policy := &policyv1alpha2.ClusterNetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy.networking.k8s.io/v1alpha2", Kind: "ClusterNetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
	}
	spec := &policy.Spec
	spec.Tier = pick(m, policyv1alpha2.AdminTier, policyv1alpha2.BaselineTier)
	spec.Priority = pick[int32](m, 0, 1, 1, 1000)
	spec.Subject.Namespaces, spec.Subject.Pods = m.chosen()
	action := func() policyv1alpha2.ClusterNetworkPolicyRuleAction {
		return pick(m, policyv1alpha2.ClusterNetworkPolicyRuleActionAccept, policyv1alpha2.ClusterNetworkPolicyRuleActionDeny, policyv1alpha2.ClusterNetworkPolicyRuleActionPass)
	}
	spec.Ingress = some(m, 3, func() policyv1alpha2.ClusterNetworkPolicyIngressRule {
		rule := policyv1alpha2.ClusterNetworkPolicyIngressRule{Action: action(), Protocols: some(m, 2, m.protocol)}
		for range 1 + m.IntN(2) {
			var peer policyv1alpha2.ClusterNetworkPolicyIngressPeer
			peer.Namespaces, peer.Pods = m.chosen()
			rule.From = append(rule.From, peer)
		}
		return rule
	})
	spec.Egress = some(m, 3, func() policyv1alpha2.ClusterNetworkPolicyEgressRule {
		rule := policyv1alpha2.ClusterNetworkPolicyEgressRule{Action: action(), Protocols: some(m, 2, m.protocol)}
		named := false
		for _, protocol := range rule.Protocols {
			named = named || protocol.DestinationNamedPort != ""
		}
		for range 1 + m.IntN(2) {
			rule.To = append(rule.To, m.clusterPeer(named))
		}
		return rule
	})
	return policy
}

func (m *maker) chosen() (*metav1.LabelSelector, *policyv1alpha2.NamespacedPod) {
	namespaces, pods := m.selector(m.w.plain()), m.selector(m.w.plain())
	if m.IntN(2) == 0 {
		return &namespaces, nil
	}
	return nil, &policyv1alpha2.NamespacedPod{NamespaceSelector: namespaces, PodSelector: pods}
}

func (m *maker) clusterPeer(named bool) policyv1alpha2.ClusterNetworkPolicyEgressPeer {
	var peer policyv1alpha2.ClusterNetworkPolicyEgressPeer
	switch kind := m.IntN(4); {
	case kind == 0 && !named:
		peer.Networks = pick(m, m.w.Networks...)
	case kind == 1 && !named:
		nodes := pick(m, m.w.Nodes...)
		peer.Nodes = &nodes
	default:
		peer.Namespaces, peer.Pods = m.chosen()
	}
	return peer
}

func (m *maker) protocol() policyv1alpha2.ClusterNetworkPolicyProtocol {
	port := &policyv1alpha2.Port{Number: pick(m, m.w.Ports...)}
	if m.IntN(2) == 0 {
		first, last := m.numbers()
		port = &policyv1alpha2.Port{Range: &policyv1alpha2.PortRange{Start: first, End: last}}
	}
	switch m.IntN(4) {
	case 0:
		return policyv1alpha2.ClusterNetworkPolicyProtocol{TCP: &policyv1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}}
	case 1:
		return policyv1alpha2.ClusterNetworkPolicyProtocol{UDP: &policyv1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}}
	case 2:
		return policyv1alpha2.ClusterNetworkPolicyProtocol{SCTP: &policyv1alpha2.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}}
	}
	return policyv1alpha2.ClusterNetworkPolicyProtocol{DestinationNamedPort: pick(m, m.w.Names...)}
}

func (m *maker) ciliumPolicy(name string) *manifest.CiliumNetworkPolicy {
	policy := &manifest.CiliumNetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "cilium.io/v2", Kind: "CiliumNetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pick(m, m.w.Namespaces...), Name: name},
	}
	policy.Spec, policy.Specs = m.specs()
	return policy
}

func (m *maker) clusterwidePolicy(name string) *manifest.CiliumClusterwideNetworkPolicy {
	policy := &manifest.CiliumClusterwideNetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "cilium.io/v2", Kind: "CiliumClusterwideNetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
	}
	policy.Spec, policy.Specs = m.specs()
	return policy
}

func (m *maker) specs() (*manifest.CiliumRule, []*manifest.CiliumRule) {
	if m.IntN(4) == 0 {
		return nil, []*manifest.CiliumRule{m.spec(), m.spec()}
	}
	return m.spec(), nil
}

func (m *maker) spec() *manifest.CiliumRule {
	subject := m.selector(m.w.cilium())
	rule := &manifest.CiliumRule{EndpointSelector: &subject}
	rule.Ingress = some(m, 2, m.ingress)
	rule.Egress = some(m, 2, m.egress)
	if m.IntN(2) == 0 {
		rule.IngressDeny = some(m, 1, m.ingress)
		rule.EgressDeny = some(m, 1, m.egress)
	}
	yes, no := true, false
	rule.EnableDefaultDeny.Ingress = pick(m, nil, nil, &yes, &no)
	rule.EnableDefaultDeny.Egress = pick(m, nil, nil, &yes, &no)
	return rule
}

func (m *maker) endpoint() metav1.LabelSelector {
	if m.IntN(8) == 0 {
		return metav1.LabelSelector{MatchLabels: map[string]string{"reserved:" + pick(m, "host", "world", "remote-node", "world-ipv6"): ""}}
	}
	return m.selector(m.w.cilium())
}

func (m *maker) entity() string {
	return pick(m, "all", "world", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node", "kube-apiserver", "health", "none")
}

func (m *maker) ingress() manifest.CiliumIngressRule {
	rule := manifest.CiliumIngressRule{ToPorts: m.toPorts()}
	if rule.ToPorts == nil {
		rule.ICMPs = m.icmps()
	}
	switch m.IntN(6) {
	case 0:
		rule.FromCIDR = some(m, 2, func() string { return pick(m, m.w.CIDRs...) })
	case 1:
		rule.FromCIDRSet = some(m, 2, m.block)
	case 2:
		rule.FromEntities = some(m, 2, m.entity)
	case 3:
	default:
		rule.FromEndpoints = append(make([]metav1.LabelSelector, 0, 2), some(m, 2, m.endpoint)...)
		if m.IntN(4) == 0 {
			rule.FromRequires = some(m, 1, m.endpoint)
		}
	}
	return rule
}

func (m *maker) egress() manifest.CiliumEgressRule {
	rule := manifest.CiliumEgressRule{ToPorts: m.toPorts()}
	if rule.ToPorts == nil {
		rule.ICMPs = m.icmps()
	}
	switch m.IntN(7) {
	case 0:
		rule.ToCIDR = some(m, 2, func() string { return pick(m, m.w.CIDRs...) })
	case 1:
		rule.ToCIDRSet = some(m, 2, m.block)
	case 2:
		rule.ToEntities = some(m, 2, m.entity)
	case 3:
		rule.ToServices = some(m, 1, m.toService)
	case 4:
	default:
		rule.ToEndpoints = append(make([]metav1.LabelSelector, 0, 2), some(m, 2, m.endpoint)...)
		if m.IntN(4) == 0 {
			rule.ToRequires = some(m, 1, m.endpoint)
		}
	}
	return rule
}

func (m *maker) toService() manifest.CiliumService {
	var svc manifest.CiliumService
	if m.IntN(2) == 0 {
		svc.ByName = &struct {
			ServiceName string `json:"serviceName,omitempty"`
			Namespace   string `json:"namespace,omitempty"`
		}{pick(m, m.w.Services...), pick(m, append([]string{""}, m.w.Namespaces...)...)}
		return svc
	}
	svc.BySelector = &struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Namespace string               `json:"namespace,omitempty"`
	}{m.selector(m.w.Labels), pick(m, append([]string{"", ""}, m.w.Namespaces...)...)}
	return svc
}

func (m *maker) toPorts() []manifest.CiliumPortRule {
	return some(m, 1, func() manifest.CiliumPortRule {
		var list manifest.CiliumPortRule
		for range 1 + m.IntN(2) {
			list.Ports = append(list.Ports, m.ciliumPort())
		}
		return list
	})
}

// icmps stand where no ports do, and mostly do not.
func (m *maker) icmps() []manifest.CiliumICMPRule {
	return some(m, m.IntN(4)/3, func() manifest.CiliumICMPRule {
		var list manifest.CiliumICMPRule
		for range 1 + m.IntN(2) {
			list.Fields = append(list.Fields, m.icmp())
		}
		return list
	})
}

func (m *maker) icmp() manifest.CiliumICMP {
	field := manifest.CiliumICMP{Family: pick(m, "", "IPv4", "IPv6")}
	echo := 8
	if field.Family == "IPv6" {
		echo = 128
	}
	kind := intstr.FromInt(pick(m, echo, echo, echo, 0, 1, 3, 8, 128, 255))
	if m.IntN(2) == 0 {
		kind = intstr.FromString(pick(m, "EchoRequest", "EchoRequest", "EchoReply", "DestinationUnreachable"))
	}
	field.Type = &kind
	return field
}

func (m *maker) ciliumPort() manifest.CiliumPort {
	port := manifest.CiliumPort{Protocol: pick(m, "", "ANY", "TCP", "UDP", "SCTP", "tcp")}
	switch m.IntN(4) {
	case 0:
		port.Port = pick(m, append([]string{strings.ToUpper(m.w.Names[0])}, m.w.Names...)...)
	case 1:
		first, last := m.numbers()
		port.Port, port.EndPort = strconv.Itoa(int(first)), last
	default:
		port.Port = strconv.Itoa(int(pick(m, append([]int32{0}, m.w.Ports...)...)))
	}
	return port
}
