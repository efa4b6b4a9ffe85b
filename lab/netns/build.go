// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"
)

// build makes the namespaces and what is between them:
//
//	pod eth0 ── pod-0 ┐          ┌ eth0 ── eth0 outside host
//	pod eth0 ── pod-1 ┤   node   ├ eth1 ── eth0 outside host
//	pod eth0 ── pod-2 ┘          └ …
//
// Every outside host has a segment of its own, so that a host's interface
// carries only what concerns it. A node without outside hosts has an uplink
// all the same, with nobody behind it.
func (w *World) build() error {
	if err := w.makeNamespaces(); err != nil {
		return err
	}
	node, err := w.node.ns.configurator()
	if err != nil {
		return err
	}
	defer node.Close()

	if err := w.connectAll(node); err != nil {
		return err
	}
	var indexes []int
	addresses := slices.Clone(w.node.addresses)
	var g errgroup.Group
	g.Go(func() error { return w.configureNode(node) })
	for n, h := range w.pods {
		indexes = append(indexes, podWire(n).nodeIndex)
		addresses = append(addresses, linkLocal(podWire(n).nodeMAC))
		g.Go(func() error { return w.configurePod(h, podWire(n)) })
	}
	for n, h := range w.outside {
		indexes = append(indexes, uplinkWire(n).nodeIndex)
		addresses = append(addresses, linkLocal(uplinkWire(n).nodeMAC))
		g.Go(func() error { return w.configureOutside(h, uplinkWire(n)) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return node.awaitReady(w.node.ns, indexes, addresses)
}

func (w *World) makeNamespaces() error {
	var g errgroup.Group
	for _, h := range w.hosts() {
		settings := hostSysctls()
		switch {
		case h == w.node:
			settings = nodeSysctls()
		case h.silent:
			settings = silentSysctls()
		}
		g.Go(func() error {
			ns, err := newNamespace(settings)
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
func (w *World) connectAll(node configurator) error {
	connect := func(h *host, wire wire) error {
		if err := node.connect(wire, h.ns); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
		h.links = []link{{name: "eth0", mac: wire.hostMAC, peerMAC: wire.nodeMAC, peer: w.node}}
		return nil
	}
	for n, h := range w.outside {
		wire := uplinkWire(n)
		if err := connect(h, wire); err != nil {
			return err
		}
		w.node.links = append(w.node.links, link{
			name: wire.nodeName, ifindex: wire.nodeIndex,
			mac: wire.nodeMAC, peerMAC: wire.hostMAC, peer: h,
		})
	}
	for n, h := range w.pods {
		if err := connect(h, podWire(n)); err != nil {
			return err
		}
	}
	return nil
}

// configureNode gives the node its addresses, on the first uplink, and its
// routes. IPv6 neighbours ask for an address of the interface that they are
// at, so every interface has a link-local one.
func (w *World) configureNode(c configurator) error {
	if _, err := c.up("lo"); err != nil {
		return fmt.Errorf("%s: %w", w.node.name, err)
	}
	for _, a := range w.node.addresses {
		if err := c.addAddress(firstUplinkIndex, a); err != nil {
			return fmt.Errorf("%s: %w", w.node.name, err)
		}
	}
	for n, h := range w.outside {
		if err := w.routeToHost(c, uplinkWire(n), h); err != nil {
			return fmt.Errorf("%s: %w", w.node.name, err)
		}
	}
	for n, h := range w.pods {
		if err := w.routeToHost(c, podWire(n), h); err != nil {
			return fmt.Errorf("%s: %w", w.node.name, err)
		}
	}
	for _, is4 := range []bool{true, false} {
		if err := c.addDefaultRoute(firstUplinkIndex, is4); err != nil {
			return fmt.Errorf("%s: %w", w.node.name, err)
		}
	}
	return nil
}

func (w *World) routeToHost(c configurator, wire wire, h *host) error {
	if err := c.addAddress(wire.nodeIndex, linkLocal(wire.nodeMAC)); err != nil {
		return err
	}
	for _, a := range h.addresses {
		from := firstOf(w.node.addresses, a.Is4())
		if err := c.addRoute(wire.nodeIndex, a, netip.Addr{}, from); err != nil {
			return err
		}
		if !h.silent {
			continue
		}
		if err := c.addNeighbour(wire.nodeIndex, a, wire.hostMAC); err != nil {
			return err
		}
	}
	return nil
}

// configurePod gives a pod its addresses and a default route, nothing else.
func (w *World) configurePod(h *host, wire wire) error {
	c, err := h.configureSelf(wire)
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
		if err := c.addNeighbour(h.links[0].ifindex, gateway, wire.nodeMAC); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return c.awaitReady(h.ns, []int{h.links[0].ifindex}, h.atInterface(wire))
}

// configureOutside routes everything by way of the node.
func (w *World) configureOutside(h *host, wire wire) error {
	c, err := h.configureSelf(wire)
	if err != nil {
		return err
	}
	defer c.Close()

	for _, a := range h.own() {
		gateway := linkLocal(wire.nodeMAC)
		if a.Is4() {
			gateway = firstOf(w.node.addresses, true)
		}
		if !gateway.IsValid() {
			continue
		}
		if err := c.addRoute(h.links[0].ifindex, netip.Addr{}, gateway, netip.Addr{}); err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return c.awaitReady(h.ns, []int{h.links[0].ifindex}, h.atInterface(wire))
}

// configureSelf brings lo and eth0 up and adds the host's addresses. The
// caller closes the configurator.
func (h *host) configureSelf(wire wire) (c configurator, err error) {
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
	ifindex, err := c.up("eth0")
	if err != nil {
		return c, err
	}
	h.links[0].ifindex = ifindex
	for _, a := range h.atInterface(wire) {
		if err = c.addAddress(ifindex, a); err != nil {
			return c, err
		}
	}
	return c, nil
}

// atInterface are the addresses of a pod's or outside host's interface.
func (h *host) atInterface(wire wire) []netip.Addr {
	if h.silent {
		return nil
	}
	return append(slices.Clone(h.addresses), linkLocal(wire.hostMAC))
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
