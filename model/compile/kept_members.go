// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/weirnet/weir/model"
)

// settleCrowds finds which identities came or went, or have other numbers, and has
// those known. It is not ok where no number is left.
func (i *Incremental) settleCrowds(m *moves) bool {
	c, k := i.c, i.c.kept
	numbers, ok := i.numberCrowds(m)
	if !ok {
		return i.no("no number is left that was never given")
	}
	var others []string // whose numbers, or groups, are others
	for set := range m.touched {
		if w := k.people.crowds[set]; len(w.parties) == 0 {
			delete(c.known, set)
		}
		if !i.staysAsItIs(set, numbers[set]) {
			others = append(others, set)
		}
	}
	for _, set := range others {
		i.leaveNumbers(k.people.crowds[set], c.known[set], m)
	}
	for _, set := range others {
		i.enterNumbers(k.people.crowds[set], c.known[set], numbers[set], m)
	}
	wanted := map[string]model.WantedIdentity{}
	for set := range m.touched {
		w := k.people.crowds[set]
		i.settleCrowd(w, c.known[set], numbers[set], m.placed[set], m)
		if wanted[set] = w.wanted(); len(w.parties)+w.expected == 0 {
			delete(k.people.crowds, set)
		}
	}
	i.want(wanted)
	return true
}

// settleCrowd has a crowd's addresses be in the table by the numbers that they have
// now: those that have come or are in other groups, or all.
func (i *Incremental) settleCrowd(w *crowd, id *identity, numbers map[string]model.Identity, placed []netip.Addr, m *moves) {
	had, was := w.identity, w.numbers
	w.identity, w.numbers = id, numbers
	if id == nil {
		return
	}
	if families := familiesOf(w.byFamily); id.families != families {
		if had == id {
			i.met("an identity has addresses of another family")
			m.people = append(m.people, id)
		}
		id.families = families
	}
	if had == id && changesAny(was, numbers) {
		i.met("most of an identity's addresses are in other blocks")
		for _, who := range w.parties {
			placed = append(placed, who.addresses...)
		}
	}
	for _, addr := range placed {
		i.numberAddress(addr, w, m)
	}
}

// numberCrowds gives the numbers of the addresses of touched crowds, by the groups
// that hold them, as numberMembers does.
func (i *Incremental) numberCrowds(m *moves) (map[string]map[string]model.Identity, bool) {
	c, k := i.c, i.c.kept
	var keys []string
	for set := range m.touched {
		w, id := k.people.crowds[set], c.known[set]
		if len(w.parties) == 0 {
			continue
		}
		most := w.most(id.number)
		for groups := range w.shares {
			if groups != most {
				keys = append(keys, memberKey(id.number, groups))
			}
		}
	}
	given, ok := c.local.Identities.AddMembers(keys)
	if !ok {
		return nil, false
	}
	all := map[string]map[string]model.Identity{}
	for set := range m.touched {
		w, id := k.people.crowds[set], c.known[set]
		all[set] = map[string]model.Identity{}
		if len(w.parties) == 0 {
			continue
		}
		most := w.most(id.number)
		for groups := range w.shares {
			if all[set][groups] = id.number; groups != most {
				all[set][groups] = given[memberKey(id.number, groups)]
			}
		}
	}
	return all, true
}

// most are the groups whose addresses keep the identity's number.
func (w *crowd) most(number model.Identity) (most string) {
	first := true
	for groups, count := range w.shares {
		if first || isMore(count, memberKey(number, groups), w.shares[most], memberKey(number, most)) {
			most, first = groups, false
		}
	}
	return most
}

// changesAny is whether addresses that stay in their groups have other numbers.
func changesAny(was, is map[string]model.Identity) bool {
	for groups, number := range is {
		if before, stays := was[groups]; stays && before != number {
			return true
		}
	}
	return false
}

// staysAsItIs is whether an identity is still there, with the same numbers for the
// same groups.
func (i *Incremental) staysAsItIs(set string, numbers map[string]model.Identity) bool {
	w := i.c.kept.people.crowds[set]
	return w.identity == i.c.known[set] && maps.Equal(w.numbers, numbers)
}

// leaveNumbers takes out what there was of an identity and its numbers.
func (i *Incremental) leaveNumbers(w *crowd, id *identity, m *moves) {
	c, had := i.c, w.identity
	if had == nil {
		return
	}
	for groups := range w.numbers {
		for _, group := range splitGroups(groups) {
			c.members[group] = slices.DeleteFunc(c.members[group], func(m member) bool { return m.pod == had })
			m.groups[group] = true
		}
	}
	delete(c.variants, had.number)
	if had != id {
		if at := slices.Index(c.identities, had); at >= 0 {
			c.identities = slices.Delete(c.identities, at, at+1)
		}
		m.people = append(m.people, had)
	}
}

