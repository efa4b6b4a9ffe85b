// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"fmt"
	"slices"

	"github.com/weirnet/weir/model"
)

func init() {
	define("connect", verbSpec{`connect HOST -> tcp|udp/NAME:PORT [from PORT] [as CONN] [via HOST] [seen-from HOST] [says "TEXT"] [hears "TEXT"] [unconnected] [mapped] [fails refused|timeout|reset]`,
		"open an exchange with a host, SERVICE.NAMESPACE, lb(SERVICE.NAMESPACE) or an address; without as, also send, expect the answer, and close; " +
			"unconnected is a UDP socket that says with each message where it goes, mapped an IPv6 socket that speaks IPv4 (world netns)", parseConnect})
}

// Connect opens an exchange. Without As it also sends a message, expects
// an answer and closes.
type Connect struct {
	From  string
	To    Target
	Sport uint16 // 0: any
	As    string
	Via   string // the host that must serve it
	Seen  string // whose address the server must see; empty: not checked
	Says  *string
	Hears *string
	Fails Failure
	// Unconnected is a UDP socket that is told the address with each message.
	Unconnected bool
	// Mapped is an IPv6 socket that speaks IPv4.
	Mapped bool
}

func parseConnect(l *line) (Verb, error) {
	from, to, err := arrow(l, "PROTO/NAME:PORT")
	if err != nil {
		return nil, err
	}
	v := &Connect{From: from}
	if v.To, err = target(l, to, "tcp", "udp"); err != nil {
		return nil, err
	}
	for !l.done() && err == nil {
		t := l.next()
		switch t.value {
		case "from":
			var port string
			if port, err = l.word("a source port"); err == nil {
				v.Sport, err = portNumber(l, port)
			}
		case "as":
			v.As, err = l.word("a name for the exchange")
		case "via":
			v.Via, err = l.word("the host that serves it")
		case "seen-from":
			v.Seen, err = l.word("the host whose address the server sees")
		case "says":
			v.Says, err = optionalText(l)
		case "hears":
			v.Hears, err = optionalText(l)
		case "unconnected":
			v.Unconnected = true
		case "mapped":
			v.Mapped = true
		case "fails":
			v.Fails, err = failure(l)
		default:
			err = l.expected("from, as, via, seen-from, says, hears, unconnected, mapped or fails", t)
		}
	}
	if err == nil && v.Unconnected && v.To.Protocol != model.ProtocolUDP {
		err = fmt.Errorf("only a socket of udp may be unconnected\n\tusage: %s", l.usage)
	}
	if err == nil && v.Fails != "" && (v.Via != "" || v.Hears != nil || v.Seen != "") {
		err = fmt.Errorf("an exchange that fails has no server and no answer: leave out via, seen-from and hears, or fails\n\tusage: %s", l.usage)
	}
	return v, err
}

func (v *Connect) check(c *checker, s *Step) {
	v.exchange(c, s.Pos)
	v.manner(c, s)
}

// exchange checks with whom it is, and its name.
func (v *Connect) exchange(c *checker, at Pos) {
	c.host(at, "connect", v.From)
	c.place(at, "connect", v.To.Name)
	for verb, host := range map[string]string{"connect: via": v.Via, "connect: seen-from": v.Seen} {
		if host != "" {
			c.host(at, verb, host)
		}
	}
	if v.As == "" {
		return
	}
	if before, ok := c.conns[v.As]; ok {
		c.failf(at, "connect: an exchange is called %s already, since line %d: close it or take another name", v.As, before.Line)
	}
	c.conns[v.As] = at
}

// manner checks how the socket of a connect is used.
func (v *Connect) manner(c *checker, s *Step) {
	if (v.Mapped || v.Unconnected) && !slices.Equal(c.file.Worlds, []World{Netns}) {
		c.failf(s.Pos, "connect: only world netns has sockets that are unconnected or mapped: declare 'worlds netns'")
	}
	if v.Mapped && s.Only != IPv4 && !slices.Equal(c.file.Families, []Family{IPv4}) {
		c.failf(s.Pos, "connect: a mapped socket speaks IPv4: begin the step with [ipv4], or declare 'families ipv4'")
	}
}

// Effect is of what kind it is.
func (*Connect) Effect() Effect { return Converses }

// Run does it in a world.
func (v *Connect) Run(ctx context.Context, p Player) error { return p.Connect(ctx, v) }

// Rehearse tries what it names.
func (v *Connect) Rehearse(_ context.Context, p Player) error { return p.LookUp(v.From, v.To.Name) }
