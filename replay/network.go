// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

// Network is the devices that programs, and the kernel's routes under them,
// have to find. No packet ever passes them. It belongs to one thread.
type Network struct {
	handle  *netlink.Handle
	devices []model.Device
	beyond  model.Uplink
}

// nodeAddresses and gateways are those of a node whose objects name none.
var (
	nodeAddresses = []netip.Addr{netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("fd00:198:18::2")}
	gateways      = model.Gateways()
	routers       = []netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("fd00:198:18::1")}
)

// WithNetwork runs a function on a thread of its own, in a network namespace
// of its own. Both are gone when it returns.
func WithNetwork(ctx context.Context, use func(*Network) error) error {
	done := make(chan error, 1)
	go onOwnThread(func() { done <- inNamespace(ctx, use) })
	return <-done
}

// onOwnThread runs f on a thread that ends with it. The main thread would
// stay, and is only held meanwhile.
func onOwnThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // locked: the thread dies, and with it its namespace
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		runtime.LockOSThread()
		f()
	}()
	<-over
	runtime.UnlockOSThread()
}

func inNamespace(ctx context.Context, use func(*Network) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("make a network namespace: %w: run as root, or give the binary CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF", err)
		}
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := stay(); err != nil {
		return err
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer handle.Close()
	n := &Network{handle: handle}
	if err := lab.Settle(); err != nil {
		return err
	}
	if err := n.uplink(); err != nil {
		return err
	}
	return use(n)
}

// stay keeps the thread on the processor where it is. Tables that make room by
// themselves keep what is free by processor (kernel/bpf/bpf_lru_list.c): which
// entry goes would depend on where the scheduler had put the packets before.
func stay() error {
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return fmt.Errorf("ask for the processor: %w", errno)
	}
	var only unix.CPUSet
	only.Set(int(cpu))
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("stay on processor %d: %w", cpu, err)
	}
	return nil
}

// uplink makes the device by which everything beyond the node is reached.
func (n *Network) uplink() error {
	if err := n.pair("uplink", "router", 0xfff0); err != nil {
		return err
	}
	var uplink netlink.Link
	for _, name := range []string{"router", "uplink"} {
		link, err := n.handle.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find device %s: %w", name, err)
		}
		if err := n.handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("set device %s up: %w", name, err)
		}
		uplink = link
	}
	at := uplink.Attrs()
	n.beyond = model.Uplink{Name: at.Name, Ifindex: at.Index, MAC: at.HardwareAddr, MTU: at.MTU}
	for i, own := range nodeAddresses {
		family, length, all := unix.AF_INET, 24, net.CIDRMask(0, 32)
		if own.Is6() {
			family, length, all = unix.AF_INET6, 64, net.CIDRMask(0, 128)
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(length, own.BitLen())}, Flags: unix.IFA_F_NODAD}
		if err := n.handle.AddrAdd(uplink, addr); err != nil {
			return fmt.Errorf("give the uplink the address %s: %w", own, err)
		}
		everywhere := &net.IPNet{IP: make(net.IP, own.BitLen()/8), Mask: all}
		err := n.handle.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Family: family, Dst: everywhere, Gw: routers[i].AsSlice()})
		if err != nil {
			return fmt.Errorf("add default route by %s: %w", routers[i], err)
		}
	}
	return nil
}

// Devices gives count devices for pods, and makes those that are missing. The
// two ends of a veth pair are two devices: nothing is ever sent by them.
func (n *Network) Devices(ctx context.Context, count int) ([]model.Device, error) {
	for have := len(n.devices); have < count; have += 2 {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := n.pair(deviceName(have), deviceName(have+1), uint16(have)); err != nil {
			return nil, err
		}
		n.devices = append(n.devices, model.Device{}, model.Device{})
	}
	return n.devices[:count], n.describe()
}

func deviceName(i int) string { return fmt.Sprintf("pod-%d", i) }

// describe reads the indexes that the kernel gave the devices.
func (n *Network) describe() error {
	links, err := n.handle.LinkList()
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		var i int
		if _, err := fmt.Sscanf(l.Attrs().Name, "pod-%d", &i); err != nil || i >= len(n.devices) {
			continue
		}
		n.devices[i] = model.Device{
			Name: l.Attrs().Name, Ifindex: l.Attrs().Index,
			MAC: hardwareAddress(0xfe, uint16(i)), PodMAC: hardwareAddress(0, uint16(i)),
		}
	}
	return nil
}

func hardwareAddress(kind byte, n uint16) net.HardwareAddr {
	return binary.BigEndian.AppendUint16(net.HardwareAddr{0x02, kind, 0, 0}, n)
}

func (n *Network) pair(name, peer string, number uint16) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, hardwareAddress(0xfe, number), 1500
	err := n.handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerHardwareAddr: hardwareAddress(0xfe, number+1)})
	if err != nil {
		return fmt.Errorf("make devices %s and %s: %w", name, peer, err)
	}
	return nil
}
