// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"fmt"
	"time"
)

func init() {
	define("advance", verbSpec{"advance DURATION", "move the datapath's clock", parseAdvance})
}

// Advance moves the datapath's clock.
type Advance struct{ By time.Duration }

func parseAdvance(l *line) (Verb, error) {
	s, err := l.word("a duration like 61s")
	if err != nil {
		return nil, err
	}
	by, err := time.ParseDuration(s)
	if err != nil || by <= 0 {
		return nil, fmt.Errorf("expected a duration like 61s or 6h, found '%s'\n\tusage: %s", s, l.usage)
	}
	return &Advance{by}, nil
}

func (*Advance) check(c *checker, s *Step) { c.notLive(s.Pos, "advance") }

// Effect is of what kind it is.
func (*Advance) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Advance) Run(ctx context.Context, p Player) error { return p.Advance(ctx, v) }

// Rehearse has nothing to try.
func (*Advance) Rehearse(context.Context, Player) error { return nil }
