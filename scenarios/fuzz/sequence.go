// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"context"
	"errors"
	"hash"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// length is how many frames a sequence has.
const length = 1500

// maxOpen is how many conversations take turns.
const maxOpen = 12

// sequence is one case in the making: what is sent next depends on how the
// frames before left.
type sequence struct {
	*talk
	mutator
	player  *player
	made    Case
	tally   *Tally
	digest  hash.Hash64 // of all frames; nil outside of tests
	known   []netip.Addr
	around  []netip.Addr
	failure error
	from    *Case    // that it goes on from; nil: none
	watcher *watcher // nil: nobody asks what it reaches
	// wanted are the networks that are played, which then stay as they begin; nil:
	// any, and they change. For tests.
	wanted func(*manifest.Objects) bool
}

// newSequence makes the n-th sequence of a seed.
func newSequence(seed, n uint64, captured [][]byte, uplinks bool, t *Tally) *sequence {
	rng := rand.New(rand.NewPCG(seed, n))
	s := &sequence{talk: &talk{network: newNetwork(rng)}, tally: t}
	s.mutator = mutator{rng: rng, captured: captured}
	s.made.Pods = s.network.pods
	if uplinks {
		s.wide, s.made.Uplink = true, true
		s.operator = s.options()
		s.made.Options = s.operator
	}
	return s
}

// run makes the sequence and plays it, up to the first finding.
func (s *sequence) run(ctx context.Context, w *prog.World, plant planted) (*Finding, error) {
	if s.from != nil {
		return s.again(ctx, w, plant)
	}
	if err := s.sit(ctx, w, plant); err != nil {
		return nil, err
	}
	put, take := s.begin()
	for (s.isUnwanted(put) || !s.change(ctx, put)) && s.failure == nil && ctx.Err() == nil {
		put, take = s.begin()
	}
	if len(take.Delete) > 0 {
		s.change(ctx, take)
	}
	for sent := 0; sent < length && ctx.Err() == nil; {
		found, frames := s.once(ctx)
		if found != nil || s.failure != nil {
			return found, s.failure
		}
		s.look(frames)
		sent += max(1, frames)
	}
	return nil, nil
}

// isUnwanted is whether a network that begins so is not to be played.
func (s *sequence) isUnwanted(begin *Change) bool {
	if s.wanted == nil {
		return false
	}
	objs := s.player.objs.Clone()
	return begin.to(objs) != nil || !s.wanted(objs)
}

// sit makes the network in which the sequence is played.
func (s *sequence) sit(ctx context.Context, w *prog.World, plant planted) (err error) {
	if s.player, err = newPlayer(ctx, &s.made, w, plant); err != nil {
		return err
	}
	s.know()
	s.keep(s.player.objs)
	s.survey()
	return nil
}

// know notes the devices that there are now.
func (s *sequence) know() {
	s.devices = map[string]model.Device{}
	for key, device := range s.player.local.Devices {
		s.devices[slotOf(key)] = device
	}
	for _, u := range s.player.local.Uplinks {
		s.devices[nodeName] = model.Device{MAC: u.MAC, PodMAC: router}
	}
}

func (s *sequence) look(frames int) {
	if s.watcher != nil {
		s.watcher.look(&s.made, frames)
	}
}

// once does one thing: mostly the next turn of a conversation.
func (s *sequence) once(ctx context.Context) (found *Finding, frames int) {
	switch n := s.rng.IntN(1000); {
	case n < 1:
		_, s.failure = s.player.step(ctx, s.add(Step{Renew: pick(s.rng, s.network.pods)}))
		s.know()
		return nil, 0
	case n < 6:
		if s.wanted == nil {
			s.change(ctx, s.network.change())
		}
		return nil, 0
	case n < 12:
		by := pick(s.rng, []time.Duration{time.Second, 11 * time.Second, 25 * time.Second, 40 * time.Second, 70 * time.Second, 130 * time.Second, 200 * time.Second, 7 * time.Hour})
		_, s.failure = s.player.step(ctx, s.add(Step{Advance: by}))
		return nil, 0
	case n < 15:
		_, s.failure = s.player.step(ctx, s.add(Step{Collect: true}))
		return nil, 0
	case n < 45:
		return s.sendMaybeMutated(s.neighbours(), 40)
	}
	return s.turn()
}

func (s *sequence) add(step Step) *Step {
	s.made.Steps = append(s.made.Steps, step)
	return &s.made.Steps[len(s.made.Steps)-1]
}

// change makes a change, if it compiles.
func (s *sequence) change(ctx context.Context, c *Change) bool {
	err := s.player.change(ctx, c)
	switch {
	case err == nil:
		s.keep(s.player.objs)
		s.add(Step{Change: c})
		s.tally.Changes++
		s.survey()
		return true
	case errors.Is(err, errRefused):
		s.tally.Refused++
	default:
		s.failure = err
	}
	return false
}

