// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/agent/api"
)

// Wire makes an endpoint's devices, in place of what an earlier attempt has
// left, and gives the ifindex of the host's side, which is down.
//
//	pod:  eth0 (address/32, default via gateway) ~~~ weir0123456789a :host
func Wire(e *api.Endpoint) (ifindex int, err error) {
	ns, err := openSpace(e.Netns)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	if err := RemoveDevice(e.HostDevice); err != nil {
		return 0, err
	}
	if err := makePair(e, ns); err != nil {
		return 0, err
	}
	host, err := netlink.LinkByName(e.HostDevice)
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", e.HostDevice, err)
	}
	if err := within(ns, func() error { return configurePod(e) }); err != nil {
		return 0, err
	}
	return host.Attrs().Index, nil
}

// openSpace opens a pod's network namespace. Of one that is gone an empty file
// is left, where it was mounted.
func openSpace(path string) (netns.NsHandle, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return ns, fmt.Errorf("open the pod's network namespace %s: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return ns, errors.Join(fmt.Errorf("open the pod's network namespace %s: it is gone: the runtime has to make the pod's sandbox anew", path), ns.Close())
	}
	return ns, nil
}

func makePair(e *api.Endpoint, ns netns.NsHandle) error {
	hostMAC, err := net.ParseMAC(e.HostMAC)
	if err != nil {
		return fmt.Errorf("make devices: %w", err)
	}
	podMAC, err := net.ParseMAC(e.PodMAC)
	if err != nil {
		return fmt.Errorf("make devices: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = e.HostDevice, e.MTU, hostMAC
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: e.IfName, PeerHardwareAddr: podMAC, PeerNamespace: netlink.NsFd(ns), PeerMTU: uint32(e.MTU), PeerTxQLen: -1}
	err = netlink.LinkAdd(pair)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make devices: the pod has a device %s already, which is not Weir's: remove it, or the other network plugin: %w", e.IfName, err)
	}
	if err != nil {
		return fmt.Errorf("make devices %s and %s: %w", e.HostDevice, e.IfName, err)
	}
	return nil
}

// configurePod gives the pod its addresses and default routes, and nothing
// else: the gateways are nobody's addresses, and the datapath answers for them.
func configurePod(e *api.Endpoint) error {
	if err := up("lo"); err != nil {
		return err
	}
	for _, s := range podSysctls {
		if err := writeSysctl(e.IfName, s.name, s.value); err != nil {
			return err
		}
	}
	if err := up(e.IfName); err != nil {
		return err
	}
	link, err := netlink.LinkByName(e.IfName)
	if err != nil {
		return fmt.Errorf("find device %s: %w", e.IfName, err)
	}
	for _, addr := range e.Addresses {
		address := &netlink.Addr{IPNet: hostNet(addr)}
		if addr.Is6() {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, address); err != nil {
			return fmt.Errorf("give %s address %s: %w", e.IfName, addr, err)
		}
	}
	for _, gateway := range e.Gateways {
		dst := everything(gateway)
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &dst, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route by gateway %s: %w", gateway, err)
		}
	}
	return nil
}

// podSysctls keep the pod's stack from waiting for others and from believing
// them. None is needed where the kernel has no IPv6.
var podSysctls = []struct{ name, value string }{
	{"disable_ipv6", "0"},
	{"accept_dad", "0"},
	{"accept_ra", "0"},
	{"autoconf", "0"},
}

func writeSysctl(device, name, value string) error {
	dir := filepath.Join("/proc/sys/net/ipv6/conf", device)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s of %s: %w", name, device, err)
	}
	return nil
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring device %s up: %w", name, err)
	}
	return nil
}

// RemoveDevice deletes a device, and its peer with it, if it is there.
func RemoveDevice(name string) error {
	link, err := netlink.LinkByName(name)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find device %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete device %s: %w", name, err)
	}
	return nil
}

// inspect says what the pod's namespace or the host has not.
func inspect(e *api.Endpoint) error {
	host, err := netlink.LinkByName(e.HostDevice)
	if err != nil {
		return fmt.Errorf("find device %s: %w", e.HostDevice, err)
	}
	if host.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("device %s is down: delete the pod, and it is made anew", e.HostDevice)
	}
	ns, err := openSpace(e.Netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	return within(ns, func() error { return inspectPod(e, host.Attrs().Index) })
}

func inspectPod(e *api.Endpoint, hostIndex int) error {
	link, err := netlink.LinkByName(e.IfName)
	if err != nil {
		return fmt.Errorf("find device %s of the pod: %w", e.IfName, err)
	}
	if link.Attrs().ParentIndex != hostIndex {
		return fmt.Errorf("device %s of the pod is not the other side of %s", e.IfName, e.HostDevice)
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", e.IfName, err)
	}
	for _, want := range e.Addresses {
		found := false
		for _, a := range have {
			// Another plugin may have given it with a network around it.
			found = found || a.IP.Equal(want.AsSlice())
		}
		if !found {
			return fmt.Errorf("device %s of the pod has not address %s: delete the pod, and it is made anew", e.IfName, want)
		}
	}
	for _, gateway := range e.Gateways {
		filter := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}
		family := netlink.FAMILY_V4
		if gateway.Is6() {
			family = netlink.FAMILY_V6
		}
		routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_GW)
		if err != nil {
			return fmt.Errorf("list routes of the pod: %w", err)
		}
		if len(routes) == 0 {
			return fmt.Errorf("the pod has no route by %s: delete the pod, and it is made anew", gateway)
		}
	}
	return nil
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// within calls f on a thread in a namespace. The thread ends with it.
func within(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread with the goroutine.
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("enter the pod's network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}
