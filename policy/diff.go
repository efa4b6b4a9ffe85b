// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
)

// Change is a run of ports on which a pair is answered otherwise.
type Change struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Family   string `json:"family,omitempty"` // ipv4 or ipv6, where the other one's answer is another
	First    uint16 `json:"firstPort"`        // 0 for protocols without ports
	Last     uint16 `json:"lastPort"`
	Protocol string `json:"protocol"`
	Allowed  bool   `json:"allowed"` // now
	Because  string `json:"because"`
}

// Ports are those of which the change is, as 80/tcp, 1-79/tcp, or tcp for all.
func (c *Change) Ports() string {
	ports := c.Protocol
	switch {
	case c.First == c.Last && c.First != 0:
		ports = fmt.Sprintf("%d/%s", c.First, c.Protocol)
	case c.First > 1 || c.Last != 0 && c.Last < 65535:
		ports = fmt.Sprintf("%d-%d/%s", c.First, c.Last, c.Protocol)
	}
	if c.Family != "" {
		ports += " by " + c.Family
	}
	return ports
}

func (c Change) String() string {
	was, is := "allowed", "denied"
	if c.Allowed {
		was, is = is, was
	}
	return fmt.Sprintf("%s to %s %s: was %s, is %s: %s", c.From, c.To, c.Ports(), was, is, c.Because)
}

// diffParty is an end of flows that both sides know, by its addresses.
type diffParty struct {
	Pod
	outside bool
}

