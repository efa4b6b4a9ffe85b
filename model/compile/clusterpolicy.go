// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// clusterPolicies compiles the policies of tiers in their order. Of two of one
// priority, of which the API lets an implementation choose, the one whose name
// sorts first is asked first.
func (c *compiler) clusterPolicies() []*compiledPolicy {
	var policies []*compiledPolicy
	for _, object := range manifest.InOrder(c.objs.ClusterNetworkPolicies) {
		policies = append(policies, c.clusterPolicy(object))
	}
	return c.inTurn(policies)
}

// inTurn orders policies, which are ordered by name, by their priority.
func (c *compiler) inTurn(policies []*compiledPolicy) []*compiledPolicy {
	slices.SortStableFunc(policies, func(a, b *compiledPolicy) int { return cmp.Compare(a.priority, b.priority) })
	for i, p := range policies {
		for _, q := range policies[:i] {
			if p.tier == q.tier && p.priority == q.priority && meet(p, q) {
				c.warn(p.object, "spec.priority", "%d is that of %s too, of the same tier and for the same pods: which is asked first is not for the API to say (here it is %s): give them different ones", p.priority, manifest.RefOf(q.object), q.object.GetName())
				break
			}
		}
	}
	return policies
}

func meet(p, q *compiledPolicy) bool {
	for id := range p.subjects {
		if q.subjects[id] {
			return true
		}
	}
	return false
}

func (c *compiler) clusterPolicy(object *policyv1alpha2.ClusterNetworkPolicy) *compiledPolicy {
	spec := &object.Spec
	p := &compiledPolicy{object: object, tier: tierAdmin, priority: spec.Priority, subjects: map[*identity]bool{}}
	if spec.Tier == policyv1alpha2.BaselineTier {
		p.tier = tierBaseline
	}
	for _, id := range c.selectPods(object, "spec.subject", spec.Subject.Namespaces, spec.Subject.Pods) {
		p.subjects[id] = true
	}
	if len(p.subjects) == 0 {
		c.warnOfNobody(object, "spec.subject", noPod(""), selectorsOf(spec.Subject.Namespaces, spec.Subject.Pods)...)
	}
	for i, r := range spec.Ingress {
		rule := c.clusterRule(p, model.Ingress, i, r.Action, r.Protocols)
		for j, peer := range r.From {
			c.clusterPods(p, &rule, fmt.Sprintf("%s.from[%d]", rule.field, j), peer.Namespaces, peer.Pods)
		}
		c.keepClusterRule(p, rule)
	}
	for i, r := range spec.Egress {
		rule := c.clusterRule(p, model.Egress, i, r.Action, r.Protocols)
		for j, peer := range r.To {
			field := fmt.Sprintf("%s.to[%d]", rule.field, j)
			c.clusterPods(p, &rule, field, peer.Namespaces, peer.Pods)
			for k, text := range peer.Networks {
				c.warnOfHostBits(p.object, fmt.Sprintf("%s.networks[%d]", field, k), string(text))
			}
			if peer.Nodes != nil {
				c.clusterNodes(p, &rule, field+".nodes", peer.Nodes)
			}
		}
		for _, cidr := range networksOf(r.To) {
			c.addBlock(p.object, &rule, &block{cidr: cidr})
		}
		c.keepClusterRule(p, rule)
	}
	c.warnOfNoRules(p, "spec")
	return p
}

func (c *compiler) clusterRule(p *compiledPolicy, direction model.Direction, index int, does policyv1alpha2.ClusterNetworkPolicyRuleAction, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) compiledRule {
	rule := compiledRule{
		direction: direction, field: fmt.Sprintf("spec.%s[%d]", direction, index),
		origin: model.Origin{Policy: manifest.RefOf(p.object).Policy(), Rule: index},
	}
	switch does {
	case policyv1alpha2.ClusterNetworkPolicyRuleActionDeny:
		rule.action = deny
	case policyv1alpha2.ClusterNetworkPolicyRuleActionPass:
		rule.action = pass
	}
	for i, protocol := range protocols {
		rule.ports = append(rule.ports, portRangeOfCluster(fmt.Sprintf("%s.protocols[%d]", rule.field, i), protocol))
	}
	return rule
}

