// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("close", verbSpec{"close CONN", "end an exchange", parseClose})
}

// Close ends an exchange.
type Close struct{ Conn string }

func parseClose(l *line) (Verb, error) {
	name, err := l.word("the name of an exchange")
	return &Close{name}, err
}

func (v *Close) check(c *checker, s *Step) {
	c.conn(s.Pos, "close", v.Conn)
	delete(c.conns, v.Conn)
}

// Effect is of what kind it is.
func (*Close) Effect() Effect { return Converses }

// Run does it in a world.
func (v *Close) Run(ctx context.Context, p Player) error { return p.Close(ctx, v) }

// Rehearse has nothing to try.
func (*Close) Rehearse(context.Context, Player) error { return nil }
