// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// Probes that policies are about, in a namespace of theirs.
const (
	guarded1, guarded2 = "guarded-1", "guarded-2"
	friend, stranger   = "friend", "stranger"
	foreigner          = "foreigner" // in another namespace, on node 2
)

// labelRole is what policies select by; of a probe its name up to a dash.
const labelRole = "role"

// guardedService leads to both guarded pods.
const guardedService = "guarded"

// Rule makes a policy, when the addresses of the probes are known.
type Rule func(at func(probe string) []netip.Addr) networkingv1.NetworkPolicySpec

func selects(role string) metav1.LabelSelector {
	return metav1.LabelSelector{MatchLabels: map[string]string{labelRole: role}}
}

func peer(role string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{PodSelector: ptr.To(selects(role))}
}

func ports(protocol corev1.Protocol, numbers ...int) (all []networkingv1.NetworkPolicyPort) {
	for _, n := range numbers {
		all = append(all, networkingv1.NetworkPolicyPort{Protocol: ptr.To(protocol), Port: ptr.To(intstr.FromInt(n))})
	}
	return all
}

// ingress is a policy of who comes in to the guarded pods: by any of the rules.
func ingress(rules ...networkingv1.NetworkPolicyIngressRule) Rule {
	return func(func(string) []netip.Addr) networkingv1.NetworkPolicySpec {
		return networkingv1.NetworkPolicySpec{PodSelector: selects("guarded"), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, Ingress: rules}
	}
}

// egress is a policy of where the friend may go: by any of the rules.
func egress(rules ...networkingv1.NetworkPolicyEgressRule) Rule {
	return func(func(string) []netip.Addr) networkingv1.NetworkPolicySpec {
		return networkingv1.NetworkPolicySpec{PodSelector: selects(friend), PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, Egress: rules}
	}
}

func from(peers ...networkingv1.NetworkPolicyPeer) networkingv1.NetworkPolicyIngressRule {
	return networkingv1.NetworkPolicyIngressRule{From: peers}
}

// allBut lets the friend go everywhere but to a probe's addresses.
func allBut(probe string) Rule {
	return func(at func(string) []netip.Addr) networkingv1.NetworkPolicySpec {
		spec := egress()(at)
		for _, family := range Families() {
			block := networkingv1.IPBlock{CIDR: map[Family]string{IPv4: "0.0.0.0/0", IPv6: "::/0"}[family]}
			for _, a := range at(probe) {
				if a.Is6() == family.is6() {
					block.Except = append(block.Except, netip.PrefixFrom(a, a.BitLen()).String())
				}
			}
			spec.Egress = append(spec.Egress, networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &block}}})
		}
		return spec
	}
}

// ask is an action towards a guarded pod, or by the service of both.
func ask(name, who string, to Target, denied bool, verbs ...Verb) []Action {
	a := Action{From: who, To: to, Denied: denied}
	if to.Kind == ToClusterIP {
		a.By = []string{guarded1, guarded2}
	}
	word := map[bool]string{false: "allowed", true: "denied"}[denied]
	if to.Name == guarded2 || who == foreigner || to.Kind == ToClusterIP {
		a.Needs = []Need{NeedTwoNodes}
	}
	return each(name+"-"+word, a, verbs...)
}

// both asks each guarded pod.
func both(who string, denied bool, verbs ...Verb) []Action {
	return join(ask(who+"-same-node", who, pod(guarded1), denied, verbs...), ask(who+"-other-node", who, pod(guarded2), denied, verbs...))
}

func other(name string) Target { return Target{Kind: ToPod, Name: name, Port: otherPort} }

