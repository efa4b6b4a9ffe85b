// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// compiledPolicy is a NetworkPolicy whose selectors have been asked for every
// identity there is.
type compiledPolicy struct {
	object     *networkingv1.NetworkPolicy
	subjects   map[*identity]bool
	directions map[Direction]bool
	rules      []compiledRule
}

type compiledRule struct {
	direction Direction
	origin    Origin
	anyPeer   bool
	peers     []*identity // when not anyPeer
	blocks    []Identity  // when not anyPeer
	ports     []portRange // none: any
}

// portRange is an entry of a rule's ports. A name stands for other numbers on
// other pods.
type portRange struct {
	protocol    Protocol
	first, last uint16 // 0, 0: any port
	name        string
}

func (c *compiler) policies() []*compiledPolicy {
	var policies []*compiledPolicy
	for _, object := range inOrder(c.objs.NetworkPolicies) {
		c.requireNamespace(object)
		policies = append(policies, c.policy(object))
	}
	return policies
}

func (c *compiler) policy(object *networkingv1.NetworkPolicy) *compiledPolicy {
	p := &compiledPolicy{object: object, subjects: map[*identity]bool{}, directions: directionsOf(object)}
	subject := c.selector(object, "spec.podSelector", &object.Spec.PodSelector)
	for _, id := range c.identities {
		if id.namespace == namespaceOr(object.Namespace) && subject.Matches(id.podLabels) {
			p.subjects[id] = true
		}
	}
	if len(p.subjects) == 0 {
		c.warn(object, "spec.podSelector", "matches no pod of namespace %s: the policy has no effect until one has these labels", namespaceOr(object.Namespace))
	}
	for i, rule := range object.Spec.Ingress {
		p.rules = append(p.rules, c.rule(p, Ingress, i, rule.Ports, rule.From))
	}
	for i, rule := range object.Spec.Egress {
		p.rules = append(p.rules, c.rule(p, Egress, i, rule.Ports, rule.To))
	}
	return p
}

// directionsOf applies the API's default: ingress always, egress where the
// policy has an egress rule.
func directionsOf(object *networkingv1.NetworkPolicy) map[Direction]bool {
	if len(object.Spec.PolicyTypes) == 0 {
		return map[Direction]bool{Ingress: true, Egress: len(object.Spec.Egress) > 0}
	}
	return map[Direction]bool{
		Ingress: slices.Contains(object.Spec.PolicyTypes, networkingv1.PolicyTypeIngress),
		Egress:  slices.Contains(object.Spec.PolicyTypes, networkingv1.PolicyTypeEgress),
	}
}

func (c *compiler) selector(object metav1.Object, field string, selector *metav1.LabelSelector) labels.Selector {
	compiled, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		c.fail(object, field, "%v", err)
		return labels.Nothing()
	}
	return compiled
}

func (c *compiler) rule(p *compiledPolicy, direction Direction, index int, ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer) compiledRule {
	field := fmt.Sprintf("spec.%s[%d]", direction, index)
	rule := compiledRule{
		direction: direction,
		origin:    Origin{Policy: "NetworkPolicy/" + nameOf(p.object), Rule: index},
		anyPeer:   len(peers) == 0,
	}
	for _, port := range ports {
		rule.ports = append(rule.ports, portRangeOf(port))
	}
	list := field + ".from"
	if direction == Egress {
		list = field + ".to"
	}
	for i, peer := range peers {
		if peer.IPBlock != nil {
			rule.blocks = append(rule.blocks, c.blockPeers(p, fmt.Sprintf("%s[%d].ipBlock", list, i), peer.IPBlock)...)
			continue
		}
		rule.peers = append(rule.peers, c.peer(p, fmt.Sprintf("%s[%d]", list, i), peer)...)
	}
	c.warnOfNames(p, rule, field)
	return rule
}

func (c *compiler) peer(p *compiledPolicy, field string, peer networkingv1.NetworkPolicyPeer) []*identity {
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
			inNamespace = id.namespace == namespaceOr(p.object.Namespace)
		}
		if inNamespace && pods.Matches(id.podLabels) {
			found = append(found, id)
		}
	}
	if len(found) == 0 {
		c.warn(p.object, field, "matches no pod: the entry has no effect until one has these labels")
	}
	return found
}

// warnOfNames warns of a port's name that no pod has of those it is about: the
// subjects for ingress, the peers for egress.
func (c *compiler) warnOfNames(p *compiledPolicy, rule compiledRule, field string) {
	for i, port := range rule.ports {
		if port.name == "" {
			continue
		}
		named := namedPort{port.name, port.protocol}
		known := slices.ContainsFunc(c.identities, func(id *identity) bool {
			concerned := p.subjects[id]
			if rule.direction == Egress {
				concerned = rule.anyPeer || slices.Contains(rule.peers, id)
			}
			return concerned && id.ports[named] != 0
		})
		if !known {
			c.warn(p.object, fmt.Sprintf("%s.ports[%d].port", field, i), "no container port of the pods concerned is called %q (%s): name one so, or give the number", port.name, port.protocol)
		}
	}
}

