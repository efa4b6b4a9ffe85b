// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

func (c *compiler) networkPolicy(object *networkingv1.NetworkPolicy) *compiledPolicy {
	p := &compiledPolicy{object: object, tier: tierOwn, subjects: map[*identity]bool{}, isolates: manifest.DirectionsOf(object)}
	subject := c.selector(object, "spec.podSelector", &object.Spec.PodSelector)
	for _, id := range c.identities {
		if id.namespace == manifest.NamespaceOr(object.Namespace) && subject.Matches(id.podLabels) {
			p.subjects[id] = true
		}
	}
	if len(p.subjects) == 0 {
		c.warnOfNobody(object, "spec.podSelector", noPod(" of namespace "+manifest.NamespaceOr(object.Namespace)), &object.Spec.PodSelector)
	}
	for i, rule := range object.Spec.Ingress {
		c.networkPolicyRule(p, model.Ingress, i, rule.Ports, rule.From)
	}
	for i, rule := range object.Spec.Egress {
		c.networkPolicyRule(p, model.Egress, i, rule.Ports, rule.To)
	}
	return p
}

func (c *compiler) selector(object metav1.Object, field string, selector *metav1.LabelSelector) labels.Selector {
	compiled, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		c.fail(object, field, "%v", err)
		return labels.Nothing()
	}
	return compiled
}

func (c *compiler) networkPolicyRule(p *compiledPolicy, direction model.Direction, index int, ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer) {
	field := fmt.Sprintf("spec.%s[%d]", direction, index)
	if !p.isolates[direction] {
		c.warn(p.object, field, "has no effect: spec.policyTypes does not name the direction: add it there")
		return
	}
	rule := compiledRule{
		direction: direction, field: field,
		origin:  model.Origin{Policy: manifest.RefOf(p.object).Policy(), Rule: index},
		anyPeer: len(peers) == 0,
	}
	for i, port := range ports {
		rule.ports = append(rule.ports, portRangeOf(fmt.Sprintf("%s.ports[%d].port", field, i), port))
	}
	list := field + ".from"
	if direction == model.Egress {
		list = field + ".to"
	}
	for i, peer := range peers {
		if peer.IPBlock != nil {
			at := fmt.Sprintf("%s[%d].ipBlock", list, i)
			c.warnOfLegacyBlock(p.object, at+".cidr", peer.IPBlock.CIDR)
			for j, except := range peer.IPBlock.Except {
				c.warnOfLegacyBlock(p.object, fmt.Sprintf("%s.except[%d]", at, j), except)
			}
			if b, ok := blockOf(peer.IPBlock); ok {
				c.addBlock(p.object, &rule, b)
			}
			continue
		}
		rule.peers = append(rule.peers, c.networkPolicyPeer(p, fmt.Sprintf("%s[%d]", list, i), peer)...)
	}
	c.warnOfNames(p, rule)
	p.rules = append(p.rules, rule)
}

func (c *compiler) networkPolicyPeer(p *compiledPolicy, field string, peer networkingv1.NetworkPolicyPeer) []*identity {
	pods, namespaces := labels.Everything(), labels.Everything()
	if peer.PodSelector != nil {
		pods = c.selector(p.object, field+".podSelector", peer.PodSelector)
	}
	if peer.NamespaceSelector != nil {
		namespaces = c.selector(p.object, field+".namespaceSelector", peer.NamespaceSelector)
	}
	var found []*identity
	for _, id := range c.identities {
		inNamespace := namespaces.Matches(id.namespaceLabels)
		if peer.NamespaceSelector == nil {
			inNamespace = id.namespace == manifest.NamespaceOr(p.object.GetNamespace())
		}
		if inNamespace && pods.Matches(id.podLabels) {
			found = append(found, id)
		}
	}
	if len(found) == 0 {
		c.warnOfNobody(p.object, field, noPeer, peer.PodSelector, peer.NamespaceSelector)
	}
	return found
}

func portRangeOf(field string, port networkingv1.NetworkPolicyPort) portRange {
	r := portRange{protocol: protocolNumber(ptr.Deref(port.Protocol, "")), field: field}
	switch {
	case port.Port == nil:
	case port.Port.Type == intstr.String:
		r.name = port.Port.StrVal
	default:
		r.first = uint16(port.Port.IntVal)
		r.last = r.first
		if port.EndPort != nil {
			r.last = uint16(*port.EndPort)
		}
	}
	return r
}
