// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// ciliumSpec is one spec of a policy of Cilium's, of either kind.
type ciliumSpec struct {
	object    metav1.Object
	namespace string // empty: clusterwide
	path      string // spec, or specs[i]
	*manifest.CiliumRule
}

func eachCiliumSpec(objs *manifest.Objects) []ciliumSpec {
	var specs []ciliumSpec
	add := func(object metav1.Object, namespace string, spec *manifest.CiliumRule, more []*manifest.CiliumRule) {
		if spec != nil {
			specs = append(specs, ciliumSpec{object, namespace, "spec", spec})
		}
		for i, spec := range more {
			if spec != nil {
				specs = append(specs, ciliumSpec{object, namespace, fmt.Sprintf("specs[%d]", i), spec})
			}
		}
	}
	for _, p := range manifest.InOrder(objs.CiliumNetworkPolicies) {
		add(p, manifest.NamespaceOr(p.Namespace), p.Spec, p.Specs)
	}
	for _, p := range manifest.InOrder(objs.CiliumClusterwideNetworkPolicies) {
		add(p, "", p.Spec, p.Specs)
	}
	return specs
}

// ciliumEntry is an entry of any of the four lists.
type ciliumEntry struct {
	direction model.Direction
	denies    bool
	index     int
	list      string // its name in the spec
	from      string // what the names of the fields for peers begin with

	endpoints, requires []metav1.LabelSelector
	cidrs               []string
	cidrSets            []manifest.CiliumCIDRRule
	entities            []string
	services            []manifest.CiliumService
	ports               []manifest.CiliumPortRule
	icmps               []manifest.CiliumICMPRule
	restricted          bool // a list of peers is there, be it empty
}

func (s *ciliumSpec) entries() []ciliumEntry {
	var entries []ciliumEntry
	ingress := func(list string, denies bool, rules []manifest.CiliumIngressRule) {
		for i, r := range rules {
			entries = append(entries, ciliumEntry{
				direction: model.Ingress, denies: denies, index: i, list: list, from: "from",
				endpoints: r.FromEndpoints, requires: r.FromRequires, cidrs: r.FromCIDR, cidrSets: r.FromCIDRSet, entities: r.FromEntities, ports: r.ToPorts, icmps: r.ICMPs,
				restricted: r.FromEndpoints != nil || r.FromCIDR != nil || r.FromCIDRSet != nil || r.FromEntities != nil,
			})
		}
	}
	egress := func(list string, denies bool, rules []manifest.CiliumEgressRule) {
		for i, r := range rules {
			entries = append(entries, ciliumEntry{
				direction: model.Egress, denies: denies, index: i, list: list, from: "to",
				endpoints: r.ToEndpoints, requires: r.ToRequires, cidrs: r.ToCIDR, cidrSets: r.ToCIDRSet, entities: r.ToEntities, services: r.ToServices, ports: r.ToPorts, icmps: r.ICMPs,
				restricted: r.ToEndpoints != nil || r.ToCIDR != nil || r.ToCIDRSet != nil || r.ToEntities != nil || r.ToServices != nil,
			})
		}
	}
	ingress("ingress", false, s.Ingress)
	ingress("ingressDeny", true, s.IngressDeny)
	egress("egress", false, s.Egress)
	egress("egressDeny", true, s.EgressDeny)
	return entries
}

func (c *compiler) ciliumPolicies() []*compiledPolicy {
	var policies []*compiledPolicy
	for _, spec := range eachCiliumSpec(c.objs) {
		if spec.namespace != "" {
			c.requireNamespace(spec.object)
		}
		policies = append(policies, c.ciliumPolicy(spec))
	}
	return policies
}

func (c *compiler) ciliumPolicy(spec ciliumSpec) *compiledPolicy {
	p := &compiledPolicy{object: spec.object, tier: tierOwn, subjects: map[*identity]bool{}, isolates: spec.isolates()}
	if spec.NodeSelector != nil {
		c.selectNodes(p, &spec)
		for _, entry := range spec.entries() {
			c.ciliumEntry(p, &spec, &entry)
		}
		return p
	}
	field := spec.path + ".endpointSelector"
	subject := selectorOfCilium(spec.EndpointSelector)
	if named, other := subject.dropNamespace(spec.namespace); other {
		c.warn(spec.object, field, "names namespace %s, and the policy is for pods of its own, %s: remove the label, or move the policy", named, spec.namespace)
	}
	for _, id := range c.identities {
		if (spec.namespace == "" || id.namespace == spec.namespace) && subject.matches(id.ciliumLabels()) {
			p.subjects[id] = true
		}
	}
	if len(p.subjects) == 0 {
		c.warnOfNobody(spec.object, field, noPod(""), spec.EndpointSelector)
	}
	for _, entry := range spec.entries() {
		c.ciliumEntry(p, &spec, &entry)
	}
	c.warnOfNoRules(p, spec.path)
	return p
}

