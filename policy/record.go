// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/pcap"
)

// Record is the flows that were recorded, each once.
type Record struct {
	Openings []Opening
	// Headless are flows of TCP that were under way when recording began: who
	// opened them is not known. Their tuples are those of the first packet.
	Headless []Opening
	Missed   uint64 // events that were not recorded, for whoever did was too slow
	Cut      bool   // the last line is not whole
}

// Merge adds another record: a flow that a hook of either has denied is denied.
func (r *Record) Merge(other *Record) {
	r.Missed += other.Missed
	r.Cut = r.Cut || other.Cut
	denied := map[model.Tuple]bool{}
	all := recorder{seen: map[model.Tuple]bool{}, openedAt: map[model.Tuple]int{}}
	for _, openings := range [][]Opening{r.Openings, other.Openings} {
		for i := range openings {
			o := &openings[i]
			denied[behind(o)] = denied[behind(o)] || o.Denied
			all.open(o)
		}
	}
	for _, headless := range [][]Opening{r.Headless, other.Headless} {
		for i := range headless {
			all.headless(&headless[i])
		}
	}
	r.Openings, r.Headless = all.record.Openings, all.record.Headless
	for i := range r.Openings {
		r.Openings[i].Denied = denied[behind(&r.Openings[i])]
	}
}

// Opening is a flow as its first packet was.
type Opening struct {
	model.Tuple                // as it was sent
	Backend     netip.AddrPort // where it was led to; invalid: to where it was sent
	Seen        netip.Addr     // its source behind the translation; invalid: the same
	Denied      bool           // by a policy, at one hook at least
	// Who the ends were, where the record says.
	From, To Party
}

// Party is who had an address when it was recorded.
type Party struct {
	Kind   string // Pod, Service, Node or ExternalWorkload; empty: not told
	Name   string // with its namespace where it has one
	Labels string // key=value, with commas between them
}

// key is what a flow is known by at all hooks that it met: its ends behind the
// translation.
func (o *Opening) key() model.Tuple {
	t := o.Tuple
	if o.Backend.IsValid() {
		t.Dst, t.Dport = o.Backend.Addr(), o.Backend.Port()
	}
	return t
}

func (o *Opening) String() string {
	to := netip.AddrPortFrom(o.Dst, o.Dport).String()
	if o.Backend.IsValid() {
		to += " by backend " + o.Backend.String()
	}
	return fmt.Sprintf("%s %s to %s", o.Protocol, netip.AddrPortFrom(o.Src, o.Sport), to)
}

// ReadRecord reads a capture (pcap or pcapng), or JSON: what 'weir monitor -o json' or
// 'weir flow list -o json' has printed. name is what errors call it.
func ReadRecord(ctx context.Context, name string, in io.Reader) (*Record, error) {
	r := &recorder{seen: map[model.Tuple]bool{}, openedAt: map[model.Tuple]int{}, denied: map[model.Tuple]bool{}}
	buffered := bufio.NewReaderSize(in, 1<<16)
	begin, err := firstOf(buffered)
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("it is empty: give what 'weir monitor -o json' or 'weir flow list -o json' prints, or a capture")
	case err != nil:
	case begin == '{' || begin == '[':
		err = r.readJSON(ctx, buffered)
	default:
		err = r.readCapture(ctx, buffered)
	}
	if err != nil {
		return nil, fmt.Errorf("read flows: %s: %w", name, err)
	}
	for i := range r.record.Openings {
		o := &r.record.Openings[i]
		o.Denied = r.denied[behind(o)]
	}
	return &r.record, nil
}

// firstOf gives the first octet that is no space, and leaves all to be read: a pcapng
// begins with ends of lines.
func firstOf(in *bufio.Reader) (byte, error) {
	for n := 1; ; n++ {
		begin, err := in.Peek(n)
		if len(begin) < n {
			return 0, err
		}
		if b := begin[n-1]; !strings.ContainsRune(" \t\r\n", rune(b)) {
			return b, nil
		}
	}
}

type recorder struct {
	record Record
	seen   map[model.Tuple]bool

	openedAt map[model.Tuple]int  // in Openings
	denied   map[model.Tuple]bool // by what they are behind the translation
}

// behind is the flow as it is behind the translation of both its ends.
func behind(o *Opening) model.Tuple {
	t := o.key()
	if o.Seen.IsValid() {
		t.Src = o.Seen
	}
	return t
}

func (r *recorder) open(o *Opening) {
	key := o.key()
	if r.seen[key] {
		if at, has := r.openedAt[key]; has && o.Backend.IsValid() {
			r.record.Openings[at] = *o // which says of what service it was
		}
		return
	}
	r.seen[key], r.openedAt[key] = true, len(r.record.Openings)
	r.record.Openings = append(r.record.Openings, *o)
}

func (r *recorder) headless(o *Opening) {
	key := o.key()
	if r.seen[key] || r.seen[key.Reversed()] {
		return
	}
	r.seen[key] = true
	r.record.Headless = append(r.record.Headless, *o)
}

// row is what is read of an event, or of a flow that is listed.
type row struct {
	Protocol string

	Tuple, Translated struct{ Src, Dst netip.AddrPort } // of a flow

	Hook, Verdict, Reason, TCPFlags string // of an event
	Source, Destination             netip.AddrPort
	TranslatedSource                netip.AddrPort
	TranslatedDestination           netip.AddrPort
	Reply                           bool
	SourceParty, DestinationParty   *Party
	Missed                          uint64
}

