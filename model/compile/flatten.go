// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Tiers and orders become precedences. Rules are written in levels, the first
// of which decides: each rule of a tier that has an order is a level of its
// own, and so are all denials, and all permissions, of the tier that has none.
//
// Pass has no place in the table. It is resolved here: the levels of the tiers
// that follow are written a second time where the rule stands, for that part
// of the traffic which it passes on.

// region is some traffic: ports by peer, where IdentityUnknown is anybody.
type region map[model.Identity][]portMatch

var everything = portMatch{}

// few is how many ports are looked through one by one.
const few = 32

func (r region) add(peer model.Identity, ports ...portMatch) {
	have := r[peer]
	known := func(port portMatch) bool { return slices.Contains(have, port) }
	if len(have)+len(ports) > few {
		seen := make(map[portMatch]bool, len(have)+len(ports))
		for _, port := range have {
			seen[port] = true
		}
		known = func(port portMatch) bool {
			was := seen[port]
			seen[port] = true
			return was
		}
	}
	for _, port := range ports {
		if !known(port) {
			have = append(have, port)
		}
	}
	r[peer] = have
}

// Within gives the part of r that is in other. nil is all traffic.
func (r region) within(other region) region {
	if other == nil {
		return r
	}
	both := region{}
	cross := func(peer model.Identity, mine, others []portMatch) {
		for _, a := range mine {
			for _, b := range others {
				if common, ok := a.intersect(b); ok {
					both.add(peer, common)
				}
			}
		}
	}
	for peer, ports := range r {
		cross(peer, ports, other[peer])
		if peer != model.IdentityUnknown {
			cross(peer, ports, other[model.IdentityUnknown])
		}
	}
	for peer, ports := range other {
		if peer != model.IdentityUnknown {
			cross(peer, ports, r[model.IdentityUnknown])
		}
	}
	return both
}

// level is rules that do not contradict each other, the strongest first.
type level []model.Rule

// Audit is resolved like Pass: where a denial is only told, all that follows is
// written a second time for what it matches, with what it lets through as what is
// told of. Denials that are not in audit stay denials there.
type flattening struct {
	subject   *identity
	direction model.Direction
	tiers     [tierDefault][]tierRule // in order
	isolation action                  // what becomes of what no rule allows: accept, deny or refuse
	told      *model.Origin           // isolates too, and is in audit: of those, the one that sorts first
	levels    []level
}

type tierRule struct {
	*compiledRule
	matches region
	action  action // what becomes of a denial, too
}

// flatten writes what all policies say of one direction as entries of the
// table.
func (c *compiler) flatten(subject *identity, direction model.Direction, policies []*compiledPolicy, lenient leniency) []model.Rule {
	f := &flattening{subject: subject, direction: direction}
	required := c.requiredOf(subject, direction, policies)
	for _, policy := range policies {
		if !policy.subjects[subject] {
			continue
		}
		f.isolate(policy, policy.denial(direction, lenient))
		for i := range policy.rules {
			rule := &policy.rules[i]
			if rule.direction != direction {
				continue
			}
			t := tierRule{compiledRule: rule, matches: c.matches(subject, rule, required), action: rule.action}
			if t.action == deny {
				t.action = policy.denial(direction, lenient)
			}
			f.tiers[policy.tier] = append(f.tiers[policy.tier], t)
		}
	}
	f.tier(tierAdmin, nil, nil)
	var rules []model.Rule
	for i, level := range f.levels {
		for _, rule := range level {
			rule.Precedence = uint32(len(f.levels) - 1 - i)
			rules = append(rules, rule)
		}
	}
	return rules
}

// isolate notes that what a policy does not allow is denied, or told.
func (f *flattening) isolate(policy *compiledPolicy, denial action) {
	ref := manifest.RefOf(policy.object).Policy()
	switch {
	case !policy.isolates[f.direction]:
	case denial != audit:
		if f.isolation != deny {
			f.isolation = denial
		}
	case f.told == nil || ref.Compare(f.told.Policy) < 0:
		f.told = &model.Origin{Policy: ref, Rule: model.RuleNone}
	}
}

// matches is what one rule matches at a subject.
func (c *compiler) matches(subject *identity, rule *compiledRule, required func(*compiledRule, model.Identity) bool) region {
	found := region{}
	ports := rule.ports
	if len(ports) == 0 {
		c.peers(found, subject, rule, required, everything)
	}
	var numbers []portMatch
	for _, port := range ports {
		if port.name != "" && rule.direction == model.Egress {
			// Who is no pod has no names, so a rule for any peer is one for
			// every pod that has it.
			pods := rule.peers
			if rule.forAny(subject) {
				pods = c.identities
			}
			for _, id := range pods {
				if required(rule, id.number) {
					c.addAll(found, id.number, id.named(port)...)
				}
			}
			for _, m := range rule.members {
				if m.pod != nil {
					found.add(m.number, m.pod.named(port)...)
				}
			}
			continue
		}
		numbers = append(numbers, port.matches(subject)...)
	}
	if len(numbers) > 0 {
		c.peers(found, subject, rule, required, numbers...)
	}
	return found
}

// peers adds ports for everybody whom a rule matches.
func (c *compiler) peers(r region, subject *identity, rule *compiledRule, required func(*compiledRule, model.Identity) bool, ports ...portMatch) {
	if rule.forAny(subject) {
		r.add(model.IdentityUnknown, ports...)
		return
	}
	for _, id := range rule.peers {
		if required(rule, id.number) {
			c.addAll(r, id.number, ports...)
		}
	}
	for _, number := range rule.numbers {
		if required(rule, number) {
			r.add(number, ports...)
		}
	}
	for _, m := range rule.members {
		r.add(m.number, ports...)
	}
}

