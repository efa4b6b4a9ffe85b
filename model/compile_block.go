// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Address blocks of policies become prefixes in the table of addresses. The
// longest prefix that holds an address gives its identity, so a rule names
// every prefix that lies in its block and in none of the exceptions: whoever
// has one of these identities has an address in the block.
//
// Pods and nodes have identities of their own, and blocks do not reach them:
// the API calls blocks a matter of addresses outside the cluster, since a
// pod's address says nothing of the pod.

// readBlocks numbers every prefix that a policy names.
func (c *compiler) readBlocks() {
	c.blocks = map[netip.Prefix]Identity{}
	var keys []string
	for _, text := range slices.Concat(blocksOfNetworkPolicies(c.objs), blocksOfClusterPolicies(c.objs), c.blocksOfCilium()) {
		if prefix, err := parseBlock(text); err == nil {
			keys = append(keys, prefix.String())
		}
	}
	numbers, err := c.local.Identities.allocateBlocks(keys)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("compile node %s: %w", c.node, err))
		return
	}
	for key, number := range numbers {
		c.blocks[netip.MustParsePrefix(key)] = number
	}
}

// parseBlock reads a block, or an address alone; what is beyond the block's
// length does not count.
func parseBlock(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Prefix(addr.BitLen())
	}
	prefix, err := netip.ParsePrefix(text)
	return prefix.Masked(), err
}

// holdsMapped is whether some IPv6 block holds the addresses that stand for
// IPv4 ones (::ffff:0:0/96) while no block is all of IPv4. A table that keeps
// both families in one trie would then find the IPv6 block for an IPv4
// address, and let in what no policy allows, or leave unmasked what must not
// be: so the whole of IPv4 is said to be the world.
func holdsMapped(table []Address) bool {
	mapped, all := netip.MustParsePrefix("::ffff:0:0/96"), netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	found := false
	for _, entry := range table {
		if entry.Prefix == all {
			return false
		}
		found = found || entry.Prefix.Addr().Is6() && within(mapped, entry.Prefix)
	}
	return found
}

func blocksOfNetworkPolicies(objs *Objects) []string {
	var texts []string
	peers := func(list []networkingv1.NetworkPolicyPeer) {
		for _, peer := range list {
			if peer.IPBlock != nil {
				texts = append(append(texts, peer.IPBlock.CIDR), peer.IPBlock.Except...)
			}
		}
	}
	for _, policy := range objs.NetworkPolicies {
		for _, rule := range policy.Spec.Ingress {
			peers(rule.From)
		}
		for _, rule := range policy.Spec.Egress {
			peers(rule.To)
		}
	}
	return texts
}

// blockPeers gives the identities of the prefixes in a block.
func (c *compiler) blockPeers(object metav1.Object, field, text string, exceptions []string) []Identity {
	cidr, err := parseBlock(text)
	if err != nil {
		return nil // Validate has complained
	}
	var excepts []netip.Prefix
	for _, text := range exceptions {
		if except, err := parseBlock(text); err == nil {
			excepts = append(excepts, except)
		}
	}
	c.warnOfMembers(object, field, cidr)
	return c.blocksIn(cidr, excepts)
}

func (c *compiler) blocksIn(cidr netip.Prefix, excepts []netip.Prefix) []Identity {
	var found []Identity
	for prefix, number := range c.blocks {
		excluded := slices.ContainsFunc(excepts, func(except netip.Prefix) bool { return within(prefix, except) })
		if within(prefix, cidr) && !excluded {
			found = append(found, number)
		}
	}
	return found
}

func within(inner, outer netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

// warnOfMembers warns of a small block that holds a pod: it was hardly meant
// for the world outside. A default route holds them all, and says nothing.
func (c *compiler) warnOfMembers(object metav1.Object, field string, cidr netip.Prefix) {
	for _, pod := range c.pods {
		for _, addr := range pod.addresses {
			if cidr.Bits() > 0 && cidr.Contains(addr) {
				c.warn(object, field, "%s holds %s of Pod %s, which only selectors match: add a podSelector for pods", cidr, addr, pod.name)
				return
			}
		}
	}
}

// warnOfHostBits warns of a block that says more than a block can.
func (c *compiler) warnOfHostBits(object metav1.Object, field, text string) {
	if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Masked() != prefix {
		c.warn(object, field, "%s has bits set beyond its length, which do not count: write %s", prefix, prefix.Masked())
	}
}