// readJSON reads objects that follow each other, or lists of them.
func (r *recorder) readJSON(ctx context.Context, in io.Reader) error {
	decoder := json.NewDecoder(in)
	for n := 1; ; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		var one json.RawMessage
		err := decoder.Decode(&one)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) && n > 1 {
			r.record.Cut = true // whoever recorded was stopped
			return nil
		}
		rows := []json.RawMessage{one}
		if err == nil && one[0] == '[' {
			err = json.Unmarshal(one, &rows)
		}
		if err != nil {
			return fmt.Errorf("%w: give what 'weir monitor -o json' or 'weir flow list -o json' prints", err)
		}
		for _, text := range rows {
			var row row
			if err := json.Unmarshal(text, &row); err != nil {
				return fmt.Errorf("flow %d: %w: give what 'weir monitor -o json' or 'weir flow list -o json' prints", n, err)
			}
			if err := r.add(&row); err != nil {
				return fmt.Errorf("flow %d %w", n, err)
			}
			n++
		}
	}
}

var recordedProtocols = map[string]model.Protocol{"tcp": model.ProtocolTCP, "udp": model.ProtocolUDP, "sctp": model.ProtocolSCTP, "icmp": model.ProtocolICMP, "icmpv6": model.ProtocolICMPv6}

var errNoFlow = errors.New("needs protocol (tcp, udp, sctp, icmp, icmpv6) and tuple with src and dst, or source and destination of an event")

func (r *recorder) add(row *row) error {
	if row.Missed > 0 {
		r.record.Missed += row.Missed
		return nil
	}
	event := row.Verdict != ""
	from, to, after, seen := row.Tuple.Src, row.Tuple.Dst, row.Translated.Dst, row.Translated.Src
	if event {
		from, to, after, seen = row.Source, row.Destination, row.TranslatedDestination, row.TranslatedSource
	}
	protocol, known := recordedProtocols[row.Protocol]
	switch {
	case event && !known:
		return nil // of a protocol that has no flows
	case !known || !from.IsValid() || !to.IsValid():
		return errNoFlow
	}
	o := Opening{Tuple: model.Tuple{Src: from.Addr().Unmap(), Sport: from.Port(), Dst: to.Addr().Unmap(), Dport: to.Port(), Protocol: protocol}}
	if after.IsValid() && after != to {
		o.Backend = after
	}
	if seen.IsValid() && seen.Addr() != from.Addr() {
		o.Seen = seen.Addr()
	}
	if row.SourceParty != nil {
		o.From = *row.SourceParty
	}
	if row.DestinationParty != nil {
		o.To = *row.DestinationParty
	}
	if event {
		r.event(row, &o)
	} else {
		r.open(&o)
	}
	return nil
}

// event takes one for a flow's opening: neither replies are that, nor packets that
// are dropped for what they are.
func (r *recorder) event(row *row, o *Opening) {
	policy := row.Reason == string(model.ReasonPolicyEgress) || row.Reason == string(model.ReasonPolicyIngress)
	passes := row.Verdict == string(model.Forward) || row.Verdict == string(model.Audit)
	switch {
	case row.Reply, !passes && !policy:
	case o.Protocol == model.ProtocolTCP && row.TCPFlags != "" && (!strings.Contains(row.TCPFlags, "S") || strings.Contains(row.TCPFlags, "A")):
		if passes {
			r.headless(o)
		}
	default:
		if !passes {
			r.denied[behind(o)] = true
		}
		r.open(o)
	}
}

// readCapture takes the first packet of a flow for the one that opens it, but for an
// answer to a SYN that the capture has missed.
func (r *recorder) readCapture(ctx context.Context, in io.Reader) error {
	packets, err := pcap.NewReader(in)
	if err != nil {
		return err
	}
	var buf []byte
	for {
		var p pcap.Packet
		err := packets.Next(&p)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		data, _, err := packets.Interface(p.Interface).Link.Frame(buf, p.Data)
		if err != nil {
			continue // no Ethernet or IP in it: no flow
		}
		r.packet(frame.Decode(data))
	}
}

func (r *recorder) packet(p *frame.Packet) {
	t, ok := p.Tuple()
	if _, quotes := p.Quoted(); !ok || quotes || p.Later() || r.seen[t] || r.seen[t.Reversed()] {
		return
	}
	o := Opening{Tuple: t}
	switch l4 := p.Transport(); t.Protocol {
	case model.ProtocolTCP:
		const syn, ack = 0x02, 0x10
		const flags = 13 // the octet of a TCP header
		switch {
		case len(l4) <= flags || l4[flags]&syn == 0:
			r.headless(&o)
			return
		case l4[flags]&ack != 0:
			o.Tuple = t.Reversed()
		}
	case model.ProtocolICMP, model.ProtocolICMPv6:
		const echo, echo6 = 8, 128
		if len(l4) == 0 || l4[0] != echo && l4[0] != echo6 {
			return
		}
	case model.ProtocolUDP, model.ProtocolSCTP:
	default:
		return
	}
	r.open(&o)
}
