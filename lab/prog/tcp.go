// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"net/netip"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

type tcpState uint8

const (
	synSent tcpState = iota
	synReceived
	established
	finSent // by this side; the other's is awaited
	lastAck // both sent theirs, the last acknowledgement is awaited
	closed
	refused // by RST or ICMP while opening
	reset   // by RST later
)

// tcpConn is one side of a connection.
type tcpConn struct {
	tuple    model.Tuple // of what this side sends
	state    tcpState
	next     uint32 // sequence number to send
	expected uint32 // sequence number to receive
	answer   func([]byte) []byte
	inbox    [][]byte
}

const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagPSH = 0x08
	flagACK = 0x10
)

// Initial sequence numbers: fixed, so that equal scenarios have equal frames.
const (
	clientISN = 1000
	serverISN = 5000
)

func (s *stack) segment(c *tcpConn, flags uint8, data []byte) []byte {
	layers := []frame.Layer{{Kind: "tcp", Fields: []frame.Field{
		{Name: "sport", Value: frame.Num(c.tuple.Sport)}, {Name: "dport", Value: frame.Num(c.tuple.Dport)},
		{Name: "flags", Value: frame.Num(flags)}, {Name: "seq", Value: frame.Num(c.next)}, {Name: "ack", Value: frame.Num(c.expected)}}}}
	if len(data) > 0 {
		layers = append(layers, payloadLayer(data))
	}
	c.next += uint32(len(data))
	if flags&(flagSYN|flagFIN) != 0 {
		c.next++
	}
	return s.to(c.tuple.Src, c.tuple.Dst, layers...)
}

// open begins a connection and gives its first segment.
func (s *stack) open(t model.Tuple) (*tcpConn, []byte) {
	c := &tcpConn{tuple: t, state: synSent, next: clientISN}
	if s.conns == nil {
		s.conns = map[model.Tuple]*tcpConn{}
	}
	s.conns[t] = c
	return c, s.segment(c, flagSYN, nil)
}

func (s *stack) receiveTCP(p *frame.Packet, body []byte) [][]byte {
	t, _ := p.Tuple()
	seg := segment{seq: binary.BigEndian.Uint32(body[4:]), ack: binary.BigEndian.Uint32(body[8:]), flags: body[13]}
	offset := int(body[12]>>4) * 4
	if offset < 20 || offset > len(body) {
		return nil
	}
	seg.data = body[offset:]
	c := s.conns[t.Reversed()]
	fresh := seg.flags&(flagSYN|flagACK) == flagSYN
	if c == nil || fresh && c.state != synSent {
		return s.accept(t, seg)
	}
	return c.receive(s, seg)
}

type segment struct {
	seq, ack uint32
	flags    uint8
	data     []byte
}

// accept answers a segment of no known connection.
func (s *stack) accept(t model.Tuple, seg segment) [][]byte {
	if seg.flags&flagRST != 0 {
		return nil
	}
	c := &tcpConn{tuple: t.Reversed(), state: synReceived, next: serverISN, expected: seg.seq + 1}
	c.answer = s.listeners[service{model.ProtocolTCP, t.Dport}]
	switch {
	case seg.flags&(flagSYN|flagACK) == flagSYN && c.answer != nil:
		if s.conns == nil {
			s.conns = map[model.Tuple]*tcpConn{}
		}
		s.conns[c.tuple] = c
		s.world.served = accepted{s.host.name, netip.AddrPortFrom(t.Src, t.Sport)}
		return [][]byte{s.segment(c, flagSYN|flagACK, nil)}
	case seg.flags&flagACK != 0: // RFC 9293 3.10.7.1
		c.next, c.expected = seg.ack, 0
		return [][]byte{s.segment(c, flagRST, nil)}
	}
	c.next, c.expected = 0, seg.seq+uint32(len(seg.data))
	if seg.flags&(flagSYN|flagFIN) != 0 {
		c.expected++
	}
	return [][]byte{s.segment(c, flagRST|flagACK, nil)}
}

func (c *tcpConn) receive(s *stack, seg segment) [][]byte {
	switch {
	case seg.flags&flagRST != 0:
		c.state = map[bool]tcpState{true: refused, false: reset}[c.state == synSent]
		return nil
	case c.state == synSent:
		if seg.flags&(flagSYN|flagACK) != flagSYN|flagACK || seg.ack != c.next {
			return nil
		}
		c.state, c.expected = established, seg.seq+1
		return [][]byte{s.segment(c, flagACK, nil)}
	case c.state >= closed:
		return nil
	}
	if c.state == synReceived && seg.flags&flagACK != 0 {
		c.state = established
	}
	if c.state == lastAck && seg.flags&flagACK != 0 {
		c.state = closed
		delete(s.conns, c.tuple)
	}
	return c.take(s, seg)
}

// take handles data and the other side's end.
func (c *tcpConn) take(s *stack, seg segment) [][]byte {
	var out [][]byte
	if len(seg.data) > 0 {
		c.expected = seg.seq + uint32(len(seg.data))
		if c.answer != nil {
			out = append(out, s.segment(c, flagPSH|flagACK, c.answer(seg.data)))
		} else {
			c.inbox = append(c.inbox, seg.data)
			out = append(out, s.segment(c, flagACK, nil))
		}
	}
	if seg.flags&flagFIN == 0 {
		return out
	}
	c.expected = seg.seq + uint32(len(seg.data)) + 1
	if c.state == finSent {
		c.state = closed
		delete(s.conns, c.tuple)
		return append(out, s.segment(c, flagACK, nil))
	}
	c.state = lastAck
	return append(out, s.segment(c, flagFIN|flagACK, nil))
}
