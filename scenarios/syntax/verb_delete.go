// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("delete", verbSpec{"delete KIND/[NAMESPACE/]NAME...", "remove objects", parseDelete})
}

// Delete removes objects.
type Delete struct{ Objects []Object }

func parseDelete(l *line) (Verb, error) {
	names, err := l.words("KIND/[NAMESPACE/]NAME")
	if err != nil {
		return nil, err
	}
	d := &Delete{}
	for _, n := range names {
		o, err := object(l, n)
		if err != nil {
			return nil, err
		}
		d.Objects = append(d.Objects, o)
	}
	return d, nil
}

func (*Delete) check(*checker, *Step) {}

// Effect is of what kind it is.
func (*Delete) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Delete) Run(ctx context.Context, p Player) error { return p.Delete(ctx, v) }

// Rehearse does it too: it needs no network.
func (v *Delete) Rehearse(ctx context.Context, p Player) error { return v.Run(ctx, p) }