// enterNumbers puts in what there is now.
func (i *Incremental) enterNumbers(w *crowd, id *identity, numbers map[string]model.Identity, m *moves) {
	c, had := i.c, w.identity
	if id == nil {
		return
	}
	if had != id && id.isOurs() {
		at, _ := slices.BinarySearchFunc(c.identities, id.number, compareNumber)
		c.identities = slices.Insert(c.identities, at, id)
	}
	for groups, number := range numbers {
		c.variants[id.number] = append(c.variants[id.number], number)
		for _, group := range splitGroups(groups) {
			c.members[group] = append(c.members[group], member{number: number, base: id.number, pod: id})
			m.groups[group] = true
		}
	}
	slices.Sort(c.variants[id.number])
	if was := slices.Sorted(maps.Values(w.numbers)); had != id || !slices.Equal(was, c.variants[id.number]) {
		m.people = append(m.people, id)
	}
}

func splitGroups(groups string) []string {
	if groups == "" {
		return nil
	}
	return strings.Split(groups, ";")
}

// numberAddress has an address of a crowd be in the table by its number.
func (i *Incremental) numberAddress(addr netip.Addr, w *crowd, m *moves) {
	c := i.c
	number := w.numbers[c.kept.people.groups[addr]]
	had, placed := c.numbers[addr]
	if placed && had == number {
		return
	}
	if placed {
		m.removed = append(m.removed, c.addressOf(addr, w.identity.number))
	}
	c.numbers[addr] = number
	m.added = append(m.added, c.addressOf(addr, w.identity.number))
}

// numberNodes numbers the addresses of nodes again where others hold them, or they
// are others. It is not ok where no number is left.
func (i *Incremental) numberNodes(m *moves) bool {
	c := i.c
	if !m.peers && !m.regroupNodes && len(m.arrived) == 0 {
		return true
	}
	bases := []model.Identity{model.IdentityHost, model.IdentityRemoteNode}
	variants := map[model.Identity][]model.Identity{}
	for _, base := range bases {
		variants[base] = slices.Sorted(slices.Values(c.variants[base]))
		delete(c.variants, base)
	}
	members := map[string][]member{}
	for group, all := range c.members {
		members[group] = nodesOf(all)
		c.members[group] = slices.DeleteFunc(all, isNode)
	}
	holders := c.nodeHolders(c.kept.blocks.index)
	numbers := map[netip.Addr]model.Identity{}
	for _, h := range holders {
		if number, placed := c.numbers[h.addr]; placed {
			numbers[h.addr] = number
		}
	}
	ok := true
	c.numberMembers(holders, func(keys []string) (given map[string]model.Identity, err error) {
		given, ok = c.local.Identities.AddNodes(keys)
		return given, nil
	})
	if !ok {
		return i.no("no number is left that was never given")
	}
	i.placeNodes(holders, numbers, m)
	for _, base := range bases {
		m.variants = m.variants || !slices.Equal(variants[base], slices.Sorted(slices.Values(c.variants[base])))
	}
	for group, all := range c.members {
		if !sameMembers(members[group], nodesOf(all)) {
			m.groups[group], m.variants = true, true
		}
	}
	return true
}

// placeNodes has addresses of nodes be in the table by the numbers that they have now,
// where they had others before, or none.
func (i *Incremental) placeNodes(holders []*holder, before map[netip.Addr]model.Identity, m *moves) {
	c := i.c
	done := map[netip.Addr]bool{} // one may be the node's and a gateway
	for _, h := range holders {
		now, old := c.numbers[h.addr], before[h.addr]
		if done[h.addr] || old == now {
			continue
		}
		done[h.addr] = true
		if old != model.IdentityUnknown {
			c.numbers[h.addr] = old
			m.removed = append(m.removed, i.entryOfNode(h))
			c.numbers[h.addr] = now
		}
		m.added = append(m.added, i.entryOfNode(h))
	}
}

func isNode(m member) bool { return m.pod == nil }

func nodesOf(all []member) []member {
	return slices.DeleteFunc(slices.Clone(all), func(m member) bool { return !isNode(m) })
}

func sameMembers(a, b []member) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(m member) bool { return !slices.Contains(b, m) })
}

// entryOfNode is the entry of an address of this node, or of another.
func (i *Incremental) entryOfNode(h *holder) model.Address {
	if h.of.base == model.IdentityRemoteNode {
		return i.c.addressOfNode(h.addr)
	}
	return i.c.addressOf(h.addr, model.IdentityHost)
}
