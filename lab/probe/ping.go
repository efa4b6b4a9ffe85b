// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab"
)

// Types of ICMP (RFC 792) and ICMPv6 (RFC 4443) messages.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// leastText is how long the text of a ping is at least: by it the reply is known.
const leastText = 16

// ping sends one ICMP echo request with a text of so many octets, or leastText, and
// waits for the reply.
func ping(ctx context.Context, to netip.Addr, size int) error {
	socket, raw, err := echoSocket(to)
	if err != nil {
		return err
	}
	defer socket.Close()
	defer interrupts(ctx, socket)()
	// By its text the reply is known to be the request's: raw sockets are given those
	// of all others too.
	text := make([]byte, min(max(size, leastText), largestText))
	rand.Read(text)
	request := append([]byte{echoRequest4, 0, 0, 0, byte(os.Getpid() >> 8), byte(os.Getpid()), 0, 1}, text...)
	reply := byte(echoReply4)
	if to.Is6() {
		request[0], reply = echoRequest6, echoReply6
	}
	if raw && to.Is4() { // of all others the kernel fills it in
		sum := checksum(request)
		request[2], request[3] = byte(sum>>8), byte(sum)
	}
	if _, err := socket.Write(request); err != nil {
		return lab.Outcome(lab.Prohibited(err))
	}
	for buffer := make([]byte, 64<<10); ; {
		n, err := socket.Read(buffer)
		if err != nil {
			return lab.Outcome(lab.Prohibited(err))
		}
		answer := buffer[:n]
		if raw && to.Is4() && n > 20 { // an IPv4 header comes first, raw(7)
			answer = answer[min(n, int(answer[0]&15)*4):]
		}
		if len(answer) == len(request) && answer[0] == reply && bytes.Equal(answer[8:], text) {
			return nil
		}
	}
}

// largestText is how long one may be: with the header of ICMP it is less than any IP
// packet holds.
const largestText = 60000

// echoSocket is one of the kernel's ping sockets, which tell of ICMP errors as UDP
// sockets do, or where the group may not have those (net.ipv4.ping_group_range) a
// raw one.
func echoSocket(to netip.Addr) (socket net.Conn, raw bool, err error) {
	family, protocol := unix.AF_INET6, unix.IPPROTO_ICMPV6
	var address unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		family, protocol = unix.AF_INET, unix.IPPROTO_ICMP
		address = &unix.SockaddrInet4{Addr: to.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if errors.Is(err, unix.EACCES) {
		raw = true
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	}
	if err != nil {
		return nil, raw, fmt.Errorf("open ping socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "ping")
	defer file.Close() // FileConn has a copy
	if err := unix.Connect(fd, address); err != nil {
		return nil, raw, fmt.Errorf("connect ping socket to %s: %w", to, err)
	}
	socket, err = net.FileConn(file)
	return socket, raw, err
}

// checksum is that of RFC 1071.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(data[i])<<8 | uint32(data[i+1])
	}
	for sum>>16 > 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
