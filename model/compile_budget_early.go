// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Some objects ask for so much that it cannot even be written down: they are
// refused before it is.

// nameBlocks finds whose the blocks of policies are, the oldest's of those that
// name one, and refuses policies that name too many.
func (c *compiler) nameBlocks() {
	c.named = map[netip.Prefix]metav1.Object{}
	if len(c.local.Budgets) == 0 {
		return
	}
	wanted := demands{}
	for _, policy := range c.policyObjects() {
		for _, text := range c.blocksOf(policy) {
			prefix, err := parseBlock(text)
			if err != nil || c.named[prefix] != nil {
				continue
			}
			c.named[prefix] = policy
			if _, taken := c.owners[prefix.Addr()]; !prefix.IsSingleIP() {
				wanted.of(TablePrefixes).add(policy, "spec", 1)
			} else if !taken {
				wanted.of(TableAddresses).add(policy, "spec", 1)
			}
		}
	}
	c.shed(wanted.of(TablePrefixes))
	c.shed(wanted.of(TableAddresses))
}

// policyObjects are all policies: the operator's, then the older first.
func (c *compiler) policyObjects() []metav1.Object {
	all := slices.Concat(objectsOf(c.objs.ClusterNetworkPolicies), objectsOf(c.objs.CiliumClusterwideNetworkPolicies),
		objectsOf(c.objs.NetworkPolicies), objectsOf(c.objs.CiliumNetworkPolicies))
	slices.SortStableFunc(all, func(a, b metav1.Object) int {
		return cmp.Or(boolToInt(isClusterwide(b))-boolToInt(isClusterwide(a)), compareClaims(a, b))
	})
	return all
}

func objectsOf[T metav1.Object](objs map[string]T) []metav1.Object {
	var all []metav1.Object
	for _, object := range inOrder(objs) {
		all = append(all, object)
	}
	return all
}

// blocksOf are the blocks that one policy names.
func (c *compiler) blocksOf(policy metav1.Object) []string {
	one := NewObjects()
	_ = one.Upsert(policy) // it is of a kind that is kept
	return append(prefixesOf(memberBlocks(one, c.families)), c.namedByCilium(one)...)
}

// writable refuses a policy that is written down more than excess times the
// budget, and says whether it is not.
func (c *compiler) writable(object metav1.Object, entries int) bool {
	budget, bounded := c.local.Budgets[TableRules]
	if !bounded || entries <= excess*budget {
		return true
	}
	c.tooMuch(object, "spec", TableRules, entries)
	return false
}

// servable refuses a service that asks for more frontends or backends than the
// tables have, and says whether it does not.
func (c *compiler) servable(object metav1.Object, table Table, entries int) bool {
	budget, bounded := c.local.Budgets[table]
	if !bounded || entries <= budget {
		return true
	}
	c.tooMuch(object, fieldOf(table), table, entries)
	return false
}

// size is how many entries a rule is written as at most at one subject.
func (r *compiledRule) size() int {
	peers := len(r.peers) + len(r.numbers) + len(r.members)
	ports := 0
	for _, port := range r.ports {
		if port.name != "" {
			ports++
			continue
		}
		ports += len(portPrefixes(port.first, port.last))
	}
	return max(peers, 1) * max(ports, 1)
}

// mayWrite refuses policies where those that select a subject are written down
// too often, and says whether none is; written is what others have already.
func (c *compiler) mayWrite(subject *identity, policies []*compiledPolicy, written int) bool {
	budget, bounded := c.local.Budgets[TableRules]
	if !bounded {
		return true
	}
	wanted := newDemand(TableRules)
	wanted.times = excess
	for _, p := range policies {
		if p.subjects[subject] {
			wanted.add(p.object, "spec", p.size())
		}
	}
	if c.over(wanted) > 0 {
		c.shed(wanted)
	}
	return len(c.errs) == 0 && written <= excess*budget
}