// selectNodes makes the node a subject, if a policy selects it.
func (c *compiler) selectNodes(p *compiledPolicy, spec *ciliumSpec) {
	selector, field, found := selectorOfCilium(spec.NodeSelector), spec.path+".nodeSelector", false
	for name, node := range c.objs.Nodes {
		set := reservedLabels("host")
		for key, value := range node.Labels {
			set[sourcedKey{sourceKubernetes, key}] = value
		}
		if !selector.matches(set) {
			continue
		}
		found = true
		if name == c.node {
			p.subjects[c.host] = true
		}
	}
	switch {
	case !found:
		c.warnOfNobody(spec.object, field, "matches no node: the policy has no effect until one has these labels", spec.NodeSelector)
	case p.subjects[c.host] && len(c.local.Uplinks) == 0:
		c.warn(spec.object, field, "matches node %s, whose devices have no programs: only what its pods send to it is judged", c.node)
	}
}

// isolates is the default: in the directions in which there are rules, be they
// empty.
func (s *ciliumSpec) isolates() map[model.Direction]bool {
	or := func(said *bool, otherwise bool) bool {
		if said != nil {
			return *said
		}
		return otherwise
	}
	return map[model.Direction]bool{
		model.Ingress: or(s.EnableDefaultDeny.Ingress, len(s.Ingress)+len(s.IngressDeny) > 0),
		model.Egress:  or(s.EnableDefaultDeny.Egress, len(s.Egress)+len(s.EgressDeny) > 0),
	}
}

func (c *compiler) ciliumEntry(p *compiledPolicy, spec *ciliumSpec, entry *ciliumEntry) {
	field := fmt.Sprintf("%s.%s[%d]", spec.path, entry.list, entry.index)
	rule := compiledRule{
		direction: entry.direction, field: field,
		origin: model.Origin{Policy: manifest.RefOf(spec.object).Policy(), Rule: entry.index, List: spec.listOf(entry)},
	}
	if entry.denies {
		rule.action = deny
	}
	for _, selector := range entry.requires {
		p.requires = append(p.requires, requirement{entry.direction, entry.denies, c.peerSelector(spec, &selector, false)})
	}
	if !entry.restricted && len(entry.ports)+len(entry.icmps) == 0 {
		return // an empty entry isolates, and matches nothing
	}
	rule.anyPeer = !entry.restricted || slices.Contains(entry.entities, "all")
	if !rule.anyPeer {
		c.ciliumPeers(&rule, spec, entry)
		if len(rule.peers)+len(rule.numbers) == 0 {
			c.warnOfNobody(spec.object, field, "matches nobody: the entry has no effect until somebody has these labels or addresses", pointers(entry.endpoints)...)
		}
	}
	for i, list := range entry.ports {
		for j, port := range list.Ports {
			rule.ports = append(rule.ports, portRangesOfCilium(fmt.Sprintf("%s.toPorts[%d].ports[%d].port", field, i, j), port)...)
		}
	}
	rule.ports = append(rule.ports, c.icmpRanges(spec, field, entry.icmps)...)
	if len(entry.icmps) > 0 && len(rule.ports) == 0 {
		return // of none of its types is anything asked
	}
	c.warnOfCiliumNames(p, rule)
	p.rules = append(p.rules, rule)
}

// Types of ICMP messages that open flows (RFC 792, RFC 4443).
const (
	icmpEcho   = 8
	icmpv6Echo = 128
)

// icmpRanges gives the types of ICMP messages that open flows, which the table
// has in the place of ports: echo requests alone. Answers and errors go the way
// of a flow, and what is neither is never let through.
func (c *compiler) icmpRanges(spec *ciliumSpec, field string, lists []manifest.CiliumICMPRule) []portRange {
	var ranges []portRange
	for i, list := range lists {
		for j, f := range list.Fields {
			at := fmt.Sprintf("%s.icmps[%d].fields[%d].type", field, i, j)
			kind, known := manifest.ICMPType(f.Family, f.Type)
			protocol, opens := model.ProtocolICMP, uint8(icmpEcho)
			if f.Family == manifest.FamilyIPv6 {
				protocol, opens = model.ProtocolICMPv6, icmpv6Echo
			}
			switch {
			case !known: // Validate has complained
			case kind != opens:
				c.warn(spec.object, at, "%s of %s opens no flow: answers and errors pass with the flow that they are of, everything else is never forwarded, and the type has no effect: remove it", f.Type, manifest.FamilyOr(f.Family))
			default:
				ranges = append(ranges, portRange{protocol: protocol, first: uint16(kind), last: uint16(kind), field: at})
			}
		}
	}
	return ranges
}

func (s *ciliumSpec) listOf(entry *ciliumEntry) string {
	switch {
	case s.path != "spec":
		return s.path + "." + entry.list
	case entry.denies:
		return entry.list
	}
	return ""
}

