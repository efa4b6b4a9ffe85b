// SPDX-License-Identifier: Apache-2.0

// Package ipam gives a node's pods their addresses, out of the node's podCIDRs.
//
// It keeps nothing on disk: whoever records the owners says at the start what
// they have (Hold). Its one invariant: no two owners have one address.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// ErrExhausted is a block all of whose addresses are in use.
var ErrExhausted = errors.New("no address is free")

// ErrNoPrefix is a pool that has no block to give addresses from.
var ErrNoPrefix = errors.New("the node has no podCIDR")

// Pool gives addresses. The zero Pool has none to give. An address that was
// released is given again as late as possible: who has not heard yet that it is
// gone, speaks to nobody and not to a stranger.
type Pool struct {
	mu       sync.Mutex
	prefixes []netip.Prefix
	excluded map[netip.Addr]bool
	owners   map[netip.Addr]string
	given    map[string][]netip.Addr
	last     map[bool]netip.Addr // given last, by whether it is IPv4
}

// SetPrefixes says from which blocks addresses are given, at most one a family.
// What was given before stays.
func (p *Pool) SetPrefixes(prefixes []netip.Prefix) error {
	var masked []netip.Prefix
	seen := map[bool]netip.Prefix{}
	for _, prefix := range prefixes {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			return fmt.Errorf("give addresses from %s: it is no address block", prefix)
		}
		if other, twice := seen[prefix.Addr().Is4()]; twice {
			return fmt.Errorf("give addresses from %s: %s is of the same family: a node has one podCIDR a family", prefix, other)
		}
		seen[prefix.Addr().Is4()] = prefix
		masked = append(masked, prefix.Masked())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prefixes = masked
	return nil
}

// Exclude says which addresses are not given, since somebody has them whom the
// pool gave none: it takes the place of what was said before.
func (p *Pool) Exclude(addrs map[netip.Addr]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.excluded = addrs
}

// Prefixes are the blocks from which addresses are given.
func (p *Pool) Prefixes() []netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.prefixes)
}

// Hold records what an owner has been given earlier. It fails if another one
// has that.
func (p *Pool) Hold(owner string, addrs []netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.init()
	for _, addr := range addrs {
		if other, taken := p.owners[addr]; taken && other != owner {
			return fmt.Errorf("hold address %s for %s: %s has it", addr, owner, other)
		}
	}
	p.hold(owner, addrs)
	return nil
}

// Take gives an owner one address of every block's family, and the same ones
// when it asks again. It fails with ErrExhausted or ErrNoPrefix, and then has
// given nothing.
func (p *Pool) Take(owner string) ([]netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.init()
	if given, again := p.given[owner]; again {
		return slices.Clone(given), nil
	}
	if len(p.prefixes) == 0 {
		return nil, fmt.Errorf("give addresses to %s: %w: wait until the cluster gives it one, or start kube-controller-manager with --allocate-node-cidrs", owner, ErrNoPrefix)
	}
	var addrs []netip.Addr
	for _, prefix := range p.prefixes {
		addr, found := p.free(prefix)
		if !found {
			return nil, fmt.Errorf("give addresses to %s: %w in podCIDR %s: delete pods of this node, or give nodes larger podCIDRs", owner, ErrExhausted, prefix)
		}
		addrs = append(addrs, addr)
	}
	p.hold(owner, addrs)
	return slices.Clone(addrs), nil
}

// Release takes back what an owner has, if anything.
func (p *Pool) Release(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, addr := range p.given[owner] {
		delete(p.owners, addr)
	}
	delete(p.given, owner)
}

// Used is how many addresses are given.
func (p *Pool) Used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.owners)
}

func (p *Pool) init() {
	if p.owners == nil {
		p.owners, p.given, p.last = map[netip.Addr]string{}, map[string][]netip.Addr{}, map[bool]netip.Addr{}
	}
}

func (p *Pool) hold(owner string, addrs []netip.Addr) {
	p.given[owner] = slices.Clone(addrs)
	for _, addr := range addrs {
		p.owners[addr] = owner
		p.last[addr.Is4()] = addr
	}
}

// free gives the first address after the last one given that nobody has.
func (p *Pool) free(prefix netip.Prefix) (netip.Addr, bool) {
	addr := p.last[prefix.Addr().Is4()]
	if !prefix.Contains(addr) {
		addr = prefix.Addr()
	}
	// One more than are in use, and those that are nobody's, is enough.
	for range len(p.owners) + len(p.excluded) + reservedOf(prefix) + 1 {
		addr = addr.Next()
		if !prefix.Contains(addr) {
			addr = prefix.Addr()
		}
		if _, taken := p.owners[addr]; !taken && !p.excluded[addr] && !isReserved(prefix, addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// isReserved says that a pod cannot have an address of a block: the first,
// which is the network (RFC 919, RFC 4291 section 2.6.1 for IPv6), and IPv4's
// last, the broadcast. Blocks of one or two addresses have neither (RFC 3021).
func isReserved(prefix netip.Prefix, addr netip.Addr) bool {
	if addr.BitLen()-prefix.Bits() < 2 {
		return false
	}
	return addr == prefix.Addr() || addr.Is4() && !prefix.Contains(addr.Next())
}

func reservedOf(prefix netip.Prefix) int {
	if prefix.Addr().BitLen()-prefix.Bits() < 2 {
		return 0
	}
	return 2
}

func (p *Pool) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var blocks []string
	for _, prefix := range p.prefixes {
		blocks = append(blocks, prefix.String())
	}
	return strings.Join(blocks, ", ")
}
