// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("lead", verbSpec{"lead ADDRESS|NAME|lb(SERVICE.NAMESPACE)... via NODE...", "have the router lead an address to other nodes from now on: to one by hand, or to several, " + sharing, parseLead})
}

// Lead has the router lead addresses elsewhere.
type Lead struct{ Addresses, Nodes []string }

func parseLead(l *line) (Verb, error) {
	addresses, nodes, err := addressesAnd(l, "via")
	return &Lead{addresses, nodes}, err
}

func (v *Lead) check(c *checker, s *Step) {
	c.notLive(s.Pos, "lead")
	c.nodes(s.Pos, "lead", v.Nodes)
	for _, name := range v.Addresses {
		c.routable(s.Pos, "lead", name)
	}
	c.routed(s.Pos, "lead")
}

// Effect is of what kind it is.
func (*Lead) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Lead) Run(ctx context.Context, p Player) error { return p.Lead(ctx, v) }

// Rehearse does it too: it needs no network.
func (v *Lead) Rehearse(ctx context.Context, p Player) error { return v.Run(ctx, p) }
