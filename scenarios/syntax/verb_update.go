// SPDX-License-Identifier: Apache-2.0

package syntax

import "context"

func init() {
	define("update", verbSpec{"update FILE...", "change objects that are there", parseUpdate})
}

// Update changes objects that must be there.
type Update struct{ Files []string }

func parseUpdate(l *line) (Verb, error) {
	files, err := l.words("the name of an attached file")
	return &Update{files}, err
}

func (v *Update) check(c *checker, s *Step) {
	c.needFiles(s.Pos, v.Files)
}

// Effect is of what kind it is.
func (*Update) Effect() Effect { return Acts }

// Run does it in a world.
func (v *Update) Run(ctx context.Context, p Player) error { return p.Update(ctx, v) }

// Rehearse does it too: it needs no network.
func (v *Update) Rehearse(ctx context.Context, p Player) error { return v.Run(ctx, p) }
