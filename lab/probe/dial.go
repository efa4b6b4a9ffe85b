// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

// dialled is the dialling end of a conversation.
type dialled struct {
	agent  *agent
	number uint64
	socket net.Conn
	stream bool // TCP

	mu   sync.Mutex // one message at a time
	last uint64     // number of a message
}

// dial opens a TCP connection, on which the server has to say who it is, or a
// connected UDP socket, on which nothing is said yet.
func (a *agent) dial(ctx context.Context, d *Dial, answer *response) error {
	network, local, err := d.local()
	if err != nil {
		return err
	}
	dialer := net.Dialer{LocalAddr: local, KeepAlive: -1, Control: reuse}
	dialer.SetMultipathTCP(false)
	socket, err := dialer.DialContext(ctx, network, d.To.String())
	if err != nil {
		return lab.Outcome(err)
	}
	c := &dialled{agent: a, socket: socket, stream: d.Protocol == model.ProtocolTCP}
	if c.stream {
		if err := c.talk(ctx, &said{Hello: true}, answer); err != nil {
			socket.Close()
			return err
		}
		answer.Answer = nil
	}
	a.keep(socket)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	c.number = a.last
	a.conns[c.number] = c
	answer.Conn, answer.Local, answer.Remote = c.number, plain(socket.LocalAddr()), c.remote()
	answer.MTU = c.mtu(d.To.Addr().Is6())
	return nil
}

// mtu is that of the path as the kernel knows it; 0: it does not.
func (c *dialled) mtu(v6 bool) (octets int) {
	raw, err := c.socket.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if v6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	_ = raw.Control(func(fd uintptr) {
		if octets, err = unix.GetsockoptInt(int(fd), level, option); err != nil {
			octets = 0
		}
	})
	return octets
}

// local is the network in Go's word, and where to dial from.
func (d *Dial) local() (network string, local net.Addr, err error) {
	any4or6 := net.IPv4zero
	if d.To.Addr().Is6() {
		any4or6 = net.IPv6unspecified
	}
	switch d.Protocol {
	case model.ProtocolTCP:
		return "tcp", &net.TCPAddr{IP: any4or6, Port: int(d.Sport)}, nil
	case model.ProtocolUDP:
		return "udp", &net.UDPAddr{IP: any4or6, Port: int(d.Sport)}, nil
	}
	return "", nil, fmt.Errorf("dial: %s has no ports that a socket dials from here", d.Protocol)
}

// reuse lets a port be dialled from again while an older connection of it waits for
// its end.
func reuse(_, _ string, raw syscall.RawConn) error {
	var err error
	set := func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }
	if controlErr := raw.Control(set); controlErr != nil {
		return controlErr
	}
	return err
}

// remote is the other end as the kernel tells the process of it.
func (c *dialled) remote() (at netip.AddrPort) {
	s, ok := c.socket.(syscall.Conn)
	if !ok {
		return at
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return at
	}
	_ = raw.Control(func(fd uintptr) { // what it cannot tell is no address
		name, err := unix.Getpeername(int(fd))
		if err != nil {
			return
		}
		switch name := name.(type) {
		case *unix.SockaddrInet4:
			at = netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port))
		case *unix.SockaddrInet6:
			at = netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), uint16(name.Port))
		}
	})
	return at
}

// talk sends a message and awaits its answer; those of messages before, which came
// too late, are passed over.
func (c *dialled) talk(ctx context.Context, m *said, answer *response) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer interrupts(ctx, c.socket)()
	c.last++
	m.Number = c.last
	if err := c.send(m); err != nil {
		return fmt.Errorf("send message: %w", lab.Outcome(err))
	}
	for {
		var s said
		if err := c.receive(&s); err != nil {
			return fmt.Errorf("receive answer: %w", lab.Outcome(err))
		}
		if s.Number == m.Number {
			answer.Answer, answer.Server, answer.Peer = s.Text, s.Server, s.Peer
			answer.Local, answer.Remote = plain(c.socket.LocalAddr()), c.remote()
			return nil
		}
	}
}

func (c *dialled) send(m *said) error {
	if c.stream {
		return m.write(c.socket)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = c.socket.Write(padded(body, m.size))
	if errors.Is(err, unix.EPERM) { // what nftables' reject says to its own host's sender
		return fmt.Errorf("%w: %w", lab.ErrRefused, err)
	}
	return lab.Prohibited(err)
}

func (c *dialled) receive(s *said) error {
	if c.stream {
		return s.read(c.socket)
	}
	buffer := make([]byte, 64<<10)
	n, err := c.socket.Read(buffer)
	if err != nil {
		return lab.Prohibited(err)
	}
	if err := json.Unmarshal(buffer[:n], s); err != nil {
		return fmt.Errorf("the other end is no probe: %w", err)
	}
	return nil
}

// goodbye is how long the other end may take to close.
const goodbye = 500 * time.Millisecond

// end closes the conversation: that of a stream by the other end first, whose port
// then waits for stragglers. What the other end does not close is reset.
func (c *dialled) end() error {
	c.agent.mu.Lock()
	delete(c.agent.conns, c.number)
	delete(c.agent.open, c.socket)
	c.agent.mu.Unlock()
	defer c.socket.Close()
	if !c.stream {
		return nil
	}
	_ = c.socket.SetDeadline(time.Now().Add(goodbye))
	err := (&said{Bye: true}).write(c.socket)
	if err == nil {
		_, err = io.Copy(io.Discard, c.socket)
	}
	if tcp, ok := c.socket.(*net.TCPConn); ok && err != nil {
		_ = tcp.SetLinger(0)
	}
	return nil
}
