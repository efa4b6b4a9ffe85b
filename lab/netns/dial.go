// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
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

// Patience of calls whose context has no deadline, and of those without one.
const (
	patience      = 5 * time.Second
	closePatience = 500 * time.Millisecond
)

// Dial opens a TCP connection, or a connected UDP socket, which nothing is
// sent on yet. The source is host's address of to's family. lab.ErrRefused,
// lab.ErrTimeout; that there is no way to the address is neither.
func (w *World) Dial(ctx context.Context, host string, protocol model.Protocol, sport uint16, to netip.AddrPort) (lab.Conn, error) {
	return w.DialAs(ctx, host, protocol, sport, to, lab.Manner{})
}

func (w *World) dial(ctx context.Context, h *host, protocol model.Protocol, from, to netip.AddrPort) (*conn, error) {
	network, ok := map[model.Protocol]string{model.ProtocolTCP: "tcp", model.ProtocolUDP: "udp"}[protocol]
	if !ok {
		return nil, errors.New("only tcp and udp have sockets here")
	}
	ctx, cancel := w.whileOpen(ctx)
	defer cancel()

	c := &conn{world: w, remote: to}
	dialer := net.Dialer{KeepAlive: -1}
	dialer.SetMultipathTCP(false)
	dialer.Control = func(_, _ string, raw syscall.RawConn) error {
		local, err := bind(raw, from)
		if err == nil {
			c.caller = w.meetings.join(h.name, protocol, local)
		}
		return err
	}
	// The dialler makes its socket on the calling thread, having one address
	// to dial and no choice of families.
	err := h.ns.run(func() error {
		socket, err := dialer.DialContext(ctx, network, to.String())
		c.socket = socket
		return err
	})
	if err == nil {
		c.release, err = w.closeWith(c.socket)
	}
	if err != nil && c.caller != nil {
		w.meetings.leave(c.caller)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// bind gives a socket its source address, and tells its port.
func bind(raw syscall.RawConn, from netip.AddrPort) (local netip.AddrPort, err error) {
	bindSocket := func(fd uintptr) {
		if from.Port() != 0 {
			// The port may be that of a connection that is closing.
			if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				return
			}
		}
		if err = unix.Bind(int(fd), sockaddr(from)); err != nil {
			err = fmt.Errorf("bind to %s: %w", from, err)
			return
		}
		var name unix.Sockaddr
		if name, err = unix.Getsockname(int(fd)); err != nil {
			return
		}
		local = netip.AddrPortFrom(from.Addr().Unmap(), addrPortOf(name).Port())
	}
	if controlErr := raw.Control(bindSocket); controlErr != nil {
		return local, controlErr
	}
	return local, err
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// whileOpen ends with ctx, with the world, and after a while of patience when
// ctx has no deadline.
func (w *World) whileOpen(ctx context.Context) (context.Context, context.CancelFunc) {
	cancelPatience := func() {}
	if _, has := ctx.Deadline(); !has {
		ctx, cancelPatience = context.WithTimeout(ctx, patience)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(w.closing, cancel)
	return ctx, func() { stop(); cancel(); cancelPatience() }
}

// conn is the dialling end of a conversation.
type conn struct {
	world   *World
	caller  *caller
	socket  stream         // *net.TCPConn, *net.UDPConn or *datagrams
	remote  netip.AddrPort // as it was dialled
	release func()

	mu sync.Mutex // one exchange at a time
}

// stream is what is read and written.
type stream interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

func (c *conn) Local() netip.AddrPort { return c.caller.local }

// Remote is the other end as the kernel tells the process of it: whom the socket
// is connected to, and of UDP by hand who answered last.
func (c *conn) Remote() netip.AddrPort {
	switch s := c.socket.(type) {
	case *datagrams:
		return s.remote()
	case syscall.Conn:
		if raw, err := s.SyscallConn(); err == nil {
			return peerOf(raw)
		}
	}
	return netip.AddrPort{}
}

// Peer is the address of the dialler as the listener saw it; of UDP, and of
// TCP behind source NAT where several wait, from the first exchange on.
func (c *conn) Peer() netip.AddrPort {
	c.awaitMeeting()
	_, peer, _ := c.world.meetings.metBy(c.caller)
	return peer
}

// Server is the name of the host that accepted.
func (c *conn) Server() string {
	c.awaitMeeting()
	server, _, _ := c.world.meetings.metBy(c.caller)
	return server
}

// awaitMeeting waits for the accepting end of a TCP connection, which is told of it
// after the dialling end. Whom no Listen of this world accepts is waited for in vain.
func (c *conn) awaitMeeting() {
	if c.caller.protocol != model.ProtocolTCP {
		return
	}
	select {
	case <-c.caller.met:
	case <-time.After(patience):
	}
}

// Exchange sends a message and gives the answer: all of it when a Listen of
// this world gave it, else what one read gives.
func (c *conn) Exchange(ctx context.Context, message []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	ctx, cancel := c.world.whileOpen(ctx)
	defer cancel()
	c.socket.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.socket.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	c.world.meetings.says(c.caller, message)
	answer, err := c.exchange(message)
	if err != nil {
		return nil, fmt.Errorf("exchange of %s with %s: %w", c.caller.host, c.remote, lab.Outcome(err))
	}
	return answer, nil
}

func (c *conn) exchange(message []byte) ([]byte, error) {
	if _, err := c.socket.Write(message); err != nil {
		return nil, fmt.Errorf("send message: %w", err)
	}
	answer := make([]byte, 64<<10)
	n, err := c.socket.Read(answer)
	if err != nil && c.caller.protocol != model.ProtocolTCP {
		err = lab.Prohibited(err)
	}
	if err != nil {
		return nil, fmt.Errorf("receive answer: %w", err)
	}
	length := c.world.meetings.answerLength(c.caller)
	if c.caller.protocol != model.ProtocolTCP || length <= n {
		return answer[:n], c.acknowledge()
	}
	whole := append(make([]byte, 0, length), answer[:n]...)[:length]
	if _, err := io.ReadFull(c.socket, whole[n:]); err != nil {
		return nil, fmt.Errorf("receive rest of answer: %w", err)
	}
	return whole, c.acknowledge()
}

// acknowledge sends the acknowledgement of what was read, which the stack
// would delay: when an exchange is over, no packet of it is still to come.
func (c *conn) acknowledge() error {
	tcp, ok := c.socket.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("acknowledge answer: %w", err)
	}
	set := func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) }
	controlErr := raw.Control(set) // Not below: Go may read err before it calls.
	if err := errors.Join(controlErr, err); err != nil {
		return fmt.Errorf("acknowledge answer: %w", err)
	}
	return nil
}

// Close ends the conversation. A TCP connection whose other end is known is
// closed by that end first, so that TIME_WAIT, where the port waits for a
// minute, is over there and the same five-tuple can be dialled at once. One
// that cannot be closed in good order is reset.
func (c *conn) Close() error {
	c.release()
	defer c.world.meetings.leave(c.caller)

	tcp, isTCP := c.socket.(*net.TCPConn)
	_, _, end := c.world.meetings.metBy(c.caller)
	if !isTCP || end == nil {
		return ignoreClosed(c.socket.Close())
	}
	if err := end.conn.CloseWrite(); err != nil {
		return ignoreClosed(tcp.Close()) // It was over already.
	}
	tcp.SetReadDeadline(time.Now().Add(closePatience))
	if _, err := io.Copy(io.Discard, tcp); err != nil {
		tcp.SetLinger(0)
		end.conn.SetLinger(0)
		end.conn.Close()
	}
	return ignoreClosed(tcp.Close())
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
