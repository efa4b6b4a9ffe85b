// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weirnet/weir/model"
)

// HasNode says whether there is a node of that name.
func (f *File) HasNode(name string) bool {
	return slices.ContainsFunc(f.Nodes, func(n Node) bool { return n.Name == name })
}

// NodeNames lists the nodes.
func (f *File) NodeNames() []string {
	var out []string
	for _, n := range f.Nodes {
		out = append(out, n.Name)
	}
	return out
}

func (p *parser) addNode(n Node) {
	if !p.isFree(n.Pos, n.Name) {
		return
	}
	p.file.Nodes = append(p.file.Nodes, n)
}

func parseNode(p *parser, at Pos, l *line) error {
	name, err := l.word("a node's name")
	if err != nil {
		return err
	}
	n := Node{Pos: at, Name: name, Labels: map[string]string{}}
	for !l.done() {
		if err := l.label("node "+name, n.Labels); err != nil {
			return err
		}
	}
	// Nodes that are there already, by a topology or always, get labels.
	for i := range p.file.Nodes {
		if known := &p.file.Nodes[i]; known.Name == name && known.Labels == nil && len(n.Labels) > 0 {
			known.Labels = n.Labels
			return nil
		}
	}
	if name == FirstNode {
		return fmt.Errorf("there is a node %s always: give it labels once, or another node a name", FirstNode)
	}
	if err := checkName(name); err != nil {
		return err
	}
	p.addNode(n)
	return nil
}

func prefix(l *line) (netip.Prefix, error) {
	text, err := l.word("a CIDR")
	if err != nil {
		return netip.Prefix{}, err
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	cidr, err := netip.ParsePrefix(text)
	if err != nil || cidr != cidr.Masked() {
		return cidr, fmt.Errorf("expected a CIDR like 10.0.0.0/8 or an address, found '%s'\n\tusage: %s", text, l.usage)
	}
	return cidr, nil
}

func parseMasquerade(p *parser, _ Pos, l *line) error {
	o := &p.file.Options
	p.file.Uplinks, o.Masquerade = true, true
	if l.accept("except") {
		for !l.done() && l.peek().value != "ports" {
			cidr, err := prefix(l)
			if err != nil {
				return err
			}
			o.MasqueradeExcluded = append(o.MasqueradeExcluded, cidr)
		}
		if o.MasqueradeExcluded == nil {
			return l.expected("a CIDR", l.peek())
		}
	}
	if !l.accept("ports") {
		return nil
	}
	span, err := l.word("FIRST-LAST")
	if err != nil {
		return err
	}
	first, last, _ := strings.Cut(span, "-")
	if o.FirstPort, err = portNumber(l, first); err != nil {
		return err
	}
	if o.LastPort, err = portNumber(l, last); err != nil {
		return err
	}
	if o.FirstPort > o.LastPort {
		return fmt.Errorf("expected the lower port first, found '%s'\n\tusage: %s", span, l.usage)
	}
	return nil
}

func parseMaglev(p *parser, _ Pos, l *line) error {
	p.file.Options.Algorithm = model.AlgorithmMaglev
	if l.done() {
		return nil
	}
	size, err := l.word("a size")
	if err != nil {
		return err
	}
	if p.file.Options.MaglevSize, err = strconv.Atoi(size); err != nil || p.file.Options.MaglevSize < 1 {
		return fmt.Errorf("expected a size of a table, found '%s'\n\tusage: %s", size, l.usage)
	}
	return nil
}

func parsePings(p *parser, _ Pos, l *line) error {
	t := l.next()
	switch pings := model.ServicePings(t.value); pings {
	case model.PingsAnswered, model.PingsDropped:
		p.file.Options.ServicePings = pings
	default:
		return l.expected("answer or drop", t)
	}
	return nil
}

func parseNodePorts(p *parser, _ Pos, l *line) error {
	p.file.Uplinks = true
	if err := l.must("on"); err != nil {
		return err
	}
	for first := true; first || !l.done(); first = false {
		cidr, err := prefix(l)
		if err != nil {
			return err
		}
		p.file.Options.NodePortAddresses = append(p.file.Options.NodePortAddresses, cidr)
	}
	return nil
}

func parseReturn(p *parser, _ Pos, l *line) error {
	p.file.Uplinks = true
	t := l.next()
	switch r := model.Return(t.value); r {
	case model.ReturnSNAT, model.ReturnDSR, model.ReturnHybrid:
		p.file.Options.Return = r
	default:
		return l.expected("snat, dsr or hybrid", t)
	}
	if l.done() {
		return nil
	}
	t = l.next()
	switch tunnel := model.Tunnel(t.value); tunnel {
	case model.TunnelIPIP, model.TunnelGeneve:
		p.file.Options.Tunnel = tunnel
	default:
		return l.expected("ipip or geneve", t)
	}
	return nil
}
