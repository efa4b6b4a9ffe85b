// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"time"

	"github.com/weirnet/weir/model"
)

// Interval is how often something is done: a time as in 5m, or "off". The zero
// Interval leaves it to the default.
type Interval string

// Never is the Interval of what is not done.
const Never Interval = "off"

// DefaultRepairInterval is how often tables are compared where an operator says
// nothing.
const DefaultRepairInterval = 5 * time.Minute

// leastInterval keeps a comparison from following the one before at once.
const leastInterval = 10 * time.Second

// Or gives the time, 0 for never, and another where nothing is said. It is called on what Validate
// has found good.
func (i Interval) Or(other time.Duration) time.Duration {
	switch i {
	case "":
		return other
	case Never:
		return 0
	}
	every, _ := time.ParseDuration(string(i))
	return every
}

func (c *Config) validateIntervals() error {
	if c.RepairInterval == "" || c.RepairInterval == Never {
		return nil
	}
	every, err := time.ParseDuration(string(c.RepairInterval))
	if err == nil && every >= leastInterval {
		return nil
	}
	return &model.FieldError{Object: model.Ref{Kind: model.OptionsKind}, Field: "repairInterval", Problem: fmt.Sprintf("%q is no time of at least %s, as in 5m, and not %q: leave it out to have %s", c.RepairInterval, leastInterval, Never, DefaultRepairInterval)}
}
