// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Peer is another node, as far as its Node is believed.
type Peer struct {
	Name      string
	Addresses []netip.Addr // internal ones, in the Node's order
	PodCIDRs  []netip.Prefix
}

// Peers are the other nodes of a cluster, those first that are to be believed
// first. addresses are those that this node's kernel has.
//
// Of two Nodes that share an address both keep it here: who reaches the pods of
// one by it loses nothing by the other. What is this node's, a service's or a
// pod's is none of theirs.
func Peers(objs *Objects, self string, addresses []netip.Addr) []Peer {
	c := newCompiler(objs, self, Local{Addresses: addresses})
	c.readGateways()
	c.readPlugged()
	c.readClusterIPs()
	c.readNodes()
	var peers []Peer
	for _, node := range c.nodesInOrder() {
		if node.Name == self {
			continue
		}
		peer := Peer{Name: node.Name}
		for _, v := range vouchedAddresses(node) {
			if v.internal && c.nodeAt[v.addr] != nil {
				peer.Addresses = append(peer.Addresses, v.addr)
			}
		}
		for _, block := range c.podBlocks {
			if block.node == node {
				peer.PodCIDRs = append(peer.PodCIDRs, block.Prefix)
			}
		}
		peers = append(peers, peer)
	}
	return peers
}
