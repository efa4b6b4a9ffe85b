// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/model"
)

// openPorts are those that a node listens on, so that addresses which it is
// given later are served too, and who listens at those.
type openPorts struct {
	all     []openPort
	further map[netip.Addr][]closer
}

type openPort struct {
	protocol model.Protocol
	number   uint16
	answer   func([]byte) []byte
}

// Assign implements lab.World.
func (w *World) Assign(ctx context.Context, name string, a netip.Addr, has bool) error {
	n, err := w.node(name)
	if err != nil {
		return fmt.Errorf("assign %s: %w", a, err)
	}
	w.roads.mu.Lock()
	defer w.roads.mu.Unlock()
	c, err := n.ns.configurator()
	if err != nil {
		return fmt.Errorf("assign %s to %s: %w", a, name, err)
	}
	defer c.Close()
	if has {
		err = w.addFurther(ctx, n, c, a)
	} else {
		err = n.removeFurther(c, a)
	}
	if err != nil {
		return fmt.Errorf("assign %s to %s: %w", a, name, err)
	}
	w.roads.leads.Assign(n.name, a, has)
	return w.tellRouter(a)
}

func (w *World) addFurther(ctx context.Context, n *node, c configurator, a netip.Addr) error {
	if err := c.addAddress(firstUplinkIndex, a); err != nil {
		return err
	}
	if err := c.awaitReady(n.ns, nil, []netip.Addr{a}); err != nil {
		return err
	}
	if n.served.further == nil {
		n.served.further = map[netip.Addr][]closer{}
	}
	n.served.further[a] = nil
	for _, p := range n.served.all {
		if err := w.listenFurther(ctx, n.host, a, p); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) removeFurther(c configurator, a netip.Addr) error {
	var errs []error
	for _, socket := range n.served.further[a] {
		errs = append(errs, socket.Close())
	}
	delete(n.served.further, a)
	address := &netlink.Addr{IPNet: hostNet(a)}
	if err := c.AddrDel(linkByIndex(firstUplinkIndex), address); err != nil {
		errs = append(errs, fmt.Errorf("remove address: %w", err))
	}
	return errors.Join(errs...)
}

// listenFurther serves a port at an address that the host was given.
func (w *World) listenFurther(ctx context.Context, h *host, a netip.Addr, p openPort) error {
	l := &listener{world: w, host: h.name, answer: p.answer}
	return h.ns.run(func() error {
		socket, err := l.listen(ctx, p.protocol, netip.AddrPortFrom(a, p.number))
		if err == nil {
			h.served.further[a] = append(h.served.further[a], socket)
		}
		return err
	})
}
