// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("say", verbSpec{`say CONN "TEXT" [hears "TEXT"] [fails refused|timeout|reset]`, "send on an open exchange and expect the answer", parseSay})
}

// Say sends a message on an open exchange and expects an answer.
type Say struct {
	Conn  string
	Text  string
	Hears *string
	Fails Failure
}

func parseSay(l *line) (Verb, error) {
	v := &Say{}
	var err error
	if v.Conn, err = l.word("the name of an exchange"); err != nil {
		return nil, err
	}
	if v.Text, err = l.text("a message"); err != nil {
		return nil, err
	}
	for !l.done() && err == nil {
		t := l.next()
		switch t.value {
		case "hears":
			v.Hears, err = optionalText(l)
		case "fails":
			v.Fails, err = failure(l)
		default:
			err = l.expected("hears or fails", t)
		}
	}
	return v, err
}

func (v *Say) check(c *checker, s *Step) {
	c.conn(s.Pos, "say", v.Conn)
}

// Effect is of what kind it is.
func (*Say) Effect() Effect { return Converses }

// Run does it in a world.
func (v *Say) Run(ctx context.Context, p Player) error { return p.Say(ctx, v) }

// Rehearse has nothing to try.
func (*Say) Rehearse(context.Context, Player) error { return nil }
