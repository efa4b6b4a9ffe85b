// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("expect", verbSpec{"expect HOST LAYER(FIELD=VALUE ...)... | expect HOST nothing [LAYER(...)...]",
		"wait for a frame; a field that is not named is not checked", parseExpect})
}

// Expect waits for a frame at a host. With Nothing, none that matches may come.
type Expect struct {
	Host    string
	Nothing bool
	Layers  []Layer
}

func parseExpect(l *line) (Verb, error) {
	host, err := l.word("a host")
	if err != nil {
		return nil, err
	}
	v := &Expect{Host: host, Nothing: l.accept("nothing")}
	v.Layers, err = layers(l, false)
	if err == nil && len(v.Layers) == 0 && !v.Nothing {
		err = l.expected("nothing, or a layer like tcp(dport=80)", l.peek())
	}
	return v, err
}

func (v *Expect) check(c *checker, s *Step) {
	c.notLive(s.Pos, "expect")
	c.host(s.Pos, "expect", v.Host)
	c.layers(s, v.Layers, false)
}

// Effect is of what kind it is.
func (*Expect) Effect() Effect { return Checks }

// Run does it in a world.
func (v *Expect) Run(ctx context.Context, p Player) error { return p.Expect(ctx, v) }

// Rehearse tries what it names.
func (v *Expect) Rehearse(_ context.Context, p Player) error { return p.Resolve(v.Host, v.Layers) }
