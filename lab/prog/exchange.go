// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// MaxMessage is the longest message, in octets: one segment has to hold it.
const MaxMessage = 1400

// Listen implements lab.World.
func (w *World) Listen(_ context.Context, name string, proto model.Protocol, port uint16, answer func([]byte) []byte) error {
	h, err := w.host(name)
	if err != nil {
		return err
	}
	key := service{proto, port}
	if h.stack.listeners == nil {
		h.stack.listeners = map[service]func([]byte) []byte{}
	}
	if h.stack.listeners[key] != nil {
		return fmt.Errorf("listen on %s %s/%d: somebody listens there already", name, proto, port)
	}
	h.stack.listeners[key] = answer
	return nil
}

// Dial implements lab.World.
func (w *World) Dial(_ context.Context, name string, proto model.Protocol, sport uint16, to netip.AddrPort) (lab.Conn, error) {
	h, err := w.host(name)
	if err != nil {
		return nil, err
	}
	if sport == 0 {
		sport = w.freePort()
	}
	t := model.Tuple{Src: h.address(to.Addr().Is6()), Dst: to.Addr(), Sport: sport, Dport: to.Port(), Protocol: proto}
	if !t.Src.IsValid() {
		return nil, fmt.Errorf("connect %s to %s: the host has no address of that family", name, to)
	}
	if proto == model.ProtocolUDP {
		return w.dialUDP(h, t)
	}
	return w.dialTCP(h, t)
}

func (w *World) dialTCP(h *host, t model.Tuple) (lab.Conn, error) {
	c := &exchange{world: w, host: h, tuple: t}
	w.served = accepted{}
	conn, syn := h.stack.open(t)
	c.tcp = conn
	if err := w.speak(h, syn); err != nil {
		return nil, err
	}
	switch conn.state {
	case established:
		c.accepted = w.served
		return c, nil
	case refused, reset:
		delete(h.stack.conns, t)
		return nil, fmt.Errorf("connect %s: %w", t, lab.ErrRefused)
	}
	delete(h.stack.conns, t)
	return nil, fmt.Errorf("connect %s: %w", t, lab.ErrTimeout)
}

func (w *World) dialUDP(h *host, t model.Tuple) (lab.Conn, error) {
	if h.stack.udp == nil {
		h.stack.udp = map[model.Tuple]*udpConn{}
	}
	if h.stack.udp[t] != nil {
		return nil, fmt.Errorf("connect %s: an exchange from that port is open already", t)
	}
	c := &exchange{world: w, host: h, tuple: t, udp: &udpConn{}}
	h.stack.udp[t] = c.udp
	return c, nil
}

type udpConn struct {
	inbox   [][]byte
	refused bool
}

// exchange is a lab.Conn: the dialling side's end of a connection or socket.
type exchange struct {
	accepted
	world *World
	host  *host
	tuple model.Tuple
	tcp   *tcpConn // one of the two
	udp   *udpConn
}

// Exchange implements lab.Conn.
func (c *exchange) Exchange(_ context.Context, message []byte) ([]byte, error) {
	if len(message) > MaxMessage {
		return nil, fmt.Errorf("send %d octets: world prog sends a message in one segment: %d at most", len(message), MaxMessage)
	}
	if c.tcp != nil {
		return c.exchangeTCP(message)
	}
	return c.exchangeUDP(message)
}

func (c *exchange) exchangeTCP(message []byte) ([]byte, error) {
	if c.tcp.state == reset {
		return nil, fmt.Errorf("send on %s: %w", c.tuple, lab.ErrReset)
	}
	before := c.tcp.next
	if err := c.world.speak(c.host, c.host.stack.segment(c.tcp, flagPSH|flagACK, message)); err != nil {
		return nil, err
	}
	switch {
	case len(c.tcp.inbox) > 0:
		answer := c.tcp.inbox[0]
		c.tcp.inbox = c.tcp.inbox[1:]
		return answer, nil
	case c.tcp.state == reset:
		return nil, fmt.Errorf("send on %s: %w", c.tuple, lab.ErrReset)
	}
	c.tcp.next = before // lost: the next message stands in its place
	return nil, fmt.Errorf("send on %s: %w", c.tuple, lab.ErrTimeout)
}

