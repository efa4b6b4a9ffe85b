// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"strings"

	"github.com/weirnet/weir/model"
)

func init() {
	define("flow", verbSpec{"flow HOST -> PROTO/NAME:PORT [from PORT] [via HOST] [answered=yes|no] [state=S] [service=NAMESPACE/NAME:PORT] [out=O] [on=NODE] [count=N]",
		"wait for an entry of the flow table", parseFlow(false)})
	define("no-flow", verbSpec{"no-flow HOST -> PROTO/NAME:PORT [from PORT] [via HOST]", "the flow table has no such entry", parseFlow(true)})
}

// FlowCheck looks for an entry of the flow table.
type FlowCheck struct {
	Absent bool
	From   string
	To     Target
	Sport  uint16
	Via    string
	Fields []Assignment
}

// flowFields are what flow may name.
var flowFields = map[string][]string{
	"answered": {"yes", "no"}, "reply": {"yes", "no"},
	"out":   {"local", "host", "device", "tunnel"},
	"on":    nil,
	"state": nil, "service": nil, "count": nil,
}

func parseFlow(absent bool) func(*line) (Verb, error) {
	return func(l *line) (Verb, error) {
		from, to, err := arrow(l, "PROTO/NAME:PORT")
		if err != nil {
			return nil, err
		}
		v := &FlowCheck{Absent: absent, From: from}
		if v.To, err = flowTarget(l, to); err != nil {
			return nil, err
		}
		if l.accept("from") {
			port, err := l.word("a source port")
			if err != nil {
				return nil, err
			}
			if v.Sport, err = portNumber(l, port); err != nil {
				return nil, err
			}
		}
		if l.accept("via") {
			if v.Via, err = l.word("the host that serves it"); err != nil {
				return nil, err
			}
		}
		v.Fields, err = fields(l, flowFields)
		return v, err
	}
}

// flowTarget is a target whose port is left out for ICMP.
func flowTarget(l *line, s string) (Target, error) {
	if name, ok := strings.CutPrefix(s, "icmp/"); ok {
		return Target{Protocol: model.ProtocolICMP, Name: name}, nil
	}
	return target(l, s, "tcp", "udp", "sctp")
}

func (v *FlowCheck) check(c *checker, s *Step) {
	c.notLive(s.Pos, "flow")
	c.onNode(s.Pos, "flow", v.Fields)
	c.host(s.Pos, "flow", v.From)
	c.place(s.Pos, "flow", v.To.Name)
	if v.Via != "" {
		c.host(s.Pos, "flow: via", v.Via)
	}
}

// Effect is of what kind it is.
func (*FlowCheck) Effect() Effect { return Checks }

// Run does it in a world.
func (v *FlowCheck) Run(ctx context.Context, p Player) error { return p.Flow(ctx, v) }

// Rehearse tries what it names.
func (v *FlowCheck) Rehearse(_ context.Context, p Player) error { return p.LookUp(v.From, v.To.Name) }
