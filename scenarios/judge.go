// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// judge asks the model about everything that happens in a world.
type judge struct {
	oracle    *model.Oracle
	endpoints map[int]string          // names of pods by their devices
	offset    time.Duration           // of the datapath's clock
	reasons   map[model.Reason]uint64 // steps by their reason
	disagreed []Disagreement
	story     []string
	doubt     func([]byte, model.Expectation) model.Expectation // nil outside of tests
}

// Disagreement is a frame on which model and datapath do not agree.
type Disagreement struct {
	Where    model.Where
	Expected string // by the model
	Got      string // from the datapath
}

func (d Disagreement) String() string {
	return fmt.Sprintf("%s: the datapath did %s, the model expects %s", d.Where, d.Got, d.Expected)
}

func newJudge(topo lab.Topology, devices map[string]model.Device) *judge {
	j := &judge{
		oracle:    model.NewOracle(topo.Nodes[0].Name, model.Local{Devices: devices, Gateways: topo.Gateways}),
		endpoints: make(map[int]string, len(devices)),
		reasons:   map[model.Reason]uint64{},
	}
	for name, d := range devices {
		j.endpoints[d.Ifindex] = name
	}
	return j
}

// reset forgets what was said of the step before.
func (j *judge) reset() { j.disagreed, j.story = nil, nil }

// step compares what a hook did to a frame with what the model expects.
func (j *judge) step(s lab.Step, now time.Time) {
	where := model.Where{Hook: s.Hook, Endpoint: s.Endpoint}
	e := j.oracle.Evaluate(s.In, where, now)
	if j.doubt != nil {
		e = j.doubt(s.In, e)
	}
	j.story = append(j.story, e.Story...)
	j.reasons[s.Decision.Reason]++
	got := j.outcome(s)
	j.oracle.Meet(e, now)
	if err := e.Check(got); err != nil {
		j.disagreed = append(j.disagreed, Disagreement{where, e.String(), got.String()})
		return
	}
	if got.Action != model.Forward {
		return
	}
	j.hops(s, where, e)
	j.oracle.Observe(e, got.Tuple, now)
}

func (j *judge) outcome(s lab.Step) model.Outcome {
	o := model.Outcome{Action: s.Decision.Action, Reason: s.Decision.Reason}
	if o.Action != model.Forward {
		return o
	}
	o.Out = s.Decision.Out
	if o.Out == model.OutLocal {
		o.Endpoint = j.endpoints[s.Decision.Ifindex]
		if s.Hook == model.ToContainer {
			o.Endpoint = s.Endpoint
		}
	}
	p := frame.Decode(s.Out)
	if t, ok := p.Tuple(); ok {
		o.Tuple = t
	}
	if q, ok := p.Quoted(); ok {
		o.Quoted, _ = q.Tuple()
	}
	return o
}

// hops compares by how much the time to live went down, where the model
// leaves no choice.
func (j *judge) hops(s lab.Step, where model.Where, e model.Expectation) {
	in, out := frame.Decode(s.In), frame.Decode(s.Out)
	if in.Version == 0 || out.Version == 0 {
		return
	}
	got := int(in.TTL) - int(out.TTL)
	for _, t := range e.Translations {
		if t.Hops == got {
			return
		}
	}
	if len(e.Translations) > 0 {
		j.disagreed = append(j.disagreed, Disagreement{where,
			fmt.Sprintf("the time to live to go down by %d", e.Translations[0].Hops), fmt.Sprintf("let it go down by %d", got)})
	}
}

// Outcomes of an exchange, as stories call them.
const (
	answered  = "an answer"
	refusal   = "a refusal"
	timeout   = "a timeout"
	brokenOff = "a reset"
)

// intent is an exchange of real sockets, of which only the ends are seen.
type intent struct {
	where   model.Where // the first hook that the exchange meets
	packet  []byte      // its first packet, as the opener would send it
	outcome string
	server  netip.Addr     // who accepted; the zero Addr when nobody did
	peer    netip.AddrPort // whom the server saw
	// serves says whether somebody answers at an address: what the model
	// lets through to there has to be answered.
	serves func(model.Tuple) bool
}

// exchange compares an exchange with what the model expects of its first
// packet. What the model lets through may still be refused by who gets it.
func (j *judge) exchange(in intent) {
	now := time.Now().Add(j.offset)
	e := j.oracle.Evaluate(in.packet, in.where, now)
	j.story = append(j.story, e.Story...)
	expected := ""
	switch {
	case e.Action == model.Drop && len(e.Alternatives) == 0 && in.outcome != timeout:
		expected = timeout
	case e.Action == model.Reply && in.outcome != refusal:
		expected = refusal
	case e.Action == model.Forward && in.outcome == timeout && len(e.Alternatives) == 0 && in.servedWherever(e):
		expected = answered
	}
	if e.Action == model.Forward && in.server.IsValid() && !j.observed(e, in, now) {
		expected = "another server than " + in.server.String() + ", or another address seen by it than " + in.peer.String()
	}
	if expected != "" {
		j.disagreed = append(j.disagreed, Disagreement{in.where, expected + " (" + e.String() + ")", in.outcome})
	}
}

// servedWherever says whether all that the model lets the packet become is
// answered.
func (in intent) servedWherever(e model.Expectation) bool {
	for _, t := range e.Translations {
		if !in.serves(t.Tuple) {
			return false
		}
	}
	return true
}

// observed tells the oracle which of the possible translations was taken;
// false when it was none of them.
func (j *judge) observed(e model.Expectation, in intent, now time.Time) bool {
	for _, t := range e.Translations {
		got := t.Tuple
		got.Src, got.Sport = in.peer.Addr(), in.peer.Port()
		if t.Tuple.Dst == in.server && e.Check(model.Outcome{Action: model.Forward, Tuple: got}) == nil {
			j.oracle.Observe(e, got, now)
			return true
		}
	}
	return false
}

// sent compares by which counters rose what became of a frame. Other packets
// are counted too: one counter that fits is enough.
func (j *judge) sent(data []byte, where model.Where, before, after map[model.Reason]uint64) error {
	now := time.Now().Add(j.offset)
	e := j.oracle.Evaluate(data, where, now)
	j.story = e.Story
	var rose []string
	for reason, n := range after {
		if n == before[reason] {
			continue
		}
		if reason == model.ReasonNone {
			rose = append(rose, "forward")
		} else {
			rose = append(rose, string(reason))
		}
		for _, possible := range append([]model.Expectation{e}, e.Alternatives...) {
			if reason == model.ReasonNone && possible.Action == model.Forward {
				if len(possible.Translations) == 1 {
					j.oracle.Observe(e, possible.Translations[0].Tuple, now)
				}
				return nil
			}
			if slices.Contains(possible.Reasons, reason) {
				return nil
			}
		}
	}
	slices.Sort(rose)
	return mismatch("the counters do not say what the model expects").with(where.String(), e.String(), "counters that rose: "+strings.Join(rose, ", "))
}
