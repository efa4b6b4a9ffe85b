// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"context"
	"slices"

	"github.com/weirnet/weir/scenarios"
)

// group are mutants that are planted together, since most that come here stay
// unnoticed: what does not fail with all of them is taken to fail with none. What
// fails is asked again with fewer, so that none is called noticed that did not
// fail alone; that one hides another is possible, and makes the score worse than
// it is, never better.
type group struct {
	stage   *scenarios.Stage
	planted *planted
	left    []*subject
	note    func(s *subject, o Outcome, killer, why string)
}

// attempt runs something with what is planted, and says what it noticed.
type attempt func(ctx context.Context) (why string, noticed bool, err error)

func newGroup(stage *scenarios.Stage, all []*subject, note func(*subject, Outcome, string, string)) *group {
	return &group{stage, plant(stage, all), all, note}
}

// try asks all that are left; those are the ones that can be to blame.
func (g *group) try(ctx context.Context, killer string, those []*subject, do attempt) error {
	for len(those) > 0 {
		noticed, refused, why, err := g.once(ctx, do)
		if err != nil || !noticed && !refused {
			return err
		}
		before := len(g.left)
		if len(g.left) == 1 {
			g.blame(g.left[0], killer, why, refused)
			return nil
		}
		suspects := those
		if refused {
			suspects = g.left
		}
		if err := g.search(ctx, killer, slices.Clone(suspects), do); err != nil {
			return err
		}
		g.planted = plant(g.stage, g.left)
		if len(g.left) == before {
			return nil // it takes several of them, and none is to blame alone
		}
		those = slices.DeleteFunc(those, func(s *subject) bool { return s.Outcome != "" })
	}
	return nil
}

func (g *group) once(ctx context.Context, do attempt) (noticed, refused bool, why string, err error) {
	why, noticed, err = do(ctx)
	if ctx.Err() != nil {
		return false, false, "", ctx.Err()
	}
	if failed := g.planted.failed(); failed != nil {
		return false, false, "", failed
	}
	if refusal := g.planted.refused(); refusal != nil {
		return false, true, firstLine(refusal.Error()), nil
	}
	if err != nil {
		return true, false, firstLine(err.Error()), nil
	}
	return noticed, false, why, nil
}

// search finds who is to blame alone, by halves.
func (g *group) search(ctx context.Context, killer string, some []*subject, do attempt) error {
	if len(some) == 0 {
		return nil
	}
	g.planted = plant(g.stage, some)
	noticed, refused, why, err := g.once(ctx, do)
	if err != nil || !noticed && !refused {
		return err
	}
	if len(some) == 1 {
		g.blame(some[0], killer, why, refused)
		return nil
	}
	if err := g.search(ctx, killer, some[:len(some)/2], do); err != nil {
		return err
	}
	return g.search(ctx, killer, some[len(some)/2:], do)
}

func (g *group) blame(s *subject, killer, why string, refused bool) {
	if refused {
		g.note(s, Refused, "", why)
	} else {
		g.note(s, Killed, killer, why)
	}
	g.left = slices.DeleteFunc(slices.Clone(g.left), func(o *subject) bool { return o == s })
}

// groups makes groups of mutants of one object that exclude none of each other,
// of those that follow each other.
func groups(all []*subject, size int) [][]*subject {
	var out [][]*subject
	for _, s := range all {
		placed := false
		for n := max(0, len(out)-8); n < len(out) && !placed; n++ {
			g := out[n]
			if len(g) < size && g[0].Object == s.Object && !slices.ContainsFunc(g, func(o *subject) bool { return o.Overlap(s.Mutant) }) {
				out[n] = append(g, s)
				placed = true
			}
		}
		if !placed {
			out = append(out, []*subject{s})
		}
	}
	return out
}
