// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

// bound is no less than what a state has of each table: what frontends share counts
// for each of them. So it is sums, which cost little to make and to keep. Only where
// it exceeds a budget is counted who has what.
type bound struct {
	own []netip.Addr // the node's

	// of frontends of packets
	services, backends, slotRows, sources, maglev int

	addresses, cidrs int // of the table of peers
}

func boundOf(s *model.State) *bound {
	b := &bound{own: slices.Concat(s.Node.Addresses, s.Node.Gateways)}
	for svc := range s.Services.All() {
		b.add(svc, 1)
	}
	for entry := range s.Addresses.All() {
		if entry.Prefix.IsSingleIP() {
			b.addresses++
		} else {
			b.cidrs++
		}
	}
	return b
}

// add counts a frontend once more, or once less.
func (b *bound) add(s *model.Service, times int) {
	b.services += times
	b.sources += times * len(s.Sources)
	eligible, shares, common, rows := 0, 0, 0, len(s.Backends)
	if s.DSR {
		rows *= 2
	}
	for i := range s.Backends {
		backend := &s.Backends[i]
		if !backend.Terminating {
			share := shareOf(backend)
			eligible, shares, common = eligible+1, shares+share, gcd(share, common)
		}
		if slices.Contains(b.own, backend.Address) {
			rows++ // a socket of the node's own
		}
	}
	b.backends += times * rows
	switch {
	case eligible == 0:
	case s.MaglevSize > 0:
		b.slotRows += times * slotRows(eligible)
		b.maglev += times * s.MaglevSize
	default:
		b.slotRows += times * slotRows(shares/common)
	}
}

// slotRows are those of a list that has so many slots.
func slotRows(slots int) int { return (slots + model.SlotsARow - 1) / model.SlotsARow }

// isWithin is whether a state, of whose frontends and addresses it is the bound, fits
// for certain.
func (b *bound) isWithin(s *model.State, budgets model.Budgets) bool {
	for table, entries := range b.entries(s) {
		if budget, bounded := budgets[table]; bounded && entries > budget {
			return false
		}
	}
	return true
}

func (b *bound) entries(s *model.State) map[model.Table]int {
	all := *b
	for i := range s.Loopback {
		all.add(&s.Loopback[i], 1)
	}
	rules := 0
	for i := range s.RuleSets {
		rules += len(s.RuleSets[i].Rules)
	}
	const families = 2
	return map[model.Table]int{
		model.TableEndpoints: len(s.Endpoints),
		model.TableIPCache:   all.addresses + len(all.own) + families*len(s.Endpoints),
		model.TableCIDRs:     all.cidrs + 1, // that keeps the families apart
		model.TableServices:  all.services + len(s.ServiceAddresses),
		model.TableBackends:  all.backends,
		model.TableSlotRows:  all.slotRows,
		model.TableSources:   all.sources,
		model.TableMaglev:    all.maglev,
		model.TableRules:     rules,
	}
}
