// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Address blocks of policies become prefixes in the table of addresses. The
// longest prefix that holds an address gives its identity, so a rule names
// every prefix that lies in its block and in none of the exceptions: whoever
// has one of these identities has an address in the block.
//
// Pods and nodes have identities of their own. Blocks of CiliumNetworkPolicies do
// not reach them, as in Cilium; what the other kinds name does: readMembers.

// readBlocks numbers every prefix that a policy names.
func (c *compiler) readBlocks() {
	c.blocks = map[netip.Prefix]model.Identity{}
	var keys []string
	c.held = memberBlocks(c.objs, c.families)
	for _, text := range append(prefixesOf(c.held), c.blocksOfCilium()...) {
		if prefix, err := parseBlock(text); err == nil {
			keys = append(keys, prefix.String())
		}
	}
	numbers, err := c.local.Identities.AllocateBlocks(keys)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("compile node %s: %w", c.node, err))
		return
	}
	for key, number := range numbers {
		c.blocks[netip.MustParsePrefix(key)] = number
	}
	c.blocksInOrder = slices.SortedFunc(maps.Keys(c.blocks), netip.Prefix.Compare)
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
func holdsMapped(table []model.Address) bool {
	mapped, all := netip.MustParsePrefix("::ffff:0:0/96"), netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	found := false
	for _, entry := range table {
		if entry.Prefix == all {
			return false
		}
		found = found || entry.Prefix.Addr().Is6() && manifest.Within(mapped, entry.Prefix)
	}
	return found
}

func worldEntry() model.Address {
	return model.Address{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Identity: model.IdentityWorld}
}

// blockPeers gives the identities of the prefixes in a block.
func (c *compiler) blockPeers(object metav1.Object, field, text string, exceptions []string) []model.Identity {
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

// blocksIn gives those of the prefixes in a block, which stand side by side, that
// lie in none of the exceptions.
func (c *compiler) blocksIn(cidr netip.Prefix, excepts []netip.Prefix) []model.Identity {
	var found []model.Identity
	first, _ := slices.BinarySearchFunc(c.blocksInOrder, cidr, netip.Prefix.Compare)
	for _, prefix := range c.blocksInOrder[first:] {
		if !manifest.Within(prefix, cidr) {
			break
		}
		if !slices.ContainsFunc(excepts, func(except netip.Prefix) bool { return manifest.Within(prefix, except) }) {
			found = append(found, c.blocks[prefix])
		}
	}
	return found
}

// warnOfMembers warns of a small block that holds a pod: it was hardly meant
// for the world outside. A default route holds them all, and says nothing.
func (c *compiler) warnOfMembers(object metav1.Object, field string, cidr netip.Prefix) {
	if cidr.Bits() == 0 {
		return
	}
	if who, addr := c.someoneIn(cidr); who != nil {
		c.warn(object, field, "%s holds %s of %s, which only selectors match: select pods by their labels", cidr, addr, who.name.Ref())
	}
}

// warnOfLegacyBlock warns of a block that is not written as it is meant.
func (c *compiler) warnOfLegacyBlock(object metav1.Object, field, text string) {
	if prefix, err := manifest.ParseLegacyBlock(text); err == nil && prefix.String() != text && !sameBlock(prefix, text) {
		c.warn(object, field, "%s means %s: write it so", text, prefix)
	}
}

// sameBlock is whether a text is another spelling of a block, as fd00:0::/16.
func sameBlock(prefix netip.Prefix, text string) bool {
	read, err := netip.ParsePrefix(text)
	return err == nil && read == prefix
}

// warnOfHostBits warns of a block that says more than a block can.
func (c *compiler) warnOfHostBits(object metav1.Object, field, text string) {
	if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Masked() != prefix {
		c.warn(object, field, "%s has bits set beyond its length, which do not count: write %s", prefix, prefix.Masked())
	}
}
