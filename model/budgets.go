// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Table is a table of the datapath that objects fill.
type Table string

// Tables, as bpf/lib/tables.h calls them. What an entry stands for is what Fill
// counts.
const (
	TableEndpoints Table = "endpoints"     // pods of the node
	TableIPCache   Table = "ipcache"       // of pods and nodes, and single ones that policies name
	TableCIDRs     Table = "ipcache_cidrs" // blocks that policies name
	TableServices  Table = "services"      // frontends, and addresses of services
	TableSlotRows  Table = "slot_rows"     // eight backends of a list of those that take new flows, each as often as its weight says
	TableBackends  Table = "backends"      // of frontends
	TableMaglev    Table = "maglev"        // places of Maglev tables
	TableSources   Table = "sources"       // blocks of loadBalancerSourceRanges
	TableRules     Table = "rules"         // of policies
)

// formerTables are tables of the datapath by the names that they had once.
var formerTables = map[Table]Table{
	"addresses": TableIPCache, "prefixes": TableCIDRs, "slots": TableSlotRows,
	"flows": "ct_answered", "unanswered": "ct_unanswered",
	"answered_by": "ct_answered_by", "turns": "shares",
}

// FormerTables gives, by former name, what tables are called now.
func FormerTables() map[Table]Table { return maps.Clone(formerTables) }

// Tables are all of them.
func Tables() []Table {
	return []Table{
		TableEndpoints, TableIPCache, TableCIDRs, TableServices, TableSlotRows,
		TableBackends, TableMaglev, TableSources, TableRules,
	}
}

// SlotsARow is how many backends of a list a row of TableSlotRows has, as
// SLOTS_A_ROW of bpf/lib/limits.h says.
const SlotsARow = 8

// Budgets bound the entries that a State has of each table. A table that is not
// there has no bound. What does not fit is refused by the compiler, object by object.
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
		errs = append(errs, &FieldError{Object: Ref{Kind: OptionsKind}, Field: "tables." + string(table), Problem: problem})
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
