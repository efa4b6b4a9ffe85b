// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// tier orders the languages of policies: what an earlier one decides, a later
// one is not asked about.
type tier int

const (
	tierAdmin    tier = iota
	tierOwn           // NetworkPolicy, and Cilium's
	tierBaseline      // where no policy of tierOwn isolates the pod
	tierDefault       // everything is allowed
)

// action is what becomes of what a rule matches.
type action int

const (
	accept action = iota
	deny
	refuse // deny, and have the sender told
	audit  // let through what is denied, and tell of it
	pass   // on to the next tier
)

// compiledPolicy is a policy, or one spec of it, whose selectors have been
// asked for every identity there is.
type compiledPolicy struct {
	object   metav1.Object
	tier     tier
	priority int32                      // Within a tier whose rules have an order; the least first
	denials  map[model.Direction]action // what becomes of what it denies: deny, refuse or audit
	subjects map[*identity]bool
	isolates map[model.Direction]bool // what no rule allows is denied
	rules    []compiledRule
	requires []requirement
}

// isAudited is whether all that it denies is only told.
func (p *compiledPolicy) isAudited() bool { return p.denials[model.Ingress] == audit }

// denial is what becomes of what it denies to who is lenient.
func (p *compiledPolicy) denial(direction model.Direction, lenient leniency) action {
	if lenient.spares(p) {
		return audit
	}
	return p.denials[direction]
}

// compiledRule is one entry of a policy. Who matches is anybody, or the pods
// of peers, whoever has one of numbers, and members.
type compiledRule struct {
	direction model.Direction
	origin    model.Origin
	action    action // accept, deny or pass: what a denial becomes is its policy's to say
	field     string // its path in the object, for people
	anyPeer   bool
	peers     []*identity
	numbers   []model.Identity
	members   []member    // whose addresses are in the rule's blocks
	whole     familySet   // of which the rule's blocks hold all addresses
	byLabels  bool        // peers and numbers were found by labels: what is required of those holds
	ports     []portRange // none: any
}

// forAny is whether whoever can be a peer of a subject matches: one that has no
// address of a family has no peers of it.
func (r *compiledRule) forAny(subject *identity) bool {
	return r.anyPeer || r.whole != familySet{} && subject.families.in(r.whole)
}

// policies compiles all policies, in the order in which those of one tier are
// asked.
func (c *compiler) policies() []*compiledPolicy {
	var policies []*compiledPolicy
	policies = append(policies, c.clusterPolicies()...)
	for _, object := range manifest.InOrder(c.objs.NetworkPolicies) {
		c.requireNamespace(object)
		policies = append(policies, c.networkPolicy(object))
	}
	policies = append(policies, c.ciliumPolicies()...)
	for _, p := range policies {
		c.readDenials(p)
	}
	if len(c.errs) == 0 {
		c.warnOfShadows(policies)
	}
	return policies
}

// readDenials finds what becomes of what a policy denies.
func (c *compiler) readDenials(p *compiledPolicy) {
	audited, _, _ := manifest.AuditOf(p.object.GetAnnotations())
	p.denials = map[model.Direction]action{}
	for _, direction := range []model.Direction{model.Ingress, model.Egress} {
		denied, _ := manifest.DeniedOf(p.object.GetAnnotations(), direction)
		switch {
		case audited && c.local.Options.AuditAnnotations != model.AuditOff:
			p.denials[direction] = audit
		case cmp.Or(denied, c.local.Options.Denied(direction)) == model.DenialRefuse:
			p.denials[direction] = refuse
		default:
			p.denials[direction] = deny
		}
	}
	c.writable(p.object, p.rules...)
}

// ruleSet flattens all policies that select an identity into one table.
func (c *compiler) ruleSet(subject *identity, policies []*compiledPolicy, lenient leniency) model.RuleSet {
	var rules []model.Rule
	for _, direction := range []model.Direction{model.Ingress, model.Egress} {
		rules = append(rules, c.flatten(subject, direction, policies, lenient)...)
	}
	rules = sortRules(rules)
	return model.RuleSet{Key: keyOf(rules), Rules: rules}
}

// warnOfNames warns of a port's name that no pod has of those it is about: the
// subjects for ingress, the peers for egress.
func (c *compiler) warnOfNames(p *compiledPolicy, rule compiledRule) {
	for _, port := range rule.ports {
		if port.name == "" {
			continue
		}
		known := slices.ContainsFunc(c.identities, func(id *identity) bool {
			concerned := p.subjects[id]
			if rule.direction == model.Egress {
				concerned = rule.anyPeer || slices.Contains(rule.peers, id) ||
					slices.ContainsFunc(rule.members, func(m member) bool { return m.pod == id })
			}
			return concerned && len(id.named(port)) > 0
		})
		if !known {
			c.warn(p.object, port.field, "no container port of the pods concerned is called %q (%s): name one so, or give the number", port.name, port.protocol)
		}
	}
}
