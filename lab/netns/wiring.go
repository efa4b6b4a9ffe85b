// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const mtu = 1500

// configurator speaks netlink in one namespace, whatever thread it is used on.
type configurator struct{ *netlink.Handle }

func (n *namespace) configurator() (configurator, error) {
	var c configurator
	err := n.run(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open netlink socket: %w", err)
		}
		c.Handle = handle
		return nil
	})
	return c, err
}

// connect makes the two interfaces of w, both up: the node's in c's namespace,
// the other one directly in peer. Moving it there afterwards would cost an RCU
// grace period.
func (c configurator) connect(w wire, peer *namespace) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = w.nodeName
	attrs.Index = w.nodeIndex
	attrs.HardwareAddr = w.nodeMAC
	attrs.MTU = mtu
	attrs.Flags = net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName = w.hostName
	veth.PeerHardwareAddr = w.hostMAC
	veth.PeerNamespace = netlink.NsFd(peer.handle)
	err := c.LinkAdd(veth)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("create veth pair %s: %w (the kernel needs CONFIG_VETH: modprobe veth)", w.nodeName, err)
	}
	if err != nil {
		return fmt.Errorf("create veth pair %s: %w", w.nodeName, err)
	}
	return nil
}

// up brings the interface of that name up and gives its index.
func (c configurator) up(name string) (int, error) {
	l, err := c.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find interface %s: %w", name, err)
	}
	if err := c.LinkSetUp(l); err != nil {
		return 0, fmt.Errorf("bring interface %s up: %w", name, err)
	}
	return l.Attrs().Index, nil
}

// awaitReady waits until interfaces carry frames and IPv6 addresses are taken
// for the namespace's own. The kernel does both a moment after it said yes:
// its link watch lets an interface carry frames that is up and whose peer is,
// and a work adds the local route of an IPv6 address (addrconf_dad_work), even
// of one without duplicate detection. Until then what is sent is lost without
// an error.
func (c configurator) awaitReady(ns *namespace, ifindexes []int, addresses []netip.Addr) error {
	isReady := func() (bool, error) {
		if up, err := c.areUp(ifindexes); !up || err != nil {
			return false, err
		}
		return c.areLocal(addresses)
	}
	ready, err := isReady()
	if ready || err != nil {
		return err
	}
	return ns.run(func() error {
		events, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV6_ROUTE)
		if err != nil {
			return fmt.Errorf("subscribe to link and route events: %w", err)
		}
		defer events.Close()
		if err := events.SetReceiveTimeout(&unix.Timeval{Sec: 5}); err != nil {
			return fmt.Errorf("subscribe to link and route events: %w", err)
		}
		for {
			ready, err := isReady()
			if ready || err != nil {
				return err
			}
			if _, _, err := events.Receive(); err != nil {
				return fmt.Errorf("wait until interfaces are up and addresses are local: %w", err)
			}
		}
	})
}

func (c configurator) areUp(ifindexes []int) (bool, error) {
	for _, ifindex := range ifindexes {
		l, err := c.LinkByIndex(ifindex)
		if err != nil {
			return false, fmt.Errorf("find interface %d: %w", ifindex, err)
		}
		if l.Attrs().OperState != netlink.OperUp {
			return false, nil
		}
	}
	return true, nil
}

// areLocal says whether all IPv6 addresses of a list have local routes. Those
// of IPv4 have theirs from the start.
func (c configurator) areLocal(addresses []netip.Addr) (bool, error) {
	local := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
	routes, err := c.RouteListFiltered(unix.AF_INET6, local, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		return false, fmt.Errorf("list local routes: %w", err)
	}
	own := map[netip.Addr]bool{}
	for _, r := range routes {
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			own[a] = true
		}
	}
	return !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Is6() && !own[a] }), nil
}

// addAddress adds an address with no neighbours but those that routes name,
// usable at once. The kernel may have added a link-local one by itself, a moment
// after the interface could carry frames: it makes the same of the hardware address.
func (c configurator) addAddress(ifindex int, a netip.Addr) error {
	address := &netlink.Addr{IPNet: hostNet(a)}
	if a.Is6() {
		address.Flags = unix.IFA_F_NODAD
		if a.IsLinkLocalUnicast() {
			address.Mask = net.CIDRMask(64, 128)
		}
	}
	err := c.AddrAdd(linkByIndex(ifindex), address)
	if err != nil && !(a.IsLinkLocalUnicast() && errors.Is(err, unix.EEXIST)) {
		return fmt.Errorf("add address %s: %w", a, err)
	}
	return nil
}

// addRoute routes to, or everything of via's family when to is the zero Addr,
// out of an interface, by way of a neighbour unless via is the zero Addr. The
// source is left to the kernel when from is the zero Addr.
func (c configurator) addRoute(ifindex int, to, via, from netip.Addr) error {
	route := &netlink.Route{LinkIndex: ifindex}
	if to.IsValid() {
		route.Dst = hostNet(to)
	}
	switch {
	case via.IsValid():
		route.Gw = via.AsSlice()
		route.Flags = int(netlink.FLAG_ONLINK)
	case to.Is4():
		route.Scope = netlink.SCOPE_LINK
	}
	if from.IsValid() {
		route.Src = from.AsSlice()
	}
	if err := c.RouteAdd(route); err != nil {
		return fmt.Errorf("add route to %s via %s: %w", to, via, err)
	}
	return nil
}

// addDefaultRoute sends what no other route takes out of an interface,
// straight to its neighbours.
func (c configurator) addDefaultRoute(ifindex int, is4 bool) error {
	everything := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	route := &netlink.Route{LinkIndex: ifindex}
	if is4 {
		everything = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		route.Scope = netlink.SCOPE_LINK
	}
	route.Dst = everything
	if err := c.RouteAdd(route); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

// addNeighbour makes an address known for good.
func (c configurator) addNeighbour(ifindex int, a netip.Addr, mac net.HardwareAddr) error {
	err := c.NeighAdd(&netlink.Neigh{
		LinkIndex:    ifindex,
		State:        netlink.NUD_PERMANENT,
		IP:           a.AsSlice(),
		HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", a, err)
	}
	return nil
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func linkByIndex(ifindex int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
}
