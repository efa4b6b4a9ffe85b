// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/pcap"
)

// Options say under what packets are replayed.
type Options struct {
	At model.Hook
	// Objects are the cluster whose datapath it is. Nil: every address seen
	// is a pod's, and everything is allowed.
	Objects *manifest.Objects
	// Node is whose datapath; it may be empty where the objects have one.
	Node string
	// Object is an object file of the hook's programs in place of the embedded ones.
	Object []byte
	// Seed is of the programs' choices.
	Seed uint32
	// Segments is how often a packet that a device would segment is passed through
	// the program segment by segment: every one for 1, every tenth for 10; for 0
	// none is, and all are judged by their headers.
	Segments int
}

// Setup is what a Replay has found and made before the first packet.
type Setup struct {
	Endpoints int
	// Full is that there were more addresses than the endpoint table holds.
	Full bool
	// Made is that the endpoints were made of addresses seen, and Growing that
	// they are made when an address is seen first: of captures that are read once.
	Made     bool
	Growing  bool
	Warnings []compile.Warning
}

// Replay is a datapath that packets are passed through. It belongs to the
// thread of its Network.
type Replay struct {
	Setup Setup

	options    Options
	datapath   *datapath.Datapath
	runner     *datapath.Runner
	endpoints  *endpoints
	growth     *growth        // nil where the endpoints are known beforehand
	names      map[int]string // of endpoints, by ifindex
	called     map[netip.Addr]string
	isolations isolations
	clock      clock
	cutter     cutter
	supers     int // packets that a device would segment
	buf        []byte
	padded     []byte
	after      Header
	held       []byte // of the segment that is told of
	heldAfter  Header
	sentences  map[string]string
}

// Open makes a datapath for captures. The caller closes it. It fails with
// ErrNode, or as compile.All and datapath.Open do.
func Open(ctx context.Context, n *Network, captures *Captures, o Options) (*Replay, error) {
	how := datapath.Options{Seed: o.Seed, Object: o.Object, StopClock: true}
	if isOfDevice(o.At) {
		how.Object, how.HostObject = nil, o.Object
	}
	dp, err := datapath.Open(how)
	if err != nil {
		return nil, fmt.Errorf("open the datapath: %w", err)
	}
	r := &Replay{options: o, datapath: dp, isolations: isolations{objects: o.Objects}, names: map[int]string{}, sentences: map[string]string{}}
	if err := r.prepare(ctx, n, captures); err != nil {
		return nil, errors.Join(err, dp.Close())
	}
	r.runner = dp.Runner(o.At)
	return r, nil
}

func (r *Replay) prepare(ctx context.Context, n *Network, captures *Captures) error {
	var state *model.State
	var err error
	switch {
	case r.options.Objects != nil:
		state, r.endpoints, r.Setup.Warnings, err = clusterState(ctx, n, r.options.Objects, r.options.Node, r.options.At, r.datapath.EndpointRoom())
		r.called = namesOf(r.options.Objects)
	case captures.Streams():
		r.Setup.Made, r.Setup.Growing = true, true
		r.growth, state, err = newGrowth(ctx, n, r.options.At, r.datapath.EndpointRoom())
		if err == nil {
			r.endpoints = r.growth.endpoints
		}
	default:
		var s *seen
		if s, err = see(ctx, captures, r.options.At, r.datapath.EndpointRoom()); err != nil {
			return err
		}
		r.Setup.Made, r.Setup.Full = true, s.full
		state, r.endpoints, err = s.state(ctx, n)
	}
	if err != nil {
		return err
	}
	for i := range state.Endpoints {
		r.names[state.Endpoints[i].Device.Ifindex] = state.Endpoints[i].Name.String()
	}
	r.Setup.Endpoints = len(r.endpoints.byAddr)
	_, err = r.datapath.Apply(state)
	return err
}

// Close removes the datapath.
func (r *Replay) Close() error { return r.datapath.Close() }

const notTaken = "The kernel's test run takes no such frame: IPv4 needs 34 bytes, IPv6 54, any other 14."

// packet replays one packet.
func (r *Replay) packet(p *packet, o *Outcome) error {
	*o = Outcome{
		Number: p.number, Capture: p.capture, Time: p.Time,
		Captured: len(p.Data), Length: p.Length, Truncated: len(p.Data) < p.Length,
		Hook: r.options.At, Verdict: Refused,
		Packet: &p.Packet, Interface: p.about,
	}
	frame, added, err := p.link.Frame(r.buf, p.Data)
	if err != nil {
		o.Reason = r.sentence(err.Error())
		return nil
	}
	if added != 0 {
		r.buf = frame
	}
	plain := r.cutter.withoutJumbo(frame)
	wire := p.Length + added - (len(frame) - len(plain))
	o.Header, o.Frame = readHeader(plain), plain
	o.SrcName, o.DstName = r.called[o.Header.Src], r.called[o.Header.Dst]
	o.CutHeaders = o.Truncated && o.Header.Needed > len(plain)
	if o.CutHeaders {
		// Zeros in the place of what is missing would be another packet, and
		// what it opened would be another's flow.
		o.Verdict, o.Reason = Drop, string(model.ReasonTruncated)
		return nil
	}
	if p.Length > pcap.MaxPacket {
		o.Reason = tooMuch(p.Length)
		return nil
	}
	if err := r.grow(&o.Header); err != nil {
		return fmt.Errorf("make an endpoint for packet %d: %w", o.Number, err)
	}
	ep, why := r.endpoints.find(o.Frame, &o.Header, p.Direction)
	if ep == nil {
		o.Reason = why
		return nil
	}
	o.Endpoint = ep.name
	if err := r.clock.set(r.datapath, p.Time); err != nil {
		return fmt.Errorf("set the clock for packet %d: %w", o.Number, err)
	}
	return r.judge(ep, o, plain, wire)
}

