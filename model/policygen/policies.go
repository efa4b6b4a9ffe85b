// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
)

var plainKeys = []string{"app", "tier", "kubernetes.io/metadata.name"}

func some[T any](m *maker, most int, one func() T) []T {
	var list []T
	for range m.IntN(most + 1) {
		list = append(list, one())
	}
	return list
}

func (m *maker) networkPolicy(name string) *networkingv1.NetworkPolicy {
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: pick(m, spaces...), Name: name},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: m.selector(plainKeys...)},
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
	pods, namespaces := m.selector(plainKeys...), m.selector(plainKeys...)
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

func (m *maker) block() model.CiliumCIDRRule {
	return pick(m,
		model.CiliumCIDRRule{CIDR: "0.0.0.0/0"}, model.CiliumCIDRRule{CIDR: "::/0"}, model.CiliumCIDRRule{CIDR: "0.0.0.0/0", Except: []string{"198.51.100.0/24"}},
		model.CiliumCIDRRule{CIDR: "198.51.100.0/24", Except: []string{"198.51.100.128/25"}}, model.CiliumCIDRRule{CIDR: "198.51.100.200/32"},
		model.CiliumCIDRRule{CIDR: "10.0.0.0/16"}, model.CiliumCIDRRule{CIDR: "10.0.0.10/32"}, model.CiliumCIDRRule{CIDR: "2001:db8::/32"}, model.CiliumCIDRRule{CIDR: "172.18.0.0/16"})
}

func (m *maker) port() networkingv1.NetworkPolicyPort {
	var port networkingv1.NetworkPolicyPort
	if protocol := pick[corev1.Protocol](m, "", "TCP", "UDP", "SCTP"); protocol != "" {
		port.Protocol = &protocol
	}
	switch m.IntN(4) {
	case 0:
		name := intstr.FromString(pick(m, "http", "dns"))
		port.Port = &name
	case 1:
		number := intstr.FromInt32(pick[int32](m, 80, 443, 65535))
		port.Port = &number
	case 2:
		first, last := m.numbers()
		number := intstr.FromInt32(first)
		port.Port, port.EndPort = &number, &last
	}
	return port
}

func (m *maker) numbers() (first, last int32) {
	return pick[int32](m, 1, 79, 80, 1000), pick[int32](m, 1000+1, 1023, 8081, 65535)
}

func (m *maker) clusterPolicy(name string) *policyv1alpha2.ClusterNetworkPolicy {
	policy := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
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
	namespaces, pods := m.selector(plainKeys...), m.selector(plainKeys...)
	if m.IntN(2) == 0 {
		return &namespaces, nil
	}
	return nil, &policyv1alpha2.NamespacedPod{NamespaceSelector: namespaces, PodSelector: pods}
}

// clusterPeer has networks of both families, with all of the nodes or none:
// others are refused where pods have two addresses.
func (m *maker) clusterPeer(named bool) policyv1alpha2.ClusterNetworkPolicyEgressPeer {
	var peer policyv1alpha2.ClusterNetworkPolicyEgressPeer
	switch kind := m.IntN(4); {
	case kind == 0 && !named && m.o.OneFamily:
		peer.Networks = pick(m, []policyv1alpha2.CIDR{"10.0.0.0/24"}, []policyv1alpha2.CIDR{"10.0.0.0/16", "198.51.100.0/25"},
			[]policyv1alpha2.CIDR{"0.0.0.0/0", "::/0"}, []policyv1alpha2.CIDR{"10.0.0.10/32"}, []policyv1alpha2.CIDR{"172.18.0.0/16", "fd00:18::/64"})
	case kind == 0 && !named:
		peer.Networks = pick(m, []policyv1alpha2.CIDR{"10.0.0.0/16", "fd00::/64"}, []policyv1alpha2.CIDR{"198.51.100.0/25", "2001:db8::/32"},
			[]policyv1alpha2.CIDR{"0.0.0.0/0", "::/0"}, []policyv1alpha2.CIDR{"198.0.0.0/8"}, []policyv1alpha2.CIDR{"172.18.0.0/16", "fd00:18::/64"})
	case kind == 1 && !named:
		nodes := pick(m, metav1.LabelSelector{}, metav1.LabelSelector{}, metav1.LabelSelector{MatchLabels: map[string]string{"zone": "a"}})
		peer.Nodes = &nodes
	default:
		peer.Namespaces, peer.Pods = m.chosen()
	}
	return peer
}

