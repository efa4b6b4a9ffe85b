// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab"
)

// Types of ICMP (RFC 792) and ICMPv6 (RFC 4443) messages.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// Ping sends one ICMP echo request and waits for the reply. lab.ErrTimeout,
// and lab.ErrRefused when an ICMP error came back that refuses.
func (w *World) Ping(ctx context.Context, host string, to netip.Addr) error {
	h, err := w.host(host)
	if err != nil {
		return fmt.Errorf("ping %s: %w", to, err)
	}
	from, err := h.address(to)
	if err != nil {
		return fmt.Errorf("ping %s: %w", to, err)
	}
	if err := w.ping(ctx, h.ns, from, to); err != nil {
		return fmt.Errorf("ping %s from %s: %w", to, host, lab.Outcome(err))
	}
	return nil
}

func (w *World) ping(ctx context.Context, ns *namespace, from, to netip.Addr) error {
	socket, err := echoSocket(ns, from, to)
	if err != nil {
		return err
	}
	release, err := w.closeWith(socket)
	if err != nil {
		return err
	}
	defer release()
	defer socket.Close()

	ctx, cancel := w.whileOpen(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { socket.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	request := append([]byte{echoRequest4, 0, 0, 0, 0, 0, 0, 1}, "weir lab ping"...)
	reply := byte(echoReply4)
	if to.Is6() {
		request[0], reply = echoRequest6, echoReply6
	}
	if _, err := socket.Write(request); err != nil {
		return err
	}
	for answer := make([]byte, 2048); ; {
		n, err := socket.Read(answer)
		if err != nil {
			return lab.Prohibited(err)
		}
		// The socket gives replies to its identifier, whoever sent them.
		if n == len(request) && answer[0] == reply && bytes.Equal(answer[6:n], request[6:]) {
			return nil
		}
	}
}

// echoSocket is one of the kernel's ping sockets: it fills in identifier and
// checksum, and tells of ICMP errors as a UDP socket does.
func echoSocket(ns *namespace, from, to netip.Addr) (net.Conn, error) {
	var socket net.Conn
	err := ns.run(func() error {
		family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
		if to.Is6() {
			family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return fmt.Errorf("open ping socket: %w", err)
		}
		file := os.NewFile(uintptr(fd), "ping")
		defer file.Close() // FileConn has a copy.
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
			return fmt.Errorf("bind ping socket to %s: %w", from, err)
		}
		if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(to, 0))); err != nil {
			return fmt.Errorf("connect ping socket to %s: %w", to, err)
		}
		socket, err = net.FileConn(file)
		return err
	})
	return socket, err
}
