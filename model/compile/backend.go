// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// compiledBackend is who serves one port of a service in one family, before
// any policy has been asked who gets new flows.
type compiledBackend struct {
	at       netip.AddrPort
	weight   uint16
	ready    bool // takes new flows
	retiring bool // serves while it is being terminated
	local    bool // on this node
	zones    []string
	nodes    []string
}

// usefulness orders what is said of one server: who is ready is used before who
// serves to its end, and that one before all others.
func (b *compiledBackend) usefulness() int {
	switch {
	case b.ready:
		return 2
	case b.retiring:
		return 1
	}
	return 0
}

// distinct gives every server once: while it moves from one slice to another, it is
// in both, or an old entry is left of it. What is said of it is what those entries
// say that are the most useful: where it is, and for whom, is not taken from one
// that is not used.
func distinct(entries []compiledBackend) []compiledBackend {
	if areDistinct(entries) {
		return entries
	}
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, func(a, b compiledBackend) int { return a.at.Compare(b.at) })
	backends := sorted[:0]
	for _, entry := range sorted {
		if len(backends) == 0 || backends[len(backends)-1].at != entry.at {
			backends = append(backends, entry)
			continue
		}
		b := &backends[len(backends)-1]
		switch {
		case entry.usefulness() > b.usefulness():
			*b = entry
		case entry.usefulness() == b.usefulness():
			b.local = b.local || entry.local
			b.zones = slices.Concat(b.zones, entry.zones)
			b.nodes = slices.Concat(b.nodes, entry.nodes)
		}
	}
	return backends
}

// areDistinct is whether entries are what distinct makes of them, as most are.
func areDistinct(entries []compiledBackend) bool {
	for i := 1; i < len(entries); i++ {
		if entries[i-1].at.Compare(entries[i].at) >= 0 {
			return false
		}
	}
	return true
}

// readBackends gives who serves a port in one family, entry by entry. The next call
// writes over it.
func (c *compiler) readBackends(endpoints []*discoveryv1.EndpointSlice, family discoveryv1.AddressType, port corev1.ServicePort) []compiledBackend {
	entries := c.entries[:0]
	for _, slice := range endpoints {
		number, has := numberIn(slice, port)
		if slice.AddressType != family || !has {
			continue
		}
		for i := range slice.Endpoints {
			// The API asks for one address an endpoint, and leaves open what
			// others would mean.
			addr, err := manifest.ParseLegacyAddr(slice.Endpoints[i].Addresses[0])
			if err != nil || c.serviceAt(addr) != nil || !manifest.ReachesHost(addr) {
				continue
			}
			entries = append(entries, c.readBackend(&slice.Endpoints[i], netip.AddrPortFrom(addr, number), manifest.NamespaceOr(slice.Namespace)))
		}
	}
	c.entries = entries
	return entries
}

func (c *compiler) readBackend(endpoint *discoveryv1.Endpoint, at netip.AddrPort, namespace string) compiledBackend {
	conditions := endpoint.Conditions
	backend := compiledBackend{
		at:       at,
		ready:    ptr.Deref(conditions.Ready, true),
		retiring: ptr.Deref(conditions.Serving, true) && ptr.Deref(conditions.Terminating, false),
		local:    ptr.Deref(endpoint.NodeName, "") == c.node,
	}
	if pod := c.podBehind(endpoint, at.Addr(), namespace); pod != nil {
		backend.weight, _ = manifest.WeightOf(pod) // Validate has complained
		if endpoint.NodeName == nil && pod.Spec.NodeName == "" {
			backend.local = len(c.objs.Nodes) <= 1 // as all pods are then
		}
	}
	if endpoint.Hints != nil {
		for _, zone := range endpoint.Hints.ForZones {
			backend.zones = append(backend.zones, zone.Name)
		}
		for _, node := range endpoint.Hints.ForNodes {
			backend.nodes = append(backend.nodes, node.Name)
		}
	}
	return backend
}