func portRangeOf(port networkingv1.NetworkPolicyPort) portRange {
	r := portRange{protocol: protocolNumber(value(port.Protocol))}
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

// ruleSet flattens all policies that select an identity into one table.
func (c *compiler) ruleSet(subject *identity, policies []*compiledPolicy) RuleSet {
	var rules []Rule
	selected := map[Direction]bool{}
	for _, policy := range policies {
		if !policy.subjects[subject] {
			continue
		}
		for direction, concerned := range policy.directions {
			selected[direction] = selected[direction] || concerned
		}
		for _, rule := range policy.rules {
			if policy.directions[rule.direction] {
				rules = append(rules, c.flatten(subject, rule)...)
			}
		}
	}
	for _, direction := range []Direction{Ingress, Egress} {
		if !selected[direction] {
			rules = append(rules, Rule{Direction: direction})
		}
	}
	rules = sortRules(rules)
	return RuleSet{Key: keyOf(rules), Rules: rules}
}

// flatten writes one rule of a policy as entries of the table.
func (c *compiler) flatten(subject *identity, rule compiledRule) []Rule {
	var rules []Rule
	add := func(peer Identity, protocol Protocol, prefix portPrefix) {
		rules = append(rules, Rule{Direction: rule.direction, Peer: peer, Protocol: protocol, Port: prefix.port, PortBits: prefix.bits, Origin: rule.origin})
	}
	peers := []Identity{IdentityUnknown}
	if !rule.anyPeer {
		peers = nil
		for _, id := range rule.peers {
			peers = append(peers, id.number)
		}
		peers = append(peers, rule.blocks...)
	}
	if len(rule.ports) == 0 {
		for _, peer := range peers {
			add(peer, ProtocolAny, portPrefix{})
		}
	}
	for _, port := range rule.ports {
		if port.name != "" && rule.direction == Egress {
			c.flattenNamedEgress(rule, port, add)
			continue
		}
		if port.name != "" {
			number := subject.ports[namedPort{port.name, port.protocol}]
			if number == 0 {
				continue
			}
			port.first, port.last = number, number
		}
		for _, prefix := range portPrefixes(port.first, port.last) {
			for _, peer := range peers {
				add(peer, port.protocol, prefix)
			}
		}
	}
	return rules
}

// flattenNamedEgress resolves a port's name on each peer. Who is no pod has no
// names, so a rule for any peer is one for every pod that has it.
func (c *compiler) flattenNamedEgress(rule compiledRule, port portRange, add func(Identity, Protocol, portPrefix)) {
	peers := rule.peers
	if rule.anyPeer {
		peers = c.identities
	}
	for _, id := range peers {
		if number := id.ports[namedPort{port.name, port.protocol}]; number != 0 {
			add(id.number, port.protocol, portPrefix{port: number, bits: 16})
		}
	}
}

// portPrefix is the block of ports that share their leading bits with port.
type portPrefix struct {
	port uint16
	bits uint8
}

// portPrefixes covers first…last with the fewest blocks; 0, 0 is every port.
func portPrefixes(first, last uint16) []portPrefix {
	if first == 0 && last == 0 {
		return []portPrefix{{}}
	}
	var prefixes []portPrefix
	for at, end := uint32(first), uint32(last); at <= end; {
		// The largest block that begins here and does not end too late.
		size := uint32(1) << bits.TrailingZeros32(at|1<<16)
		for at+size-1 > end {
			size >>= 1
		}
		prefixes = append(prefixes, portPrefix{port: uint16(at), bits: uint8(17 - bits.Len32(size))})
		at += size
	}
	return prefixes
}

// sortRules brings rules into their one order. Of several that match the same,
// the one of the policy that sorts first stays.
func sortRules(rules []Rule) []Rule {
	match := func(a, b Rule) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Peer, b.Peer),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.PortBits, b.PortBits))
	}
	slices.SortFunc(rules, func(a, b Rule) int {
		return cmp.Or(match(a, b), strings.Compare(a.Origin.Policy, b.Origin.Policy), cmp.Compare(a.Origin.Rule, b.Origin.Rule))
	})
	return slices.CompactFunc(rules, func(a, b Rule) bool { return match(a, b) == 0 })
}

// keyOf is the same for the same rules, and for no others.
func keyOf(rules []Rule) string {
	hash := sha256.New()
	for _, r := range rules {
		fmt.Fprintf(hash, "%d %d %d %d/%d %t %d %q %d\n", r.Direction, r.Peer, r.Protocol, r.Port, r.PortBits, r.Deny, r.Precedence, r.Origin.Policy, r.Origin.Rule)
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}
