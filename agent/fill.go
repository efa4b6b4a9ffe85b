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
	defer a.mu.Unlock()
	a.flows = flows
	a.fillLocked()
}

// fillLocked says how full the tables are, and warns of those that are nearly so.
func (a *Agent) fillLocked() {
	sizes, err := a.datapath.TableSizes()
	a.reportLocked("look at the tables", err)
	if a.state != nil && a.state != a.counted {
		a.counted, a.filled = a.state, compile.Fill(a.state)
	}
	filled := map[model.Table]int{config.TableCTAnswered: a.flows.Answered, config.TableCTUnanswered: a.flows.Unanswered}
	maps.Copy(filled, a.filled)
	a.status.Tables = nil
	for _, size := range sizes {
		table := api.Table{Name: size.Name, Room: int(size.Room), Bytes: size.Bytes}
		if budget, bounded := a.budgets[model.Table(size.Name)]; bounded {
			table.Room = budget
		} else if size.Name != string(config.TableCTAnswered) && size.Name != string(config.TableCTUnanswered) {
			continue
		}
		table.Entries = filled[model.Table(size.Name)]
		a.status.Tables = append(a.status.Tables, table)
		if nearly := table.IsNearlyFull(); nearly != a.full[table.Name] {
			a.full[table.Name] = nearly
			if nearly {
				a.log.Warn("a table is nearly full", "table", table.Name, "entries", table.Entries, "room", table.Room)
			}
		}
	}
}
