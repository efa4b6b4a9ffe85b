// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Decision is what the policies of both ends say of a flow.
type Decision struct {
	Allowed bool
	// Rulings are those of the opener's egress and of the target's ingress,
	// as far as these are pods, or nodes that policies select.
	Rulings []Ruling
}

// Denial is the ruling that denies the flow, the opener's before the target's; nil where
// none does.
func (d *Decision) Denial() *Ruling {
	for i := range d.Rulings {
		if !d.Rulings[i].Allowed() {
			return &d.Rulings[i]
		}
	}
	return nil
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
// which policies and rules. Both are namespace/name of a pod, the key of a
// workload, the name of a node, or an address; port is 0 for protocols that have none. Who is named
// speaks by an address of the other end's family, where both have two by the
// first of the sender's; ProtocolICMP and ProtocolICMPv6 are an echo request, of
// the family of which they speak, and of their own where they have both. It
// fails with ErrNotFound for a name that is not among the objects.
//
// Only policy is asked: neither services nor routes, and every pod's policy,
// whichever node it is on.
func Explain(objs *manifest.Objects, from, to string, port uint16, protocol model.Protocol) (Decision, error) {
	return NewExplainer(objs).Explain(from, to, port, protocol)
}

// Explainer answers many questions about the same objects. It is for one
// goroutine at a time.
type Explainer struct{ k *knowledge }

// NewExplainer gives an Explainer, which keeps objs: nobody may change it
// afterwards.
func NewExplainer(objs *manifest.Objects) *Explainer {
	return &Explainer{know(objs, "", model.Local{})}
}

// Explain is the function of that name.
func (e *Explainer) Explain(from, to string, port uint16, protocol model.Protocol) (Decision, error) {
	k := e.k
	source, err := k.named(from)
	if err != nil {
		return Decision{}, fmt.Errorf("explain flow from %s: %w", from, err)
	}
	target, err := k.named(to)
	if err != nil {
		return Decision{}, fmt.Errorf("explain flow to %s: %w", to, err)
	}
	protocol = k.meet(&source, &target, isAddress(from), isAddress(to), protocol)
	d := Decision{Allowed: true}
	add := func(r Ruling) {
		d.Rulings = append(d.Rulings, r)
		d.Allowed = d.Allowed && r.Allowed()
	}
	if source.pod != nil && source.pod == target.pod {
		// A pod never blocks itself.
		return d, nil
	}
	switch {
	case source.pod != nil:
		add(k.rule(model.Egress, source.pod, target, protocol, port))
	case k.guards(source.name) && !(target.pod != nil && k.onNodeOf(source, target.pod)) && target.name != source.name:
		add(k.ruleNode(model.Egress, source.name, target, protocol, port))
	}
	switch {
	case target.pod != nil && !k.onNodeOf(source, target.pod):
		add(k.rule(model.Ingress, target.pod, source, protocol, port))
	case target.pod == nil && k.guards(target.name) && target.name != source.name:
		add(k.ruleNode(model.Ingress, target.name, source, protocol, port))
	}
	return d, nil
}

// Isolating are the policies that isolate who has an address, in order: what no rule
// allows is denied there because of them. Nil where nobody among the objects has it.
func (e *Explainer) Isolating(who netip.Addr, direction model.Direction) []model.PolicyRef {
	p := e.k.party(who)
	q := question{direction: direction, subject: p.pod, node: p.name}
	switch {
	case p.pod != nil:
		q.node = p.pod.Spec.NodeName
	case !p.node:
		return nil
	}
	policies := e.k.isolating(&q)
	slices.SortFunc(policies, byText)
	return slices.Compact(policies)
}

func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// meet has two parties speak by addresses of one family. A party that is named by
// its address keeps it. It gives the protocol of that family.
func (k *knowledge) meet(source, target *party, keepSource, keepTarget bool, protocol model.Protocol) model.Protocol {
	first := !source.addr.IsValid() || source.addr.Is4()
	if isICMP(protocol) {
		first = protocol == model.ProtocolICMP
	}
	for _, v4 := range []bool{first, !first} {
		if keepSource && source.addr.Is4() != v4 || keepTarget && target.addr.Is4() != v4 {
			continue
		}
		from, found := k.addressIn(source, v4)
		to, foundToo := k.addressIn(target, v4)
		if !found || !foundToo {
			continue
		}
		source.addr, target.addr = from, to
		switch {
		case !isICMP(protocol):
			return protocol
		case v4:
			return model.ProtocolICMP
		}
		return model.ProtocolICMPv6
	}
	return protocol
}

// addressIn is a party's address of one family; the one that it has by now, if
// it is.
func (k *knowledge) addressIn(p *party, v4 bool) (netip.Addr, bool) {
	if p.addr.IsValid() && p.addr.Is4() == v4 {
		return p.addr, true
	}
	addrs := k.addresses[p.pod]
	switch {
	case p.workload != nil:
		addrs = p.workload.Addresses
	case p.pod == nil && p.node:
		addrs = k.addressesOfNode(p.name)
	}
	for _, addr := range addrs {
		if addr.Is4() == v4 {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// addressesOfNode are those that a node's object lists, in its order.
func (k *knowledge) addressesOfNode(name string) []netip.Addr {
	var addrs []netip.Addr
	if node := k.objs.Nodes[name]; node != nil {
		for _, a := range node.Status.Addresses {
			if addr, ok := looseAddr(a.Address); ok && k.nodeOf[addr] == name {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
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
		p := party{pod: pod, as: pod}
		if addrs := addressesIn(pod); len(addrs) > 0 {
			p.addr = addrs[0]
		}
		return p, nil
	}
	if w := k.objs.Workloads[model.ParseKey(name)]; w != nil && len(w.Addresses) > 0 {
		return k.party(w.Addresses[0]), nil
	}
	if addrs := k.addressesOfNode(name); len(addrs) > 0 {
		return k.party(addrs[0]), nil
	}
	return party{}, fmt.Errorf("neither an address, a pod (namespace/name) nor a node: %w", manifest.ErrNotFound)
}

func isICMP(p model.Protocol) bool { return p == model.ProtocolICMP || p == model.ProtocolICMPv6 }
