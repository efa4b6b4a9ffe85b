// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// What does not fit into a table is refused object by object, of the fullest
// namespace first, so that a tenant who asks for too much is the one who does
// without. Which objects these are depends on the objects and the budgets
// alone: it is the same in every run.
//
// Of that namespace it is the newest object that makes room enough by itself, so
// that what is in force stays; where none does, the largest. What is of no
// namespace is the operator's, and comes last.

// excess is how many times a table's entries may be written down on the way to
// what is in it: much is said twice, and told only then.
const excess = 4

// claimant is an object that has entries of a table.
type claimant struct {
	object  metav1.Object
	field   string // that asks for them
	entries int
}

// demand is who wants how much of a table.
type demand struct {
	table     model.Table
	total     int // those of nobody who could be refused too
	claimants map[model.Ref]*claimant
	times     int // the budget that is meant
}

func newDemand(table model.Table) *demand {
	return &demand{table: table, claimants: map[model.Ref]*claimant{}, times: 1}
}

func (d *demand) add(object metav1.Object, field string, entries int) {
	d.total += entries
	if object == nil {
		return
	}
	ref := manifest.RefOf(object)
	if d.claimants[ref] == nil {
		d.claimants[ref] = &claimant{object: object, field: field}
	}
	d.claimants[ref].entries += entries
}

type demands map[model.Table]*demand

func (d demands) of(table model.Table) *demand {
	if d[table] == nil {
		d[table] = newDemand(table)
	}
	return d[table]
}

// fits refuses what is too much of a state.
func (c *compiler) fits(s *model.State, policies []*compiledPolicy) {
	if len(c.local.Budgets) == 0 {
		return
	}
	if c.bound = boundOf(s); c.bound.isWithin(s, c.local.Budgets) {
		return
	}
	wanted := demands{}
	named := policiesByRef(policies)
	frontends := c.frontendsByAge(s)
	c.authors = map[netip.Addr]metav1.Object{}
	for addr, svc := range c.clusterAt {
		c.authors[addr] = svc
	}
	for _, frontend := range frontends {
		if author := c.authorOf(frontend); author != nil && c.authors[frontend.Address] == nil {
			c.authors[frontend.Address] = author
		}
	}
	eachUse(s, frontends, func(u use) {
		object, field := c.userOf(&u)
		if u.rules == nil {
			wanted.of(u.table).add(object, field, u.entries)
			return
		}
		for _, rule := range u.rules.Rules {
			wanted.of(u.table).add(c.namerOf(rule.Peer, named[rule.Origin.Policy]), "spec", 1)
		}
	})
	for _, table := range model.Tables() {
		c.shed(wanted.of(table))
	}
	if rules := wanted.of(model.TableRules); c.over(rules) > 0 {
		c.shedEndpoints(s, c.over(rules))
	}
	for _, table := range model.Tables() {
		if d := wanted.of(table); c.over(d) > 0 && len(c.errs) == 0 {
			c.errs = append(c.errs, fmt.Errorf("compile node %s: what no object can be refused for needs %d entries of table %s, whose budget is %d: raise tables.%s", c.node, d.total, table, c.local.Budgets[table], table))
		}
	}
}

// userOf gives the object for which entries are in a table, and its field; nil
// where there is none that could be refused.
func (c *compiler) userOf(u *use) (metav1.Object, string) {
	switch {
	case u.endpoint != nil:
		return c.podNamed(u.endpoint.Name), "spec.nodeName"
	case u.frontend != nil:
		return c.authorOf(u.frontend), fieldOf(u.table)
	case u.prefix.IsValid():
		return c.named[u.prefix], "spec"
	case !u.address.IsValid():
		return nil, ""
	case u.table == model.TableServices:
		return c.authors[u.address], "spec"
	}
	if pod := c.podAt[u.address]; pod != nil {
		return pod, "status.podIPs"
	}
	if w := c.workloadAt[u.address]; w != nil {
		return w, "addresses"
	}
	if node := c.nodeAt[u.address]; node != nil && node.Name != c.node {
		return node, "status.addresses"
	}
	return c.named[netip.PrefixFrom(u.address, u.address.BitLen())], "spec"
}

// fieldOf is what of a Service fills a table most.
func fieldOf(table model.Table) string {
	if table == model.TableSources {
		return "spec.loadBalancerSourceRanges"
	}
	return "spec.ports"
}

func (c *compiler) podNamed(name model.Key) metav1.Object {
	if pod := c.objs.Pods[name.String()]; pod != nil {
		return pod
	}
	return nil
}

// authorOf gives the object that a frontend is of.
func (c *compiler) authorOf(s *model.Service) metav1.Object {
	if s.Kind == model.KindHostPort {
		return c.podNamed(s.Name.Object())
	}
	if svc := c.objs.Services[s.Name.Object().String()]; svc != nil {
		return svc
	}
	return nil
}

