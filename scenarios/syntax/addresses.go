// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Words for addresses that move: names for them, who has them, and where the
// router leads them.

// sharing says how nodes share what is sent to one address.
const sharing = "one is chosen by a hash of both addresses, and of protocol and ports where they are those of TCP or UDP and no fragment's (ECMP)"

// HasAddress says whether an address has that name.
func (f *File) HasAddress(name string) bool {
	return slices.ContainsFunc(f.Named, func(n Named) bool { return n.Name == name })
}

func parseAddress(p *parser, at Pos, l *line) error {
	name, err := l.word("a name for the address")
	if err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	n := Named{Pos: at, Name: name}
	texts, err := l.words("an address")
	if err != nil {
		return err
	}
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("address %s: expected an address like 198.51.100.7 or 2001:db8::7, found '%s'\n\tusage: %s", name, text, l.usage)
		}
		if wrong := unfit(a); wrong != "" {
			return fmt.Errorf("address %s: %s\n\tusage: %s", name, wrong, l.usage)
		}
		if slices.ContainsFunc(n.Addresses, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return fmt.Errorf("address %s: it has an address of the family of %s already: name at most one of each\n\tusage: %s", name, a, l.usage)
		}
		for _, other := range p.file.Named {
			if slices.Contains(other.Addresses, a) {
				return fmt.Errorf("address %s: %s is called %s already: give it one name", name, a, other.Name)
			}
		}
		n.Addresses = append(n.Addresses, a)
	}
	if p.isFree(at, name) {
		p.file.Named = append(p.file.Named, n)
	}
	return nil
}

// unfit says why an address can be no node's beside its own, nor one that a router
// leads anywhere; empty where it can.
func unfit(a netip.Addr) string {
	switch {
	case a.Zone() != "" || a.Is4In6():
		return fmt.Sprintf("%s is no plain address: leave out its zone, or write it as IPv4", a)
	case !a.IsGlobalUnicast():
		return fmt.Sprintf("%s is no address that others reach a host by: name one that is neither loopback, link-local, multicast nor unspecified", a)
	}
	return ""
}

// addressesAnd reads ADDRESS... WORD NODE...
func addressesAnd(l *line, joint string) (addresses, nodes []string, err error) {
	for !l.accept(joint) {
		a, err := l.word("an address, or '" + joint + "'")
		if err != nil {
			return nil, nil, err
		}
		addresses = append(addresses, a)
	}
	if len(addresses) == 0 {
		return nil, nil, fmt.Errorf("expected an address before '%s'\n\tusage: %s", joint, l.usage)
	}
	if nodes, err = l.words("a node"); err != nil {
		return nil, nil, err
	}
	for _, all := range [][]string{addresses, nodes} {
		for i, one := range all {
			if slices.Contains(all[:i], one) {
				return nil, nil, fmt.Errorf("%s is named twice: name it once\n\tusage: %s", one, l.usage)
			}
		}
	}
	return addresses, nodes, nil
}

func parseRoute(p *parser, at Pos, l *line) error {
	addresses, nodes, err := addressesAnd(l, "via")
	if err != nil {
		return err
	}
	for _, to := range addresses {
		for _, before := range p.file.Routes {
			if before.To == to {
				return fmt.Errorf("route: %s has one already, since line %d: name all its nodes there", to, before.Pos.Line)
			}
		}
		for _, node := range nodes {
			p.file.Routes = append(p.file.Routes, Route{at, to, node})
		}
	}
	return nil
}

func parseUplink(p *parser, _ Pos, l *line) error {
	p.file.Uplinks = true
	if l.done() {
		return nil
	}
	if err := l.must("second"); err != nil {
		return err
	}
	hosts, err := l.words("a host outside")
	p.file.Second = append(p.file.Second, hosts...)
	return err
}

// holders follows who was given what, from step to step.
type holders map[string]map[string]Pos

// handed gives the addresses that nodes are given, or that are taken from them; none
// where a name is wrong.
func (c *checker) handed(at Pos, verb string, names, nodes []string) []string {
	c.nodes(at, verb, nodes)
	for _, name := range names {
		if !c.addressNamed(at, verb, name) {
			return nil
		}
	}
	return c.literally(names)
}

func (c *checker) addressNamed(at Pos, verb, name string) bool {
	if c.file.HasAddress(name) {
		return true
	}
	a, err := netip.ParseAddr(name)
	if err != nil {
		c.failf(at, "%s: there is no address %s: expected an address, or a name that a line like 'address %s 198.51.100.7' declares", verb, name, hint(name))
		return false
	}
	if wrong := unfit(a); wrong != "" {
		c.failf(at, "%s: %s", verb, wrong)
		return false
	}
	return true
}

// hint is a name that could be declared.
func hint(name string) string {
	if checkName(name) != nil {
		return "vip"
	}
	return name
}

// literally puts addresses in the place of their names.
func (c *checker) literally(names []string) (all []string) {
	for _, name := range names {
		i := slices.IndexFunc(c.file.Named, func(n Named) bool { return n.Name == name })
		if i < 0 {
			if a, err := netip.ParseAddr(name); err == nil {
				name = a.String()
			}
			all = append(all, name)
			continue
		}
		for _, a := range c.file.Named[i].Addresses {
			all = append(all, a.String())
		}
	}
	return all
}

func (c *checker) nodes(at Pos, verb string, names []string) {
	for _, name := range names {
		c.node(at, verb, name)
	}
}

// routable checks a name that the router is to know.
func (c *checker) routable(at Pos, verb, name string) {
	if a, err := netip.ParseAddr(name); err == nil {
		if wrong := unfit(a); wrong != "" {
			c.failf(at, "%s: %s", verb, wrong)
		}
		return
	}
	if c.file.HasAddress(name) || c.services[BalancedService(name)] {
		return
	}
	c.failf(at, "%s: %s is neither an address nor lb(SERVICE.NAMESPACE) of a service that an attached file has, nor a name that a line like 'address %s 198.51.100.7' declares", verb, name, hint(name))
}

// routed refuses words about the router where there is none.
func (c *checker) routed(at Pos, verb string) {
	if !c.file.Uplinks && len(c.file.Nodes) == 1 {
		c.failf(at, "%s: there is no router in a network of one node without an uplink: add 'uplink'", verb)
	}
}

// second checks the hosts that second uplinks lead to.
func (c *checker) second() {
	for i, name := range c.file.Second {
		switch {
		case !slices.Contains(c.file.Outside, name):
			c.failf(c.pos(1), "uplink second: %s is no host outside: expected one of %s, or a line 'outside %s'", name, strings.Join(c.file.Outside, ", "), hint(name))
		case slices.Contains(c.file.Second[:i], name):
			c.failf(c.pos(1), "uplink second: %s is named twice: name it once", name)
		}
	}
}
