// SPDX-License-Identifier: Apache-2.0

// Package routes keeps the routes that a node needs for its pods, and for those
// of other nodes, in the kernel's main table.
//
// They are known by a protocol number of their own, so that what somebody else
// has made is never touched. Its one invariant: after Sync, the routes of that
// protocol are those that were asked for, and those that were spared.
package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Protocol is what the routes are known by: 'ip route show proto 87'. Numbers
// from 5 to 255 are for whoever wants one (rtnetlink(7)).
const Protocol netlink.RouteProtocol = 87

// Route is where a prefix is led.
type Route struct {
	To netip.Prefix
	// Device is the ifindex of a device on which the prefix's hosts are.
	Device int
	// Via is another node on a network of this one, where Device is 0. With
	// neither of them nothing is reached: who asks is told so.
	Via netip.Addr
	// Source is the address that the node itself speaks from; may be the zero
	// Addr.
	Source netip.Addr
	// Behind others' routes to the same prefix, which stay: it leads only
	// where none of them is left.
	Behind bool
}

// behind is a metric that nobody's route is likely to have a greater one than.
const behind = 1 << 30

// key is what the kernel tells routes of one table and metric apart by; there
// is one of ours to a prefix.
func (r *Route) key() netip.Prefix { return r.To.Masked() }

// ErrRouted is a node that is reached through a router, which has to know the
// way to its pods itself.
var ErrRouted = errors.New("is reached through a router")

// Sync makes the routes of our protocol those that are wanted. Those to prefixes
// that are spared stay as they are: somebody else may Add them meanwhile; nil spares
// none. A route that cannot be made does not keep others from being: all errors are
// joined.
func Sync(wanted []Route, spared func(netip.Prefix) bool) error {
	var errs []error
	want := map[netip.Prefix]*netlink.Route{}
	for i := range wanted {
		route, err := toKernel(&wanted[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		want[wanted[i].key()] = route
	}
	have, err := list()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for i := range have {
		to := prefixOf(&have[i])
		switch wanted := want[to]; {
		case wanted == nil && spared != nil && spared(to):
		case wanted == nil:
			errs = append(errs, remove(&have[i]))
		case same(wanted, &have[i]):
			delete(want, to)
		case to.Addr().Is6(), (wanted.Priority == behind) != (have[i].Priority == behind):
			// IPv6 has several routes to one prefix, and replaces none of
			// another device; neither family replaces one of another metric.
			errs = append(errs, remove(&have[i]))
		}
	}
	for to, route := range want {
		errs = append(errs, replace(to, route))
	}
	return errors.Join(errs...)
}

// Add makes routes beside those that are there.
func Add(more []Route) error {
	var errs []error
	for i := range more {
		route, err := toKernel(&more[i])
		if err == nil {
			err = replace(more[i].key(), route)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func replace(to netip.Prefix, route *netlink.Route) error {
	err := netlink.RouteReplace(route)
	if err != nil && !errors.Is(err, unix.ENODEV) { // its device has just gone: the route is not wanted any more
		return fmt.Errorf("route %s: %w", to, err)
	}
	return nil
}

func toKernel(r *Route) (*netlink.Route, error) {
	dst := net.IPNet{IP: r.To.Masked().Addr().AsSlice(), Mask: net.CIDRMask(r.To.Bits(), r.To.Addr().BitLen())}
	route := &netlink.Route{Dst: &dst, Protocol: Protocol, Table: unix.RT_TABLE_MAIN}
	if r.Behind {
		route.Priority = behind
	}
	if r.Source.IsValid() {
		route.Src = r.Source.AsSlice()
	}
	switch {
	case r.Device != 0:
		route.LinkIndex = r.Device
		if r.To.Addr().Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
	case r.Via.IsValid():
		return route, viaNode(route, r)
	default:
		route.Type = unix.RTN_UNREACHABLE
	}
	return route, nil
}

// viaNode asks the kernel for the device by which a node is a neighbour.
func viaNode(route *netlink.Route, r *Route) error {
	found, err := netlink.RouteGet(r.Via.AsSlice())
	if err != nil {
		return fmt.Errorf("route %s: look for the way to node %s: %w", r.To, r.Via, err)
	}
	if len(found) == 0 {
		return fmt.Errorf("route %s: there is no way to node %s", r.To, r.Via)
	}
	way := found[0]
	if len(way.Gw) > 0 && !way.Gw.Equal(r.Via.AsSlice()) {
		return fmt.Errorf("route %s: node %s %w, %s: let that one route the nodes' podCIDRs", r.To, r.Via, ErrRouted, way.Gw)
	}
	route.LinkIndex, route.Gw = way.LinkIndex, r.Via.AsSlice()
	return nil
}

// listAttempts is how often a list is asked for that changes while it is read.
const listAttempts = 20

func list() (routes []netlink.Route, err error) {
	filter := &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_MAIN}
	for range listAttempts {
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

func prefixOf(route *netlink.Route) netip.Prefix {
	if route.Dst == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(route.Dst.IP)
	if v4 := route.Dst.IP.To4(); v4 != nil {
		addr, _ = netip.AddrFromSlice(v4)
	}
	bits, _ := route.Dst.Mask.Size()
	return netip.PrefixFrom(addr, bits)
}

func same(a, b *netlink.Route) bool {
	// IPv6 has 1024 where nothing is said.
	if kindOf(a) != kindOf(b) || (a.Priority == behind) != (b.Priority == behind) {
		return false
	}
	if kindOf(a) == unix.RTN_UNREACHABLE {
		return true // IPv6's is said to lead to lo
	}
	return a.LinkIndex == b.LinkIndex && a.Gw.Equal(b.Gw) && a.Src.Equal(b.Src)
}

func kindOf(route *netlink.Route) int {
	if route.Type == 0 {
		return unix.RTN_UNICAST
	}
	return route.Type
}

func remove(route *netlink.Route) error {
	err := netlink.RouteDel(route)
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove route %s: %w", prefixOf(route), err)
	}
	return nil
}
