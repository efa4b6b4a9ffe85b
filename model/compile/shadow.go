// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// warnOfShadows warns of rules that never decide, because others that say the
// opposite match all that they match: a permission behind a denial of the same
// object, and any rule of a tier behind an earlier one.
func (c *compiler) warnOfShadows(policies []*compiledPolicy) {
	for i, p := range policies {
		for j := range p.rules {
			rule := &p.rules[j]
			if by, q := shadowOf(policies[:i+1], p, j); by != nil {
				c.warn(p.object, rule.field, "never decides: %s of %s matches all of it, comes first and says otherwise: remove one, or narrow the first", by.field, manifest.RefOf(q.object))
			}
		}
	}
}

func shadowOf(policies []*compiledPolicy, p *compiledPolicy, index int) (*compiledRule, *compiledPolicy) {
	rule := &p.rules[index]
	for _, q := range policies {
		if q.isAudited() || q.tier != p.tier || p.tier == tierOwn && q.object != p.object || !covers(q.subjects, p.subjects) {
			continue
		}
		for k := range q.rules {
			other := &q.rules[k]
			if p.tier == tierOwn && other.action != deny || p.tier != tierOwn && q == p && k >= index {
				continue
			}
			if other.action != rule.action && other.covers(rule) {
				return other, q
			}
		}
	}
	return nil, nil
}

func covers(all, some map[*identity]bool) bool {
	for id := range some {
		if !all[id] {
			return false
		}
	}
	return len(some) > 0
}

// covers is whether r matches all that s matches, as far as that can be told
// without asking for names of ports.
func (r *compiledRule) covers(s *compiledRule) bool {
	if r.direction != s.direction || len(s.peers)+len(s.numbers)+len(s.members) == 0 && !s.anyPeer {
		return false
	}
	if !r.anyPeer {
		lacks := s.anyPeer || slices.ContainsFunc(s.peers, func(id *identity) bool { return !slices.Contains(r.peers, id) }) ||
			slices.ContainsFunc(s.numbers, func(n model.Identity) bool { return !slices.Contains(r.numbers, n) }) ||
			slices.ContainsFunc(s.members, func(m member) bool { return !r.has(m) })
		if lacks {
			return false
		}
	}
	if len(r.ports) == 0 {
		return true
	}
	return len(s.ports) > 0 && !slices.ContainsFunc(s.ports, func(port portRange) bool { return !r.coversPort(port) })
}

func (r *compiledRule) has(m member) bool {
	return slices.Contains(r.members, m) || slices.Contains(r.numbers, m.number) || m.pod != nil && slices.Contains(r.peers, m.pod)
}

func (r *compiledRule) coversPort(port portRange) bool {
	return slices.ContainsFunc(r.ports, func(wider portRange) bool {
		if wider.name != "" || port.name != "" {
			return wider.name == port.name && wider.protocol == port.protocol
		}
		all := wider.first == 0 && wider.last == 0
		return (wider.protocol == model.ProtocolAny || wider.protocol == port.protocol) &&
			(all || port.first != 0 && port.first >= wider.first && port.last <= wider.last)
	})
}
