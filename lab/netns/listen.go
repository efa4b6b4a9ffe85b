// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/weirnet/weir/model"
)

// listener is one host's port.
type listener struct {
	world  *World
	host   string
	answer func([]byte) []byte
}

// served is the accepting end of a TCP connection.
type served struct{ conn *net.TCPConn }

// Listen makes host accept TCP connections or UDP datagrams on port of all
// its addresses until Close. A stranger's message (nobody's who dialled in
// this world) is whatever came in one read. An empty answer is none.
func (w *World) Listen(ctx context.Context, host string, protocol model.Protocol, number uint16, answer func([]byte) []byte) error {
	h, err := w.host(host)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if len(h.addresses) == 0 || h.silent {
		return fmt.Errorf("listen on %s: it has no address or is silent", host)
	}
	l := &listener{world: w, host: host, answer: answer}
	for _, a := range h.addresses {
		at := netip.AddrPortFrom(a, number)
		err := h.ns.run(func() error {
			_, err := l.listen(ctx, protocol, at)
			return err
		})
		if err != nil {
			return fmt.Errorf("listen on %s %s port %d: %w", host, protocol, number, err)
		}
	}
	w.roads.mu.Lock()
	defer w.roads.mu.Unlock()
	p := openPort{protocol, number, answer}
	h.served.all = append(h.served.all, p)
	for a := range h.served.further {
		if err := w.listenFurther(ctx, h, a, p); err != nil {
			return fmt.Errorf("listen on %s %s port %d: %w", host, protocol, number, err)
		}
	}
	return nil
}

// listen opens one socket, in the calling thread's namespace, and serves it.
func (l *listener) listen(ctx context.Context, protocol model.Protocol, at netip.AddrPort) (closer, error) {
	config := net.ListenConfig{KeepAlive: -1}
	// Go listens with MPTCP by itself, which BPF's socket maps refuse and
	// which puts options into the handshake.
	config.SetMultipathTCP(false)
	switch protocol {
	case model.ProtocolTCP:
		socket, err := config.Listen(ctx, "tcp", at.String())
		if err != nil {
			return nil, err
		}
		return socket, l.world.serve(socket, func() { l.accept(socket) })
	case model.ProtocolUDP:
		socket, err := config.ListenPacket(ctx, "udp", at.String())
		if err != nil {
			return nil, err
		}
		return socket, l.world.serve(socket, func() { l.receive(socket.(*net.UDPConn)) })
	}
	return nil, errors.New("only tcp and udp have ports that a socket listens on here")
}

// serve calls f in a goroutine that lasts until c is closed, by Close or by f.
func (w *World) serve(c closer, f func()) error {
	release, err := w.closeWith(c)
	if err != nil {
		return err
	}
	w.serving.Go(func() {
		defer release()
		f()
	})
	return nil
}

func (l *listener) accept(socket net.Listener) {
	for {
		accepted, err := socket.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // A connection that was reset before it was accepted.
		}
		conn := accepted.(*net.TCPConn)
		end := &served{conn: conn}
		peer := addrPort(conn.RemoteAddr())
		c := l.world.meetings.accepted(l.host, peer, end)
		l.world.serve(conn, func() { // An error: closed, and conn with it.
			defer conn.Close()
			l.converse(end, c, peer)
		})
	}
}

// converse answers messages until the other side closes.
func (l *listener) converse(end *served, c *caller, peer netip.AddrPort) {
	meetings := l.world.meetings
	buffer := make([]byte, 64<<10)
	for {
		n, err := end.conn.Read(buffer)
		if err != nil {
			return
		}
		speaker, length := meetings.heard(l.host, model.ProtocolTCP, peer, buffer[:n], end)
		message := append(make([]byte, 0, length), buffer[:n]...)
		for len(message) < length {
			n, err := end.conn.Read(buffer[:min(len(buffer), length-len(message))])
			if err != nil {
				return
			}
			message = append(message, buffer[:n]...)
		}
		if speaker != nil {
			c = speaker
		}
		answer := l.answer(message)
		meetings.answers(c, len(answer))
		if _, err := end.conn.Write(answer); err != nil {
			return
		}
	}
}

// receive answers datagrams.
func (l *listener) receive(socket *net.UDPConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, peer, err := socket.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // An ICMP error about an answer: the asker has gone.
		}
		peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
		message := append([]byte(nil), buffer[:n]...)
		c, _ := l.world.meetings.heard(l.host, model.ProtocolUDP, peer, message, nil)
		answer := l.answer(message)
		l.world.meetings.answers(c, len(answer))
		if len(answer) > 0 {
			socket.WriteToUDPAddrPort(answer, peer) // As lost as on a wire.
		}
	}
}

// addrPort is a socket's address, of its own family.
func addrPort(a net.Addr) netip.AddrPort {
	var p netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		p = a.AddrPort()
	case *net.UDPAddr:
		p = a.AddrPort()
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
