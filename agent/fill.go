// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/config"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
)

// noteFill keeps how many flows the collector has seen, and warns of tables that are
// nearly full. What objects fill is counted only where a bound, which costs little, says
// that one may be.
func (a *Agent) noteFill(flows datapath.Collected) {
	a.mu.Lock()
	a.flows = flows
	state := a.state
	a.mu.Unlock()
	a.filling.Lock()
	defer a.filling.Unlock()
	var most map[model.Table]int
	if state != nil {
		most = compile.AtMost(state)
	}
	tables := a.tables(most, flows)
	if slices.ContainsFunc(tables, func(t api.Table) bool { return t.IsNearlyFull() }) {
		tables = a.tables(a.count(state), flows)
	}
	a.warnOfFill(tables)
}

// countFill says how full the tables are. It costs as much as there is: for people, and
// from time to time.
func (a *Agent) countFill() {
	a.filling.Lock()
	defer a.filling.Unlock()
	a.mu.Lock()
	state, flows := a.state, a.flows
	a.mu.Unlock()
	tables := a.tables(a.count(state), flows)
	a.warnOfFill(tables)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.Tables, a.status.Identities = tables, a.numbered
}

// count gives what objects fill. It is called with filling held.
func (a *Agent) count(state *model.State) map[model.Table]int {
	if state != nil && state != a.counted {
		a.counted, a.filled, a.numbered = state, compile.Fill(state), countIdentities(state)
	}
	return a.filled
}

// tables are those that people are told of, with their entries.
func (a *Agent) tables(filled map[model.Table]int, flows datapath.Collected) []api.Table {
	sizes, err := a.datapath.TableSizes()
	a.report("look at the tables", err)
	var tables []api.Table
	for _, size := range sizes {
		table := api.Table{Name: size.Name, Room: int(size.Room), Bytes: size.Bytes, Entries: filled[model.Table(size.Name)]}
		budget, bounded := a.budgets[model.Table(size.Name)]
		switch {
		case bounded:
			table.Room = budget
		case size.Name == string(config.TableCTAnswered):
			table.Entries = flows.Answered
		case size.Name == string(config.TableCTUnanswered):
			table.Entries = flows.Unanswered
		default:
			continue
		}
		tables = append(tables, table)
	}
	return tables
}

// warnOfFill tells of tables that are nearly full, once. It is called with filling held.
func (a *Agent) warnOfFill(tables []api.Table) {
	for i := range tables {
		table := &tables[i]
		if nearly := table.IsNearlyFull(); nearly != a.full[table.Name] {
			a.full[table.Name] = nearly
			if nearly {
				a.log.Warn("a table is nearly full", "table", table.Name, "entries", table.Entries, "room", table.Room)
			}
		}
	}
}

func countIdentities(state *model.State) int {
	seen := map[model.Identity]bool{}
	for addr := range state.Addresses.All() {
		if owner := addr.Owner(); owner >= model.FirstLabelIdentity && owner < model.FirstBlockIdentity {
			seen[owner] = true
		}
	}
	return len(seen)
}
