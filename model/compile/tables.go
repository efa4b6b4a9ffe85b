// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
)

// Fill counts the entries that a State has of each table. It is never less than
// what the datapath writes.
func Fill(s *model.State) map[model.Table]int {
	count := map[model.Table]int{}
	eachUse(s, allFrontends(s), func(u use) { count[u.table] += u.entries })
	return count
}

// AtMost is no less than Fill, and costs far less: what frontends share counts for each
// of them.
func AtMost(s *model.State) map[model.Table]int { return boundOf(s).entries(s) }

// use is entries of a table, and what of the state they are there for: one of
// the others is set.
type use struct {
	table    model.Table
	entries  int
	endpoint *model.Endpoint
	address  netip.Addr
	prefix   netip.Prefix
	frontend *model.Service
	rules    *model.RuleSet
}

// eachUse goes through all that a state has of the tables. What several
// frontends have together is the first one's.
func eachUse(s *model.State, frontends []*model.Service, each func(use)) {
	for i := range s.Endpoints {
		each(use{table: model.TableEndpoints, entries: 1, endpoint: &s.Endpoints[i]})
	}
	eachAddress(s, each)
	lists := newLists()
	for _, frontend := range frontends {
		lists.of(frontend, each)
	}
	eachSocket(s, frontends, each)
	for _, addr := range s.ServiceAddresses {
		each(use{table: model.TableServices, entries: 1, address: addr})
	}
	for i := range s.RuleSets {
		each(use{table: model.TableRules, entries: len(s.RuleSets[i].Rules), rules: &s.RuleSets[i]})
	}
}

// eachSocket goes through the node's own sockets that services lead to: each is once
// in the table of backends, beside the services' own rows.
func eachSocket(s *model.State, frontends []*model.Service, each func(use)) {
	own := map[netip.Addr]bool{}
	for _, addr := range slices.Concat(s.Node.Addresses, s.Node.Gateways) {
		own[addr] = true
	}
	sockets := map[*model.Service]bool{} // frontends of sockets alone
	for i := range s.Loopback {
		sockets[&s.Loopback[i]] = true
	}
	type socket struct {
		netip.AddrPort
		protocol model.Protocol
	}
	seen := map[socket]bool{}
	for _, frontend := range frontends {
		if sockets[frontend] {
			continue
		}
		for i := range frontend.Backends {
			b := &frontend.Backends[i]
			at := socket{netip.AddrPortFrom(b.Address, b.Port), frontend.Protocol}
			if own[b.Address] && !seen[at] {
				seen[at] = true
				each(use{table: model.TableBackends, entries: 1, frontend: frontend})
			}
		}
	}
}

// allFrontends are those of packets and those of sockets alone.
func allFrontends(s *model.State) []*model.Service {
	all := slices.Collect(s.Services.All())
	for i := range s.Loopback {
		all = append(all, &s.Loopback[i])
	}
	return all
}

func eachAddress(s *model.State, each func(use)) {
	seen := map[netip.Addr]bool{}
	address := func(addr netip.Addr) {
		if addr.IsValid() && !seen[addr] {
			seen[addr] = true
			each(use{table: model.TableIPCache, entries: 1, address: addr})
		}
	}
	blocks, all4 := false, false
	for entry := range s.Addresses.All() {
		if entry.Prefix.IsSingleIP() {
			address(entry.Prefix.Addr())
			continue
		}
		blocks = true
		all4 = all4 || entry.Prefix == netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		each(use{table: model.TableCIDRs, entries: 1, prefix: entry.Prefix})
	}
	if blocks && !all4 { // the datapath keeps the families apart by it
		each(use{table: model.TableCIDRs, entries: 1})
	}
	for _, addr := range slices.Concat(s.Node.Addresses, s.Node.Gateways) {
		address(addr)
	}
	for i := range s.Endpoints {
		address(s.Endpoints[i].IPv4)
		address(s.Endpoints[i].IPv6)
	}
}