// podBehind gives the pod that an endpoint is, by its name or else by its
// address; nil for who is none.
func (c *compiler) podBehind(endpoint *discoveryv1.Endpoint, addr netip.Addr, namespace string) *corev1.Pod {
	if ref := endpoint.TargetRef; ref != nil && ref.Kind == "Pod" {
		return c.objs.Pods[cmp.Or(ref.Namespace, namespace)+"/"+ref.Name]
	}
	return c.podAt[addr]
}

// clusterBackends is whom a port leads to that may lead to any node: where
// hints are obeyed, new flows go to those that are meant for this node.
func (c *compiler) clusterBackends(all []compiledBackend) []model.Backend {
	all = distinct(all)
	return backendsFor(all, c.hinted(all))
}

// anybody is whether somebody would take a new flow, on whatever node.
func anybody(all []compiledBackend) bool {
	for i := range all {
		if all[i].usefulness() > 0 {
			return true
		}
	}
	return false
}

// localBackends is whom a port leads to that stays on this node. Those elsewhere
// keep the flows that they have: the policy may be newer than these.
func localBackends(all []compiledBackend) []model.Backend {
	var here []compiledBackend
	isHere := map[netip.AddrPort]bool{}
	for _, backend := range all {
		if backend.local {
			here = append(here, backend)
			isHere[backend.at] = true
		}
	}
	backends := backendsFor(distinct(here), anyBackend)
	for _, backend := range distinct(all) {
		if !isHere[backend.at] {
			backends = append(backends, model.Backend{Address: backend.at.Addr(), Port: backend.at.Port(), Weight: backend.weight, Terminating: true})
		}
	}
	slices.SortFunc(backends, func(a, b model.Backend) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	return backends
}

// backendsFor chooses who gets new flows: those that are ready and fit, or,
// where nobody is ready, those that serve to their end (KEP-1669). Everybody
// else that is listed keeps the flows that it has: one that is not ready, or
// that hints lead others to by now, may well answer on.
func backendsFor(all []compiledBackend, fits func(*compiledBackend) bool) []model.Backend {
	eligible := func(b *compiledBackend) bool { return b.ready && fits(b) }
	if !hasReady(all) {
		eligible = func(b *compiledBackend) bool { return b.retiring }
	}
	if len(all) == 0 {
		return nil
	}
	backends := make([]model.Backend, len(all))
	for i := range all {
		b := &all[i]
		backends[i] = model.Backend{Address: b.at.Addr(), Port: b.at.Port(), Weight: b.weight, Terminating: !eligible(b)}
	}
	return backends
}

func hasReady(all []compiledBackend) bool {
	for i := range all {
		if all[i].ready {
			return true
		}
	}
	return false
}

func anyBackend(*compiledBackend) bool { return true }

// hinted says who is meant for this node by the hints of the slices. As
// kube-proxy has it, they are obeyed when everybody who is ready has one and
// somebody's is for this node; those by node are asked first. What distribution
// the service wants is for the writer of the hints to know (KEP-3015).
func (c *compiler) hinted(all []compiledBackend) func(*compiledBackend) bool {
	byNode := func(b *compiledBackend) []string { return b.nodes }
	if obeyed(all, byNode, c.node) {
		return func(b *compiledBackend) bool { return slices.Contains(b.nodes, c.node) }
	}
	byZone := func(b *compiledBackend) []string { return b.zones }
	if c.zone != "" && obeyed(all, byZone, c.zone) {
		return func(b *compiledBackend) bool { return slices.Contains(b.zones, c.zone) }
	}
	return anyBackend
}

func obeyed(all []compiledBackend, hints func(*compiledBackend) []string, here string) bool {
	fits := false
	for i := range all {
		if !all[i].ready {
			continue
		}
		if len(hints(&all[i])) == 0 {
			return false
		}
		fits = fits || slices.Contains(hints(&all[i]), here)
	}
	return fits
}

func numberIn(slice *discoveryv1.EndpointSlice, port corev1.ServicePort) (uint16, bool) {
	for _, p := range slice.Ports {
		if ptr.Deref(p.Name, "") == port.Name && manifest.ProtocolOr(ptr.Deref(p.Protocol, "")) == manifest.ProtocolOr(port.Protocol) && p.Port != nil {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}
