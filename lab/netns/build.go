// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/weirnet/weir/lab/phase"
)

// build makes the namespaces and what is between them. Of one node without
// hooks at its uplinks:
//
//	pod eth0 ── pod-0 ┐          ┌ eth0 ── eth0 outside host
//	pod eth0 ── pod-1 ┤   node   ├ eth1 ── eth0 outside host
//	pod eth0 ── pod-2 ┘          └ …
//
// Every outside host has a segment of its own, so that a host's interface
// carries only what concerns it. A node without outside hosts has an uplink
// all the same, with nobody behind it. Of other nodes, each has one uplink:
//
//	pod eth0 ── pod-0 ┐ node   eth0 ── node-0 ┐          ┌ host-0 ── eth0 outside host
//	pod eth0 ── pod-1 ┘                       │  router  │
//	pod eth0 ── pod-0 ─ node-2 eth0 ── node-1 ┘          └ host-1 ── eth0 outside host
func (w *World) build(ctx context.Context) error {
	end := phase.Start(ctx, phase.Namespaces)
	err := w.makeNamespaces()
	end()
	if err != nil {
		return err
	}
	defer phase.Start(ctx, phase.Devices)()
	for _, h := range w.middle() {
		c, err := h.ns.configurator()
		if err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		defer c.Close()
		h.inside = c
	}
	if err := w.connectAll(); err != nil {
		return err
	}
	if err := w.configure(ctx); err != nil {
		return err
	}
	defer phase.Start(ctx, phase.Settle)()
	for _, h := range w.middle() {
		if err := h.awaitWires(); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return nil
}

// configure gives everybody addresses, routes and neighbours.
func (w *World) configure(ctx context.Context) error {
	defer phase.Start(ctx, phase.Addresses)()
	var g errgroup.Group
	for _, n := range w.nodes {
		g.Go(func() error { return w.configureNode(n) })
		for _, h := range n.pods {
			g.Go(func() error { return w.configurePod(h) })
		}
	}
	for _, h := range w.outside {
		g.Go(func() error { return w.configureOutside(h) })
	}
	if w.router != nil {
		g.Go(func() error { return w.configureRouter() })
	}
	return g.Wait()
}

// middle are those whom others are wired to.
func (w *World) middle() (all []*host) {
	for _, n := range w.nodes {
		all = append(all, n.host)
	}
	if w.router != nil {
		all = append(all, w.router)
	}
	return all
}

// awaitWires waits until a node's or the router's interfaces carry frames.
func (h *host) awaitWires() error {
	var indexes []int
	var addresses []netip.Addr
	for _, l := range slices.Concat(h.links, h.ports) {
		indexes = append(indexes, l.ifindex)
		addresses = append(addresses, linkLocal(l.mac))
	}
	return h.inside.awaitReady(h.ns, indexes, append(addresses, h.addresses...))
}

func (w *World) makeNamespaces() error {
	all, err := lacking()
	if err != nil {
		return err
	}
	settings := map[*host][]sysctl{}
	for _, n := range w.nodes {
		settings[n.host] = nodeSysctls()
	}
	var g errgroup.Group
	for _, h := range w.hosts() {
		set := settings[h]
		if set == nil && h.silent {
			set = silentSysctls()
		}
		set = slices.Concat(all, set)
		g.Go(func() error {
			ns, err := newNamespace(set)
			if err != nil {
				return fmt.Errorf("%s: %w", h.name, err)
			}
			h.ns = ns
			return nil
		})
	}
	return g.Wait()
}

// connectAll is not parallel: the kernel makes one device at a time.
func (w *World) connectAll() error {
	for number, n := range w.nodes {
		if w.router != nil {
			if err := w.connectToRouter(n, number); err != nil {
				return err
			}
		}
		for _, h := range n.pods {
			l, err := h.connectTo(n.host)
			if err != nil {
				return err
			}
			n.ports = append(n.ports, l)
		}
	}
	for _, h := range w.outside {
		if w.router != nil {
			l, err := h.connectTo(w.router)
			if err != nil {
				return err
			}
			w.router.ports = append(w.router.ports, l)
			continue
		}
		l, err := h.connectTo(w.nodes[0].host)
		if err != nil {
			return err
		}
		w.nodes[0].links = append(w.nodes[0].links, l)
	}
	return nil
}

// connectTo makes a pod's or outside host's wire, and gives the interface at
// its other end.
func (h *host) connectTo(other *host) (link, error) {
	if err := other.inside.connect(h.wire, h.ns); err != nil {
		return link{}, fmt.Errorf("%s: %w", h.name, err)
	}
	h.links = []link{{name: h.wire.hostName, mac: h.wire.hostMAC, peerMAC: h.wire.nodeMAC, peer: other}}
	return link{
		name: h.wire.nodeName, ifindex: h.wire.nodeIndex,
		mac: h.wire.nodeMAC, peerMAC: h.wire.hostMAC, peer: h,
	}, nil
}

// configureNode gives a node its addresses, on the first uplink, and its
// routes. IPv6 neighbours ask for an address of the interface that they are
// at, so every interface has a link-local one.
func (w *World) configureNode(n *node) error {
	if err := w.configureNodeItself(n); err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	return nil
}

func (w *World) configureNodeItself(n *node) error {
	if _, err := n.inside.up("lo"); err != nil {
		return err
	}
	for _, a := range n.addresses {
		if err := n.inside.addAddress(firstUplinkIndex, a); err != nil {
			return err
		}
	}
	for _, l := range slices.Concat(n.links, n.ports) {
		if err := n.routeTo(l); err != nil {
			return err
		}
		if !l.second {
			continue
		}
		for _, a := range n.bySecond {
			if err := n.inside.addRoute(l.ifindex, a, l.gateway(a.Is4()), firstOf(n.addresses, a.Is4())); err != nil {
				return err
			}
		}
	}
	for _, is4 := range []bool{true, false} {
		if err := w.routeElsewhere(n, is4); err != nil {
			return err
		}
	}
	if !n.hooks {
		return nil
	}
	// An answer to what the node itself sent to a service comes back out of a
	// pod with a source that may be the node's own.
	var settings []sysctl
	for _, l := range n.ports {
		settings = append(settings, sysctl{path: fmt.Sprintf("ipv4/conf/%s/accept_local", l.name), value: "1"})
	}
	return n.ns.run(func() error { return writeSysctls(settings) })
}

// routeElsewhere is a node's default route: by way of the router, or straight
// to whoever is at the first uplink.
func (w *World) routeElsewhere(n *node, is4 bool) error {
	if w.router == nil {
		return n.inside.addDefaultRoute(firstUplinkIndex, is4)
	}
	from := firstOf(n.addresses, is4)
	if !from.IsValid() {
		return nil
	}
	return n.inside.addRoute(firstUplinkIndex, netip.Addr{}, n.links[0].gateway(is4), from)
}

// routeTo makes the host at the other end of a node's or the router's
// interface known there.
func (h *host) routeTo(l link) error {
	if err := h.inside.addAddress(l.ifindex, linkLocal(l.mac)); err != nil {
		return err
	}
	if l.second {
		return nil // known by the first one already
	}
	for _, a := range l.peer.addresses {
		from := firstOf(h.addresses, a.Is4())
		if err := h.inside.addRoute(l.ifindex, a, netip.Addr{}, from); err != nil {
			return err
		}
		if !l.peer.silent {
			continue
		}
		if err := h.inside.addNeighbour(l.ifindex, a, l.peerMAC); err != nil {
			return err
		}
	}
	return nil
}

// configurePod gives a pod its addresses and a default route, nothing else.
func (w *World) configurePod(h *host) error {
	c, err := h.configureSelf()
	if err != nil {
		return err
	}
	defer c.Close()

	for _, a := range h.own() {
		gateway := firstOf(w.topology.Gateways, a.Is4())
		if !gateway.IsValid() {
			continue
		}
		if err := c.addRoute(h.links[0].ifindex, netip.Addr{}, gateway, netip.Addr{}); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		if !w.options.Plain {
			continue
		}
		if err := c.addNeighbour(h.links[0].ifindex, gateway, h.wire.nodeMAC); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return c.awaitReady(h.ns, []int{h.links[0].ifindex}, h.atInterface())
}

// configureOutside routes everything by way of the node, or of the router.
func (w *World) configureOutside(h *host) error {
	c, err := h.configureSelf()
	if err != nil {
		return err
	}
	defer c.Close()

	for _, a := range h.own() {
		gateway := h.links[0].gateway(a.Is4())
		if !gateway.IsValid() {
			continue
		}
		if err := c.addRoute(h.links[0].ifindex, netip.Addr{}, gateway, netip.Addr{}); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return c.awaitReady(h.ns, []int{h.links[0].ifindex}, h.atInterface())
}

// gateway is the address of a family that who is at the other end has there,
// or the zero Addr.
func (l link) gateway(is4 bool) netip.Addr {
	if is4 {
		return firstOf(l.peer.addresses, true)
	}
	return linkLocal(l.peerMAC)
}

// configureSelf brings lo and the host's one interface up and adds its
// addresses. The caller closes the configurator.
func (h *host) configureSelf() (c configurator, err error) {
	c, err = h.ns.configurator()
	if err != nil {
		return c, fmt.Errorf("%s: %w", h.name, err)
	}
	defer func() {
		if err != nil {
			c.Close()
			err = fmt.Errorf("%s: %w", h.name, err)
		}
	}()
	if _, err = c.up("lo"); err != nil {
		return c, err
	}
	ifindex, err := c.up(h.wire.hostName)
	if err != nil {
		return c, err
	}
	h.links[0].ifindex = ifindex
	for _, a := range h.atInterface() {
		if err = c.addAddress(ifindex, a); err != nil {
			return c, err
		}
	}
	return c, nil
}

// atInterface are the addresses of a pod's or outside host's interface.
func (h *host) atInterface() []netip.Addr {
	if h.silent {
		return nil
	}
	return append(slices.Clone(h.addresses), linkLocal(h.wire.hostMAC))
}

// own are the addresses that the host's stack has.
func (h *host) own() []netip.Addr {
	if h.silent {
		return nil
	}
	return h.addresses
}

// nobody is behind the uplink of a node that has no outside hosts.
const nobody = "(nobody)"
