// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/model"
)

// Connection is what two ends sent each other: of one protocol and, where it has
// them, between the same ports.
type Connection struct {
	First       int // its first packet
	Began, Last time.Time
	// Header is that of its first packet, from who opened it.
	Header   Header
	From, To string // names of the two; empty where nobody knows them
	// Translated is where it was led to, if that is elsewhere.
	Translated *Header
	Out        model.Out
	There      Way // what the opener sent
	Back       Way

	// Each packet is counted once.
	Forward, Drop, Refused, Broken, CutHeaders, NeverSent int
	// Reason, Origin, File and Line are those of Told, the first packet that did
	// not go on; without one, Origin is the first rule that decided.
	Told   int
	Reason string
	Origin model.Origin
	// Isolating is that of the packet whose Origin it is.
	Isolating []model.PolicyRef
	File      string
	Line      int

	ended bool
}

// Way is one direction of a connection.
type Way struct {
	Packets   int
	Bytes     int64 // on the wire, with the link layer's header
	delivered int
	stopped   int    // packets dropped, or never sent
	lost      bool   // TCP: something that never came
	lostAt    uint32 // its first sequence number
	next      uint32 // behind what has come
	began     bool   // next is known
	finished  bool
}

// Ended is whether TCP has ended: by a reset, or by both ends. What comes behind it
// belongs to it until the next SYN.
func (c *Connection) Ended() bool { return c.ended }

// Packets is how many there are both ways.
func (c *Connection) Packets() int { return c.There.Packets + c.Back.Packets }

// Bytes is how many there are both ways.
func (c *Connection) Bytes() int64 { return c.There.Bytes + c.Back.Bytes }

// Dead is whether the connection would not live: nothing of what one end sent
// came, or TCP waits for ever for what was dropped.
func (c *Connection) Dead() bool {
	return c.Header.IP && !c.Header.Dst.IsMulticast() && (c.There.dead() || c.Back.dead())
}

func (w *Way) dead() bool { return w.lost || w.stopped > 0 && w.delivered == 0 }

// Verdict is the connection's in a word: of the worst of its packets.
func (c *Connection) Verdict() Verdict {
	switch {
	case c.Broken > 0:
		return Broken
	case c.Drop > 0:
		return Drop
	case c.Forward == 0 && c.Refused > 0:
		return Refused
	case c.Forward == 0 && c.CutHeaders > 0:
		return Drop
	}
	return Forward
}

// Connections puts outcomes together. The zero value is ready.
type Connections struct {
	// List is in the order of first packets.
	List []*Connection
	// More is how many packets were of connections beyond those that are kept.
	More int
	// Forget makes room by what was longest idle, instead of counting More.
	Forget bool

	known     map[flowID]*Connection
	refused   map[opener]*Connection
	datagrams datagrams
}

// maxConnections bounds those that are kept.
const maxConnections = 1 << 16

// Add counts a packet, which has to be told in its turn, and marks it where it
// follows from one that did not go on. The connection is nil where there are too
// many.
func (c *Connections) Add(o *Outcome) *Connection {
	flows := c.datagrams.flows(o)
	conn := c.find(flows, o)
	if conn == nil {
		conn = c.begin(o)
	}
	if conn == nil {
		c.More++
		return nil
	}
	c.know(flows, conn)
	if h := &o.Header; o.isRefused() {
		if c.refused == nil || len(c.refused) == maxConnections {
			c.refused = map[opener]*Connection{}
		}
		c.refused[opener{h.Src, h.Sport, h.Protocol}] = conn
	}
	conn.add(o)
	return conn
}

// know keeps whose flows are. Most packets' are known.
func (c *Connections) know(flows []flowID, conn *Connection) {
	for _, f := range flows {
		if c.known[f] != conn {
			c.known[f] = conn
		}
	}
}

// opener is who has asked a service, and was dropped: the backend that answers in
// the capture is no end that anybody has named.
type opener struct {
	addr     netip.Addr
	port     uint16
	protocol model.Protocol
}

// asked gives the connection to a service that a packet of a backend answers.
func (c *Connections) asked(h *Header) *Connection {
	conn := c.refused[opener{h.Dst, h.Dport, h.Protocol}]
	if conn == nil || !h.HasPorts || conn.There.delivered > 0 || conn.ended {
		return nil
	}
	return conn
}

// isRefused is whether a packet asks a service, and does not come to a backend.
func (o *Outcome) isRefused() bool {
	return o.Verdict == Drop && o.Header.HasPorts && o.Translated == nil && isService(o.DstName)
}

// find gives the connection that a packet goes on with.
func (c *Connections) find(flows []flowID, o *Outcome) *Connection {
	for _, f := range flows {
		if conn := c.known[f]; conn != nil {
			if conn.ended && o.opens() {
				return nil
			}
			return conn
		}
	}
	return c.asked(&o.Header)
}

func (c *Connections) begin(o *Outcome) *Connection {
	if c.known == nil {
		c.known = map[flowID]*Connection{}
	}
	if len(c.List) == maxConnections {
		if !c.Forget {
			return nil
		}
		c.forget()
	}
	conn := &Connection{First: o.Number, Began: o.Time, Header: o.Header, From: o.SrcName, To: o.DstName}
	if h := &conn.Header; h.Protocol == model.ProtocolTCP && h.TCPFlags&(flagSYN|flagACK) == flagSYN|flagACK {
		h.Src, h.Dst, h.Sport, h.Dport = h.Dst, h.Src, h.Dport, h.Sport
		conn.From, conn.To = conn.To, conn.From
	}
	c.List = append(c.List, conn)
	return conn
}

