// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("give", verbSpec{"give ADDRESS|NAME... to NODE...", "give nodes an address beside their own, which their Node objects do not list: their kernels have it, and the router leads it there; " +
		"of several nodes, " + sharing, parseGive})
}

// Give has nodes have addresses beside their own.
type Give struct{ Addresses, Nodes []string }

func parseGive(l *line) (Verb, error) {
	addresses, nodes, err := addressesAnd(l, "to")
	return &Give{addresses, nodes}, err
}

func (v *Give) check(c *checker, s *Step) {
	c.notLive(s.Pos, "give")
	for _, a := range c.handed(s.Pos, "give", v.Addresses, v.Nodes) {
		if c.given[a] == nil {
			c.given[a] = map[string]Pos{}
		}
		for _, node := range v.Nodes {
			if before, has := c.given[a][node]; has {
				c.failf(s.Pos, "give: %s has %s already, since line %d: take it first, or give it to another node", node, a, before.Line)
			}
			c.given[a][node] = s.Pos
		}
	}
}

// Effect is of what kind it is.
func (*Give) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Give) Run(ctx context.Context, p Player) error { return p.Give(ctx, v) }

// Rehearse does it too: it needs no network.
func (v *Give) Rehearse(ctx context.Context, p Player) error { return v.Run(ctx, p) }
