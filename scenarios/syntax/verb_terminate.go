// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("terminate", verbSpec{"terminate pod/NAME", "mark a pod as being deleted", parseTerminate})
}

// Terminate marks a pod as being deleted.
type Terminate struct{ Pod Object }

func parseTerminate(l *line) (Verb, error) {
	o, err := onlyPod(l, "terminates")
	return &Terminate{o}, err
}

func (v *Terminate) check(c *checker, s *Step) {
	c.podObject(s.Pos, "terminate", v.Pod)
}

// Effect is of what kind it is.
func (*Terminate) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Terminate) Run(ctx context.Context, p Player) error { return p.Terminate(ctx, v) }

// Rehearse does it too: it needs no network.
func (v *Terminate) Rehearse(ctx context.Context, p Player) error { return v.Run(ctx, p) }
