// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// takeNodes makes the compiler know Nodes that have changed: their addresses and
// those of their pods are claimed anew. Kubelets write theirs every few minutes,
// with other times, which is nothing to do. It is not ok for this node's own, and
// where networks of pods overlap or hold addresses of Nodes: what one says is not
// believed for the sake of another then.
func (i *Incremental) takeNodes(change *change, cl claims, m *moves) bool {
	c, k := i.c, i.c.kept
	count := len(c.objs.Nodes)
	others := map[string]*corev1.Node{}
	for name, node := range change.nodes {
		before := c.objs.Nodes[name]
		switch {
		case before == nil || node == nil:
		case saySame(before, node):
			i.met("a Node's heartbeat")
			i.takeHeartbeat(before, node)
			continue
		case name == c.node && saySameOfSelf(before, node):
			i.met("labels of this node's own Node")
			i.takeHeartbeat(before, node)
			m.nodes, m.regroupNodes = true, true
			continue
		}
		if name == c.node || c.objs.Nodes[c.node] == nil {
			return i.no("this node's own Node comes, goes or says something else")
		}
		others[name] = node
		count += boolToInt(node != nil) - boolToInt(before != nil)
	}
	switch {
	case len(others) == 0:
		return true
	case (count > 1) != (len(c.objs.Nodes) > 1):
		return i.no("the first other Node comes, or the last one goes") // pods without a node are this one's until then
	case c.crossed:
		return i.no("networks of pods overlap, or hold addresses of Nodes")
	}
	m.nodes, m.peers = true, true
	for name := range others {
		if before := c.objs.Nodes[name]; before != nil {
			i.leaveNode(before, others[name], cl, m)
			delete(c.objs.Nodes, name)
		}
	}
	for name, node := range others {
		delete(k.ofNodeNames, name)
		if node != nil && !i.enterNode(name, node, cl, m) {
			return i.no("networks of pods overlap, or hold addresses of Nodes")
		}
	}
	m.told = true
	return true
}

// takeHeartbeat has a Node be another version of itself.
func (i *Incremental) takeHeartbeat(before, node *corev1.Node) {
	c, k := i.c, i.c.kept
	at, _ := slices.BinarySearchFunc(k.nodes, before, c.compareNodes)
	k.nodes[at] = node
	c.objs.Nodes[node.Name] = node
	c.vouchers[node], c.podBlocksOf[node] = c.vouchedBy(before), c.podBlocksOf[before]
	for _, v := range c.vouchers[node] {
		if c.nodeAt[v.addr] == before {
			c.nodeAt[v.addr] = node
		}
		for n, rival := range k.claims.rivals[v.addr] {
			if rival == before {
				k.claims.rivals[v.addr][n] = node
			}
		}
	}
	delete(c.vouchers, before)
	delete(c.podBlocksOf, before)
	if len(c.podBlocksOf[node]) == 0 {
		delete(c.podBlocksOf, node)
	}
}

// leaveNode takes out what there was of a Node.
func (i *Incremental) leaveNode(before, after *corev1.Node, cl claims, m *moves) {
	c, k := i.c, i.c.kept
	if after == nil {
		i.met("a Node goes")
	} else {
		i.met("a Node says something else")
	}
	at, _ := slices.BinarySearchFunc(k.nodes, before, c.compareNodes)
	k.nodes = slices.Delete(k.nodes, at, at+1)
	i.drop(cl, addressesOfNode(c, before), before)
	i.liftPodsOn(before.Name, cl)
	for _, block := range c.podBlocksOf[before] {
		c.podBlocks.remove(block, manifest.RefOf(before))
		k.blocks.countNative(block, -1, m)
	}
	delete(c.podBlocksOf, before)
	delete(c.vouchers, before)
}

// enterNode puts in what there is now. It is not ok where its networks, or its
// addresses, meet those of others.
func (i *Incremental) enterNode(name string, node *corev1.Node, cl claims, m *moves) bool {
	c, k := i.c, i.c.kept
	i.met("a Node comes")
	c.objs.Nodes[name] = node
	at, _ := slices.BinarySearchFunc(k.nodes, node, c.compareNodes)
	k.nodes = slices.Insert(k.nodes, at, node)
	blocks := podBlocksOf(node)
	if !c.podBlocks.asks(blocks) {
		c.recover(blocks)
	}
	for _, block := range blocks {
		if _, owner := c.podBlocks.overlaps(block, model.Ref{}); !owner.IsZero() || c.holdsNode(block) {
			return false
		}
		c.podBlocks.add(block, manifest.RefOf(node))
		c.podBlocksOf[node] = append(c.podBlocksOf[node], block)
		k.blocks.countNative(block, 1, m)
	}
	addrs := addressesOfNode(c, node)
	for _, addr := range addrs {
		if _, owner := c.podBlocks.overlaps(netip.PrefixFrom(addr, addr.BitLen()), model.Ref{}); !owner.IsZero() {
			return false
		}
	}
	i.enter(cl, addrs, node)
	i.liftPodsOn(name, cl)
	if told := k.telling(func() { c.ignoreNames(node) }); len(told) > 0 {
		k.ofNodeNames[name] = toldOf{turn{phase: ofNodes, object: node, index: afterAddresses}, told}
	}
	return true
}

