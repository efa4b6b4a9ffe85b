// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/scenarios/syntax"
)

// Addresses that nodes are given and that the router leads, while a scenario
// runs.

// addressesApart refuses names for addresses that somebody has.
func (s *Scenario) addressesApart() error {
	for _, n := range s.Named {
		for _, a := range n.Addresses {
			if err := s.mayLead(a); err != nil {
				return &syntax.Error{Pos: n.Pos, Err: fmt.Errorf("address %s: %w", n.Name, err)}
			}
		}
	}
	return nil
}

// mayLead refuses what the router cannot lead elsewhere: it knows those who have
// an address from the start.
func (s *Scenario) mayLead(a netip.Addr) error {
	for name, h := range s.hosts {
		if slices.Contains(h.Addresses, a) {
			return fmt.Errorf("%s is the address of %s: name one that no host has", a, name)
		}
	}
	return nil
}

// moved are the addresses of names that a step moves. It is of both families in
// the run of each: a kernel has both.
func (p *play) moved(names []string) (all []netip.Addr, err error) {
	for _, name := range names {
		var some []netip.Addr
		if p.HasAddress(name) {
			some = p.named(name)
		} else if some, err = p.bothFamilies(name); err != nil {
			return nil, err
		}
		for _, a := range some {
			if err := p.mayLead(a); err != nil {
				return nil, mismatch("%v", err)
			}
		}
		all = append(all, some...)
	}
	return all, nil
}

func (p *play) bothFamilies(name string) (all []netip.Addr, err error) {
	for _, family := range []syntax.Family{syntax.IPv4, syntax.IPv6} {
		a, wrong := p.address(name, family)
		if wrong != nil {
			err = wrong
		} else if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return nil, mismatch("%v", err)
	}
	return all, nil
}

// Give has nodes have addresses.
func (p *play) Give(ctx context.Context, v *syntax.Give) error {
	return p.assign(ctx, v.Addresses, v.Nodes, true)
}

// Take takes them away.
func (p *play) Take(ctx context.Context, v *syntax.Take) error {
	return p.assign(ctx, v.Addresses, v.Nodes, false)
}

// assign has the kernels of nodes have addresses or not, and then the datapaths
// know of it.
func (p *play) assign(ctx context.Context, names, nodes []string, has bool) error {
	addresses, err := p.moved(names)
	if err != nil {
		return err
	}
	for _, node := range nodes {
		i := slices.Index(p.NodeNames(), node)
		// A new list: compiled states and oracles have the old one.
		own := slices.Clone(p.locals[i].Addresses)
		for _, a := range addresses {
			if err := p.world.Assign(ctx, node, a, has); err != nil {
				return labError(err)
			}
			p.leads.Assign(node, a, has)
			own = slices.DeleteFunc(own, func(b netip.Addr) bool { return a == b })
			if has {
				own = append(own, a)
			}
		}
		p.locals[i].Addresses = own
	}
	return p.compile(ctx)
}

// Lead has the router lead addresses.
func (p *play) Lead(ctx context.Context, v *syntax.Lead) error {
	addresses, err := p.moved(v.Addresses)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if err := p.world.Lead(ctx, a, v.Nodes...); err != nil {
			return labError(err)
		}
		p.leads.Lead(a, v.Nodes...)
	}
	return nil
}
