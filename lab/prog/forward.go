// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// What a node's kernel does with frames, and what is between the nodes.

// fromNode sends what the node's stack made.
func (t *trip) fromNode(n *node) error {
	t.mark = datapath.MarkOfOthers
	p := frame.Decode(t.data)
	if pod := n.podAt(p, t.data); pod != nil {
		return t.intoPod(pod)
	}
	if p.Version != 0 && n.own(p.Dst) {
		t.deliver(n.host) // by its loopback device
		return nil
	}
	t.takeRoute()
	return t.leave(n)
}

// podAt finds the pod that a frame of the node's is for: by hardware address
// where it names one, else by address.
func (n *node) podAt(p *frame.Packet, data []byte) *host {
	for _, h := range n.pods {
		if bytes.HasPrefix(data, h.mac) {
			return h
		}
	}
	return n.podOf(p)
}

// podOf finds the pod that has a packet's destination.
func (n *node) podOf(p *frame.Packet) *host {
	for _, h := range n.pods {
		if p.Version != 0 && h.own(p.Dst) {
			return h
		}
	}
	return nil
}

// leave brings a frame out of a node's uplink, by its hook.
func (t *trip) leave(n *node) error {
	if !t.world.uplinks {
		return t.out(n)
	}
	if datapath.Judged(model.ToDevice, t.mark) {
		if err := t.unseen(model.ToDevice, n, nil); err != nil {
			return err
		}
		return t.out(n)
	}
	d, err := t.hook(model.ToDevice, n, nil)
	if err != nil || d.Action == model.Drop {
		return err
	}
	switch d.Out {
	case model.OutSelf:
		if err := t.unseen(model.FromDevice, n, nil); err != nil {
			return err
		}
		t.deliver(n.host)
	case model.OutDevice:
		return t.out(n)
	default:
		return t.follow(n, d)
	}
	return nil
}

// out brings a frame to who is beyond a node's uplink: the router, or a
// neighbour. The kernel's part (redirect_neigh) is done here: the next hop's
// hardware address.
func (t *trip) out(n *node) error {
	t.mark = 0
	if t.world.routed {
		return t.route(n)
	}
	p := frame.Decode(t.data)
	to := t.world.outsideAt(p)
	if to == nil {
		t.walk.Nobody = fmt.Sprintf("left the node, where no host has the address %s", p.Dst)
		return nil
	}
	t.address(to.mac, n.mac)
	t.deliver(to)
	return nil
}

func (w *World) outsideAt(p *frame.Packet) *host {
	i := slices.IndexFunc(w.outside, func(h *host) bool { return p.Version != 0 && h.own(p.Dst) })
	if i < 0 {
		return nil
	}
	return w.outside[i]
}

func (t *trip) fromOutside(from *host) error {
	t.second = from.second
	if t.world.routed {
		return t.route(nil)
	}
	return t.arrive(t.world.nodes[0])
}

// route is the router's part; from is the node that the frame comes from, nil
// when it comes from outside.
func (t *trip) route(from *node) error {
	p := frame.Decode(t.data)
	if t.world.isRouters(p, t.data) {
		t.walk.Nobody = "the router keeps what is for the neighbours of its port"
		return nil
	}
	if to := t.world.outsideAt(p); to != nil {
		t.address(to.mac, routerMAC)
		t.deliver(to)
		return nil
	}
	to := t.world.nodeTowards(p)
	if from != nil {
		t.second = false // nodes know each other by their first uplinks
	}
	if to == nil && from == nil {
		to = t.world.nodes[0]
	}
	if to == nil {
		t.walk.Nobody = fmt.Sprintf("left %s for the router, which knows nobody that has the address %s", from.name, p.Dst)
		return nil
	}
	t.address(to.mac, routerMAC)
	return t.arrive(to)
}

const etherARP = 0x0806

// isRouters says whether a frame is for the router's own stack: ARP, and what
// IPv6 sends no farther than a link.
func (w *World) isRouters(p *frame.Packet, data []byte) bool {
	if p.Version == 6 {
		return p.Dst.IsLinkLocalUnicast() || p.Dst.IsLinkLocalMulticast()
	}
	return p.Version == 0 && len(data) >= 14 && binary.BigEndian.Uint16(data[12:]) == etherARP
}

// nodeTowards is the node to which the router has a route.
func (w *World) nodeTowards(p *frame.Packet) *node {
	if p.Version == 0 {
		return nil
	}
	for _, n := range w.nodes {
		if slices.Contains(n.public, p.Dst) || n.podOf(p) != nil {
			return n
		}
	}
	nodes := w.leads.Towards(p.Dst)
	if len(nodes) == 0 {
		return nil
	}
	return w.nodeCalled(nodes[frame.Path(p.Data, len(nodes))])
}

// arrive does what a node does with a frame from its uplink.
func (t *trip) arrive(n *node) error {
	t.mark = datapath.MarkOfOthers
	if !t.world.uplinks {
		return t.intoStack(n)
	}
	d, err := t.hook(model.FromDevice, n, nil)
	if err != nil || d.Action == model.Drop {
		return err
	}
	switch d.Out {
	case model.OutHost:
		return t.intoStack(n)
	case model.OutSelf:
		return t.leave(n)
	}
	return t.follow(n, d)
}

// intoStack does what the node's kernel does with a frame from its uplink, and with
// what answers one.
func (t *trip) intoStack(n *node) error {
	p := frame.Decode(t.data)
	if p.Version == 0 {
		t.walk.Nobody = "the node's stack takes no such frame from its uplink"
		return nil
	}
	if n.own(p.Dst) {
		t.deliver(n.host)
		return nil
	}
	pod := n.podOf(p)
	if pod == nil && !(t.world.routed && t.world.knows(p)) {
		t.walk.Nobody = fmt.Sprintf("the node has no route to %s but the one that it came from", p.Dst)
		return nil
	}
	if p.TTL <= 1 {
		t.walk.Nobody = "the node's stack does not forward a packet whose time is over"
		return nil
	}
	if pod == nil {
		t.address(routerMAC, n.mac)
		decrement(t.data, p)
		t.takeRoute()
		return t.leave(n)
	}
	t.address(pod.mac, pod.device.MAC)
	decrement(t.data, p)
	t.ledOn = true
	return t.intoPod(pod)
}

// knows says whether the router has a way to a packet's destination.
func (w *World) knows(p *frame.Packet) bool { return w.outsideAt(p) != nil || w.nodeTowards(p) != nil }

// nextHop is the hardware address that a node sends to for an address.
func (n *node) nextHop(dst netip.Addr) []byte {
	for _, h := range n.pods {
		if h.own(dst) {
			return h.mac
		}
	}
	if n.stack.world.routed {
		return routerMAC
	}
	for _, h := range n.stack.world.outside {
		if h.own(dst) {
			return h.mac
		}
	}
	return routerMAC
}

// decrement takes one off the TTL or hop limit, and adjusts the checksum as a
// router does, RFC 1141: a wrong one stays wrong.
func decrement(data []byte, p *frame.Packet) {
	if p.Version == 6 {
		data[p.L3+7]--
		return
	}
	data[p.L3+8]--
	check := data[p.L3+10 : p.L3+12]
	sum := uint32(binary.BigEndian.Uint16(check)) + 0x100
	binary.BigEndian.PutUint16(check, uint16(sum+sum>>16))
}
