// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"slices"
)

// Leads are where a router leads addresses that no host has from the start. An
// address that somebody was told of leads there; else to the nodes that were
// assigned it. The zero Leads lead nowhere.
type Leads struct {
	told     map[netip.Addr][]string
	assigned map[netip.Addr][]string
}

// NewLeads begins with a topology's routes.
func NewLeads(routes []Route) Leads {
	var l Leads
	for _, r := range routes {
		l.Lead(r.To, append(slices.Clone(l.told[r.To]), r.Node)...)
	}
	return l
}

// Lead has an address lead to nodes; to none: as if nothing had been said of it.
func (l *Leads) Lead(to netip.Addr, nodes ...string) {
	if l.told == nil {
		l.told = map[netip.Addr][]string{}
	}
	if l.told[to] = nodes; len(nodes) == 0 {
		delete(l.told, to)
	}
}

// Assign has a node have an address, or not any more.
func (l *Leads) Assign(node string, a netip.Addr, has bool) {
	if l.assigned == nil {
		l.assigned = map[netip.Addr][]string{}
	}
	// A new list: whoever was given the old one keeps it.
	nodes := slices.DeleteFunc(slices.Clone(l.assigned[a]), func(n string) bool { return n == node })
	if has {
		nodes = append(nodes, node)
		slices.Sort(nodes)
	}
	l.assigned[a] = nodes
}

// Has says whether a node was assigned an address.
func (l *Leads) Has(node string, a netip.Addr) bool { return slices.Contains(l.assigned[a], node) }

// Holders are the nodes that were assigned an address, by name.
func (l *Leads) Holders(a netip.Addr) []string { return l.assigned[a] }

// Towards are the nodes that an address leads to: none, one, or several that
// share what is sent there by frame.Path, in this order.
func (l *Leads) Towards(a netip.Addr) []string {
	if nodes, told := l.told[a]; told {
		return nodes
	}
	return l.assigned[a]
}

// All are the addresses that lead to anybody.
func (l *Leads) All() []netip.Addr {
	var all []netip.Addr
	for _, m := range []map[netip.Addr][]string{l.told, l.assigned} {
		for a := range m {
			if len(l.Towards(a)) > 0 && !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}
