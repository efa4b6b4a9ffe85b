// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/weirnet/weir/model"
)

// listen serves a port at each address.
func (a *agent) listen(ctx context.Context, l *Listen) error {
	if len(l.Addresses) == 0 {
		return errors.New("listen: no address is named")
	}
	for _, address := range l.Addresses {
		at := netip.AddrPortFrom(address, l.Port).String()
		config := net.ListenConfig{KeepAlive: -1}
		// Go listens with MPTCP by itself, which puts options into the handshake.
		config.SetMultipathTCP(false)
		switch l.Protocol {
		case model.ProtocolTCP:
			socket, err := config.Listen(ctx, "tcp", at)
			if err != nil {
				return err
			}
			release := a.keep(socket)
			a.work.Go(func() {
				defer release()
				a.accept(socket, l)
			})
		case model.ProtocolUDP:
			socket, err := config.ListenPacket(ctx, "udp", at)
			if err != nil {
				return err
			}
			release := a.keep(socket)
			a.work.Go(func() {
				defer release()
				l.receive(socket.(*net.UDPConn))
			})
		default:
			return fmt.Errorf("listen: %s has no ports that a socket listens on here", l.Protocol)
		}
	}
	return nil
}

func (a *agent) accept(socket net.Listener, l *Listen) {
	for {
		conn, err := socket.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // reset before it was accepted
		}
		release := a.keep(conn)
		a.work.Go(func() {
			defer release()
			defer conn.Close()
			l.converse(conn)
		})
	}
}

// converse answers messages until the other side closes, or says bye: who closes
// first keeps the port for a minute (RFC 9293, TIME-WAIT), which is to be this side.
func (l *Listen) converse(conn net.Conn) {
	peer := plain(conn.RemoteAddr())
	for {
		var m said
		if m.read(conn) != nil || m.Bye {
			return
		}
		sum, err := drain(conn, m.Raw)
		if err != nil {
			return
		}
		answer := l.answer(&m, peer)
		if answer == nil {
			continue
		}
		answer.Sum, answer.Raw = sum, m.Back
		if answer.write(conn) != nil || pour(conn, m.Back) != nil {
			return
		}
	}
}

// receive answers datagrams.
func (l *Listen) receive(socket *net.UDPConn) {
	buffer := make([]byte, 64<<10)
	for {
		n, peer, err := socket.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		var m said
		if err != nil || json.Unmarshal(buffer[:n], &m) != nil {
			continue // an ICMP error about an answer, or no probe's
		}
		answer := l.answer(&m, netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()))
		if answer == nil {
			continue
		}
		if m.Full {
			answer.size = n
		}
		if body, err := json.Marshal(answer); err == nil {
			_, _ = socket.WriteToUDPAddrPort(padded(body, answer.size), peer) // as lost as any datagram
		}
	}
}

// answer gives what is said to a message; nil: nothing.
func (l *Listen) answer(m *said, peer netip.AddrPort) *said {
	answer := &said{Number: m.Number, Text: m.Text, Server: l.Name, Peer: peer}
	if l.Answer == nil || m.Hello {
		return answer
	}
	if *l.Answer == "" {
		return nil
	}
	answer.Text = []byte(*l.Answer)
	return answer
}

// plain is a socket's address, of its own family.
func plain(a net.Addr) netip.AddrPort {
	var p netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		p = a.AddrPort()
	case *net.UDPAddr:
		p = a.AddrPort()
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
