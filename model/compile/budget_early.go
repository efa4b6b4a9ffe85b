// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
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
				wanted.of(model.TableCIDRs).add(policy, "spec", 1)
			} else if !taken {
				wanted.of(model.TableIPCache).add(policy, "spec", 1)
			}
		}
	}
	c.shed(wanted.of(model.TableCIDRs))
	c.shed(wanted.of(model.TableIPCache))
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
	for _, object := range manifest.InOrder(objs) {
		all = append(all, object)
	}
	return all
}

// blocksOf are the blocks that one policy names.
func (c *compiler) blocksOf(policy metav1.Object) []string {
	one := alone(policy)
	return append(prefixesOf(memberBlocks(one, c.families)), c.namedByCilium(one)...)
}

// writable refuses who has rules written down more than excess times the budget,
// and says whether nobody has.
func (c *compiler) writable(object metav1.Object, rules ...compiledRule) bool {
	budget, bounded := c.local.Budgets[model.TableRules]
	if !bounded || sizeOf(rules) <= excess*budget {
		return true
	}
	if len(c.errs) > 0 {
		return false // who has it all written is refused already
	}
	wanted := newDemand(model.TableRules)
	wanted.times = excess
	c.charge(wanted, object, rules)
	c.shed(wanted)
	return len(c.errs) == 0
}

// charge adds what rules of an object are written as at most at one subject. A
// block that another object has named first is that one's: nobody's rule about a
// large block is larger for the small ones that others name in it.
func (c *compiler) charge(d *demand, object metav1.Object, rules []compiledRule) {
	for i := range rules {
		r := &rules[i]
		ports := r.written()
		d.add(object, "spec", ports*(len(r.peers)+len(r.members)))
		for _, number := range r.numbers {
			d.add(c.namerOf(number, object), "spec", ports)
		}
		if len(r.peers)+len(r.members)+len(r.numbers) == 0 {
			d.add(object, "spec", ports)
		}
	}
}

// namerOf is who has first named the block of an identity; others' identities are
// for who asks.
func (c *compiler) namerOf(number model.Identity, asks metav1.Object) metav1.Object {
	if c.namers == nil {
		c.namers = map[model.Identity]metav1.Object{}
		for prefix, of := range c.blocks {
			c.namers[of] = c.named[prefix]
		}
	}
	if namer := c.namers[number]; namer != nil {
		return namer
	}
	return asks
}

// servable refuses a service that asks for more frontends or backends than the
// tables have, and says whether it does not.
func (c *compiler) servable(object metav1.Object, table model.Table, entries int) bool {
	budget, bounded := c.local.Budgets[table]
	if !bounded || entries <= budget {
		return true
	}
	c.tooMuch(object, fieldOf(table), table, entries)
	return false
}

// sizeOf is how many entries rules are written as at most at one subject.
func sizeOf(rules []compiledRule) int {
	all := 0
	for i := range rules {
		r := &rules[i]
		all += r.written() * max(len(r.peers)+len(r.members)+len(r.numbers), 1)
	}
	return all
}

// written is how many entries a rule is written as for each peer.
func (r *compiledRule) written() int {
	ports := 0
	for _, port := range r.ports {
		if port.name != "" {
			ports++
			continue
		}
		ports += len(portPrefixes(port.first, port.last))
	}
	return max(ports, 1)
}

// mayWrite refuses policies where those that select a subject are written down
// too often, and says whether none is; written is what others have already.
func (c *compiler) mayWrite(subject *identity, policies []*compiledPolicy, written int) bool {
	budget, bounded := c.local.Budgets[model.TableRules]
	if !bounded {
		return true
	}
	selecting := 0
	for _, p := range policies {
		if p.subjects[subject] {
			selecting += sizeOf(p.rules)
		}
	}
	if selecting > excess*budget { // who has made it so is asked only then
		wanted := newDemand(model.TableRules)
		wanted.times = excess
		for _, p := range policies {
			if p.subjects[subject] {
				c.charge(wanted, p.object, p.rules)
			}
		}
		c.shed(wanted)
	}
	return len(c.errs) == 0 && written <= excess*budget
}
