// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weirnet/weir/model/manifest"
)

// mentions counts how often addresses are named by objects and by the node: a
// ClusterIP that nobody else names comes and goes without a dispute, and so does
// a pod's address that nobody but slices names.
type mentions map[netip.Addr]mention

type mention struct{ slices, others int }

func (m mention) any() bool { return m != mention{} }

// countMentions counts all that a compiler was given.
func countMentions(c *compiler) mentions {
	m := mentions{}
	for _, addr := range slices.Concat(c.local.Gateways, c.local.Addresses, c.self.Addresses, c.self.Gateways) {
		m.add(addr, 1)
	}
	for _, node := range c.objs.Nodes {
		for _, v := range c.vouchedBy(node) {
			m.add(v.addr, 1)
		}
	}
	for _, pod := range c.objs.Pods {
		for _, addr := range claimsOf(pod) {
			m.add(addr, 1)
		}
	}
	for block := range c.blocks {
		m.single(block)
	}
	for block := range c.named {
		m.single(block)
	}
	for _, block := range c.nativePrefixes() {
		m.single(block)
	}
	for _, slice := range c.objs.EndpointSlices {
		m.slice(slice, 1)
	}
	for _, svc := range c.objs.Services {
		m.service(svc, 1)
	}
	return m
}

func (m mentions) single(block netip.Prefix) {
	if block.IsSingleIP() {
		m.add(block.Addr(), 1)
	}
}

func (m mentions) add(addr netip.Addr, times int) {
	now := m[addr]
	now.others += times
	m.put(addr, now)
}

func (m mentions) put(addr netip.Addr, now mention) {
	if m[addr] = now; !now.any() {
		delete(m, addr)
	}
}

func (m mentions) text(text string, times int) {
	if addr, err := manifest.ParseLegacyAddr(text); err == nil {
		m.add(addr, times)
	}
}

func (m mentions) slice(slice *discoveryv1.EndpointSlice, times int) {
	for i := range slice.Endpoints {
		for _, text := range slice.Endpoints[i].Addresses {
			if addr, err := manifest.ParseLegacyAddr(text); err == nil {
				now := m[addr]
				now.slices += times
				m.put(addr, now)
			}
		}
	}
}

func (m mentions) service(svc *corev1.Service, times int) {
	for _, addr := range manifest.ClusterIPsOf(svc) {
		m.add(addr, times)
	}
	for _, text := range svc.Spec.ExternalIPs {
		m.text(text, times)
	}
	for i := range svc.Status.LoadBalancer.Ingress {
		m.text(svc.Status.LoadBalancer.Ingress[i].IP, times)
	}
}

// takeIn makes the compiler know what has changed, as far as it read it before
// it came to services, and gives the addresses of those that came or went. It
// is nil where others have to do with that.
func (i *Incremental) takeIn(change *change) map[netip.Addr]bool {
	c := i.c
	for key, slice := range change.slices {
		before := c.objs.EndpointSlices[key]
		if isOfServers(key, before) || isOfServers(key, slice) {
			i.no("the API's servers have changed")
			return nil
		}
	}
	addressed := map[netip.Addr]bool{}
	moved := map[string]bool{} // services whose claims to addresses are others
	for key, svc := range change.services {
		before := c.objs.Services[key]
		was, is := clusterIPs(before), clusterIPs(svc)
		for _, addr := range slices.Concat(was, is) {
			addressed[addr] = true
		}
		if slices.Equal(was, is) && (before == nil || svc == nil || compareAge(before, svc) == 0) {
			for _, addr := range is {
				if c.clusterAt[addr] == before {
					c.clusterAt[addr] = svc
				}
			}
			continue
		}
		moved[key] = true
		if !isDistinct(was) || !isDistinct(is) {
			i.no("a service names an address twice")
			return nil
		}
	}
	if len(moved) > 0 && i.mentions == nil {
		i.mentions = countMentions(c)
	}
	if i.mentions != nil && !i.move(change, moved) {
		return nil
	}
	return addressed
}

// move counts what is mentioned anew, and lets addresses come and go that nobody
// else mentions. It is false where somebody does.
func (i *Incremental) move(change *change, moved map[string]bool) bool {
	c := i.c
	for key, slice := range change.slices {
		if before := c.objs.EndpointSlices[key]; before != nil {
			i.mentions.slice(before, -1)
		}
		if slice != nil {
			i.mentions.slice(slice, 1)
		}
	}
	for key, svc := range change.services {
		if before := c.objs.Services[key]; before != nil {
			i.mentions.service(before, -1)
		}
		if svc != nil && !moved[key] {
			i.mentions.service(svc, 1) // it may have lost the address of one that moves
		}
	}
	for key := range moved {
		for _, addr := range clusterIPs(c.objs.Services[key]) {
			if i.mentions[addr].any() || c.clusterAt[addr] != c.objs.Services[key] {
				return i.no("another object names a service's address") // it was told of the loss
			}
			delete(c.clusterAt, addr)
			delete(c.owners, addr)
		}
	}
	for key, svc := range change.services {
		if svc == nil || !moved[key] {
			continue
		}
		for _, addr := range clusterIPs(svc) {
			if i.mentions[addr].any() {
				return i.no("another object names a service's address")
			}
			c.clusterAt[addr], c.owners[addr] = svc, ownerOf(svc)
		}
		i.mentions.service(svc, 1)
	}
	return true
}

// isOfServers is whether a slice says where the API's servers are.
func isOfServers(key string, slice *discoveryv1.EndpointSlice) bool {
	return key == apiService || slice != nil && manifest.ServiceOf(slice) == apiService
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	if svc == nil {
		return nil
	}
	return manifest.ClusterIPsOf(svc)
}

func isDistinct(addrs []netip.Addr) bool {
	seen := map[netip.Addr]bool{}
	for _, addr := range addrs {
		if seen[addr] {
			return false
		}
		seen[addr] = true
	}
	return true
}