// warnOfCiliumNames asks for a name once, whatever protocols it stands for.
func (c *compiler) warnOfCiliumNames(p *compiledPolicy, rule compiledRule) {
	seen := map[string]bool{}
	var once []portRange
	for _, port := range rule.ports {
		if port.name != "" && !seen[port.field] {
			seen[port.field] = true
			once = append(once, portRange{name: port.name, field: port.field})
		}
	}
	rule.ports = once
	c.warnOfNames(p, rule)
}

func (c *compiler) ciliumPeers(rule *compiledRule, spec *ciliumSpec, entry *ciliumEntry) {
	rule.byLabels = len(entry.endpoints) > 0
	for _, selector := range entry.endpoints {
		compiled := c.peerSelector(spec, &selector, true)
		if compiled.asks(sourcedKey{sourceReserved, "kube-apiserver"}) {
			c.checkAPIServers(spec.object, rule.field)
		}
		for _, id := range c.identities {
			if compiled.matches(id.ciliumLabels()) {
				rule.peers = append(rule.peers, id)
			}
		}
		for number, labels := range c.others() {
			if compiled.matches(labels) {
				rule.numbers = append(rule.numbers, number)
			}
		}
	}
	for i, text := range entry.cidrs {
		if !c.writable(spec.object, compiledRule{numbers: rule.numbers}) {
			return
		}
		field := fmt.Sprintf("%s.%sCIDR[%d]", rule.field, entry.from, i)
		rule.numbers = append(rule.numbers, c.ciliumBlock(spec, field, text, nil)...)
	}
	for i, set := range entry.cidrSets {
		if !c.writable(spec.object, compiledRule{numbers: rule.numbers}) {
			return
		}
		field := fmt.Sprintf("%s.%sCIDRSet[%d].cidr", rule.field, entry.from, i)
		rule.numbers = append(rule.numbers, c.ciliumBlock(spec, field, set.CIDR, set.Except)...)
	}
	for i, entity := range entry.entities {
		c.entity(rule, spec, fmt.Sprintf("%s.%sEntities[%d]", rule.field, entry.from, i), entity)
	}
	for i := range entry.services {
		c.ciliumService(rule, spec, fmt.Sprintf("%s.toServices[%d]", rule.field, i), &entry.services[i])
	}
}

func (c *compiler) ciliumBlock(spec *ciliumSpec, field, text string, excepts []string) []model.Identity {
	c.warnOfHostBits(spec.object, field, text)
	for i, except := range excepts {
		c.warnOfHostBits(spec.object, fmt.Sprintf("%s.except[%d]", strings.TrimSuffix(field, ".cidr"), i), except)
	}
	return c.blockPeers(spec.object, field, text, excepts)
}

// blocksOfCilium are all prefixes that have to be told apart for Cilium's
// policies.
func (c *compiler) blocksOfCilium() []string {
	texts := c.namedByCilium(c.objs)
	if c.hasCilium() {
		for _, prefix := range c.blocksOfServers() {
			texts = append(texts, prefix.String())
		}
	}
	return texts
}

// namedByCilium are the blocks that the policies among some objects name.
func (c *compiler) namedByCilium(objs *manifest.Objects) []string {
	var texts []string
	for _, spec := range eachCiliumSpec(objs) {
		for _, entry := range spec.entries() {
			texts = append(texts, entry.cidrs...)
			for _, set := range entry.cidrSets {
				texts = append(append(texts, set.CIDR), set.Except...)
			}
			for i := range entry.services {
				for _, addr := range c.servedOutside(&entry.services[i]) {
					texts = append(texts, addr.String())
				}
			}
		}
	}
	return texts
}

// portRangesOfCilium gives a port in all protocols that it stands for. Port 0
// is any, and of any protocol it is whatever there is.
func portRangesOfCilium(field string, port manifest.CiliumPort) []portRange {
	r := portRange{field: field}
	number, err := strconv.ParseUint(port.Port, 10, 16)
	if err != nil {
		r.name = strings.ToLower(port.Port)
	} else {
		r.first = uint16(number)
		r.last = max(r.first, uint16(port.EndPort))
	}
	protocols := []model.Protocol{model.ProtocolTCP, model.ProtocolUDP, model.ProtocolSCTP}
	switch strings.ToUpper(port.Protocol) {
	case "TCP":
		protocols = protocols[:1]
	case "UDP":
		protocols = protocols[1:2]
	case "SCTP":
		protocols = protocols[2:]
	default:
		if r.name == "" && r.last == 0 {
			protocols = []model.Protocol{model.ProtocolAny}
		}
	}
	var ranges []portRange
	for _, protocol := range protocols {
		r.protocol = protocol
		ranges = append(ranges, r)
	}
	return ranges
}
