// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("renew", verbSpec{"renew pod/NAME", "give a pod another interface, with other hardware addresses, as if it was made again while its flows last; only in world prog", parseRenew})
}

// Renew gives a pod another interface.
type Renew struct{ Pod Object }

func parseRenew(l *line) (Verb, error) {
	o, err := onlyPod(l, "is renewed")
	return &Renew{o}, err
}

func (v *Renew) check(c *checker, s *Step) {
	c.onlyProg(s.Pos, "renew")
	c.podObject(s.Pos, "renew", v.Pod)
}

// Effect is of what kind it is.
func (*Renew) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Renew) Run(ctx context.Context, p Player) error { return p.Renew(ctx, v) }

// Rehearse has nothing to try.
func (*Renew) Rehearse(context.Context, Player) error { return nil }
