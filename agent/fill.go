// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/config"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
)

// noteFill keeps how many flows the collector has seen.
func (a *Agent) noteFill(flows datapath.Collected) {
	a.mu.Lock()
	a.flows = flows
	a.mu.Unlock()
	a.countFill()
}

// countFill says how full the tables are, and warns of those that are nearly so. It
// costs as much as there is: for people, and from time to time.
func (a *Agent) countFill() {
	a.filling.Lock()
	defer a.filling.Unlock()
	sizes, err := a.datapath.TableSizes()
	a.report("look at the tables", err)
	a.mu.Lock()
	state, flows := a.state, a.flows
	a.mu.Unlock()
	if state != nil && state != a.counted {
		a.counted, a.filled, a.numbered = state, compile.Fill(state), countIdentities(state)
	}
	filled := map[model.Table]int{config.TableCTAnswered: flows.Answered, config.TableCTUnanswered: flows.Unanswered}
	maps.Copy(filled, a.filled)
	var tables []api.Table
	for _, size := range sizes {
		table := api.Table{Name: size.Name, Room: int(size.Room), Bytes: size.Bytes}
		if budget, bounded := a.budgets[model.Table(size.Name)]; bounded {
			table.Room = budget
		} else if size.Name != string(config.TableCTAnswered) && size.Name != string(config.TableCTUnanswered) {
			continue
		}
		table.Entries = filled[model.Table(size.Name)]
		tables = append(tables, table)
		if nearly := table.IsNearlyFull(); nearly != a.full[table.Name] {
			a.full[table.Name] = nearly
			if nearly {
				a.log.Warn("a table is nearly full", "table", table.Name, "entries", table.Entries, "room", table.Room)
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.Tables, a.status.Identities = tables, a.numbered
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
