// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("apply", verbSpec{"apply FILE...", "make objects, or change those that are there", parseApply})
}

// Apply makes objects, or changes those that are there.
type Apply struct{ Files []string }

func parseApply(l *line) (Verb, error) {
	files, err := l.words("the name of an attached file")
	return &Apply{files}, err
}

func (v *Apply) check(c *checker, s *Step) {
	c.needFiles(s.Pos, v.Files)
}

// Effect is of what kind it is.
func (*Apply) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Apply) Run(ctx context.Context, p Player) error { return p.Apply(ctx, v) }

// Rehearse does it too: it needs no network.
func (v *Apply) Rehearse(ctx context.Context, p Player) error { return v.Run(ctx, p) }
