// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"fmt"
	"slices"
)

func init() {
	define("send", verbSpec{"send HOST [posing-as SENDER] LAYER(FIELD=VALUE ...)...",
		"put a frame on a host's interface; posing-as gives it the IP address of somebody else as the sender's: of a host, the gateway, a service, or an address", parseSend})
}

// Send puts a frame on a host's interface.
type Send struct {
	Host   string
	Sender string // whom it poses as; empty: nobody
	Layers []Layer
}

func parseSend(l *line) (Verb, error) {
	host, err := l.word("a host")
	if err != nil {
		return nil, err
	}
	v := &Send{Host: host}
	if l.accept("posing-as") {
		if v.Sender, err = l.word("whom it poses as"); err != nil {
			return nil, err
		}
	}
	v.Layers, err = layers(l, true)
	if err == nil && len(v.Layers) == 0 {
		err = l.expected("a layer like tcp(dport=80)", l.peek())
	}
	if err == nil && v.Sender != "" {
		err = v.poses()
	}
	return v, err
}

// poses checks that a frame which poses as somebody names its sender once.
func (v *Send) poses() error {
	named := false
	for _, layer := range v.Layers {
		if !slices.Contains([]string{"ip", "ipv4", "ipv6", "arp"}, layer.Kind) {
			continue
		}
		for _, a := range layer.Fields {
			if a.Name == "src" || a.Name == "spa" {
				return fmt.Errorf("%s: %s=%s and posing-as %s both name the sender: leave out one of them", layer.Kind, a.Name, a.Value, v.Sender)
			}
		}
		named = true
		break // the first is the outer one
	}
	if !named {
		return fmt.Errorf("posing-as %s: the frame has no sender's address: add a layer like ip(dst=client), or leave out posing-as", v.Sender)
	}
	return nil
}

func (v *Send) check(c *checker, s *Step) {
	c.notLive(s.Pos, "send")
	c.host(s.Pos, "send", v.Host)
	if v.Sender != "" {
		c.place(s.Pos, "send: posing-as", v.Sender)
	}
	c.layers(s, v.Layers, true)
	c.sent = true
}

// Effect is of what kind it is.
func (*Send) Effect() Effect { return Sends }

// Run does it in a world.
func (v *Send) Run(ctx context.Context, p Player) error { return p.Send(ctx, v) }

// Rehearse tries what it names.
func (v *Send) Rehearse(_ context.Context, p Player) error { return p.Describe(v) }
