// SPDX-License-Identifier: Apache-2.0

package netns

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
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/phase"
)

// Bounds of what is kept for Arrived, a host.
const (
	maxFrames     = 8192
	maxFrameBytes = 32 << 20
)

// maxFrame is the largest frame that a stack makes: GSO, with a VLAN tag.
const maxFrame = 14 + 4 + 65535

// Fields of struct tpacket_auxdata's status, linux/if_packet.h.
const (
	statusChecksumNotReady = 1 << 3
	statusVLAN             = 1 << 4
	statusVLANProtocol     = 1 << 6
)

// arrivals are the frames that came to a host and that nobody has asked for
// yet, and the taps that they come from.
type arrivals struct {
	host string
	taps []*tap

	mu     sync.Mutex
	frames []lab.Frame
	bytes  int
	lost   int           // thrown away since the last call
	news   chan struct{} // closed when frames were added to none
}

// tap is a packet socket bound to one interface.
type tap struct {
	link link
	file *os.File // non-blocking, so that the runtime's poller waits
	raw  syscall.RawConn
}

// capture starts a tap at every interface of every host.
func (w *World) capture(ctx context.Context) error {
	defer phase.Start(ctx, phase.Captures)()
	if w.options.Blind {
		return nil
	}
	for _, h := range w.hosts() {
		if h == w.router {
			continue
		}
		h.arrivals = &arrivals{host: h.name, news: make(chan struct{})}
		for _, l := range h.links {
			t, err := newTap(h.ns, l)
			if err != nil {
				return fmt.Errorf("capture at %s of %s: %w", l.name, h.name, err)
			}
			h.arrivals.taps = append(h.arrivals.taps, t)
			w.serving.Go(func() { h.arrivals.read(t) })
		}
	}
	return nil
}

func newTap(ns *namespace, l link) (*tap, error) {
	var file *os.File
	err := ns.run(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("open packet socket: %w (the kernel needs CONFIG_PACKET: modprobe af_packet)", err)
		}
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		if err := configureTap(fd, l.ifindex); err != nil {
			unix.Close(fd)
			return err
		}
		file = os.NewFile(uintptr(fd), "tap:"+l.name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &tap{link: l, file: file, raw: raw}, nil
}

func configureTap(fd, ifindex int) error {
	for _, o := range []struct {
		level, name, value int
		what               string
	}{
		// What the host itself sends is not an arrival.
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING"},
		{unix.SOL_PACKET, unix.PACKET_AUXDATA, 1, "PACKET_AUXDATA"},
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1, "SO_TIMESTAMPNS"},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8 << 20, "SO_RCVBUFFORCE"},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set %s: %w", o.what, err)
		}
	}
	// Bound last, with the protocol: before, frames of all interfaces come.
	address := &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: ifindex}
	if err := unix.Bind(fd, address); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// read takes frames until the tap is closed.
func (a *arrivals) read(t *tap) {
	frame, control := make([]byte, maxFrame), make([]byte, 256)
	for {
		var n, controls int
		var err error
		closed := t.raw.Read(func(fd uintptr) bool {
			n, controls, _, _, err = unix.Recvmsg(int(fd), frame, control, 0)
			return !errors.Is(err, unix.EAGAIN)
		})
		switch {
		case closed != nil:
			return
		case err != nil:
			// ENETDOWN is reported once when the interface goes down, and
			// nothing is lost by reading on.
			continue
		}
		arrived := restore(frame[:n], control[:controls])
		if !isChatter(arrived.Data) {
			arrived.Host = a.host
			a.add(arrived)
		}
	}
}

// restore makes of what a packet socket gives the frame as a wire would carry
// it: with its VLAN tag, and with its checksum.
func restore(data, control []byte) lab.Frame {
	frame := lab.Frame{Time: time.Now()}
	var aux unix.TpacketAuxdata
	messages, _ := unix.ParseSocketControlMessage(control) // none on error
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA &&
			len(m.Data) >= int(unsafe.Sizeof(aux)):
			aux = *(*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS &&
			len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})):
			frame.Time = time.Unix((*(*unix.Timespec)(unsafe.Pointer(&m.Data[0]))).Unix())
		}
	}
	frame.Data = make([]byte, 0, len(data)+4)
	if aux.Status&statusVLAN != 0 && len(data) >= 12 {
		protocol := uint16(unix.ETH_P_8021Q)
		if aux.Status&statusVLANProtocol != 0 {
			protocol = aux.Vlan_tpid
		}
		frame.Data = append(frame.Data, data[:12]...)
		frame.Data = binary.BigEndian.AppendUint16(frame.Data, protocol)
		frame.Data = binary.BigEndian.AppendUint16(frame.Data, aux.Vlan_tci)
		data = data[12:]
	}
	frame.Data = append(frame.Data, data...)
	if aux.Status&statusChecksumNotReady != 0 {
		finishChecksum(frame.Data)
	}
	return frame
}