// survey notes the addresses that there are now.
func (s *sequence) survey() {
	s.known = s.known[:0]
	for _, text := range s.player.nodes() {
		s.known = append(s.known, netip.MustParseAddr(text))
	}
	s.around = append(append(s.addresses(), gateways...), s.known...)
	for _, svc := range s.objs.Services {
		for _, ip := range svc.Spec.ClusterIPs {
			s.around = append(s.around, netip.MustParseAddr(ip))
		}
	}
	if s.wide {
		for _, p := range s.places() {
			s.around = append(s.around, p.addr)
		}
	}
	slices.SortFunc(s.around, netip.Addr.Compare)
}

// turn sends the next frame of a conversation.
func (s *sequence) turn() (*Finding, int) {
	if len(s.open) < maxOpen && (len(s.open) == 0 || s.chance(30)) {
		if c := s.converse(); c != nil {
			s.open = append(s.open, c)
		}
	}
	if len(s.open) == 0 {
		return s.sendMaybeMutated(s.neighbours(), 40)
	}
	i := s.rng.IntN(len(s.open))
	c := s.open[i]
	f, by, ok := s.next(c)
	if !ok {
		s.open = append(s.open[:i:i], s.open[i+1:]...)
		return nil, 0
	}
	n := 0
	if s.chance(25) { // a changed one before the right one
		found, frames := s.send(s.changed(f))
		if found != nil || s.failure != nil {
			return found, frames
		}
		n += frames
	}
	if s.chance(5) { // in fragments, in its place
		for _, part := range s.pieces(c, by, f) {
			found, frames := s.sendMaybeMutated(part, 15)
			if n += frames; found != nil || s.failure != nil {
				return found, n
			}
		}
		return nil, n
	}
	r, sent := s.sendFrame(f)
	if !sent {
		return r.finding, n
	}
	n++
	if r.finding != nil || r.decision.Action != model.Forward {
		return r.finding, n
	}
	if on := s.onwards(f, &r); on != nil {
		found, sent := s.sendFrame(on)
		if n++; !sent || found.finding != nil || found.decision.Action != model.Forward {
			return found.finding, n
		}
		f, r = on, found
	}
	if r.decision.Out == model.OutTunnel {
		return s.beyondTunnel(c, f, &r, n)
	}
	to := s.arrived(f, &r)
	if t, ok := frame.Decode(r.out).Tuple(); ok && by == opener {
		c.answers = &origin{to, t.Reversed()}
	}
	if s.chance(8) {
		if e := s.complaint(r.out, to); e != nil {
			if e.At.Hook == model.FromDevice && c.isLed() {
				e = s.wrap(e, c.through)
			}
			found, frames := s.sendMaybeMutated(e, 25)
			return found, n + frames
		}
	}
	return nil, n
}

// arrived is where what answers a frame that was let through begins.
func (s *sequence) arrived(f *Frame, r *ran) model.Where {
	if s.wide {
		return s.arrivedBeyond(f, r)
	}
	to := f.At
	switch {
	case f.At.Hook == model.ToContainer:
		to.Hook = model.FromContainer
	case r.decision.Out == model.OutLocal:
		to.Endpoint, _ = s.player.behind(r.decision.Ifindex)
	default:
		to.Hook = model.ToContainer
	}
	return to
}

func (s *sequence) sendMaybeMutated(f *Frame, percent int) (*Finding, int) {
	if s.chance(percent) {
		f = s.changed(f)
	}
	return s.send(f)
}

// changed is a mutated copy. Sometimes it comes to another hook or pod. The
// node sends by hardware address: that has to lead to the pod.
func (s *sequence) changed(f *Frame) *Frame {
	out := &Frame{f.At, s.mutate(f.Data, s.around)}
	if s.chance(5) {
		out.At = model.Where{Hook: pick(s.rng, s.made.hooks()), Endpoint: pick(s.rng, s.pods)}
		if out.At.Hook == model.FromDevice || out.At.Hook == model.ToDevice {
			out.At.Endpoint = nodeName
		}
	}
	if (out.At.Hook == model.ToContainer || out.At.Hook == model.ToDevice) && len(out.Data) >= 6 {
		copy(out.Data, s.devices[out.At.Endpoint].PodMAC)
	}
	return out
}

func (s *sequence) send(f *Frame) (*Finding, int) {
	r, sent := s.sendFrame(f)
	if !sent {
		return r.finding, 0
	}
	return r.finding, 1
}

// sendFrame sends a frame, if the kernel takes it.
func (s *sequence) sendFrame(f *Frame) (ran, bool) {
	if !deliverable(f.Data, s.known) || s.wide && !passes(f, s.pods) {
		s.tally.Undeliverable++
		return ran{}, false
	}
	r, err := s.player.frame(f)
	if errors.Is(err, datapath.ErrNotDeliverable) {
		s.tally.Undeliverable++
		return ran{}, false
	}
	if err != nil {
		s.failure = err
		return ran{}, false
	}
	s.add(Step{Frame: f})
	s.tally.count(f.At.Hook, r.decision.Reason)
	if s.digest != nil {
		s.digest.Write([]byte(f.At.String()))
		s.digest.Write(f.Data)
	}
	return r, true
}
