// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"context"
	"fmt"
	"strings"
)

func init() {
	define("label", verbSpec{"label pod/NAME|namespace/NAME KEY=[VALUE]... KEY-...", "set labels, remove labels; KEY= leaves the label without a value", parseLabel})
}

// Label sets and removes labels of a pod or namespace.
type Label struct {
	Object Object
	Set    map[string]string
	Remove []string
}

func parseLabel(l *line) (Verb, error) {
	name, err := l.word("pod/NAME or namespace/NAME")
	if err != nil {
		return nil, err
	}
	v := &Label{Set: map[string]string{}}
	if v.Object, err = object(l, name); err != nil {
		return nil, err
	}
	if k := v.Object.Kind; k != "pod" && k != "namespace" {
		return nil, fmt.Errorf("only pods and namespaces have labels that matter, not a %s\n\tusage: %s", k, l.usage)
	}
	for !l.done() {
		if l.assigned() {
			if err := l.label(v.Object.String(), v.Set); err != nil {
				return nil, err
			}
			continue
		}
		t := l.next()
		key, ok := strings.CutSuffix(t.value, "-")
		if t.kind != word || !ok {
			return nil, l.expected("KEY=VALUE or KEY-", t)
		}
		v.Remove = append(v.Remove, key)
	}
	if len(v.Set)+len(v.Remove) == 0 {
		return nil, l.expected("KEY=VALUE or KEY-", l.peek())
	}
	return v, nil
}

func (v *Label) check(c *checker, s *Step) {
	c.podObject(s.Pos, "label", v.Object)
}

// Effect is of what kind it is.
func (*Label) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Label) Run(ctx context.Context, p Player) error { return p.Label(ctx, v) }

// Rehearse does it too: it needs no network.
func (v *Label) Rehearse(ctx context.Context, p Player) error { return v.Run(ctx, p) }
