// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"time"

	"github.com/weirnet/weir/datapath"
)

// collectEvery is how often, by the capture's clock, the collector of
// expired flows runs, as an agent would run it.
const collectEvery = 10 * time.Second

// clock makes the datapath's clock go as the timestamps do, and by nothing
// else: how long a replay takes does not matter. A timestamp that goes back
// does not move it back.
type clock struct {
	latest    time.Time // timestamp
	collected time.Time
}

func (c *clock) set(dp *datapath.Datapath, stamp time.Time) error {
	if stamp.IsZero() {
		return nil // of a capture that has none
	}
	if c.latest.IsZero() {
		c.latest, c.collected = stamp, stamp
	}
	if !stamp.After(c.latest) {
		return nil
	}
	if err := dp.Advance(stamp.Sub(c.latest)); err != nil {
		return err
	}
	c.latest = stamp
	if c.latest.Sub(c.collected) < collectEvery {
		return nil
	}
	c.collected = c.latest
	_, err := dp.Collect()
	return err
}
