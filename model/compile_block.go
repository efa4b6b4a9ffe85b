// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
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
	eachBlock(c.objs, func(block *networkingv1.IPBlock) {
		for _, text := range append([]string{block.CIDR}, block.Except...) {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				keys = append(keys, prefix.String())
			}
		}
	})
	numbers, err := c.local.Identities.allocateBlocks(keys)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("compile node %s: %w", c.node, err))
		return
	}
	for key, number := range numbers {
		c.blocks[netip.MustParsePrefix(key)] = number
	}
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

func eachBlock(objs *Objects, do func(*networkingv1.IPBlock)) {
	peers := func(list []networkingv1.NetworkPolicyPeer) {
		for _, peer := range list {
			if peer.IPBlock != nil {
				do(peer.IPBlock)
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
}

// blockPeers gives the identities of the prefixes in a block.
func (c *compiler) blockPeers(p *compiledPolicy, field string, block *networkingv1.IPBlock) []Identity {
	cidr, err := netip.ParsePrefix(block.CIDR)
	if err != nil {
		return nil // Validate has complained
	}
	var excepts []netip.Prefix
	for _, text := range block.Except {
		if except, err := netip.ParsePrefix(text); err == nil {
			excepts = append(excepts, except)
		}
	}
	var found []Identity
	for prefix, number := range c.blocks {
		excluded := slices.ContainsFunc(excepts, func(except netip.Prefix) bool { return within(prefix, except) })
		if within(prefix, cidr) && !excluded {
			found = append(found, number)
		}
	}
	c.warnOfMembers(p, field, cidr)
	return found
}

func within(inner, outer netip.Prefix) bool {
	return inner.Bits() >= outer.Bits() && outer.Contains(inner.Addr())
}

// warnOfMembers warns of a small block that holds a pod: it was hardly meant
// for the world outside. A default route holds them all, and says nothing.
func (c *compiler) warnOfMembers(p *compiledPolicy, field string, cidr netip.Prefix) {
	for _, pod := range c.pods {
		for _, addr := range pod.addresses {
			if cidr.Bits() > 0 && cidr.Contains(addr) {
				c.warn(p.object, field+".cidr", "%s holds %s of Pod %s, which only selectors match: add a podSelector for pods", cidr, addr, pod.name)
				return
			}
		}
	}
}