func (c *exchange) exchangeUDP(message []byte) ([]byte, error) {
	c.udp.refused = false
	c.world.served = accepted{}
	if err := c.world.speak(c.host, c.host.stack.datagram(c.tuple, message)); err != nil {
		return nil, err
	}
	switch {
	case len(c.udp.inbox) > 0:
		c.accepted = c.world.served
		answer := c.udp.inbox[0]
		c.udp.inbox = c.udp.inbox[1:]
		return answer, nil
	case c.udp.refused:
		return nil, fmt.Errorf("send %s: %w", c.tuple, lab.ErrRefused)
	}
	return nil, fmt.Errorf("send %s: %w", c.tuple, lab.ErrTimeout)
}

// Local implements lab.Conn.
func (c *exchange) Local() netip.AddrPort { return netip.AddrPortFrom(c.tuple.Src, c.tuple.Sport) }

// Remote implements lab.Conn.
func (c *exchange) Remote() netip.AddrPort { return netip.AddrPortFrom(c.tuple.Dst, c.tuple.Dport) }

// Peer implements lab.Conn.
func (c *exchange) Peer() netip.AddrPort { return c.peer }

// Server implements lab.Conn.
func (c *exchange) Server() string { return c.server }

// Close implements lab.Conn: a FIN from this side, which the other answers
// with its own.
func (c *exchange) Close() error {
	if c.tcp == nil {
		delete(c.host.stack.udp, c.tuple)
		return nil
	}
	if c.tcp.state != established {
		delete(c.host.stack.conns, c.tuple)
		return nil
	}
	c.tcp.state = finSent
	err := c.world.speak(c.host, c.host.stack.segment(c.tcp, flagFIN|flagACK, nil))
	delete(c.host.stack.conns, c.tuple)
	return err
}

// Ping implements lab.World.
func (w *World) Ping(_ context.Context, name string, to netip.Addr) error {
	h, err := w.host(name)
	if err != nil {
		return err
	}
	t := model.Tuple{Src: h.address(to.Is6()), Dst: to, Sport: w.freePort(), Protocol: model.ProtocolICMP}
	typ := uint8(icmpEcho)
	if to.Is6() {
		t.Protocol, typ = model.ProtocolICMPv6, icmp6Echo
	}
	if !t.Src.IsValid() {
		return fmt.Errorf("ping %s from %s: the host has no address of that family", to, name)
	}
	if h.stack.pings == nil {
		h.stack.pings = map[model.Tuple]pinged{}
	}
	h.stack.pings[t] = pingSent
	request := h.stack.to(t.Src, to, icmpLayer(to.Is6(), typ, 0, uint32(t.Sport)<<16|1),
		frame.Layer{Kind: "payload", Fields: []frame.Field{{Name: "size", Value: frame.Num(56)}}})
	if err := w.speak(h, request); err != nil {
		return err
	}
	became := h.stack.pings[t]
	delete(h.stack.pings, t)
	switch became {
	case pingSent:
		return fmt.Errorf("ping %s from %s: %w", to, name, lab.ErrTimeout)
	case pingRefused:
		return fmt.Errorf("ping %s from %s: %w", to, name, lab.ErrRefused)
	}
	return nil
}

// speak sends what a host's own programs say. What a pod says to itself stays on its
// loopback device, where no hook is.
func (w *World) speak(from *host, data []byte) error {
	if from.kind != isPod || !from.own(frame.Decode(data).Dst) {
		return w.emit(from, data)
	}
	queue := [][]byte{data}
	for n := 0; len(queue) > 0; n++ {
		if n == maxFrames {
			return fmt.Errorf("send from %s to itself: %w: stopped after %d", from.name, ErrLoop, maxFrames)
		}
		copy(queue[0], from.mac)
		queue = append(queue[1:], from.stack.receive(queue[0])...)
	}
	return nil
}
