// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirnet/weir/model"
)

func init() {
	define("counter", verbSpec{"counter REASON|forwarded from-container|to-container|from-device|to-device|socket N [on NODE]", "check a counter of the whole scenario", parseCounter})
}

// Counter checks a counter of the whole scenario.
type Counter struct {
	Name  string // a reason, or "forwarded"
	Hook  model.Hook
	Count uint64
	Node  string // empty: all together
}

func parseCounter(l *line) (Verb, error) {
	v := &Counter{}
	var err error
	if v.Name, err = l.word("a reason, or forwarded"); err != nil {
		return nil, err
	}
	if v.Name != "forwarded" && !knownReason(model.Reason(v.Name)) {
		return nil, unknownReason(v.Name)
	}
	counting := append(slices.Clone(hookNames), "socket")
	hook, err := l.word("a hook (" + strings.Join(counting, ", ") + ")")
	if err != nil {
		return nil, err
	}
	v.Hook = model.Hook(hook)
	if !slices.Contains(counting, hook) {
		return nil, fmt.Errorf("expected a hook of %s, found '%s'\n\tusage: %s", strings.Join(counting, ", "), hook, l.usage)
	}
	count, err := l.word("how many packets")
	if err != nil {
		return nil, err
	}
	if v.Count, err = strconv.ParseUint(count, 10, 64); err != nil {
		return nil, fmt.Errorf("expected a number of packets, found '%s'\n\tusage: %s", count, l.usage)
	}
	if l.accept("on") {
		v.Node, err = l.word("a node")
	}
	return v, err
}

func (v *Counter) check(c *checker, s *Step) {
	c.notLive(s.Pos, "counter")
	c.node(s.Pos, "counter", v.Node)
}

// Effect is of what kind it is.
func (*Counter) Effect() Effect { return Checks }

// Run does it in a world.
func (v *Counter) Run(ctx context.Context, p Player) error { return p.Counter(ctx, v) }

// Rehearse has nothing to try.
func (*Counter) Rehearse(context.Context, Player) error { return nil }
