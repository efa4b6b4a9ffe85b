// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Limits of the API.
const (
	maxClusterPriority = 1000
	maxClusterItems    = 25 // of rules in a list, and of anything in a rule
	maxClusterName     = 100
)

func (v *validator) clusterPolicy(policy *policyv1alpha2.ClusterNetworkPolicy) {
	spec := &policy.Spec
	if spec.Tier != policyv1alpha2.AdminTier && spec.Tier != policyv1alpha2.BaselineTier {
		v.fail("spec.tier", "%q is not one of Admin, Baseline", spec.Tier)
	}
	if spec.Priority < 0 || spec.Priority > maxClusterPriority {
		v.fail("spec.priority", "%d is not in 0–%d", spec.Priority, maxClusterPriority)
	}
	v.chosen("spec.subject", spec.Subject.Namespaces, spec.Subject.Pods, 0)
	v.atMost("spec.ingress", len(spec.Ingress))
	v.atMost("spec.egress", len(spec.Egress))
	for i, rule := range spec.Ingress {
		field := fmt.Sprintf("spec.ingress[%d]", i)
		v.clusterRule(field, rule.Name, rule.Action, rule.Protocols)
		v.someOf(field+".from", len(rule.From))
		for j, peer := range rule.From {
			v.chosen(fmt.Sprintf("%s.from[%d]", field, j), peer.Namespaces, peer.Pods, 0)
		}
	}
	for i, rule := range spec.Egress {
		field := fmt.Sprintf("spec.egress[%d]", i)
		v.clusterRule(field, rule.Name, rule.Action, rule.Protocols)
		v.someOf(field+".to", len(rule.To))
		for j := range rule.To {
			v.clusterPeer(fmt.Sprintf("%s.to[%d]", field, j), &rule.To[j], rule.Protocols)
		}
	}
}

func (v *validator) atMost(field string, count int) {
	if count > maxClusterItems {
		v.fail(field, "has %d entries, and the API takes %d: make a second policy", count, maxClusterItems)
	}
}

func (v *validator) someOf(field string, count int) {
	if count == 0 {
		v.fail(field, "is empty: the API wants at least one entry")
	}
	v.atMost(field, count)
}

func (v *validator) clusterRule(field, name string, does policyv1alpha2.ClusterNetworkPolicyRuleAction, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) {
	if len(name) > maxClusterName {
		v.fail(field+".name", "has %d characters, and the API takes %d", len(name), maxClusterName)
	}
	switch does {
	case policyv1alpha2.ClusterNetworkPolicyRuleActionAccept, policyv1alpha2.ClusterNetworkPolicyRuleActionDeny, policyv1alpha2.ClusterNetworkPolicyRuleActionPass:
	default:
		v.fail(field+".action", "%q is not one of Accept, Deny, Pass", does)
	}
	if protocols != nil {
		v.someOf(field+".protocols", len(protocols))
	}
	for i := range protocols {
		v.clusterProtocol(fmt.Sprintf("%s.protocols[%d]", field, i), &protocols[i])
	}
}

// chosen checks who is chosen by one of two ways, or by one of others beside.
func (v *validator) chosen(field string, namespaces *metav1.LabelSelector, pods *policyv1alpha2.NamespacedPod, others int) {
	ways := others
	if namespaces != nil {
		ways++
		v.selector(field+".namespaces", namespaces)
	}
	if pods != nil {
		ways++
		v.selector(field+".pods.namespaceSelector", &pods.NamespaceSelector)
		v.selector(field+".pods.podSelector", &pods.PodSelector)
	}
	switch {
	case ways == 0:
		v.fail(field, "is empty: say who it is, by namespaces or pods; {} is all of them")
	case ways > 1:
		v.fail(field, "has more than one field, and the API takes one: make an entry of each")
	}
}

func (v *validator) clusterPeer(field string, peer *policyv1alpha2.ClusterNetworkPolicyEgressPeer, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) {
	others := 0
	if peer.Nodes != nil {
		others++
		v.selector(field+".nodes", peer.Nodes)
	}
	if peer.Networks != nil {
		others++
		v.someOf(field+".networks", len(peer.Networks))
		seen := map[policyv1alpha2.CIDR]bool{}
		for i, text := range peer.Networks {
			at := fmt.Sprintf("%s.networks[%d]", field, i)
			v.looseBlock(at, string(text))
			if seen[text] {
				v.fail(at, "%s is there twice: remove one", text)
			}
			seen[text] = true
		}
	}
	if peer.DomainNames != nil {
		others++
		v.fail(field+".domainNames", "is not supported yet: remove it, or the policy would not mean what it says")
	}
	v.chosen(field, peer.Namespaces, peer.Pods, others)
	for i := range protocols {
		if others > 0 && protocols[i].DestinationNamedPort != "" {
			v.fail(field, "has no names for ports, and protocols[%d].destinationNamedPort asks for one: give the number", i)
		}
	}
}

func (v *validator) clusterProtocol(field string, protocol *policyv1alpha2.ClusterNetworkPolicyProtocol) {
	given := 0
	if p := protocol.TCP; p != nil {
		given++
		v.clusterPort(field+".tcp.destinationPort", p.DestinationPort)
	}
	if p := protocol.UDP; p != nil {
		given++
		v.clusterPort(field+".udp.destinationPort", p.DestinationPort)
	}
	if p := protocol.SCTP; p != nil {
		given++
		v.clusterPort(field+".sctp.destinationPort", p.DestinationPort)
	}
	if protocol.DestinationNamedPort != "" {
		given++
		v.portName(field+".destinationNamedPort", protocol.DestinationNamedPort)
	}
	if given != 1 {
		v.fail(field, "has %d fields, and the API wants one of tcp, udp, sctp, destinationNamedPort", given)
	}
}

func (v *validator) clusterPort(field string, port *policyv1alpha2.Port) {
	switch {
	case port == nil:
		v.fail(field, "is missing: give a number or a range")
	case (port.Number != 0) == (port.Range != nil):
		v.fail(field, "needs one of number, in 1–65535, and range")
	case port.Range == nil:
		v.port(field+".number", int64(port.Number))
	default:
		v.port(field+".range.start", int64(port.Range.Start))
		v.port(field+".range.end", int64(port.Range.End))
		if port.Range.Start >= port.Range.End {
			v.fail(field+".range", "%d is not less than %d: swap them, or give a number", port.Range.Start, port.Range.End)
		}
	}
}
