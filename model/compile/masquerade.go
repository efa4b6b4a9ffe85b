// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

func (c *compiler) warnOption(field, format string, args ...any) {
	c.warnings = append(c.warnings, Warning{Object: model.Ref{Kind: model.OptionsKind}, Field: field, Problem: fmt.Sprintf(format, args...)})
}

// chooseNodePortAddresses gives those of the node's addresses that answer on
// node ports.
func (c *compiler) chooseNodePortAddresses() []netip.Addr {
	choice := c.local.Options.NodePortAddresses
	if choice == nil {
		return c.self.Addresses
	}
	var chosen []netip.Addr
	for _, addr := range c.self.Addresses {
		if slices.ContainsFunc(choice, func(prefix netip.Prefix) bool { return prefix.Contains(addr) }) {
			chosen = append(chosen, addr)
		}
	}
	if len(chosen) == 0 {
		c.warnOption("nodePortAddresses", "%v hold no address of node %s: nobody answers on its node ports until one does", choice, c.node)
	}
	return chosen
}

// masquerade gives the addresses that flows are lent: those that leave the
// cluster, and those of node ports whose backends are elsewhere. A node without
// uplinks has no place where it would see the answers.
func (c *compiler) masquerade() *model.Masquerade {
	options := c.local.Options
	if len(c.local.Uplinks) == 0 {
		if options.Masquerade {
			c.warnOption("masquerade", "is on, and node %s has no uplink: nothing is masqueraded until it has one", c.node)
		}
		return nil
	}
	masquerade := &model.Masquerade{}
	masquerade.FirstPort, masquerade.LastPort = options.PortRange()
	masquerade.NodePorts = nodePorts(masquerade.FirstPort, masquerade.LastPort)
	for _, addr := range c.self.Addresses {
		switch {
		case addr.Is4() && !masquerade.IPv4.IsValid():
			masquerade.IPv4 = addr
		case addr.Is6() && !masquerade.IPv6.IsValid():
			masquerade.IPv6 = addr
		}
	}
	if len(c.self.Addresses) == 0 && options.Masquerade {
		c.warnOption("masquerade", "is on, and node %s has no address: nothing is masqueraded until it has one", c.node)
	}
	return masquerade
}

// nodePorts says how many ports of a range are the node's own: an eighth, at least
// one. A single port is everybody's.
func nodePorts(first, last uint16) uint16 {
	count := int(last) - int(first) + 1
	if count < 2 {
		return 0
	}
	return uint16(max(count/8, 1))
}

// nativePrefixes are the blocks, beside the addresses of pods and nodes, that
// are reached without masquerading: everything where pods keep their source.
func (c *compiler) nativePrefixes() []netip.Prefix {
	if c.self.Masquerade == nil {
		return nil
	}
	if !c.local.Options.Masquerade {
		return []netip.Prefix{
			netip.PrefixFrom(netip.IPv4Unspecified(), 0),
			netip.PrefixFrom(netip.IPv6Unspecified(), 0),
		}
	}
	var native []netip.Prefix
	for node, blocks := range c.podBlocksOf {
		if node.Name != c.node {
			native = append(native, blocks...)
		}
	}
	native = append(native, c.local.Options.MasqueradeExcluded...)
	slices.SortFunc(native, netip.Prefix.Compare)
	return slices.Compact(native)
}

// blockAddresses are the entries of the blocks that policies name, and of
// those that are reached without masquerading. The longest prefix that holds
// an address answers for it in both respects, so each entry has what the
// shorter ones say of the other.
func (c *compiler) blockAddresses() []model.Address {
	native := c.nativePrefixes()
	var entries []model.Address
	add := func(prefix netip.Prefix) {
		if entry, is := c.blockEntry(prefix, native); is {
			entries = append(entries, entry)
		}
	}
	for block := range c.blocks {
		add(block)
	}
	for _, prefix := range native {
		if _, twice := c.blocks[prefix]; !twice {
			add(prefix)
		}
	}
	return entries
}

// blockEntry is the entry of a block that a policy names, or that is native, if it
// is one: an address alone may be somebody's, who has an entry then.
func (c *compiler) blockEntry(prefix netip.Prefix, native []netip.Prefix) (entry model.Address, is bool) {
	_, named := c.blocks[prefix]
	_, excluded := slices.BinarySearchFunc(native, prefix, netip.Prefix.Compare)
	if !named && !excluded {
		return entry, false
	}
	if _, taken := c.owners[prefix.Addr()]; taken && prefix.IsSingleIP() {
		return entry, false
	}
	excluded = excluded || slices.ContainsFunc(native, func(outer netip.Prefix) bool { return manifest.Within(prefix, outer) })
	return model.Address{Prefix: prefix, Identity: c.identityAround(prefix), Native: excluded}, true
}

// identityAround gives the identity of the longest block of a policy that
// holds a prefix, or that of the world.
func (c *compiler) identityAround(prefix netip.Prefix) model.Identity {
	for bits := prefix.Bits(); bits >= 0 && len(c.blocks) > 0; bits-- {
		if id, found := c.blocks[netip.PrefixFrom(prefix.Addr(), bits).Masked()]; found {
			return id
		}
	}
	return model.IdentityWorld
}
