// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/lab"
)

// Places are where a scenario's names and addresses are in the cluster. What
// they do not have is the same there.
type Places struct {
	namespaces map[string]string
	nodes      map[string]string
	addresses  map[netip.Addr]netip.Addr
	blocks     map[netip.Prefix]netip.Prefix // of nodes' pods
	ports      map[uint16]uint16             // of nodes
	free       func() uint16                 // gives another node port; nil: they stay
}

// NewPlaces is of those who have nothing elsewhere.
func NewPlaces() *Places {
	return &Places{
		namespaces: map[string]string{}, nodes: map[string]string{}, ports: map[uint16]uint16{},
		addresses: map[netip.Addr]netip.Addr{}, blocks: map[netip.Prefix]netip.Prefix{},
	}
}

// port is where a node port is: each of a world's is another one of the cluster's.
func (p *Places) port(n uint16) uint16 {
	if p.ports[n] == 0 && p.free != nil {
		p.ports[n] = p.free()
	}
	if to := p.ports[n]; to > 0 {
		return to
	}
	return n
}

// Pair puts addresses of a host in the place of planned ones, by family.
func (p *Places) Pair(planned, real []netip.Addr) {
	for _, from := range planned {
		for _, to := range real {
			if from.Is4() == to.Is4() {
				p.addresses[from] = to
			}
		}
	}
}

// PairBlocks puts a node's blocks of pods in the place of planned ones, by family.
func (p *Places) PairBlocks(planned, real []string) {
	for _, from := range parsedPrefixes(planned) {
		for _, to := range parsedPrefixes(real) {
			if from.Addr().Is4() == to.Addr().Is4() {
				p.blocks[from] = to
			}
		}
	}
}

// parsedPrefixes are those that can be read.
func parsedPrefixes(texts []string) (all []netip.Prefix) {
	for _, text := range texts {
		if c, err := netip.ParsePrefix(text); err == nil {
			all = append(all, c.Masked())
		}
	}
	return all
}

// address is where a planned one is.
func (p *Places) address(a netip.Addr) netip.Addr {
	if to, ok := p.addresses[a]; ok {
		return to
	}
	return a
}

// host is one with the cluster's addresses.
func (p *Places) host(h lab.Host) lab.Host {
	at := slices.Clone(h.Addresses)
	for i := range at {
		at[i] = p.address(at[i])
	}
	h.Addresses = at
	return h
}

// fixedError is of an address that is in an object and cannot be another.
type fixedError struct{ what, why string }

func (e *fixedError) Error() string { return e.what + " " + e.why }

// block is where a CIDR is: one of a single host, or of a node's pods, moves with it.
// Of all others only those stay what they are that hold all addresses, or none of
// the scenario's.
func (p *Places) block(c netip.Prefix) (netip.Prefix, error) {
	if to, ok := p.blocks[c.Masked()]; ok {
		return to, nil
	}
	if c.IsSingleIP() {
		to := p.address(c.Addr())
		return netip.PrefixFrom(to, to.BitLen()), nil
	}
	if c.Bits() == 0 {
		return c, nil
	}
	for _, planned := range slices.SortedFunc(maps.Keys(p.addresses), netip.Addr.Compare) {
		if c.Contains(planned) {
			return c, &fixedError{"the block " + c.String(), fmt.Sprintf("holds %s, a host that has another address in a cluster", planned)}
		}
	}
	return c, nil
}

// namespaceKeys are labels whose values are names of namespaces.
var namespaceKeys = []string{corev1.LabelMetadataName, "io.kubernetes.pod.namespace", "k8s:io.kubernetes.pod.namespace"}

// nodeKeys are labels whose values are names of nodes.
var nodeKeys = []string{corev1.LabelHostname}

// Move puts the cluster's names and addresses into an object, as JSON has it.
func (p *Places) Move(value any) (any, error) {
	switch value := value.(type) {
	case map[string]any:
		return value, p.moveFields(value)
	case []any:
		for i := range value {
			moved, err := p.Move(value[i])
			if err != nil {
				return nil, err
			}
			value[i] = moved
		}
	case string:
		return p.text(value)
	}
	return value, nil
}

func (p *Places) moveFields(fields map[string]any) error {
	if key, ok := fields["key"].(string); ok { // of an expression of a selector
		if names := p.named(key); names != nil {
			values, _ := fields["values"].([]any)
			for i, v := range values {
				values[i] = renamed(names, v)
			}
			return nil
		}
	}
	for key, v := range fields {
		if names := p.named(key); names != nil {
			fields[key] = renamed(names, v)
			continue
		}
		switch key {
		case "labels", "annotations", "name":
			continue
		case "forNodes": // of an endpoint's hints
			p.moveHints(v)
			continue
		}
		moved, err := p.Move(v)
		if err != nil {
			return err
		}
		fields[key] = moved
	}
	return nil
}

// moveHints renames the nodes that an endpoint is for.
func (p *Places) moveHints(value any) {
	hints, _ := value.([]any)
	for _, hint := range hints {
		if fields, ok := hint.(map[string]any); ok {
			fields["name"] = renamed(p.nodes, fields["name"])
		}
	}
}

// named gives the names that the values of a key are, or nil.
func (p *Places) named(key string) map[string]string {
	switch {
	case key == "namespace" || slices.Contains(namespaceKeys, key):
		return p.namespaces
	case key == "nodeName" || slices.Contains(nodeKeys, key):
		return p.nodes
	}
	return nil
}

func renamed(names map[string]string, value any) any {
	if name, ok := value.(string); ok && names[name] != "" {
		return names[name]
	}
	return value
}

// text moves what is an address or a CIDR.
func (p *Places) text(value string) (string, error) {
	if a, err := netip.ParseAddr(value); err == nil {
		if to, ok := p.addresses[a]; ok {
			return to.String(), nil
		}
		return value, nil
	}
	if c, err := netip.ParsePrefix(value); err == nil {
		to, err := p.block(c)
		if err != nil || to == c {
			return value, err
		}
		return to.String(), nil
	}
	return value, nil
}

// Node says what a node is called.
func (p *Places) Node(planned, real string) { p.nodes[planned] = real }
