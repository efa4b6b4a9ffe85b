// SPDX-License-Identifier: Apache-2.0

package mutate

import (
	"context"
	"sync/atomic"

	"github.com/weirnet/weir/scenarios/fuzz"
)

// together is how many mutants are fuzzed at once.
const together = 16

// fuzzStage asks the fuzzer. With one seed it plays the same sequences in every
// five seconds, so those alone are played that reach a mutant: the others would
// send what they sent before, through what has not changed.
func (m *measure) fuzzStage(ctx context.Context) error {
	lab := m.stageDigest(nil)
	var todo []*subject
	for _, s := range m.all {
		if s.Outcome != "" || s.Reached[ByFuzz] == 0 || s.equivalent != nil || m.known(s, ByFuzz, lab, nil) {
			continue
		}
		todo = append(todo, s)
	}
	var done atomic.Int64
	return each(ctx, m.Parallel, groups(todo, together), func(w int, all []*subject) error {
		if err := m.askFuzz(ctx, w, all); err != nil || ctx.Err() != nil {
			return err
		}
		for _, s := range all {
			if err := m.keep(s, ByFuzz, lab); err != nil {
				return err
			}
		}
		m.progress("the fuzzer", int(done.Add(int64(len(all)))), len(todo))
		return nil
	})
}

func (m *measure) askFuzz(ctx context.Context, w int, all []*subject) error {
	stage := m.stages[w]
	g := newGroup(stage, all, notedBy(ByFuzz))
	for _, f := range m.fuzz {
		var those []*subject
		for _, s := range g.left {
			if f.reach.any(s.blocks) {
				those = append(those, s)
			}
		}
		o := m.fuzzOptions(f.uplinks)
		err := g.try(ctx, f.String(), those, func(ctx context.Context) (string, bool, error) {
			limited, cancel := context.WithTimeout(ctx, longest)
			defer cancel()
			found, err := fuzz.Play(limited, stage.Pool(), &o, f.n)
			if found == nil {
				return "it did not end", limited.Err() != nil, err
			}
			return found.Kind, true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// notedBy notes what a group found out.
func notedBy(by string) func(*subject, Outcome, string, string) {
	return func(s *subject, o Outcome, killer, why string) {
		s.Outcome, s.Killer, s.Why = o, killer, why
		if o == Killed {
			s.By = by
		}
	}
}
