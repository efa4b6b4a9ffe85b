// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"sort"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
)

// learnPolicies brings the policies of the whole cluster into the order in
// which they are asked.
func (k *knowledge) learnPolicies() {
	for _, policy := range k.objs.ClusterNetworkPolicies {
		k.cluster = append(k.cluster, policy)
	}
	sort.Slice(k.cluster, func(i, j int) bool {
		a, b := k.cluster[i], k.cluster[j]
		if a.Spec.Priority == b.Spec.Priority {
			return a.Name < b.Name
		}
		return a.Spec.Priority < b.Spec.Priority
	})
	k.learnCilium()
}

// askTier goes down the rules of a tier to the first that matches. It answers
// whether that decides.
func (k *knowledge) askTier(tier policyv1alpha2.Tier, q *question, ruling *Ruling) bool {
	for _, policy := range k.cluster {
		if q.subject == nil || policy.Spec.Tier != tier || !k.isSubject(policy, q.subject) {
			continue
		}
		name := model.PolicyRef{Kind: "ClusterNetworkPolicy", Name: policy.Name}
		index, verdict := k.firstOfCluster(policy, q)
		if q.direction == model.Ingress && len(policy.Spec.Ingress) > 0 || q.direction == model.Egress && len(policy.Spec.Egress) > 0 {
			ruling.Selecting = append(ruling.Selecting, name)
		}
		origin := model.Origin{Policy: name, Rule: index}
		switch verdict {
		case "Accept":
			ruling.Action, ruling.Origin = model.RuleAllow, origin
			return true
		case "Deny":
			ruling.Action, ruling.Origin = k.denial(q, policy.Annotations), origin
			return true
		case "Pass":
			if tier == policyv1alpha2.BaselineTier {
				// Nothing follows but what is allowed to all.
				ruling.Action, ruling.Origin = model.RuleAllow, origin
				return true
			}
			ruling.Passed = origin
			return false
		}
	}
	return false
}

func (k *knowledge) isSubject(policy *policyv1alpha2.ClusterNetworkPolicy, pod *corev1.Pod) bool {
	subject := policy.Spec.Subject
	return k.isChosen(pod, subject.Namespaces, subject.Pods)
}

func (k *knowledge) isChosen(pod *corev1.Pod, spaces *metav1.LabelSelector, pods *policyv1alpha2.NamespacedPod) bool {
	if pod == nil {
		return false
	}
	labels := k.namespaceLabels(spaceOf(pod.Namespace))
	if spaces != nil {
		return matchesByHand(spaces, labels)
	}
	return pods != nil && matchesByHand(&pods.NamespaceSelector, labels) && matchesByHand(&pods.PodSelector, pod.Labels)
}

func (k *knowledge) firstOfCluster(policy *policyv1alpha2.ClusterNetworkPolicy, q *question) (int, policyv1alpha2.ClusterNetworkPolicyRuleAction) {
	spared := func(action policyv1alpha2.ClusterNetworkPolicyRuleAction) bool {
		return action == "Deny" && k.spares(q, policy.Annotations, true)
	}
	if q.direction == model.Ingress {
		for i, rule := range policy.Spec.Ingress {
			if spared(rule.Action) {
				continue
			}
			for _, peer := range rule.From {
				if k.isChosen(q.peer.as, peer.Namespaces, peer.Pods) && speaks(rule.Protocols, q) {
					return i, rule.Action
				}
			}
		}
		return 0, ""
	}
	for i, rule := range policy.Spec.Egress {
		if spared(rule.Action) {
			continue
		}
		for _, peer := range rule.To {
			if k.isClusterPeer(&peer, q.peer) && speaks(rule.Protocols, q) {
				return i, rule.Action
			}
		}
	}
	return 0, ""
}

func (k *knowledge) isClusterPeer(wanted *policyv1alpha2.ClusterNetworkPolicyEgressPeer, peer party) bool {
	if wanted.Nodes != nil && peer.node && k.isNodeWith(wanted.Nodes, peer) {
		return true
	}
	for _, network := range wanted.Networks {
		if inNetwork(string(network), k.addressOf(peer)) {
			return true
		}
	}
	return k.isChosen(peer.as, wanted.Namespaces, wanted.Pods)
}

// isNodeWith asks for a node's labels; the gateway is the node itself.
func (k *knowledge) isNodeWith(selector *metav1.LabelSelector, peer party) bool {
	name := peer.name
	if name == "" {
		name = k.node
	}
	node := k.objs.Nodes[name]
	return node != nil && matchesByHand(selector, node.Labels)
}

// addressOf is where a party is. The gateway is the node itself, where the node
// is: by an address of the gateway's family if it has one, else by any.
func (k *knowledge) addressOf(p party) netip.Addr {
	if !p.node || p.name != "" {
		return p.addr
	}
	var other netip.Addr
	for _, own := range k.own {
		if own.Is4() == p.addr.Is4() {
			return own
		}
		other = own
	}
	return other
}

func inNetwork(text string, addr netip.Addr) bool {
	if single, err := netip.ParseAddr(text); err == nil {
		return single == addr
	}
	prefix, err := netip.ParsePrefix(text)
	return err == nil && prefix.Contains(addr)
}

// speaks asks for the protocol and the destination's port.
func speaks(wanted []policyv1alpha2.ClusterNetworkPolicyProtocol, q *question) bool {
	if len(wanted) == 0 {
		return true
	}
	for _, w := range wanted {
		switch {
		case w.TCP != nil:
			if q.protocol == model.ProtocolTCP && isPort(w.TCP.DestinationPort, q.port) {
				return true
			}
		case w.UDP != nil:
			if q.protocol == model.ProtocolUDP && isPort(w.UDP.DestinationPort, q.port) {
				return true
			}
		case w.SCTP != nil:
			if q.protocol == model.ProtocolSCTP && isPort(w.SCTP.DestinationPort, q.port) {
				return true
			}
		case w.DestinationNamedPort != "":
			if pod := q.target(); pod != nil && q.port != 0 && namedOn(pod, w.DestinationNamedPort, q.protocol) == q.port {
				return true
			}
		}
	}
	return false
}

func isPort(wanted *policyv1alpha2.Port, port uint16) bool {
	switch {
	case wanted == nil:
		return true
	case wanted.Range != nil:
		return int32(port) >= wanted.Range.Start && int32(port) <= wanted.Range.End
	}
	return wanted.Number == int32(port)
}
