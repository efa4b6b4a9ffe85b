// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"fmt"
	"strconv"

	"github.com/weirnet/weir/model"
)

func init() {
	define("dropped", verbSpec{"dropped REASON [N times]", "wait for packets dropped or answered for a reason", parseDropped})
}

// Dropped waits for packets dropped or answered for a reason since this
// verb last looked at that reason. Times 0: at least one.
type Dropped struct {
	Reason model.Reason
	Times  int
}

func parseDropped(l *line) (Verb, error) {
	name, err := l.word("a reason")
	if err != nil {
		return nil, err
	}
	v := &Dropped{Reason: model.Reason(name)}
	if !knownReason(v.Reason) {
		return nil, unknownReason(name)
	}
	if !l.done() {
		count, err := l.word("how many times")
		if err != nil {
			return nil, err
		}
		if v.Times, err = strconv.Atoi(count); err != nil || v.Times < 1 {
			return nil, fmt.Errorf("expected a number of times from 1, found '%s'\n\tusage: %s", count, l.usage)
		}
		if !l.accept("times") && !l.accept("time") {
			return nil, l.expected("'times'", l.peek())
		}
	}
	return v, nil
}

func (*Dropped) check(*checker, *Step) {}

// Effect is of what kind it is.
func (*Dropped) Effect() Effect { return Checks }

// Run does it in a world.
func (v *Dropped) Run(ctx context.Context, p Player) error { return p.Dropped(ctx, v) }

// Rehearse has nothing to try.
func (*Dropped) Rehearse(context.Context, Player) error { return nil }