// afterAddresses is the turn of what is told of a Node behind its addresses.
const afterAddresses = 1 << 30

func addressesOfNode(c *compiler, node *corev1.Node) (addrs []netip.Addr) {
	for _, v := range c.vouchedBy(node) {
		if !slices.Contains(addrs, v.addr) {
			addrs = append(addrs, v.addr)
		}
	}
	return addrs
}

// liftPodsOn has the pods of a node claim their addresses anew: what it says of
// their network is another.
func (i *Incremental) liftPodsOn(name string, cl claims) {
	for key := range i.c.kept.people.on[name] {
		for _, addr := range claimsOf(i.c.objs.Pods[key]) {
			i.lift(cl, addr)
		}
	}
}

// holdsNode is whether a block holds an address of a Node.
func (c *compiler) holdsNode(block netip.Prefix) bool {
	if slices.ContainsFunc(c.self.Addresses, block.Contains) {
		return true
	}
	for _, node := range c.objs.Nodes {
		if slices.ContainsFunc(c.vouchedBy(node), func(v vouched) bool { return block.Contains(v.addr) }) {
			return true
		}
	}
	return false
}

// recover makes the cover of pods' networks again, to be asked for more lengths.
func (c *compiler) recover(more []netip.Prefix) {
	asked := slices.Clone(more)
	for _, blocks := range c.podBlocksOf {
		asked = append(asked, blocks...)
	}
	c.podBlocks = newCover(asked)
	for node, blocks := range c.podBlocksOf {
		for _, block := range blocks {
			c.podBlocks.add(block, manifest.RefOf(node))
		}
	}
}

// saySame is whether two versions of a Node say the same to a compiler.
func saySame(a, b *corev1.Node) bool {
	read := func(node *corev1.Node) any {
		return []any{
			node.Labels, node.Spec.PodCIDR, node.Spec.PodCIDRs, node.Status.Addresses, isReadyNode(node),
			node.Status.DaemonEndpoints.KubeletEndpoint.Port, node.CreationTimestamp.Unix(), node.CreationTimestamp.IsZero(),
		}
	}
	return reflect.DeepEqual(read(a), read(b))
}

// saySameOfSelf is whether two versions of this node's own Node differ in labels
// alone that say nothing of where it is, or in its readiness, which nobody asks it for.
func saySameOfSelf(a, b *corev1.Node) bool {
	one, other := *a, *b
	one.Labels, other.Labels = nil, nil
	one.Status.Conditions, other.Status.Conditions = nil, nil
	return a.Labels[corev1.LabelTopologyZone] == b.Labels[corev1.LabelTopologyZone] && saySame(&one, &other)
}

// socketsAt are the node's sockets at an address that the cluster relies on.
func (c *compiler) socketsAt(addr netip.Addr) []socket {
	var all []socket
	node := c.nodeAt[addr]
	if self := c.objs.Nodes[c.node]; self != nil && slices.Contains(c.self.Addresses, addr) {
		node = self
	}
	held := map[frontendKey]claim{}
	if node != nil {
		c.holdKubelet(held, addr, node)
	}
	if slices.Contains(c.apiAddresses(), addr) {
		c.holdServers(held, addr)
	}
	for at, claim := range held {
		all = append(all, socket{at, claim})
	}
	return all
}

// socketsAgain has an address's sockets be those that there are now, and gives the
// places in which that is to be settled again.
func (k *kept) socketsAgain(addr netip.Addr) (places []frontendKey) {
	for _, at := range k.socketsOf[addr] {
		delete(k.sockets[at], frontendKey{netip.AddrPortFrom(addr, at.at.Port()), at.protocol})
		if places = append(places, at); len(k.sockets[at]) == 0 {
			delete(k.sockets, at)
		}
	}
	delete(k.socketsOf, addr)
	for _, s := range k.c.socketsAt(addr) {
		k.holdSocket(s)
		places = append(places, k.around(s.at))
	}
	return places
}

func (k *kept) holdSocket(s socket) {
	around := k.around(s.at)
	if k.sockets[around] == nil {
		k.sockets[around] = map[frontendKey]claim{}
	}
	k.sockets[around][s.at] = s.claim
	k.socketsOf[s.at.at.Addr()] = append(k.socketsOf[s.at.at.Addr()], around)
}
