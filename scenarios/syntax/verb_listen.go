// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"strings"

	"github.com/weirnet/weir/model"
)

func init() {
	define("listen", verbSpec{`listen HOST tcp|udp/PORT [answers "TEXT"]`, "serve a port; without answers, send back what comes", parseListen})
}

// Listen makes a host serve a port. Without Answer it sends back what it got.
type Listen struct {
	Host     string
	Protocol model.Protocol
	Port     uint16
	Answer   *string
}

func parseListen(l *line) (Verb, error) {
	v := &Listen{}
	var err error
	if v.Host, err = l.word("a host"); err != nil {
		return nil, err
	}
	place, err := l.word("tcp/PORT or udp/PORT")
	if err != nil {
		return nil, err
	}
	proto, port, _ := strings.Cut(place, "/")
	if v.Protocol, err = protocol(l, proto, "tcp", "udp"); err != nil {
		return nil, err
	}
	if v.Port, err = portNumber(l, port); err != nil {
		return nil, err
	}
	if l.accept("answers") {
		answer, err := l.text("the answer")
		if err != nil {
			return nil, err
		}
		v.Answer = &answer
	}
	return v, nil
}

func (v *Listen) check(c *checker, s *Step) {
	c.host(s.Pos, "listen", v.Host)
}

// Effect is of what kind it is.
func (*Listen) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Listen) Run(ctx context.Context, p Player) error { return p.Listen(ctx, v) }

// Rehearse has nothing to try.
func (*Listen) Rehearse(context.Context, Player) error { return nil }
