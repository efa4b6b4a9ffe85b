// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// stack is a host's TCP/IP, as small as it can be: it answers at once or
// never, sends each message in one segment, and forgets nothing that is lost.
type stack struct {
	world     *World
	host      *host
	silent    bool
	listeners map[service]func([]byte) []byte
	conns     map[model.Tuple]*tcpConn // by the tuple of what this host sends
	udp       map[model.Tuple]*udpConn
	pings     map[model.Tuple]pinged
}

type service struct {
	proto model.Protocol
	port  uint16
}

// accepted is who serves an exchange, and whom he sees.
type accepted struct {
	server string
	peer   netip.AddrPort
}

const (
	protoICMP   = uint8(model.ProtocolICMP)
	protoTCP    = uint8(model.ProtocolTCP)
	protoUDP    = uint8(model.ProtocolUDP)
	protoICMPv6 = uint8(model.ProtocolICMPv6)

	icmpEcho, icmpEchoReply     = 8, 0
	icmp6Echo, icmp6EchoReply   = 128, 129
	icmpUnreachable, icmpPort   = 3, 3
	icmp6Unreachable, icmp6Port = 1, 4
)

// receive takes a frame and gives the host's answers. What a real stack would
// not take (another's address, a wrong checksum) is ignored.
func (s *stack) receive(data []byte) [][]byte {
	if s.silent {
		return nil
	}
	p := frame.Decode(data)
	if p.Version == 0 || p.L4 < 0 || p.Fragment || !s.host.own(p.Dst) {
		return nil
	}
	if s.host.kind == isPod && !bytes.HasPrefix(data, s.host.mac) {
		return nil
	}
	if c := p.Checksums(); c.IP == frame.Wrong || c.Transport == frame.Wrong {
		return nil
	}
	body := p.Transport()
	switch {
	case p.Proto == protoTCP && len(body) >= 20:
		return s.receiveTCP(p, body)
	case p.Proto == protoUDP && len(body) >= 8:
		return s.receiveUDP(p, body)
	case (p.Proto == protoICMP || p.Proto == protoICMPv6) && len(body) >= 8:
		return s.receiveICMP(p, body)
	}
	return nil
}

// to begins a frame to an address: Ethernet and IP.
func (s *stack) to(src, dst netip.Addr, more ...frame.Layer) []byte {
	dmac := s.host.gateway
	if s.host.kind == isNode {
		dmac = s.host.node.nextHop(dst)
	}
	ip := frame.Layer{Kind: "ipv4"}
	if dst.Is6() {
		ip.Kind = "ipv6"
	}
	ip.Fields = []frame.Field{{Name: "src", Value: frame.Addr(src)}, {Name: "dst", Value: frame.Addr(dst)}}
	layers := append([]frame.Layer{
		{Kind: "eth", Fields: []frame.Field{{Name: "src", Value: frame.MAC(s.host.mac)}, {Name: "dst", Value: frame.MAC(dmac)}}},
		ip,
	}, more...)
	data, err := frame.Build(layers...)
	if err != nil {
		// All addresses and kinds are the stack's own: a bug, not an input.
		panic("prog: build a frame of the stack: " + err.Error())
	}
	return data
}

// icmpLayer describes an ICMP message of a family.
func icmpLayer(v6 bool, typ, code uint8, rest uint32) frame.Layer {
	kind := "icmp"
	if v6 {
		kind = "icmpv6"
	}
	return frame.Layer{Kind: kind, Fields: []frame.Field{
		{Name: "type", Value: frame.Num(typ)}, {Name: "code", Value: frame.Num(code)}, {Name: "rest", Value: frame.Num(rest)}}}
}

func payloadLayer(b []byte) frame.Layer {
	return frame.Layer{Kind: "payload", Fields: []frame.Field{{Name: "hex", Value: frame.Data(b)}}}
}

func (s *stack) receiveICMP(p *frame.Packet, body []byte) [][]byte {
	v6 := p.Version == 6
	t, _ := p.Tuple()
	rest := binary.BigEndian.Uint32(body[4:])
	switch {
	case !v6 && body[0] == icmpEcho:
		return [][]byte{s.to(p.Dst, p.Src, icmpLayer(false, icmpEchoReply, 0, rest), payloadLayer(body[8:]))}
	case v6 && body[0] == icmp6Echo:
		return [][]byte{s.to(p.Dst, p.Src, icmpLayer(true, icmp6EchoReply, 0, rest), payloadLayer(body[8:]))}
	case !v6 && body[0] == icmpEchoReply, v6 && body[0] == icmp6EchoReply:
		if _, asked := s.pings[t.Reversed()]; asked {
			s.pings[t.Reversed()] = pingAnswered
		}
	case !v6 && body[0] == icmpUnreachable, v6 && body[0] == icmp6Unreachable:
		s.unreachable(p)
	}
	return nil
}

// unreachable ends the exchange that an ICMP error quotes.
func (s *stack) unreachable(p *frame.Packet) {
	q, ok := p.Quoted()
	if !ok {
		return
	}
	t, ok := q.Tuple()
	if !ok {
		return
	}
	if c := s.conns[t]; c != nil && c.state == synSent {
		c.state = refused
	}
	if c := s.udp[t]; c != nil {
		c.refused = true
	}
	if _, asked := s.pings[t]; asked {
		s.pings[t] = pingRefused
	}
}

// pinged is what became of a ping.
type pinged int

const (
	pingSent pinged = iota
	pingAnswered
	pingRefused
)

// refuseUDP is what a host without a listener answers.
func (s *stack) refuseUDP(p *frame.Packet) []byte {
	quote := p.Data[p.L3:p.End]
	if len(quote) > 548 {
		quote = quote[:548]
	}
	if p.Version == 6 {
		return s.to(p.Dst, p.Src, icmpLayer(true, icmp6Unreachable, icmp6Port, 0), payloadLayer(quote))
	}
	return s.to(p.Dst, p.Src, icmpLayer(false, icmpUnreachable, icmpPort, 0), payloadLayer(quote))
}

func (s *stack) receiveUDP(p *frame.Packet, body []byte) [][]byte {
	t, _ := p.Tuple()
	n := min(len(body), int(binary.BigEndian.Uint16(body[4:])))
	if n < 8 {
		return nil
	}
	if c := s.udp[t.Reversed()]; c != nil {
		c.inbox = append(c.inbox, body[8:n])
		return nil
	}
	answer := s.listeners[service{model.ProtocolUDP, t.Dport}]
	if answer == nil {
		return [][]byte{s.refuseUDP(p)}
	}
	s.world.served = accepted{s.host.name, netip.AddrPortFrom(t.Src, t.Sport)}
	return [][]byte{s.datagram(t.Reversed(), answer(body[8:n]))}
}

func (s *stack) datagram(t model.Tuple, message []byte) []byte {
	return s.to(t.Src, t.Dst, frame.Layer{Kind: "udp", Fields: []frame.Field{
		{Name: "sport", Value: frame.Num(t.Sport)}, {Name: "dport", Value: frame.Num(t.Dport)}}}, payloadLayer(message))
}
