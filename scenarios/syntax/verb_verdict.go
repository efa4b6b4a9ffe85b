// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"strings"

	"github.com/weirnet/weir/model"
)

func init() {
	define("verdict", verbSpec{"verdict forward|drop|reply [reason=R|none] [out=local|host|device|tunnel|self] [flow=new|known|rejudged|none] [at=HOOK] [on=NODE] [endpoint=POD|NODE] [policy=NAMESPACE/NAME] [rule=N] [table=NAME]",
		"check what the datapath decided about the last frame sent", parseVerdict})
}

// Verdict checks what the datapath decided about the last frame sent.
type Verdict struct {
	Action model.Action
	Fields []Assignment
}

// verdictFields are what verdict may name, with the values that are possible;
// none: anything.
var verdictFields = map[string][]string{
	"reason":   nil,
	"out":      {"local", "host", "device", "tunnel", "self", "none"},
	"flow":     {"new", "known", "rejudged", "none"},
	"at":       hookNames,
	"on":       nil,
	"endpoint": nil, "policy": nil, "rule": nil, "table": nil,
}

func parseVerdict(l *line) (Verb, error) {
	t := l.next()
	v := &Verdict{Action: model.Action(t.value)}
	switch v.Action {
	case model.Forward, model.Drop, model.Reply:
	default:
		return nil, l.expected("forward, drop or reply", t)
	}
	var err error
	v.Fields, err = fields(l, verdictFields)
	return v, err
}

func (v *Verdict) check(c *checker, s *Step) {
	c.notLive(s.Pos, "verdict")
	c.onlyProg(s.Pos, "verdict")
	c.onNode(s.Pos, "verdict", v.Fields)
	for i, field := range v.Fields {
		if field.Name == "table" { // told by its name with hyphens
			v.Fields[i].Value = strings.ReplaceAll(c.table(s.Pos, field.Value), "_", "-")
		}
	}
	if !c.sent {
		c.failf(s.Pos, "verdict: no frame was sent before: expected 'send' above")
	}
}

// Effect is of what kind it is.
func (*Verdict) Effect() Effect { return Checks }

// Run does it in a world.
func (v *Verdict) Run(ctx context.Context, p Player) error { return p.Verdict(ctx, v) }

// Rehearse has nothing to try.
func (*Verdict) Rehearse(context.Context, Player) error { return nil }