// addAll adds ports for all numbers of an identity.
func (c *compiler) addAll(r region, peer model.Identity, ports ...portMatch) {
	for _, number := range c.numbersOf(peer) {
		r.add(number, ports...)
	}
}

// tier writes the levels of a tier and of all that follow, for some traffic.
// told is the denial in audit that this traffic has met, if it has.
func (f *flattening) tier(t tier, traffic region, told *model.Origin) {
	switch t {
	case tierOwn:
		f.own(traffic, told)
	case tierDefault:
		f.write(level{}.allow(f, region{model.IdentityUnknown: {everything}}.within(traffic), model.Origin{}, told))
	default:
		f.ordered(t, f.tiers[t], traffic, told)
	}
}

// ordered writes what is left of a tier's rules, and all that follows.
func (f *flattening) ordered(t tier, rules []tierRule, traffic region, told *model.Origin) {
	for i, rule := range rules {
		matches := rule.matches.within(traffic)
		switch {
		case len(matches) == 0:
		case rule.action == audit && told == nil:
			f.ordered(t, rules[i+1:], matches, &rule.origin)
		case rule.action == audit: // it has been told of another
		case rule.action == pass && t == tierAdmin:
			f.tier(t+1, matches, told)
		case rule.action == deny || rule.action == refuse:
			f.write(level{}.deny(f, matches, rule.origin, rule.action))
		default: // what the last tier passes on is allowed
			f.write(level{}.allow(f, matches, rule.origin, told))
		}
	}
	f.tier(t+1, traffic, told)
}

// own writes the tier of policies that have no order: denials go before
// permissions, and of these what is dropped before what is refused.
func (f *flattening) own(traffic region, told *model.Origin) {
	for _, denial := range []action{deny, refuse} {
		var denials level
		for _, rule := range f.tiers[tierOwn] {
			if rule.action == denial {
				denials = denials.deny(f, rule.matches.within(traffic), rule.origin, denial)
			}
		}
		f.write(denials)
	}
	for _, rule := range f.tiers[tierOwn] {
		if matches := rule.matches.within(traffic); rule.action == audit && told == nil && len(matches) > 0 {
			f.permissions(matches, &rule.origin)
		}
	}
	f.permissions(traffic, told)
}

// permissions writes what no denial of its own tier has met, and all that
// follows.
func (f *flattening) permissions(traffic region, told *model.Origin) {
	var permissions level
	for _, rule := range f.tiers[tierOwn] {
		if rule.action == accept {
			permissions = permissions.allow(f, rule.matches.within(traffic), rule.origin, told)
		}
	}
	f.write(permissions)
	switch {
	case f.isolation == refuse, f.isolation == deny && traffic != nil:
		// Of all traffic it need not be said where it is dropped: what nothing
		// matches is denied.
		f.write(level{}.deny(f, region{model.IdentityUnknown: {everything}}.within(traffic), model.Origin{}, f.isolation))
	case f.isolation == deny:
	case f.told != nil && told == nil:
		f.tier(tierBaseline, traffic, f.told)
	default:
		f.tier(tierBaseline, traffic, told)
	}
}

func (f *flattening) write(l level) {
	if len(l) > 0 {
		f.levels = append(f.levels, l)
	}
}

func (l level) deny(f *flattening, matches region, origin model.Origin, denial action) level {
	rule := model.Rule{Action: model.RuleDeny, Origin: origin}
	if denial == refuse {
		rule.Action = model.RuleRefuse
	}
	return l.with(f, matches, rule)
}

// allow lets through what matches, and tells of it if it has met a denial in
// audit.
func (l level) allow(f *flattening, matches region, origin model.Origin, told *model.Origin) level {
	if told != nil {
		return l.with(f, matches, model.Rule{Action: model.RuleAudit, Origin: *told})
	}
	return l.with(f, matches, model.Rule{Origin: origin})
}

func (l level) with(f *flattening, matches region, rule model.Rule) level {
	for peer, ports := range matches {
		for _, port := range ports {
			rule.Direction, rule.Peer, rule.Protocol, rule.Port, rule.PortBits = f.direction, peer, port.protocol, port.port, port.bits
			l = append(l, rule)
		}
	}
	return l
}

// sortRules brings rules into their one order. Of several that match the same,
// the one that decides stays, and of equal ones that of the policy which sorts
// first.
func sortRules(rules []model.Rule) []model.Rule {
	match := func(a, b model.Rule) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Peer, b.Peer),
			cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.PortBits, b.PortBits))
	}
	slices.SortFunc(rules, func(a, b model.Rule) int {
		return cmp.Or(match(a, b), cmp.Compare(b.Precedence, a.Precedence), deniesFirst(a, b), a.Origin.Compare(b.Origin))
	})
	return slices.CompactFunc(rules, func(a, b model.Rule) bool { return match(a, b) == 0 })
}

func deniesFirst(a, b model.Rule) int {
	switch {
	case a.Action.Denies() == b.Action.Denies():
		return 0
	case a.Action.Denies():
		return -1
	}
	return 1
}

// keyOf is the same for the same rules, and for no others.
func keyOf(rules []model.Rule) string {
	hash := sha256.New()
	for _, r := range rules {
		fmt.Fprintf(hash, "%d %d %d %d/%d %t %t %d %q %q %d\n", r.Direction, r.Peer, r.Protocol, r.Port, r.PortBits, r.Action.Denies(), r.Action == model.RuleAudit, r.Precedence, r.Origin.Policy, r.Origin.List, r.Origin.Rule)
		if r.Action == model.RuleRefuse {
			fmt.Fprintln(hash, r.Action)
		}
		if r.Action == model.RuleRedirect {
			fmt.Fprintln(hash, r.Action, r.ProxyPort)
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}