// policyTests are tests with policies, and one without any first.
func policyTests() []Test {
	tests := []Test{
		{Name: "policy-ingress-none", About: "A policy without a rule lets nobody in.", Rules: []Rule{ingress()}, actions: func() []Action {
			return join(both(friend, true, TCP, UDP), ask("service", friend, service(ToClusterIP, guardedService), true, TCP))
		}},
		{Name: "policy-ingress-pod", About: "A rule lets in pods of a label, and nobody else.", Rules: []Rule{ingress(from(peer(friend)))}, actions: func() []Action {
			return join(both(friend, false, TCP, UDP), both(stranger, true, TCP, UDP), ask("foreigner", foreigner, pod(guarded1), true, TCP),
				ask("service-friend", friend, service(ToClusterIP, guardedService), false, TCP),
				ask("service-stranger", stranger, service(ToClusterIP, guardedService), true, TCP))
		}},
		{Name: "policy-ingress-namespace", About: "A rule lets in pods of a namespace, and none of the policy's own.",
			Rules: []Rule{ingress(from(networkingv1.NetworkPolicyPeer{NamespaceSelector: ptr.To(selects(foreigner))}))}, actions: func() []Action {
				return join(ask("foreigner-other-node", foreigner, pod(guarded1), false, TCP, UDP), ask("foreigner-same-node", foreigner, pod(guarded2), false, TCP), both(friend, true, TCP))
			}},
		{Name: "policy-ingress-port", About: "A rule lets in to a port of TCP, and to no other one.",
			Rules: []Rule{ingress(networkingv1.NetworkPolicyIngressRule{Ports: ports(corev1.ProtocolTCP, mainPort)})}, actions: func() []Action {
				return join(both(stranger, false, TCP), both(stranger, true, UDP),
					ask("port-same-node", friend, other(guarded1), true, TCP), ask("port-other-node", friend, other(guarded2), true, TCP))
			}},
		{Name: "policy-ingress-two", About: "Of two policies either lets in.", Rules: []Rule{ingress(), ingress(from(peer(friend)))}, actions: func() []Action {
			return join(both(friend, false, TCP), both(stranger, true, TCP))
		}},
		{Name: "policy-egress-none", About: "A policy without a rule lets a pod go nowhere.", Rules: []Rule{egress()}, actions: func() []Action {
			return join(both(friend, true, TCP, UDP), both(stranger, false, TCP), ask("service", friend, service(ToClusterIP, guardedService), true, TCP))
		}},
		{Name: "policy-egress-pod", About: "A rule lets a pod go to pods of a label, by their service too.",
			Rules: []Rule{egress(networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{peer("guarded")}, Ports: ports(corev1.ProtocolTCP, mainPort)})},
			actions: func() []Action {
				return join(both(friend, false, TCP), both(friend, true, UDP), ask("port", friend, other(guarded1), true, TCP),
					ask("stranger", friend, pod(stranger), true, TCP), ask("service", friend, service(ToClusterIP, guardedService), false, TCP))
			}},
		{Name: "policy-egress-block", About: "A rule lets a pod go everywhere but to a block of addresses.", Rules: []Rule{allBut(guarded2)}, actions: func() []Action {
			return join(ask("inside", friend, pod(guarded1), false, TCP, UDP), ask("except", friend, pod(guarded2), true, TCP, UDP))
		}},
	}
	tests = append(tests, otherKinds()...)
	for i := range tests {
		tests[i].Needs = append(tests[i].Needs, NeedPolicies)
	}
	none := Test{Name: "policy-none", About: "Without a policy everything works that policies deny in other tests.", actions: func() []Action { return undenied(tests) }}
	return append([]Test{none}, tests...)
}

// undenied are the actions that tests deny, each once, to be done without a policy.
func undenied(tests []Test) (all []Action) {
	seen := map[string]bool{}
	for _, t := range tests {
		for _, a := range t.actions() {
			if !a.Denied {
				continue
			}
			a.Denied = false
			a.Case = fmt.Sprintf("%s-to-%s-%d-%s", a.From, a.To.Name, a.To.Port, a.Verb)
			if !seen[a.Case] {
				seen[a.Case] = true
				all = append(all, a)
			}
		}
	}
	return all
}