func (c *compiler) keepClusterRule(p *compiledPolicy, rule compiledRule) {
	c.warnOfNames(p, rule)
	p.rules = append(p.rules, rule)
}

func portRangeOfCluster(field string, protocol policyv1alpha2.ClusterNetworkPolicyProtocol) portRange {
	with := func(number model.Protocol, name string, port *policyv1alpha2.Port) portRange {
		r := portRange{protocol: number, field: field + "." + name + ".destinationPort"}
		switch {
		case port == nil:
		case port.Range != nil:
			r.first, r.last = uint16(port.Range.Start), uint16(port.Range.End)
		default:
			r.first = uint16(port.Number)
			r.last = r.first
		}
		return r
	}
	switch {
	case protocol.TCP != nil:
		return with(model.ProtocolTCP, "tcp", protocol.TCP.DestinationPort)
	case protocol.UDP != nil:
		return with(model.ProtocolUDP, "udp", protocol.UDP.DestinationPort)
	case protocol.SCTP != nil:
		return with(model.ProtocolSCTP, "sctp", protocol.SCTP.DestinationPort)
	}
	return portRange{name: protocol.DestinationNamedPort, field: field + ".destinationNamedPort"}
}

// selectPods gives who is chosen by namespaces, or by namespaces and pods.
func (c *compiler) selectPods(object metav1.Object, field string, namespaces *metav1.LabelSelector, pods *policyv1alpha2.NamespacedPod) []*identity {
	ofSpace, ofPod := labels.Nothing(), labels.Everything()
	switch {
	case namespaces != nil:
		ofSpace = c.selector(object, field+".namespaces", namespaces)
	case pods != nil:
		ofSpace = c.selector(object, field+".pods.namespaceSelector", &pods.NamespaceSelector)
		ofPod = c.selector(object, field+".pods.podSelector", &pods.PodSelector)
	}
	var found []*identity
	for _, id := range c.identities {
		if ofSpace.Matches(id.namespaceLabels) && ofPod.Matches(id.podLabels) {
			found = append(found, id)
		}
	}
	return found
}

func selectorsOf(namespaces *metav1.LabelSelector, pods *policyv1alpha2.NamespacedPod) []*metav1.LabelSelector {
	if pods == nil {
		return []*metav1.LabelSelector{namespaces}
	}
	return []*metav1.LabelSelector{namespaces, &pods.NamespaceSelector, &pods.PodSelector}
}

func (c *compiler) clusterPods(p *compiledPolicy, rule *compiledRule, field string, namespaces *metav1.LabelSelector, pods *policyv1alpha2.NamespacedPod) {
	if namespaces == nil && pods == nil {
		return
	}
	found := c.selectPods(p.object, field, namespaces, pods)
	if len(found) == 0 {
		c.warnOfNobody(p.object, field, noPeer, selectorsOf(namespaces, pods)...)
	}
	rule.peers = append(rule.peers, found...)
}

// clusterNodes adds nodes by their labels.
func (c *compiler) clusterNodes(p *compiledPolicy, rule *compiledRule, field string, nodes *metav1.LabelSelector) {
	selector := c.selector(p.object, field, nodes)
	rule.members = append(rule.members, c.members[nameOfNodes(nodes)]...)
	if !slices.ContainsFunc(manifest.InOrder(c.objs.Nodes), func(node *corev1.Node) bool { return selector.Matches(labels.Set(node.Labels)) }) {
		c.warnOfNobody(p.object, field, "matches no node: the entry has no effect until one has these labels", nodes)
	}
}
