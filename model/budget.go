// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Table is a table of the datapath that objects fill.
type Table string

// Tables, as bpf/lib/tables.h calls them. What an entry stands for is what Fill
// counts.
const (
	TableEndpoints Table = "endpoints" // pods of the node
	TableAddresses Table = "addresses" // of pods and nodes, and single ones that policies name
	TablePrefixes  Table = "prefixes"  // blocks that policies name
	TableServices  Table = "services"  // frontends, and addresses of services
	TableSlots     Table = "slots"     // backends of lists of those that take new flows, by weight
	TableBackends  Table = "backends"  // of frontends
	TableMaglev    Table = "maglev"    // places of Maglev tables
	TableSources   Table = "sources"   // blocks of loadBalancerSourceRanges
	TableRules     Table = "rules"     // of policies
)

// Tables are all of them.
func Tables() []Table {
	return []Table{
		TableEndpoints, TableAddresses, TablePrefixes, TableServices, TableSlots,
		TableBackends, TableMaglev, TableSources, TableRules,
	}
}

// Budgets bound the entries that a State has of each table. A table that is not
// there has no bound. What does not fit is refused by Compile, object by object.
type Budgets map[Table]int

// Validate says what is wrong: all of it joined, each a *FieldError of the object
// "Options".
func (b Budgets) Validate() error {
	var errs []error
	for _, table := range slices.Sorted(maps.Keys(b)) {
		problem := ""
		switch {
		case !slices.Contains(Tables(), table):
			problem = fmt.Sprintf("is no table that objects fill: use %s", namesOfTables())
		case b[table] < 1:
			problem = fmt.Sprintf("%d entries hold nothing: give it room, or leave it out for the default", b[table])
		default:
			continue
		}
		errs = append(errs, &FieldError{Object: optionsTitle, Field: "tables." + string(table), Problem: problem})
	}
	return errors.Join(errs...)
}

func namesOfTables() string {
	var names []string
	for _, table := range Tables() {
		names = append(names, string(table))
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// Fill counts the entries that a State has of each table. It is never less than
// what the datapath writes.
func Fill(s *State) map[Table]int {
	count := map[Table]int{}
	eachUse(s, allFrontends(s), func(u use) { count[u.table] += u.entries })
	return count
}

// use is entries of a table, and what of the state they are there for: one of
// the others is set.
type use struct {
	table    Table
	entries  int
	endpoint *Endpoint
	address  netip.Addr
	prefix   netip.Prefix
	frontend *Service
	rules    *RuleSet
}

// eachUse goes through all that a state has of the tables. What several
// frontends have together is the first one's.
func eachUse(s *State, frontends []*Service, each func(use)) {
	for i := range s.Endpoints {
		each(use{table: TableEndpoints, entries: 1, endpoint: &s.Endpoints[i]})
	}
	eachAddress(s, each)
	lists := newLists()
	for _, frontend := range frontends {
		lists.of(frontend, each)
	}
	eachSocket(s, frontends, each)
	for _, addr := range s.ServiceAddresses {
		each(use{table: TableServices, entries: 1, address: addr})
	}
	for i := range s.RuleSets {
		each(use{table: TableRules, entries: len(s.RuleSets[i].Rules), rules: &s.RuleSets[i]})
	}
}

// eachSocket goes through the node's own sockets that services lead to: each is once
// in the table of backends, beside the services' own rows.
func eachSocket(s *State, frontends []*Service, each func(use)) {
	own := map[netip.Addr]bool{}
	for _, addr := range slices.Concat(s.Node.Addresses, s.Node.Gateways) {
		own[addr] = true
	}
	sockets := map[*Service]bool{} // frontends of sockets alone
	for i := range s.Loopback {
		sockets[&s.Loopback[i]] = true
	}
	type socket struct {
		netip.AddrPort
		protocol Protocol
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
				each(use{table: TableBackends, entries: 1, frontend: frontend})
			}
		}
	}
}

// allFrontends are those of packets and those of sockets alone.
func allFrontends(s *State) []*Service {
	var all []*Service
	for i := range s.Services {
		all = append(all, &s.Services[i])
	}
	for i := range s.Loopback {
		all = append(all, &s.Loopback[i])
	}
	return all
}

func eachAddress(s *State, each func(use)) {
	seen := map[netip.Addr]bool{}
	address := func(addr netip.Addr) {
		if addr.IsValid() && !seen[addr] {
			seen[addr] = true
			each(use{table: TableAddresses, entries: 1, address: addr})
		}
	}
	blocks, all4 := false, false
	for _, entry := range s.Addresses {
		if entry.Prefix.IsSingleIP() {
			address(entry.Prefix.Addr())
			continue
		}
		blocks = true
		all4 = all4 || entry.Prefix == netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		each(use{table: TablePrefixes, entries: 1, prefix: entry.Prefix})
	}
	if blocks && !all4 { // the datapath keeps the families apart by it
		each(use{table: TablePrefixes, entries: 1})
	}
	for _, addr := range slices.Concat(s.Node.Addresses, s.Node.Gateways) {
		address(addr)
	}
	for i := range s.Endpoints {
		address(s.Endpoints[i].IPv4)
		address(s.Endpoints[i].IPv6)
	}
}
