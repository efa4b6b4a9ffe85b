// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("ping", verbSpec{"ping HOST -> NAME [fails refused|timeout]", "expect an answer to an echo request", parsePing})
}

// Ping sends an echo request and expects the reply.
type Ping struct {
	From, To string
	Fails    Failure
}

func parsePing(l *line) (Verb, error) {
	from, to, err := arrow(l, "a host, service or address")
	if err != nil {
		return nil, err
	}
	v := &Ping{From: from, To: to}
	if l.accept("fails") {
		v.Fails, err = failure(l)
	}
	return v, err
}

func (v *Ping) check(c *checker, s *Step) {
	c.host(s.Pos, "ping", v.From)
	c.place(s.Pos, "ping", v.To)
}

// Effect is of what kind it is.
func (*Ping) Effect() Effect { return Converses }

// Run does it in a world.
func (v *Ping) Run(ctx context.Context, p Player) error { return p.Ping(ctx, v) }

// Rehearse tries what it names.
func (v *Ping) Rehearse(_ context.Context, p Player) error { return p.LookUp(v.From, v.To) }