// frontendsByAge has those of the older object first: what frontends share is
// the oldest's, and who says the same later adds nothing.
func (c *compiler) frontendsByAge(s *model.State) []*model.Service {
	all := allFrontends(s)
	authors := make(map[*model.Service]metav1.Object, len(all))
	for _, frontend := range all {
		authors[frontend] = c.authorOf(frontend)
	}
	slices.SortStableFunc(all, func(a, b *model.Service) int {
		x, y := authors[a], authors[b]
		if x == nil || y == nil {
			return boolToInt(x != nil) - boolToInt(y != nil)
		}
		return compareClaims(x, y)
	})
	return all
}

func policiesByRef(policies []*compiledPolicy) map[model.PolicyRef]metav1.Object {
	named := map[model.PolicyRef]metav1.Object{}
	for _, p := range policies {
		named[manifest.RefOf(p.object).Policy()] = p.object
	}
	return named
}

// over is by how much a demand exceeds its budget.
func (c *compiler) over(d *demand) int {
	budget, bounded := c.local.Budgets[d.table]
	if !bounded {
		return 0
	}
	return d.total - d.times*budget
}

// shed refuses objects until the others fit, or nobody is left who could be
// refused.
func (c *compiler) shed(d *demand) {
	for ref, who := range d.claimants {
		if c.refused[ref] || c.objs.IsStandIn(who.object) {
			d.drop(ref, c.refused[ref])
		}
	}
	for c.over(d) > 0 && len(d.claimants) > 0 {
		ref := d.next(c.over(d))
		last := d.claimants[ref]
		c.tooMuch(last.object, last.field, d.table, last.entries)
		d.drop(ref, true)
	}
}

// tooMuch refuses an object for what it needs of a table.
func (c *compiler) tooMuch(object metav1.Object, field string, table model.Table, entries int) {
	ref := manifest.RefOf(object)
	if c.refused[ref] {
		return
	}
	c.refused[ref] = true
	c.errs = append(c.errs, &model.FieldError{
		Object: ref, Field: field, Table: table,
		Problem: fmt.Sprintf("it needs %d entries of table %s, whose budget of %d does not hold all that is asked for: ask for less, or have the operator raise tables.%s", entries, table, c.local.Budgets[table], table),
	})
}

// drop takes a claimant out, with its entries where they go with it.
func (d *demand) drop(ref model.Ref, entries bool) {
	if entries {
		d.total -= d.claimants[ref].entries
	}
	delete(d.claimants, ref)
}

// next is whom to refuse where over entries are too many.
func (d *demand) next(over int) model.Ref {
	spaces := map[string]int{}
	for _, who := range d.claimants {
		spaces[spaceOf(who.object)] += who.entries
	}
	fullest := ""
	for _, space := range slices.Sorted(maps.Keys(spaces)) {
		if space != "" && (fullest == "" || spaces[space] >= spaces[fullest]) {
			fullest = space
		}
	}
	var those []*claimant
	for _, who := range d.claimants {
		if spaceOf(who.object) == fullest {
			those = append(those, who)
		}
	}
	slices.SortFunc(those, func(a, b *claimant) int {
		return cmp.Or(compareClaims(b.object, a.object), manifest.RefOf(b.object).Compare(manifest.RefOf(a.object)))
	})
	if i := slices.IndexFunc(those, func(who *claimant) bool { return who.entries >= over }); i >= 0 {
		return manifest.RefOf(those[i].object)
	}
	return manifest.RefOf(slices.MaxFunc(those, func(a, b *claimant) int { return cmp.Compare(a.entries, b.entries) }).object)
}

// spaceOf is the namespace of an object; empty for those of none.
func spaceOf(object metav1.Object) string {
	return manifest.RefOf(object).Namespace
}

// shedEndpoints refuses the pods with the largest rule sets: no policy that could
// be refused has made them so. A pod without rules gets nothing and sends nothing.
func (c *compiler) shedEndpoints(s *model.State, over int) {
	rules := map[string]int{}
	for i := range s.RuleSets {
		if set := &s.RuleSets[i]; set.Key != s.Node.RuleSet {
			rules[set.Key] = len(set.Rules)
		}
	}
	for over > 0 && len(rules) > 0 {
		largest := slices.MaxFunc(slices.Sorted(maps.Keys(rules)), func(a, b string) int { return cmp.Compare(rules[a], rules[b]) })
		for i := range s.Endpoints {
			if pod := c.objs.Pods[s.Endpoints[i].Name.String()]; pod != nil && s.Endpoints[i].RuleSet == largest {
				c.tooMuch(pod, "metadata.labels", model.TableRules, rules[largest])
			}
		}
		over -= rules[largest]
		delete(rules, largest)
	}
}