// isChatter is a frame that a stack sends without being asked to, a moment
// after an interface came up: a multicast listener report (RFC 3810).
func isChatter(frame []byte) bool {
	const ipv6, hopByHop, icmpv6 = 14, 14 + 40, 14 + 40 + 8
	return len(frame) > icmpv6 &&
		binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_IPV6 &&
		frame[ipv6+6] == unix.IPPROTO_HOPOPTS && frame[hopByHop] == unix.IPPROTO_ICMPV6 &&
		frame[icmpv6] == 143
}

func (a *arrivals) add(f lab.Frame) {
	a.mu.Lock()
	defer a.mu.Unlock()

	if len(a.frames) >= maxFrames || a.bytes+len(f.Data) > maxFrameBytes {
		a.lost++
		return
	}
	a.frames = append(a.frames, f)
	a.bytes += len(f.Data)
	if len(a.frames) == 1 {
		close(a.news)
	}
}

// take gives what is there, or a channel that is closed when something is.
func (a *arrivals) take() (frames []lab.Frame, lost int, news <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()

	if len(a.frames) == 0 {
		return nil, 0, a.news
	}
	frames, lost = a.frames, a.lost
	a.frames, a.bytes, a.lost, a.news = nil, 0, 0, make(chan struct{})
	return frames, lost, nil
}

var errBlind = errors.New("this world was built without captures (Options.Blind)")

// Arrived gives the frames that came to host's interface since the last call
// for that host, oldest first, as a wire would have carried them; of the node,
// to its uplinks. It waits until there is one, or gives none when ctx ends.
// Multicast listener reports are left out. It is an error when frames had to
// be thrown away since the last call.
func (w *World) Arrived(ctx context.Context, host string) ([]lab.Frame, error) {
	h, err := w.host(host)
	if err != nil {
		return nil, fmt.Errorf("read arrivals: %w", err)
	}
	if h.arrivals == nil {
		return nil, fmt.Errorf("read arrivals of %s: %w", host, errBlind)
	}
	for {
		frames, lost, news := h.arrivals.take()
		switch {
		case lost > 0:
			return frames, fmt.Errorf("read arrivals of %s: %d frames came and were not kept: call Arrived more often", host, lost)
		case len(frames) > 0:
			return frames, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, nil
		case <-w.closing.Done():
			return nil, fmt.Errorf("read arrivals of %s: the world is closed: %w", host, net.ErrClosed)
		}
	}
}

// Send puts a frame on host's interface as if its stack had sent it. The node
// has several: it sends to where its stack would route the frame's
// destination, else out of its first uplink.
func (w *World) Send(ctx context.Context, host string, frame []byte) error {
	h, err := w.host(host)
	if err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	if h.arrivals == nil {
		return fmt.Errorf("send frame of %s: %w", host, errBlind)
	}
	if len(frame) < 14 {
		return fmt.Errorf("send frame of %s: %d bytes are no Ethernet header: %w", host, len(frame), datapath.ErrNotDeliverable)
	}
	t, ifindex := h.arrivals.taps[0], h.links[0].ifindex
	if n, err := w.node(host); err == nil {
		t, ifindex = n.wayOut(frame)
	}
	err = t.send(frame, ifindex)
	if errors.Is(err, unix.EMSGSIZE) {
		return fmt.Errorf("send frame of %s: %d bytes are over the interface's MTU of %d: %w", host, len(frame), mtu, datapath.ErrNotDeliverable)
	}
	if err != nil {
		return fmt.Errorf("send frame of %s: %w", host, err)
	}
	return nil
}

// send puts a frame on an interface of the tap's namespace.
func (t *tap) send(frame []byte, ifindex int) error {
	address := &unix.SockaddrLinklayer{Ifindex: ifindex}
	var err error
	closed := t.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), frame, 0, address)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(closed, err)
}

// wayOut is the interface of a node that leads to a frame's destination, and
// a tap to send by.
func (n *node) wayOut(frame []byte) (*tap, int) {
	to := destination(frame)
	for _, l := range n.ports {
		if slices.Contains(l.peer.addresses, to) {
			return n.arrivals.taps[0], l.ifindex
		}
	}
	if slices.Contains(n.bySecond, to) {
		return n.arrivals.taps[1], secondUplinkIndex
	}
	for i, l := range n.links {
		if slices.Contains(l.peer.addresses, to) {
			return n.arrivals.taps[i], l.ifindex
		}
	}
	return n.arrivals.taps[0], firstUplinkIndex
}

// destination is where a frame says that it goes, or the zero Addr.
func destination(frame []byte) netip.Addr {
	at, length := 0, 0
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		at, length = 14+16, 4
	case unix.ETH_P_IPV6:
		at, length = 14+24, 16
	case unix.ETH_P_ARP:
		at, length = 14+24, 4
	}
	if len(frame) < at+length {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(frame[at : at+length])
	return a
}
