// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"github.com/weirnet/weir/model"
)

// met is what is compared of two outcomes of one packet: not where in the
// source it was decided, which moves, nor by which of equal rules.
type met struct {
	verdict      Verdict
	reason       string
	out          model.Out
	neverSent    bool
	translated   bool
	src, dst     netip.Addr
	sport, dport uint16
}

func (o *Outcome) met() met {
	m := met{verdict: o.Verdict, reason: o.Reason, out: o.Out, neverSent: o.NeverSent}
	if t := o.Translated; t != nil {
		m.translated, m.src, m.dst, m.sport, m.dport = true, t.Src, t.Dst, t.Sport, t.Dport
	}
	return m
}

func (r *Result) met() met {
	m := met{verdict: r.Verdict, reason: r.Reason, out: r.Out, neverSent: r.NeverSent}
	if x := r.Xlate; x != nil {
		m.translated, m.src, m.dst, m.sport, m.dport = true, x.Src, x.Dst, x.Sport, x.Dport
	}
	return m
}

func (m met) String() string {
	s := string(m.verdict)
	if m.reason != "" {
		s += " " + m.reason
	}
	if m.out != "" {
		s += " out " + string(m.out)
	}
	if m.translated {
		h := Header{Src: m.src, Dst: m.dst, Sport: m.sport, Dport: m.dport, IP: true, HasPorts: m.sport|m.dport != 0}
		s += " as " + string(appendPair(nil, &h))
	}
	if m.neverSent {
		s += ", never sent"
	}
	return s
}

// Change is a flow whose packets meet something else.
type Change struct {
	Src      netip.Addr `json:"src"` // of the first packet that changed
	Dst      netip.Addr `json:"dst"`
	Protocol string     `json:"proto"`
	Sport    uint16     `json:"sport,omitempty"`
	Dport    uint16     `json:"dport,omitempty"`
	First    int        `json:"first"`   // packet
	Packets  int        `json:"packets"` // that changed
	Kinds    []Kind     `json:"changes"`
	// Dead is that the connection lives before, and would not after.
	Dead bool `json:"dead,omitempty"`
}

// Kind is one change that packets of a flow have in common.
type Kind struct {
	Before  string `json:"before"`
	After   string `json:"after"`
	First   int    `json:"first"`
	Packets int    `json:"packets"`

	before, after met
}

// Flow names the flow.
func (c *Change) Flow() string {
	if c.Sport|c.Dport == 0 {
		return fmt.Sprintf("%s %s > %s", c.Protocol, c.Src, c.Dst)
	}
	from, to := netip.AddrPortFrom(c.Src, c.Sport), netip.AddrPortFrom(c.Dst, c.Dport)
	return c.Protocol + " " + from.String() + " > " + to.String()
}

// Diff is what changed between two replays of the same packets.
type Diff struct {
	Packets int // compared
	Changed int
	// Flows are those that changed, by their first packet that did.
	Flows []*Change
	// More is how many packets changed in flows beyond those that are kept.
	More int
	// DeadBefore and DeadAfter are how many connections would be dead.
	DeadBefore, DeadAfter int

	known map[flowID]*Change
}

// maxChanges bounds the flows that are kept, and of each the kinds of change.
const (
	maxChanges = 20_000
	maxKinds   = 8
)

// add compares a packet's two outcomes. The flow's ends are told by describe.
func (d *Diff) add(number int, flow flowID, before, after met, describe func() Change) {
	d.Packets++
	if before == after {
		return
	}
	d.Changed++
	if d.known == nil {
		d.known = map[flowID]*Change{}
	}
	c := d.known[flow]
	if c == nil {
		if len(d.Flows) == maxChanges {
			d.More++
			return
		}
		made := describe()
		made.First = number
		c = &made
		d.known[flow] = c
		d.Flows = append(d.Flows, c)
	}
	c.Packets++
	for i := range c.Kinds {
		if k := &c.Kinds[i]; k.before == before && k.after == after {
			k.Packets++
			return
		}
	}
	if len(c.Kinds) < maxKinds {
		c.Kinds = append(c.Kinds, Kind{before.String(), after.String(), number, 1, before, after})
	}
}

// Compare replays captures under two options at once, packet by packet, and
// tells what changes from the first to the second.
func Compare(ctx context.Context, n *Network, captures *Captures, before, after Options) (*Diff, error) {
	a, err := Open(ctx, n, captures, before)
	if err != nil {
		return nil, fmt.Errorf("before: %w", err)
	}
	defer a.Close()
	b, err := Open(ctx, n, captures, after)
	if err != nil {
		return nil, fmt.Errorf("after: %w", err)
	}
	defer b.Close()
	d := &Diff{}
	var was, is Outcome
	var befores, afters Connections
	err = captures.each(ctx, func(p *packet) error {
		if err := a.packet(p, &was); err != nil {
			return fmt.Errorf("before: %w", err)
		}
		if err := b.packet(p, &is); err != nil {
			return fmt.Errorf("after: %w", err)
		}
		befores.Add(&was)
		afters.Add(&is)
		d.add(p.number, was.Header.flow(), was.met(), is.met(), func() Change {
			h := &was.Header
			return Change{Src: h.Src, Dst: h.Dst, Protocol: string(appendProtocol(nil, h)), Sport: h.Sport, Dport: h.Dport}
		})
		return nil
	})
	d.DeadBefore, d.DeadAfter = befores.dead(), afters.dead()
	d.markDead(&befores, &afters)
	return d, err
}

