// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/weirnet/weir/model"
)

// Tables that packets fill: the oldest or the longest unused make room in them.
const (
	TableCTAnswered   model.Table = "ct_answered"   // answered ones, two entries a flow
	TableCTUnanswered model.Table = "ct_unanswered" // the others
	TableFragments    model.Table = "fragments"     // packets in fragments
	TableAffinities   model.Table = "affinities"    // clients that stay with a backend
)

// ofPackets are the tables that packets fill.
func ofPackets() []model.Table {
	return []model.Table{TableCTAnswered, TableCTUnanswered, TableFragments, TableAffinities}
}

// mostEntries keeps a table within what the kernel makes, twice over.
const mostEntries = 1 << 26

// renameTables gives tables their names of today where they have former ones.
func (c *Config) renameTables() error {
	former := model.FormerTables()
	for _, table := range slices.Sorted(maps.Keys(c.Tables)) {
		now, renamed := former[table]
		if !renamed {
			continue
		}
		if _, both := c.Tables[now]; both {
			return fmt.Errorf("parse configuration: tables.%s: is %s now, which is there too: leave one out", table, now)
		}
		c.warnings = append(c.warnings, fmt.Sprintf("tables.%s is tables.%s now", table, now))
		c.Tables[now] = c.Tables[table]
		delete(c.Tables, table)
	}
	return nil
}

// Warnings tell of former names that Parse has met.
func (c *Config) Warnings() []string { return c.warnings }

func (c *Config) validateTables() error {
	var errs []error
	for _, table := range slices.Sorted(maps.Keys(c.Tables)) {
		problem := ""
		switch entries := c.Tables[table]; {
		case !slices.Contains(append(model.Tables(), ofPackets()...), table):
			problem = fmt.Sprintf("is no table: use one of %v", append(model.Tables(), ofPackets()...))
		case entries < 1 || entries > mostEntries:
			problem = fmt.Sprintf("%d is not between 1 and %d: leave it out to have the default", entries, mostEntries)
		default:
			continue
		}
		errs = append(errs, &model.FieldError{Object: model.Ref{Kind: model.OptionsKind}, Field: "tables." + string(table), Problem: problem})
	}
	return errors.Join(errs...)
}

// Budgets bound what objects may fill; defaults are those where the configuration
// says nothing.
func (c *Config) Budgets(defaults map[string]uint32) model.Budgets {
	budgets := model.Budgets{}
	for _, table := range model.Tables() {
		budgets[table] = int(defaults[string(table)])
		if entries, said := c.Tables[table]; said {
			budgets[table] = entries
		}
	}
	return budgets
}

// Room is what the datapath's tables are given: the tables of objects hold two
// states, since a new one is written beside the old one.
func (c *Config) Room(defaults map[string]uint32) map[string]uint32 {
	room := map[string]uint32{}
	for table, budget := range c.Budgets(defaults) {
		room[string(table)] = 2 * uint32(budget)
	}
	for _, table := range ofPackets() {
		if entries, said := c.Tables[table]; said {
			room[string(table)] = uint32(entries)
		}
	}
	return room
}