func (m *maker) protocol() policyv1alpha2.ClusterNetworkPolicyProtocol {
	port := &policyv1alpha2.Port{Number: pick[int32](m, 80, 443, 65535)}
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
	return policyv1alpha2.ClusterNetworkPolicyProtocol{DestinationNamedPort: pick(m, "http", "dns")}
}

// ciliumKeys are keys of labels as Cilium's selectors may write them.
var ciliumKeys = []string{
	"app", "k8s:app", "any:tier", "tier", "k8s:io.kubernetes.pod.namespace", "io.kubernetes.pod.namespace",
	"io.cilium.k8s.namespace.labels.app", "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", "io.cilium.k8s.policy.serviceaccount",
}

func (m *maker) ciliumPolicy(name string) *model.CiliumNetworkPolicy {
	policy := &model.CiliumNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(m, spaces...), Name: name}}
	policy.Spec, policy.Specs = m.specs()
	return policy
}

func (m *maker) clusterwidePolicy(name string) *model.CiliumClusterwideNetworkPolicy {
	policy := &model.CiliumClusterwideNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	policy.Spec, policy.Specs = m.specs()
	return policy
}

func (m *maker) specs() (*model.CiliumRule, []*model.CiliumRule) {
	if m.IntN(4) == 0 {
		return nil, []*model.CiliumRule{m.spec(), m.spec()}
	}
	return m.spec(), nil
}

func (m *maker) spec() *model.CiliumRule {
	subject := m.selector(ciliumKeys...)
	rule := &model.CiliumRule{EndpointSelector: &subject}
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
	return m.selector(ciliumKeys...)
}

func (m *maker) entity() string {
	return pick(m, "all", "world", "world-ipv4", "world-ipv6", "cluster", "host", "remote-node", "kube-apiserver", "health", "none")
}

func (m *maker) ingress() model.CiliumIngressRule {
	rule := model.CiliumIngressRule{ToPorts: m.toPorts()}
	switch m.IntN(6) {
	case 0:
		rule.FromCIDR = some(m, 2, func() string { return pick(m, "198.51.100.7", "192.0.2.0/24", "0.0.0.0/0", "10.0.0.0/8") })
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

func (m *maker) egress() model.CiliumEgressRule {
	rule := model.CiliumEgressRule{ToPorts: m.toPorts()}
	switch m.IntN(7) {
	case 0:
		rule.ToCIDR = some(m, 2, func() string { return pick(m, "198.51.100.7", "192.0.2.0/24", "::/0", "10.0.0.0/8") })
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

func (m *maker) toService() model.CiliumService {
	var svc model.CiliumService
	if m.IntN(2) == 0 {
		svc.ByName = &struct {
			ServiceName string `json:"serviceName,omitempty"`
			Namespace   string `json:"namespace,omitempty"`
		}{pick(m, "web", "far"), pick(m, "", "shop", "default")}
		return svc
	}
	svc.BySelector = &struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Namespace string               `json:"namespace,omitempty"`
	}{m.selector("app", "tier"), pick(m, "", "", "shop")}
	return svc
}

func (m *maker) toPorts() []model.CiliumPortRule {
	return some(m, 1, func() model.CiliumPortRule {
		var list model.CiliumPortRule
		for range 1 + m.IntN(2) {
			list.Ports = append(list.Ports, m.ciliumPort())
		}
		return list
	})
}

func (m *maker) ciliumPort() model.CiliumPort {
	port := model.CiliumPort{Protocol: pick(m, "", "ANY", "TCP", "UDP", "SCTP", "tcp")}
	switch m.IntN(4) {
	case 0:
		port.Port = pick(m, "http", "dns", "HTTP")
	case 1:
		first, last := m.numbers()
		port.Port, port.EndPort = strconv.Itoa(int(first)), last
	default:
		port.Port = pick(m, "0", "80", "443", "65535")
	}
	return port
}
