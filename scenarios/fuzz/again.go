// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"context"
	"math/rand/v2"

	"github.com/weirnet/weir/lab/prog"
)

// againLength is how many frames a sequence has that goes on from a kept case.
const againLength = length / 3

// newAgain makes the n-th sequence of a seed from a case that is kept: it does
// the same with changes, and goes on from there.
func newAgain(seed, n uint64, captured [][]byte, from *Case, t *Tally) *sequence {
	rng := rand.New(rand.NewPCG(seed, n))
	s := &sequence{talk: &talk{network: newNetwork(rng)}, tally: t, from: from}
	s.mutator = mutator{rng: rng, captured: captured}
	s.made.Pods, s.network.pods = from.Pods, from.Pods
	s.wide, s.made.Uplink, s.made.Options, s.operator = from.Uplink, from.Uplink, from.Options, from.Options
	return s
}

// repeat plays the case that the sequence goes on from. Some of its frames are
// left out, sent twice, or come behind a changed one.
func (s *sequence) repeat(ctx context.Context) (*Finding, int) {
	sent := 0
	for i := range s.from.Steps {
		step := &s.from.Steps[i]
		if ctx.Err() != nil || s.failure != nil {
			return nil, sent
		}
		switch {
		case step.Change != nil:
			s.change(ctx, step.Change)
		case step.Frame == nil:
			_, s.failure = s.player.step(ctx, s.add(*step))
		default:
			found, frames := s.resend(step.Frame)
			if sent += frames; found != nil {
				return found, sent
			}
		}
	}
	return nil, sent
}

func (s *sequence) resend(f *Frame) (*Finding, int) {
	var frames []*Frame
	switch n := s.rng.IntN(100); {
	case n < 4:
		return nil, 0
	case n < 20:
		frames = []*Frame{s.changed(f), f}
	case n < 24:
		frames = []*Frame{f, f}
	default:
		frames = []*Frame{f}
	}
	sent := 0
	for _, f := range frames {
		found, n := s.send(f)
		if sent += n; found != nil || s.failure != nil {
			return found, sent
		}
	}
	return nil, sent
}

// near sends something like the frames that the kept case ends with: there it
// reached something new.
func (s *sequence) near(last []*Frame) (*Finding, int) {
	f := pick(s.rng, last)
	if s.chance(80) {
		f = s.changed(f)
	}
	return s.send(f)
}

// again is the run of a sequence that goes on from a kept case.
func (s *sequence) again(ctx context.Context, w *prog.World, plant planted) (*Finding, error) {
	if err := s.sit(ctx, w, plant); err != nil {
		return nil, err
	}
	found, sent := s.repeat(ctx)
	if found != nil || s.failure != nil {
		return found, s.failure
	}
	s.look(sent)
	var last []*Frame
	for _, step := range s.from.Steps {
		if step.Frame != nil {
			last = append(last, step.Frame)
		}
	}
	last = last[max(0, len(last)-2*lookEvery):]
	for sent < againLength && ctx.Err() == nil {
		var frames int
		if len(last) > 0 && s.chance(40) {
			found, frames = s.near(last)
		} else {
			found, frames = s.once(ctx)
		}
		if found != nil || s.failure != nil {
			return found, s.failure
		}
		s.look(frames)
		sent += max(1, frames)
	}
	return nil, nil
}
