// SPDX-License-Identifier: Apache-2.0

package record

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/pcap"
)

// hostInterface is what every host of a world calls its one interface.
const hostInterface = "eth0"

// maxFrame is the largest frame that a stack makes: GSO, with a VLAN tag.
const maxFrame = 14 + 4 + 65535

// tap is a packet socket at a host's interface, for both directions.
type tap struct {
	host string
	file *os.File // non-blocking, so that the runtime's poller waits
	raw  syscall.RawConn
}

// newTap opens a socket in a host's namespace. The namespace is found by a
// program that does nothing there but wait until its input ends.
func newTap(w *netns.World, host string) (*tap, error) {
	foothold := exec.Command("cat")
	input, err := foothold.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", host, err)
	}
	if err := w.Start(host, foothold); err != nil {
		return nil, fmt.Errorf("tap: %w", err)
	}
	t := &tap{host: host}
	err = inNamespaceOf(foothold.Process.Pid, t.open)
	err = errors.Join(err, input.Close(), foothold.Wait())
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", host, err)
	}
	t.raw, err = t.file.SyscallConn()
	return t, err
}

// inNamespaceOf runs f in the network namespace of a process, on a thread that
// ends with it.
func inNamespaceOf(pid int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread dies
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil {
				return fmt.Errorf("open network namespace: %w", err)
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

func (t *tap) open() error {
	link, err := net.InterfaceByName(hostInterface)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", hostInterface, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	t.file = os.NewFile(uintptr(fd), "tap:"+t.host)
	for name, value := range map[int]int{unix.SO_TIMESTAMPNS: 1, unix.SO_RCVBUFFORCE: 8 << 20} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, name, value); err != nil {
			return errors.Join(fmt.Errorf("set option %d of packet socket: %w", name, err), t.file.Close())
		}
	}
	const everything = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: link.Index}); err != nil {
		return errors.Join(fmt.Errorf("bind packet socket: %w", err), t.file.Close())
	}
	return nil
}

// read takes frames until the tap is closed, then those that are still there.
func (t *tap) read(tell func(carried)) {
	buf, control := make([]byte, maxFrame), make([]byte, 256)
	one := func(fd uintptr) bool {
		n, controls, _, from, err := unix.Recvmsg(int(fd), buf, control, unix.MSG_DONTWAIT)
		if err == nil {
			tell(t.frame(buf[:n], control[:controls], from))
		}
		return !errors.Is(err, unix.EAGAIN)
	}
	for t.raw.Read(one) == nil {
	}
	// Closed for waiting, but not for what has come before.
	_ = t.raw.Control(func(fd uintptr) {
		for one(fd) {
		}
	})
}

// stop ends read.
func (t *tap) stop() error { return t.file.SetReadDeadline(time.Unix(1, 0)) }

func (t *tap) frame(data, control []byte, from unix.Sockaddr) carried {
	c := carried{host: t.host, at: time.Now(), data: append([]byte(nil), data...), direction: pcap.In}
	if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype == unix.PACKET_OUTGOING {
		c.direction = pcap.Out
	}
	messages, _ := unix.ParseSocketControlMessage(control) // none on error
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			c.at = time.Unix((*(*unix.Timespec)(unsafe.Pointer(&m.Data[0]))).Unix())
		}
	}
	return c
}

// taps are those of a world, read at once.
type taps struct {
	list    []*tap
	reading sync.WaitGroup
}

func (t *taps) close() error {
	var errs []error
	for _, tap := range t.list {
		errs = append(errs, tap.stop())
	}
	t.reading.Wait()
	for _, tap := range t.list {
		errs = append(errs, tap.file.Close())
	}
	return errors.Join(errs...)
}
