// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/weirnet/weir/model"
)

// Errors of making a scenario.
var (
	// ErrNoPacket: the captures have no packet of that number, or none that
	// reached a program.
	ErrNoPacket = errors.New("no such packet")
	// ErrScenario: a scenario cannot have the network that the packet met.
	ErrScenario = errors.New("not possible in a scenario")
)

// errStop ends a walk through captures before their end.
var errStop = errors.New("stop")

// step is a packet of a flow, with what became of it.
type step struct {
	number   int
	time     time.Time
	frame    []byte
	header   Header
	out      Outcome // without what is good until the next packet
	endpoint string
}

// maxSteps bounds a scenario's packets.
const maxSteps = 1000

// Scenario makes a scenario file (.txtar) of a packet: it repeats the packets
// of its flow up to it, in world prog, and checks that each meets what it met
// in the replay. Pods, outside hosts and addresses are the scenario's own.
//
// It fails with ErrNoPacket, ErrScenario, and as Open does.
func Scenario(ctx context.Context, n *Network, captures *Captures, o Options, number int) ([]byte, error) {
	flows, err := flowsOf(ctx, n, captures, o, number)
	if err != nil {
		return nil, err
	}
	r, err := Open(ctx, n, captures, o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var steps []step
	var known datagrams
	err = r.Run(ctx, captures, func(out *Outcome) error {
		if out.Verdict != Refused && !out.CutHeaders && (out.Number == number || out.Header.IP && meet(flows, known.flows(out))) {
			if len(steps) == maxSteps {
				return fmt.Errorf("make a scenario of packet %d: %w: more than %d packets of its flow come before it", number, ErrScenario, maxSteps)
			}
			steps = append(steps, keep(out))
		}
		if out.Number == number {
			return errStop
		}
		return nil
	})
	if !errors.Is(err, errStop) {
		return nil, errors.Join(err, fmt.Errorf("make a scenario of packet %d: %w", number, ErrNoPacket))
	}
	s := &script{options: o, replay: r, capture: filepath.Base(steps[len(steps)-1].out.Capture), steps: steps}
	return s.write()
}

// flowsOf gives the flow of a packet: as it came, and as it left; and of an ICMP
// error that which it is about.
func flowsOf(ctx context.Context, n *Network, captures *Captures, o Options, number int) ([]flowID, error) {
	r, err := Open(ctx, n, captures, o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var flows []flowID
	var known datagrams
	last := 0
	err = r.Run(ctx, captures, func(out *Outcome) error {
		last = out.Number
		switch {
		case out.Number < number:
			known.flows(out)
			return nil
		case out.CutHeaders:
			return fmt.Errorf("make a scenario of packet %d: %w: the capture has cut its headers", number, ErrScenario)
		case out.Verdict == Broken:
			return fmt.Errorf("make a scenario of packet %d: %s", number, out.Reason)
		case out.Verdict == Refused:
			return fmt.Errorf("make a scenario of packet %d: %w that reached a program: %s", number, ErrNoPacket, out.Reason)
		}
		flows = known.flows(out)
		if about, is := out.Header.about(out.Frame); is {
			flows = append(slices.Clone(flows), about.flow())
		}
		return errStop
	})
	if errors.Is(err, errStop) {
		return flows, nil
	}
	if err == nil || last > 0 && !errors.Is(err, ErrNoPacket) {
		err = errors.Join(err, fmt.Errorf("make a scenario of packet %d: %w: the captures have %d", number, ErrNoPacket, last))
	}
	return nil, err
}

func keep(o *Outcome) step {
	s := step{number: o.Number, time: o.Time, frame: bytes.Clone(o.Frame), header: o.Header, out: *o, endpoint: o.Endpoint}
	s.out.Frame, s.out.Packet, s.out.Translated = nil, nil, nil
	return s
}

// script is a scenario in the making.
type script struct {
	options Options
	replay  *Replay
	capture string
	steps   []step

	text  bytes.Buffer
	clock time.Time             // timestamp that the script has come to
	names map[netip.Addr]string // of hosts and services, as the script calls them
	pods  []scriptPod
	files []scriptFile
	outer []string // hosts outside
}

type scriptPod struct {
	name       string // in the script: NAME, or NAMESPACE/NAME
	endpoint   string // as the replay calls it; empty where that has only addresses
	namespace  string
	namespaced map[string]string // the namespace's labels
	labels     map[string]string
	ports      []string
}

type scriptFile struct {
	name string
	data []byte
}

func (s *script) write() ([]byte, error) {
	if err := s.cast(); err != nil {
		return nil, fmt.Errorf("make a scenario of packet %d: %w", s.steps[len(s.steps)-1].number, err)
	}
	s.header()
	for i := range s.steps {
		s.pause(s.steps[i].time)
		s.step(&s.steps[i])
	}
	for _, f := range s.files {
		fmt.Fprintf(&s.text, "\n-- %s --\n%s", f.name, f.data)
	}
	return s.text.Bytes(), nil
}

func (s *script) header() {
	last := &s.steps[len(s.steps)-1]
	fmt.Fprintf(&s.text, "# Packet %d of %s, with the packets of its flow before it.\n", last.number, s.capture)
	family := "ipv4"
	if last.header.EtherType == etherIPv6 {
		family = "ipv6"
	}
	fmt.Fprintf(&s.text, "worlds prog\nfamilies %s\n", family)
	hosts := s.people()
	for _, name := range s.outer {
		fmt.Fprintf(&s.text, "outside %s\n", name)
	}
	fmt.Fprint(&s.text, "silent node")
	for _, name := range append(hosts, s.outer...) {
		fmt.Fprintf(&s.text, " %s", name)
	}
	fmt.Fprint(&s.text, "\n\n")
	for _, f := range s.files {
		fmt.Fprintf(&s.text, "apply %s\n", f.name)
	}
}

// pause moves the clock to where the capture's was. What is less than a
// scenario's clock is worth telling of is made up for later.
func (s *script) pause(stamp time.Time) {
	if stamp.IsZero() || !stamp.After(s.clock) {
		return
	}
	if s.clock.IsZero() {
		s.clock = stamp
		return
	}
	by := stamp.Sub(s.clock).Truncate(pauseGrain)
	if by == 0 {
		return
	}
	s.clock = s.clock.Add(by)
	fmt.Fprintf(&s.text, "advance %s\n", by)
	if by >= collectEvery {
		fmt.Fprintln(&s.text, "collect")
	}
}

// pauseGrain is of a scenario's clock, which goes on while it plays.
const pauseGrain = time.Millisecond

func (s *script) step(p *step) {
	sender, hook := s.hostOf(p.endpoint), ""
	if s.options.At == model.ToContainer {
		// The node's stack sends it, whoever it is from: so it meets the hook
		// as it was captured.
		sender, hook = "node", " at="+string(model.ToContainer)
	}
	fmt.Fprintf(&s.text, "send %s %s\n", sender, s.layers(p))
	o := &p.out
	switch {
	case o.Verdict == Drop:
		fmt.Fprintf(&s.text, "verdict drop reason=%s", o.Reason)
	case o.Out == model.OutSelf:
		fmt.Fprintf(&s.text, "verdict reply reason=%s out=self", o.Reason)
	default:
		fmt.Fprintf(&s.text, "verdict forward out=%s", o.Out)
		if o.Flow != "" {
			fmt.Fprintf(&s.text, " flow=%s", o.Flow)
		}
	}
	fmt.Fprintf(&s.text, "%s\n", hook)
}
