// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("collect", verbSpec{"collect", "run the collector of flows that are over", parseCollect})
}

// Collect runs the collector of flows that are over.
type Collect struct{}

func parseCollect(*line) (Verb, error) { return &Collect{}, nil }

func (*Collect) check(c *checker, s *Step) { c.notLive(s.Pos, "collect") }

// Effect is of what kind it is.
func (*Collect) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Collect) Run(ctx context.Context, p Player) error { return p.Collect(ctx, v) }

// Rehearse has nothing to try.
func (*Collect) Rehearse(context.Context, Player) error { return nil }
