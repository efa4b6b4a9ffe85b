// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

// fill counts what frontends and addresses have of the tables, one by one.
type fill struct {
	own     map[netip.Addr]bool // the node's
	entries map[model.Table]int
	shared  map[content]int // how many frontends have it
	sockets map[servedHere]int
}

// content is a list that is in a table once, however many frontends have it.
type content struct {
	table model.Table
	text  string
}

// servedHere is a socket of the node's own that a service leads to.
type servedHere struct {
	at       netip.AddrPort
	protocol model.Protocol
}

func newFill(s *model.State) *fill {
	f := &fill{own: map[netip.Addr]bool{}, entries: map[model.Table]int{}, shared: map[content]int{}, sockets: map[servedHere]int{}}
	for _, addr := range slices.Concat(s.Node.Addresses, s.Node.Gateways) {
		f.own[addr] = true
	}
	for svc := range s.Services.All() {
		f.add(svc, 1)
	}
	eachAddress(s, func(u use) {
		if u.table == model.TableIPCache {
			f.entries[u.table] += u.entries
		}
	})
	return f
}

// add counts a frontend once more, or once less.
func (f *fill) add(s *model.Service, times int) {
	l := newLists()
	l.of(s, func(u use) {
		switch u.table {
		case model.TableSlotRows:
			f.share(u, l.slots, times)
		case model.TableSources:
			f.share(u, l.sources, times)
		case model.TableMaglev:
			f.share(u, l.maglev, times)
		default:
			f.entries[u.table] += times * u.entries
		}
	})
	seen := map[servedHere]bool{}
	for n := range s.Backends {
		b := &s.Backends[n]
		at := servedHere{netip.AddrPortFrom(b.Address, b.Port), s.Protocol}
		if !f.own[b.Address] || seen[at] {
			continue
		}
		seen[at] = true
		if count(f.sockets, at, times) {
			f.entries[model.TableBackends] += times
		}
	}
}

func (f *fill) share(u use, texts map[string]bool, times int) {
	for text := range texts { // one, since there is one frontend
		if count(f.shared, content{u.table, text}, times) {
			f.entries[u.table] += times * u.entries
		}
	}
}

// count says whether the first of a kind came, or the last one went.
func count[K comparable](in map[K]int, key K, times int) bool {
	was := in[key]
	if in[key] += times; in[key] == 0 {
		delete(in, key)
	}
	return was == 0 || was+times == 0
}

// fits is whether nothing has to be refused for want of room. It is about
// services, pods' addresses and rules: of the rest as much is there as before.
func (i *Incremental) fits(s *model.State, removed, added []model.Service, addresses int) bool {
	budgets := i.local.Budgets
	if len(budgets) == 0 {
		return true
	}
	bound := i.c.bound
	for n := range removed {
		bound.add(&removed[n], -1)
	}
	for n := range added {
		bound.add(&added[n], 1)
	}
	bound.addresses += addresses
	bound.cidrs = i.c.kept.blocks.rows()
	if i.fill != nil {
		for n := range removed {
			i.fill.add(&removed[n], -1)
		}
		for n := range added {
			i.fill.add(&added[n], 1)
		}
		i.fill.entries[model.TableIPCache] += addresses
	}
	if bound.isWithin(s, budgets) {
		return true
	}
	if i.fill == nil {
		i.fill = newFill(s)
	}
	i.fill.entries[model.TableCIDRs] = i.c.kept.blocks.rows()
	i.fill.entries[model.TableEndpoints] = len(s.Endpoints)
	rules := 0
	for n := range s.RuleSets {
		rules += len(s.RuleSets[n].Rules)
	}
	if budget, bounded := budgets[model.TableRules]; bounded && rules > budget {
		return i.no("a budget is exceeded")
	}
	loopback := newFill(&model.State{Services: model.ListOf(s.Loopback...)})
	for table, entries := range i.fill.entries {
		all := entries + loopback.entries[table]
		if table == model.TableServices {
			all += len(s.ServiceAddresses)
		}
		if budget, bounded := budgets[table]; bounded && all > budget {
			return i.no("a budget is exceeded")
		}
	}
	return true
}