// judge passes a frame of so many bytes on the wire through the program: by its
// headers, or segment by segment.
func (r *Replay) judge(ep *endpoint, o *Outcome, frame []byte, wire int) error {
	r.cutter.learn(&o.Header, frame)
	s := r.cutter.shape(&o.Header, frame, wire)
	if o.payload = s.end - s.body; o.Header.Protocol == model.ProtocolTCP && o.Header.l4 > 0 && len(frame) >= o.Header.l4+8 {
		o.seq = binary.BigEndian.Uint32(frame[o.Header.l4+4:])
	}
	if s.size > 0 {
		o.Segments, o.SegmentSize = s.segments(), s.size
		r.supers++
		if every := r.options.Segments; every > 0 && (r.supers-1)%every == 0 && s.body <= datapath.MaxRunBytes {
			return r.segments(ep, o, frame, &s)
		}
	}
	if o.Shortened = wire > datapath.MaxRunBytes; !o.Shortened {
		o.Frame = r.pad(frame, wire)
	} else if cut, why := r.cutter.headers(frame, &s); why != "" {
		o.Reason = why
		return nil
	} else {
		o.Frame = cut
	}
	r.runner.Super(o.SegmentSize, o.Segments)
	defer r.runner.Super(0, 0)
	return r.run(ep, o)
}

// segments passes each segment through the program, and keeps what the first one
// met that does not go on.
func (r *Replay) segments(ep *endpoint, o *Outcome, frame []byte, s *shape) error {
	whole := *o
	for number := range o.Segments {
		one := whole
		one.Frame = r.cutter.segment(frame, s, number)
		if err := r.run(ep, &one); err != nil {
			return err
		}
		bad := one.Verdict != Forward
		if number == 0 || bad && o.Verdict == Forward {
			judged, dropped := o.Judged, o.SegmentsDropped
			*o = one
			o.Judged, o.SegmentsDropped = judged, dropped
			r.hold(o)
		}
		o.Judged++
		if bad {
			o.SegmentsDropped++
		}
	}
	return nil
}

// hold keeps what the next run would write over.
func (r *Replay) hold(o *Outcome) {
	r.held = append(r.held[:0], o.Frame...)
	o.Frame = r.held
	if o.Translated != nil {
		r.heldAfter = *o.Translated
		o.Translated = &r.heldAfter
	}
}

// pad makes a frame that the capture has cut as long as it was.
func (r *Replay) pad(frame []byte, length int) []byte {
	if len(frame) >= length {
		return frame
	}
	return filled(&r.padded, frame, length)
}

func (r *Replay) run(ep *endpoint, o *Outcome) error {
	ran, err := r.runner.Run(o.Frame, ep.ifindex, 0)
	if errors.Is(err, datapath.ErrNotDeliverable) {
		o.Reason = notTaken
		return nil
	}
	if contradiction, ok := errors.AsType[*datapath.Contradiction](err); ok {
		o.Verdict, o.Reason = Broken, r.sentence(contradiction.Error())
		return nil
	}
	if err != nil {
		return fmt.Errorf("replay packet %d: %w", o.Number, err)
	}
	d := &ran.Decision
	o.Verdict, o.Reason, o.File, o.Line = Forward, string(d.Reason), d.File, d.Line
	o.Out, o.Flow, o.Origin = d.Out, d.Flow, d.Origin
	switch {
	case d.Action == model.Drop:
		o.Verdict = Drop
		r.isolations.blame(o)
		return nil
	case d.Action == model.Reply:
		return nil
	case d.Out == model.OutLocal:
		o.To = ep.name
		if r.options.At != model.ToContainer {
			o.To = r.names[d.Ifindex]
		}
	}
	before, ok := o.Header.tuple()
	r.after = readHeader(ran.Data)
	if after, _ := r.after.tuple(); ok && after != before {
		o.Translated = &r.after
	}
	return nil
}

// sentence makes an error's text one, once.
func (r *Replay) sentence(text string) string {
	s, ok := r.sentences[text]
	if !ok {
		s = string(text[0]-'a'+'A') + text[1:] + "."
		r.sentences[text] = s
	}
	return s
}
