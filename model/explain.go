// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Decision is what the policies of both ends say of a flow.
type Decision struct {
	Allowed bool
	// Rulings are those of the opener's egress and of the target's ingress,
	// as far as these are pods, or nodes that policies select.
	Rulings []Ruling
}

// Story gives the decision in sentences.
func (d Decision) Story() []string {
	var story []string
	for _, r := range d.Rulings {
		story = append(story, r.String())
	}
	return story
}

// Explain says whether policy lets from open a flow to a port of to, and by
// which policies and rules. Both are namespace/name of a pod, the name of a
// node, or an address; port is 0 for protocols that have none. ProtocolICMP and
// ProtocolICMPv6 are an echo request, of the other family where the two ends have
// no address of this one. It fails with ErrNotFound for a name that is not among
// the objects.
//
// Only policy is asked: neither services nor routes, and every pod's policy,
// whichever node it is on.
func Explain(objs *Objects, from, to string, port uint16, protocol Protocol) (Decision, error) {
	return NewExplainer(objs).Explain(from, to, port, protocol)
}

// Explainer answers many questions about the same objects. It is for one
// goroutine at a time.
type Explainer struct{ k *knowledge }

// NewExplainer gives an Explainer, which keeps objs: nobody may change it
// afterwards.
func NewExplainer(objs *Objects) *Explainer { return &Explainer{know(objs, "", Local{})} }

// Explain is the function of that name.
func (e *Explainer) Explain(from, to string, port uint16, protocol Protocol) (Decision, error) {
	k := e.k
	source, err := k.named(from)
	if err != nil {
		return Decision{}, fmt.Errorf("explain flow from %s: %w", from, err)
	}
	target, err := k.named(to)
	if err != nil {
		return Decision{}, fmt.Errorf("explain flow to %s: %w", to, err)
	}
	protocol = k.echoBetween(&source, &target, protocol)
	d := Decision{Allowed: true}
	add := func(r Ruling) {
		d.Rulings = append(d.Rulings, r)
		d.Allowed = d.Allowed && r.Allowed
	}
	if source.pod != nil && source.pod == target.pod {
		// A pod never blocks itself.
		return d, nil
	}
	switch {
	case source.pod != nil:
		add(k.rule(Egress, source.pod, target, protocol, port))
	case k.guards(source.name) && !(target.pod != nil && k.onNodeOf(source, target.pod)) && target.name != source.name:
		add(k.ruleNode(Egress, source.name, target, protocol, port))
	}
	switch {
	case target.pod != nil && !k.onNodeOf(source, target.pod):
		add(k.rule(Ingress, target.pod, source, protocol, port))
	case target.pod == nil && k.guards(target.name) && target.name != source.name:
		add(k.ruleNode(Ingress, target.name, source, protocol, port))
	}
	return d, nil
}

// echoBetween gives the protocol of an echo request between two parties, and has
// them speak by addresses of that family.
func (k *knowledge) echoBetween(source, target *party, protocol Protocol) Protocol {
	if !isICMP(protocol) {
		return protocol
	}
	other := ProtocolICMP + ProtocolICMPv6 - protocol
	for _, protocol := range []Protocol{protocol, other} {
		from, found := k.addressIn(source, protocol == ProtocolICMP)
		to, foundToo := k.addressIn(target, protocol == ProtocolICMP)
		if found && foundToo {
			source.addr, target.addr = from, to
			return protocol
		}
	}
	return protocol
}

// addressIn is a party's address of one family; the one that it was named by, if
// it was.
func (k *knowledge) addressIn(p *party, v4 bool) (netip.Addr, bool) {
	if p.addr.IsValid() && p.addr.Is4() == v4 {
		return p.addr, true
	}
	for _, addr := range k.addresses[p.pod] {
		if addr.Is4() == v4 {
			return addr, true
		}
	}
	for addr, name := range k.nodeOf {
		if p.pod == nil && p.node && name == p.name && addr.Is4() == v4 {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// onNodeOf is whether a party is the pod's own node, which no policy shuts out.
func (k *knowledge) onNodeOf(p party, pod *corev1.Pod) bool {
	if !p.node {
		return false
	}
	return p.name == pod.Spec.NodeName || pod.Spec.NodeName == "" && len(k.objs.Nodes) < 2
}

func (k *knowledge) named(name string) (party, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		return k.party(addr), nil
	}
	if pod := k.objs.Pods[name]; pod != nil {
		if pod.Spec.HostNetwork {
			p := party{node: true, name: pod.Spec.NodeName}
			if addrs := addressesIn(pod); len(addrs) > 0 {
				p.addr = addrs[0]
			}
			return p, nil
		}
		p := party{pod: pod}
		if addrs := addressesIn(pod); len(addrs) > 0 {
			p.addr = addrs[0]
		}
		return p, nil
	}
	for addr, node := range k.nodeOf {
		if node == name {
			return k.party(addr), nil
		}
	}
	return party{}, fmt.Errorf("neither an address, a pod (namespace/name) nor a node: %w", ErrNotFound)
}