// Compare gives what a change of objects changes for pairs of pods, and of pods
// with who is outside, on every port at which any rule could tell a difference.
// Pods that one side alone has are left out.
func Compare(before, after *Side) ([]Change, error) {
	if len(before.pods) == 0 || len(after.pods) == 0 {
		return nil, ErrNoPods
	}
	parties := partiesOf(before, after)
	var changes []Change
	for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP, model.ProtocolSCTP, model.ProtocolICMP} {
		starts := portStarts(protocol, before.state, after.state)
		for i := range parties {
			for j := range parties {
				if i == j || parties[i].outside && parties[j].outside {
					continue
				}
				found, err := compareFamilies(before, after, &parties[i].Pod, &parties[j].Pod, protocol, starts)
				if err != nil {
					return nil, err
				}
				changes = append(changes, found...)
			}
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	return changes, nil
}

// partiesOf are the pods that both sides have, and one address for each part of
// the world that a policy could tell from others.
func partiesOf(before, after *Side) []diffParty {
	var parties []diffParty
	for _, name := range slices.Sorted(maps.Keys(before.pods)) {
		if pod, both := after.pods[name]; both {
			parties = append(parties, diffParty{Pod: pod})
		}
	}
	blocks := map[netip.Prefix]bool{
		netip.PrefixFrom(netip.IPv4Unspecified(), 0): true, netip.PrefixFrom(netip.IPv6Unspecified(), 0): true,
	}
	taken := map[netip.Addr]bool{}
	for _, side := range []*Side{before, after} {
		for a := range side.state.Addresses.All() {
			if a.Owner() >= model.FirstBlockIdentity {
				blocks[a.Prefix] = true
			} else if a.Prefix.IsSingleIP() {
				taken[a.Prefix.Addr()] = true
			}
		}
	}
	for _, block := range slices.SortedFunc(maps.Keys(blocks), netip.Prefix.Compare) {
		if addr, found := someAddress(block, blocks, taken); found {
			parties = append(parties, diffParty{Pod{Name: "outside " + block.String(), Addresses: []netip.Addr{addr}}, true})
		}
	}
	return parties
}

// someAddress gives an address of a block that is in no smaller one and is
// nobody's. It looks behind each smaller block, and gives up where these lie
// close.
func someAddress(block netip.Prefix, blocks map[netip.Prefix]bool, taken map[netip.Addr]bool) (netip.Addr, bool) {
	addr := block.Addr()
	if block.Bits() == 0 {
		addr = netip.MustParseAddr("203.0.113.1")
		if block.Addr().Is6() {
			addr = netip.MustParseAddr("2001:db8:ffff::1")
		}
	}
	const tries = 4096
	for range tries {
		if !addr.IsValid() || !block.Contains(addr) {
			return addr, false
		}
		next := addr
		for inner := range blocks {
			if inner != block && inner.Bits() > block.Bits() && inner.Contains(addr) {
				next = lastOf(inner).Next()
			}
		}
		if next == addr && !taken[addr] {
			return addr, true
		}
		if next == addr {
			next = addr.Next()
		}
		addr = next
	}
	return addr, false
}

func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// portStarts are the ports at which some rule begins to match or ends to: no
// rule tells the ports between two of them from each other.
func portStarts(protocol model.Protocol, states ...*model.State) []uint16 {
	if protocol == model.ProtocolICMP {
		return []uint16{0}
	}
	starts := map[uint16]bool{1: true}
	for _, state := range states {
		for _, set := range state.RuleSets {
			for _, r := range set.Rules {
				if r.Protocol != protocol || r.PortBits == 0 {
					continue
				}
				end := uint32(r.Port) + 1<<(16-r.PortBits)
				starts[max(r.Port, 1)] = true
				if end <= 65535 {
					starts[uint16(end)] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(starts))
}

// compareFamilies tells a change once where both families say the same.
func compareFamilies(before, after *Side, from, to *Pod, protocol model.Protocol, starts []uint16) ([]Change, error) {
	by4, err := comparePair(before, after, from, to, IPv4, protocol, starts)
	if err != nil {
		return nil, err
	}
	by6, err := comparePair(before, after, from, to, IPv6, protocol, starts)
	if err != nil {
		return nil, err
	}
	was, is := before.families(from, to), after.families(from, to)
	switch {
	case !was[1] && !is[1]:
		return by4, nil
	case !was[0] && !is[0]:
		return by6, nil
	case slices.Equal(by4, by6):
		return by4, nil
	}
	for i := range by4 {
		by4[i].Family = IPv4
	}
	for i := range by6 {
		by6[i].Family = IPv6
	}
	return append(by4, by6...), nil
}

func comparePair(before, after *Side, from, to *Pod, family string, protocol model.Protocol, starts []uint16) ([]Change, error) {
	was, is := before.asker(from, to, family), after.asker(from, to, family)
	var changes []Change
	for i, port := range starts {
		last := uint16(65535)
		if protocol == model.ProtocolICMP {
			last = 0
		} else if i+1 < len(starts) {
			last = starts[i+1] - 1
		}
		old, err := was(port, protocol)
		if err != nil {
			return nil, err
		}
		now, err := is(port, protocol)
		if err != nil {
			return nil, err
		}
		if old.Allowed == now.Allowed {
			continue
		}
		c := Change{From: from.Name, To: to.Name, First: port, Last: last, Protocol: protocol.String(), Allowed: now.Allowed, Because: because(&old, &now)}
		if n := len(changes); n > 0 && changes[n-1].Last+1 == port && changes[n-1].Allowed == c.Allowed && changes[n-1].Because == c.Because {
			changes[n-1].Last = last
			continue
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// because tells the rulings that the change is about: those that deny now, or
// that denied.
func because(was, is *oracle.Decision) string {
	text := ""
	add := func(prefix string, r oracle.Ruling) {
		if text != "" {
			text += "; "
		}
		text += prefix + r.Reason()
	}
	for _, r := range is.Rulings {
		if !r.Allowed() {
			add(r.Direction.String()+" ", r)
		}
	}
	if is.Allowed {
		for i, r := range is.Rulings {
			if i < len(was.Rulings) && !was.Rulings[i].Allowed() {
				add(r.Direction.String()+" ", r)
			}
		}
	}
	if text == "" && !is.Allowed {
		return "the two ends have no address of this family any more"
	}
	if text == "" && len(was.Rulings) == 0 {
		return "the two ends had no address of this family"
	}
	return text
}
