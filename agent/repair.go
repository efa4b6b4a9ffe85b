// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/config"
	"github.com/weirnet/weir/datapath"
)

// repair compares the datapath's tables with the state in force, again and again, and
// tells of what it had to repair.
func (a *Agent) repair(ctx context.Context) error {
	every := a.opts.Config.RepairInterval.Or(config.DefaultRepairInterval)
	if every == 0 {
		return nil
	}
	everyTick(ctx, every, func() {
		began := time.Now()
		done, err := a.datapath.Repair(ctx)
		if !errors.Is(err, context.Canceled) {
			a.report("repair tables", err)
		}
		a.noteRepair(began, &done)
	})
	return nil
}

// noteRepair tells of what was repaired, table by table.
func (a *Agent) noteRepair(began time.Time, done *datapath.Repaired) {
	r := api.Repair{Last: time.Now(), Seconds: time.Since(began).Seconds(), Compared: done.Compared}
	for _, t := range done.Tables {
		a.log.Warn("a table was not what the state in force says, and is repaired", "table", t.Table,
			"missing", t.Missing, "surplus", t.Surplus, "wrong", t.Wrong, "keys", strings.Join(t.Keys, ", "))
		r.Tables = append(r.Tables, api.RepairedTable{Table: t.Table, Missing: t.Missing, Surplus: t.Surplus, Wrong: t.Wrong, Keys: t.Keys})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	// Who was given the status before has the map: it is not changed.
	r.Entries = make(map[string]uint64, len(a.status.Repair.Entries)+len(r.Tables))
	for table, entries := range a.status.Repair.Entries {
		r.Entries[table] = entries
	}
	for _, t := range done.Tables {
		r.Entries[t.Table] += uint64(t.Entries())
	}
	a.status.Repair = r
}