// markDead marks the flows that would live before and not after.
func (d *Diff) markDead(before, after *Connections) {
	for flow, c := range d.known {
		was, is := before.known[flow], after.known[flow]
		c.Dead = is != nil && is.Dead() && (was == nil || !was.Dead())
	}
}

// ErrResults is a file that is not what a replay has written as JSON, or not
// of the same captures as the other.
var ErrResults = errors.New("not comparable")

// CompareResults compares what two replays of the same captures have written
// as JSON.
func CompareResults(before, after io.Reader) (*Diff, error) {
	d := &Diff{}
	a, b := newResults(before), newResults(after)
	var befores, afters resultWays
	defer func() { d.DeadBefore, d.DeadAfter = befores.dead(), afters.dead() }()
	for {
		was, errWas := a.next()
		is, errIs := b.next()
		switch {
		case errors.Is(errWas, io.EOF) && errors.Is(errIs, io.EOF):
			return d, nil
		case errWas != nil && !errors.Is(errWas, io.EOF):
			return d, fmt.Errorf("before: %w", errWas)
		case errIs != nil && !errors.Is(errIs, io.EOF):
			return d, fmt.Errorf("after: %w", errIs)
		case errWas != nil || errIs != nil:
			return d, fmt.Errorf("compare results: %w: one has more packets than the other's %d: replay the same captures", ErrResults, d.Packets)
		case was.Number != is.Number || was.Src != is.Src || was.Dst != is.Dst || was.Length != is.Length:
			return d, fmt.Errorf("compare results: %w: packet %d of the one is not packet %d of the other: replay the same captures", ErrResults, was.Number, is.Number)
		}
		befores.add(was)
		afters.add(is)
		d.add(was.Number, was.flow(), was.met(), is.met(), func() Change {
			return Change{Src: was.Src, Dst: was.Dst, Protocol: was.Protocol, Sport: was.Sport, Dport: was.Dport}
		})
	}
}

// flow is what flows of results are told apart by.
func (r *Result) flow() flowID {
	h := Header{IP: true, Src: r.Src, Dst: r.Dst, Sport: r.Sport, Dport: r.Dport}
	f := h.flow()
	for _, c := range []byte(r.Protocol) { // a name, told apart by its hash
		f.etherType = f.etherType*31 + uint16(c)
	}
	return f
}

// resultWays are the ways of the connections of results.
type resultWays map[flowID]*[2]Way

func (r *resultWays) add(one *Result) {
	if *r == nil {
		*r = resultWays{}
	}
	flow := one.flow()
	ways := (*r)[flow]
	if ways == nil {
		if len(*r) == maxConnections {
			return
		}
		ways = new([2]Way)
		(*r)[flow] = ways
	}
	way := &ways[0]
	if one.Src == flow.high && one.Sport == flow.highPort {
		way = &ways[1]
	}
	switch {
	case one.Protocol == "arp" || one.CutHeaders || one.Verdict == Refused || one.Verdict == Broken:
	case one.Verdict == Drop || one.NeverSent:
		way.stopped++
	default:
		way.delivered++
	}
}

func (r *resultWays) dead() (count int) {
	for _, ways := range *r {
		if ways[0].dead() || ways[1].dead() {
			count++
		}
	}
	return count
}

// results reads what AppendJSON has written, line by line.
type results struct {
	lines *bufio.Scanner
	line  int
}

// maxLine bounds a line of results, in bytes.
const maxLine = 1 << 20

func newResults(in io.Reader) *results {
	r := &results{lines: bufio.NewScanner(in)}
	r.lines.Buffer(make([]byte, 0, 4096), maxLine)
	return r
}

// next gives the next packet's result; io.EOF at the end or at the summary.
func (r *results) next() (*Result, error) {
	for r.lines.Scan() {
		r.line++
		if len(r.lines.Bytes()) == 0 {
			continue
		}
		var one Result
		if err := json.Unmarshal(r.lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("read results, line %d: %w: %w", r.line, ErrResults, err)
		}
		switch {
		case one.Summary != nil:
			return nil, io.EOF
		case one.Number == 0 || one.Verdict == "":
			return nil, fmt.Errorf("read results, line %s: %w: it has no n or no verdict, as 'weir replay -o json' writes them", strconv.Itoa(r.line), ErrResults)
		}
		return &one, nil
	}
	if err := r.lines.Err(); err != nil {
		return nil, fmt.Errorf("read results, line %d: %w: %w", r.line+1, ErrResults, err)
	}
	return nil, io.EOF
}
