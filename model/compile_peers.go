// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"
)

// Peer is another node, as far as its Node is believed.
type Peer struct {
	Name      string
	Addresses []netip.Addr // internal ones, in the Node's order
	PodCIDRs  []netip.Prefix
}

// otherNodes are peers, those first that are to be believed first. Of two
// Nodes that share an address both have it here: who reaches the pods of one by
// it loses nothing by the other.
func (c *compiler) otherNodes() []Peer {
	var peers []Peer
	for _, node := range c.nodesInOrder() {
		if node.Name == c.node {
			continue
		}
		peer := Peer{Name: node.Name, PodCIDRs: slices.Clone(c.podBlocksOf[node])}
		for _, v := range c.vouchedBy(node) {
			if v.internal && c.nodeAt[v.addr] != nil {
				peer.Addresses = append(peer.Addresses, v.addr)
			}
		}
		peers = append(peers, peer)
	}
	return peers
}
