// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("take", verbSpec{"take ADDRESS|NAME... from NODE...", "take away an address that was given", parseTake})
}

// Take takes addresses away that were given.
type Take struct{ Addresses, Nodes []string }

func parseTake(l *line) (Verb, error) {
	addresses, nodes, err := addressesAnd(l, "from")
	return &Take{addresses, nodes}, err
}

func (v *Take) check(c *checker, s *Step) {
	c.notLive(s.Pos, "take")
	for _, a := range c.handed(s.Pos, "take", v.Addresses, v.Nodes) {
		for _, node := range v.Nodes {
			if _, has := c.given[a][node]; !has {
				c.failf(s.Pos, "take: %s does not have %s at this step: expected 'give %s to %s' before", node, a, a, node)
			}
			delete(c.given[a], node)
		}
	}
}

// Effect is of what kind it is.
func (*Take) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Take) Run(ctx context.Context, p Player) error { return p.Take(ctx, v) }

// Rehearse does it too: it needs no network.
func (v *Take) Rehearse(ctx context.Context, p Player) error { return v.Run(ctx, p) }
