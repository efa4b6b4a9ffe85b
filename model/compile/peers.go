// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model"
)

// otherNodes are peers, those first that are to be believed first. Of two
// Nodes that share an address both have it here: who reaches the pods of one by
// it loses nothing by the other.
func (c *compiler) otherNodes() []model.Peer { return c.peersOf(c.nodesInOrder()) }

func (c *compiler) peersOf(nodes []*corev1.Node) []model.Peer {
	var peers []model.Peer
	for _, node := range nodes {
		if node.Name == c.node {
			continue
		}
		peer := model.Peer{Name: node.Name, PodCIDRs: slices.Clone(c.podBlocksOf[node])}
		for _, v := range c.vouchedBy(node) {
			if v.internal && c.nodeAt[v.addr] != nil {
				peer.Addresses = append(peer.Addresses, v.addr)
			}
		}
		peers = append(peers, peer)
	}
	return peers
}