// forget makes room for half as many as there may be.
func (c *Connections) forget() {
	byAge := slices.Clone(c.List)
	slices.SortStableFunc(byAge, func(a, b *Connection) int { return a.Last.Compare(b.Last) })
	old := map[*Connection]bool{}
	for _, conn := range byAge[:len(byAge)/2] {
		old[conn] = true
	}
	c.List = slices.DeleteFunc(c.List, func(conn *Connection) bool { return old[conn] })
	for f, conn := range c.known {
		if old[conn] {
			delete(c.known, f)
		}
	}
}

// TCP's flags.
const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// opens is whether a packet begins a connection of TCP.
func (o *Outcome) opens() bool {
	return o.Header.Protocol == model.ProtocolTCP && o.Header.TCPFlags&(flagSYN|flagACK) == flagSYN
}

func (c *Connection) add(o *Outcome) {
	way, other := &c.There, &c.Back
	if !c.isThere(&o.Header) {
		way, other = other, way
	}
	segment, isTCP := o.segment()
	switch {
	case o.CutHeaders || o.Verdict == Refused:
		// Nobody knows what it would have met, nor what follows from it.
	case isTCP:
		o.NeverSent = segment.answers(other)
	default:
		o.NeverSent = way == &c.Back && c.There.stopped > 0 && c.There.delivered == 0
	}
	way.Packets++
	way.Bytes += int64(o.Length)
	c.Last = o.Time
	c.count(o)
	switch {
	case o.CutHeaders || o.Verdict == Refused || o.Verdict == Broken:
		return
	case o.NeverSent || o.Verdict == Drop:
		way.stopped++
		if isTCP {
			way.lose(&segment)
		}
		return
	}
	way.delivered++
	if isTCP {
		way.deliver(&segment)
		c.ended = c.ended && !o.opens() || segment.flags&flagRST != 0 || way.finished && other.finished
	}
}

// isThere is whether a packet is the opener's: from him, or, where his address was
// translated on the way, to whom he talks.
func (c *Connection) isThere(h *Header) bool {
	same := func(a netip.Addr, port uint16, b netip.Addr, other uint16) bool {
		return a == b && (port == other || !h.HasPorts || !c.Header.HasPorts)
	}
	of := &c.Header
	return same(h.Src, h.Sport, of.Src, of.Sport) || same(h.Dst, h.Dport, of.Dst, of.Dport) && !same(h.Src, h.Sport, of.Dst, of.Dport)
}

func (c *Connection) count(o *Outcome) {
	if c.Translated == nil && o.Translated != nil && o.Header.Src == c.Header.Src {
		left := *o.Translated
		c.Translated = &left
	}
	if c.Out == "" && o.Header.Src == c.Header.Src {
		c.Out = o.Out
	}
	switch {
	case o.NeverSent:
		c.NeverSent++
		return
	case o.CutHeaders:
		c.CutHeaders++
		return
	}
	switch o.Verdict {
	case Forward:
		c.Forward++
	case Drop:
		c.Drop++
	case Refused:
		c.Refused++
	case Broken:
		c.Broken++
	}
	worse := o.Verdict != Forward && c.Told == 0
	if worse {
		c.Told, c.Reason, c.File, c.Line = o.Number, o.Reason, o.File, o.Line
	}
	if worse || c.Told == 0 && c.Origin.Policy.IsZero() {
		c.Origin, c.Isolating = o.Origin, o.Isolating
	}
}

// segment is what a TCP header says of a connection's bytes.
type segment struct {
	seq, ack uint32
	length   uint32 // of the payload, and one for SYN
	flags    uint8
}

func (o *Outcome) segment() (s segment, is bool) {
	h := &o.Header
	if h.Protocol != model.ProtocolTCP || h.Fragment.Is || h.l4 == 0 || len(o.Frame) < h.l4+20 || o.Verdict == Refused {
		return s, false
	}
	b := o.Frame[h.l4:]
	s = segment{o.seq, binary.BigEndian.Uint32(b[8:]), uint32(o.payload), h.TCPFlags}
	if s.flags&flagSYN != 0 {
		s.length++
	}
	return s, true
}

// before is whether a sequence number is before another (RFC 9293 3.4).
func before(a, b uint32) bool { return int32(a-b) < 0 }

// answers is whether a segment answers what never came from the other end, so that
// nobody would have sent it.
func (s *segment) answers(other *Way) bool {
	if s.flags&flagACK == 0 {
		return s.flags&flagRST != 0 && other.stopped > 0 && other.delivered == 0
	}
	return other.lost && before(other.lostAt, s.ack)
}

func (w *Way) lose(s *segment) {
	end := s.seq + s.length
	if s.length == 0 || w.began && !before(w.next, end) || w.lost && !before(s.seq, w.lostAt) {
		return
	}
	w.lost, w.lostAt = true, s.seq
}

func (w *Way) deliver(s *segment) {
	end := s.seq + s.length
	if w.lost && s.length > 0 && !before(w.lostAt, s.seq) && before(w.lostAt, end) {
		w.lost = false
	}
	if !w.began || before(w.next, end) || s.flags&flagSYN != 0 {
		w.next, w.began = end, true
	}
	w.finished = s.flags&flagSYN == 0 && (w.finished || s.flags&flagFIN != 0)
}

// dead counts the connections that would not live.
func (c *Connections) dead() (count int) {
	for _, conn := range c.List {
		if conn.Dead() {
			count++
		}
	}
	return count
}
