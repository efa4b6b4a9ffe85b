// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

// Sockets that Go's dialler does not make: those of a cgroup, and those that
// are not connected or of the other family.

// DialAs is Dial with a socket of another manner. A node's sockets are made in
// its cgroup, if the topology says that there are programs of sockets; what
// these refuse is lab.ErrRefused.
func (w *World) DialAs(ctx context.Context, host string, protocol model.Protocol, sport uint16, to netip.AddrPort, as lab.Manner) (lab.Conn, error) {
	h, err := w.host(host)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	from, err := h.address(to.Addr())
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	dial := w.dial
	if h.cgroup != nil || as != (lab.Manner{}) {
		dial = w.dialByHand(as)
	}
	c, err := dial(ctx, h, protocol, netip.AddrPortFrom(from, sport), to)
	if err != nil {
		return nil, fmt.Errorf("dial %s %s from %s: %w", protocol, to, host, lab.Outcome(err))
	}
	return c, nil
}

type dialler func(ctx context.Context, h *host, protocol model.Protocol, from, to netip.AddrPort) (*conn, error)

func (w *World) dialByHand(as lab.Manner) dialler {
	return func(ctx context.Context, h *host, protocol model.Protocol, from, to netip.AddrPort) (*conn, error) {
		kind, ok := map[model.Protocol]int{model.ProtocolTCP: unix.SOCK_STREAM, model.ProtocolUDP: unix.SOCK_DGRAM}[protocol]
		if !ok || as.Unconnected && protocol != model.ProtocolUDP {
			return nil, errors.New("only tcp and udp have sockets here, and only udp such as are not connected")
		}
		ctx, cancel := w.whileOpen(ctx)
		defer cancel()
		if as.Mapped {
			from, to = mapped(from), mapped(to)
		}
		file, err := h.socket(to, kind)
		if err != nil {
			return nil, err
		}
		c := &conn{world: w, remote: unmapped(to)}
		s, err := w.openSocket(ctx, c, h, protocol, from, to, file, as)
		if err == nil {
			c.socket = s
			c.release, err = w.closeWith(s)
		}
		if err != nil {
			if c.caller != nil {
				w.meetings.leave(c.caller)
			}
			return nil, errors.Join(err, ignoreClosed(file.Close()))
		}
		return c, nil
	}
}

// socket makes one in the host's namespace, and in its cgroup if it has one.
func (h *host) socket(to netip.AddrPort, kind int) (*os.File, error) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	kind |= unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC
	fd := -1
	err := h.ns.run(func() (err error) {
		if h.cgroup != nil {
			fd, err = h.cgroup.socket(family, kind, 0)
			return err
		}
		if fd, err = unix.Socket(family, kind, 0); err != nil {
			err = fmt.Errorf("make socket: %w", err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// openSocket binds a socket, connects it unless it is not to be, and gives what reads
// and writes it. It owns the file, if there is no error.
func (w *World) openSocket(ctx context.Context, c *conn, h *host, protocol model.Protocol, from, to netip.AddrPort, file *os.File, as lab.Manner) (stream, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	local, err := bind(raw, from)
	if err != nil {
		return nil, err
	}
	c.caller = w.meetings.join(h.name, protocol, local)
	if as.Unconnected {
		return &datagrams{File: file, raw: raw, to: sockaddr(to), from: c.remote}, nil
	}
	stop := context.AfterFunc(ctx, func() { file.SetDeadline(time.Unix(1, 0)) })
	err = h.connect(raw, sockaddr(to))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if protocol == model.ProtocolUDP {
		return &datagrams{File: file, raw: raw}, nil
	}
	socket, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("take over socket: %w", err)
	}
	return socket, file.Close() // FileConn has a copy.
}

// connect connects a socket that does not block.
func (h *host) connect(raw syscall.RawConn, to unix.Sockaddr) error {
	var err error
	begun := false
	waiting := raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			err = h.atOnce(unix.Connect(int(fd), to))
			return !errors.Is(err, unix.EINPROGRESS)
		}
		var code int
		if code, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
			return true
		}
		if code != 0 {
			err = unix.Errno(code)
			return true
		}
		// The poller wakes for nothing too: what it told before the socket was
		// connecting.
		_, unconnected := unix.Getpeername(int(fd))
		return unconnected == nil
	})
	if waiting != nil {
		return waiting
	}
	return err
}

// atOnce puts the lab's word to how the programs of a cgroup refuse: before
// Linux 6.1 with EPERM alone, and where nobody on this node serves with
// EHOSTUNREACH. What a network says to that comes later.
func (h *host) atOnce(err error) error {
	if h.cgroup != nil && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EHOSTUNREACH)) {
		return fmt.Errorf("%w: %w", lab.ErrRefused, err)
	}
	return err
}

// datagrams is a UDP socket that tells who answered.
type datagrams struct {
	*os.File
	raw syscall.RawConn
	to  unix.Sockaddr // nil: it is connected

	mu   sync.Mutex
	from netip.AddrPort // of the last answer; before: where the first message goes
}

func (d *datagrams) Write(message []byte) (int, error) {
	var err error
	waiting := d.raw.Write(func(fd uintptr) bool {
		// Not Sendto where it is connected: IPv6 has its own way for that.
		if d.to == nil {
			_, err = unix.Write(int(fd), message)
		} else if err = unix.Sendto(int(fd), message, 0, d.to); errors.Is(err, unix.EPERM) || errors.Is(err, unix.EHOSTUNREACH) {
			err = fmt.Errorf("%w: %w", lab.ErrRefused, err)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if err := errors.Join(waiting, err); err != nil {
		return 0, err
	}
	return len(message), nil
}

func (d *datagrams) Read(answer []byte) (n int, err error) {
	var from unix.Sockaddr
	waiting := d.raw.Read(func(fd uintptr) bool {
		n, from, err = unix.Recvfrom(int(fd), answer, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	if err := errors.Join(waiting, err); err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.from = addrPortOf(from)
	return n, nil
}

// remote is who answered last, and before that the socket's peer.
func (d *datagrams) remote() netip.AddrPort {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.from.IsValid() {
		return d.from
	}
	return peerOf(d.raw)
}

// peerOf asks the kernel whom a socket is connected to; the zero AddrPort when
// to nobody.
func peerOf(raw syscall.RawConn) (peer netip.AddrPort) {
	// Of a socket that is closed nobody asks.
	_ = raw.Control(func(fd uintptr) {
		if name, err := unix.Getpeername(int(fd)); err == nil {
			peer = addrPortOf(name)
		}
	})
	return peer
}

func addrPortOf(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// mapped is an IPv4 address as IPv6 sockets name it (RFC 4291, 2.5.5.2).
func mapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
