// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab/frame"
)

// Capture says which frames of a host's interfaces are kept: those from or to one of
// some addresses, and of TCP and UDP only those from or to one of some ports, where any
// is named. Parts of a packet that have no ports are kept.
type Capture struct {
	Addresses []netip.Addr `json:"addresses"`
	Ports     []uint16     `json:"ports,omitempty"`
}

// Bounds of a capture: the first frames, and the first octets of each.
const (
	maxCaptured = 100
	maxOctets   = 1600
)

// Captured is a frame that one of a host's interfaces sent or got.
type Captured struct {
	Time      time.Time `json:"time"` // UTC, by the host's clock
	Interface string    `json:"interface"`
	Out       bool      `json:"out,omitempty"`
	Length    int       `json:"length"` // of the whole frame, in octets
	Data      []byte    `json:"data"`   // from the Ethernet header on
}

// capture is one that goes on.
type capture struct {
	Capture
	file *os.File
	done chan struct{} // closed when nothing is read any more

	mu   sync.Mutex
	kept []Captured
}

// begin opens a packet socket for all interfaces: everything that comes from now on is
// met.
func (c Capture) begin() (*capture, error) {
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	on := &capture{Capture: c, file: os.NewFile(uintptr(fd), "capture"), done: make(chan struct{})}
	go on.read()
	return on, nil
}

// Close ends it. What was kept stays.
func (c *capture) Close() error {
	err := c.file.Close()
	<-c.done
	return err
}

// read takes frames until the socket is closed.
func (c *capture) read() {
	defer close(c.done)
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, maxFrame)
	for err == nil {
		err = raw.Read(func(fd uintptr) bool { return c.take(int(fd), buffer) })
	}
}

// maxFrame is more than a frame of GSO has, with its headers.
const maxFrame = 1 << 17

// take keeps the next frame, and says whether there was one.
func (c *capture) take(fd int, buffer []byte) bool {
	n, from, err := unix.Recvfrom(fd, buffer, unix.MSG_TRUNC)
	if link, ok := from.(*unix.SockaddrLinklayer); ok && err == nil {
		c.keep(buffer[:min(n, len(buffer))], n, link)
	}
	return !errors.Is(err, unix.EAGAIN)
}

// drain takes what has come and was not read yet.
func (c *capture) drain() {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, maxFrame)
	_ = raw.Control(func(fd uintptr) { // it fails where it is closed
		for range maxDrained {
			if !c.take(int(fd), buffer) {
				return
			}
		}
	})
}

// maxDrained bounds what is waited for where frames come without an end.
const maxDrained = 4096

func (c *capture) keep(data []byte, length int, link *unix.SockaddrLinklayer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) >= maxCaptured || !c.concerns(data) {
		return
	}
	one := Captured{Time: time.Now().UTC(), Out: link.Pkttype == unix.PACKET_OUTGOING, Length: length, Data: slices.Clone(data[:min(len(data), maxOctets)])}
	if at, err := net.InterfaceByIndex(link.Ifindex); err == nil {
		one.Interface = at.Name
	}
	c.kept = append(c.kept, one)
}

// concerns says whether a frame is one of those that are kept.
func (c *Capture) concerns(data []byte) bool {
	p := frame.Decode(data)
	if !slices.Contains(c.Addresses, p.Src) && !slices.Contains(c.Addresses, p.Dst) {
		return false
	}
	if len(c.Ports) == 0 || p.Proto != unix.IPPROTO_TCP && p.Proto != unix.IPPROTO_UDP || p.L4 < 0 || len(data) < p.L4+4 {
		return true
	}
	at := data[p.L4:]
	return slices.Contains(c.Ports, binary.BigEndian.Uint16(at)) || slices.Contains(c.Ports, binary.BigEndian.Uint16(at[2:]))
}

// frames are what it has kept.
func (c *capture) frames() []Captured {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.kept)
}

// capture begins one, which goes on until it is asked for or forgotten.
func (a *agent) capture(which Capture, answer *response) error {
	on, err := which.begin()
	if err != nil {
		return err
	}
	a.keep(on)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	a.captures[a.last] = on
	answer.Conn = a.last
	return nil
}

// captured ends a capture and gives what it has.
func (a *agent) captured(number uint64, answer *response) error {
	a.mu.Lock()
	on := a.captures[number]
	delete(a.captures, number)
	delete(a.open, on)
	a.mu.Unlock()
	if on == nil {
		return fmt.Errorf("there is no capture %d here", number)
	}
	on.drain()
	err := on.Close()
	answer.Frames = on.frames()
	return err
}

// Capture keeps frames of the host's interfaces from when it returns until the
// function is called that it gives. It needs CAP_NET_RAW, which pods have where
// nobody takes it from them.
func (c *Client) Capture(ctx context.Context, which Capture) (end func(context.Context) ([]Captured, error), err error) {
	began, err := c.ask(ctx, request{Capture: &which})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]Captured, error) {
		r, err := c.ask(ctx, request{Captured: &began.Conn})
		if err != nil {
			return nil, err
		}
		return r.Frames, nil
	}, nil
}
