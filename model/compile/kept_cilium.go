// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Cilium's policies are made again together: when one of them changes, when
// identities come or go, and when a pod does so in a block that one names, which is
// told of it.

// takeServers notes that the API's servers are others, before the slices that say
// where they are.
func (i *Incremental) takeServers(change *change, a *again, m *moves) {
	c := i.c
	for key, slice := range change.slices {
		before := c.objs.EndpointSlices[key]
		for _, version := range []*discoveryv1.EndpointSlice{before, slice} {
			if !isOfServers(key, version) || version == nil {
				continue
			}
			i.met("the API's servers")
			a.servers = true
			for _, addr := range addressesOf(version) {
				m.sockets[addr], m.addressed[addr] = true, true
			}
		}
	}
	if a.servers && c.hasCilium() {
		i.nameServers(a, -1)
	}
}

// nameServers counts the blocks that are told apart for all policies of Cilium's, once
// more or once less.
func (i *Incremental) nameServers(a *again, times int) {
	for _, prefix := range i.c.blocksOfServers() {
		a.blocks.named[prefix] = true
		count(i.c.kept.blocks.prefixes, prefix, times)
	}
}

// blocksOfServers are the blocks that are told apart for all policies of Cilium's: the
// API's servers, and the families of the world, which have entities of their own.
func (c *compiler) blocksOfServers() []netip.Prefix {
	all := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	for addr := range c.apiServers() {
		all = append(all, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return all
}

// takeCilium makes the compiler know Cilium's policies that have changed. Those that
// name services are read again where one of these has. It is not ok where others have
// to do with that.
func (i *Incremental) takeCilium(change *change, a *again, m *moves) bool {
	c := i.c
	had := c.hasCilium()
	for _, policy := range change.cilium {
		if policy != nil && !i.hasNamespace(policy, change) {
			return i.no("a policy is of a namespace that is not there")
		}
	}
	takeEach(i, a, m, c.objs.CiliumNetworkPolicies, change.cilium)
	takeEach(i, a, m, c.objs.CiliumClusterwideNetworkPolicies, change.ciliumCluster)
	has := c.hasCilium()
	if had && !has && !a.servers {
		i.nameServers(a, -1)
	} else if has && (!had || a.servers) {
		i.nameServers(a, 1)
	}
	if had != has {
		i.met("the first policy of Cilium's comes, or the last one goes")
	}
	// With them, labels that services select by tell pods apart.
	a.nameless = a.nameless || had != has || (had || has) && len(change.services) > 0
	if a.servers && has && namesServers(c.objs) {
		m.regroupNodes = true
	}
	a.ofCilium = a.ofCilium || a.servers || len(change.cilium)+len(change.ciliumCluster) > 0
	if has && len(change.services)+len(change.slices) > 0 {
		readServices(i, a, c.objs.CiliumNetworkPolicies)
		readServices(i, a, c.objs.CiliumClusterwideNetworkPolicies)
	}
	return true
}

func takeEach[T object](i *Incremental, a *again, m *moves, objs, changed map[string]T) {
	var none T
	for key, policy := range changed {
		before := objs[key]
		for _, version := range []T{before, policy} {
			if version != none {
				a.nameless = a.nameless || namesNameless(version)
				m.regroupNodes = m.regroupNodes || namesServers(alone(version))
			}
		}
		put(objs, key, policy)
		renameBlocks(i, &a.blocks, before, policy)
	}
}

// readServices has policies be read again that name services.
func readServices[T object](i *Incremental, a *again, policies map[string]T) {
	for _, policy := range policies {
		for _, spec := range eachCiliumSpec(alone(policy)) {
			if slices.ContainsFunc(spec.entries(), func(entry ciliumEntry) bool { return len(entry.services) > 0 }) {
				i.met("a policy of Cilium's reads services")
				renameBlocks(i, &a.blocks, policy, policy)
				a.ofCilium = true
				break
			}
		}
	}
}

// alone are objects of which a policy is the only one.
func alone(policy metav1.Object) *manifest.Objects {
	one := manifest.NewObjects()
	_ = one.Upsert(policy) // it is of a kind that is kept
	return one
}

// ciliumAgain makes all of Cilium's policies again.
func (k *kept) ciliumAgain() {
	forget := func() {
		for _, p := range k.cilium {
			k.forgetSets(p)
		}
	}
	forget()
	k.ofCilium = k.telling(func() { k.cilium = k.c.ciliumPolicies() })
	for _, p := range k.cilium {
		k.c.readDenials(p)
	}
	forget()
}

// holdMoved is whether a block of Cilium's policies holds an address that came or
// went.
func (i *Incremental) holdMoved(m *moves) bool {
	c := i.c
	if len(c.objs.CiliumNetworkPolicies)+len(c.objs.CiliumClusterwideNetworkPolicies) == 0 || len(m.removed)+len(m.added) == 0 {
		return false
	}
	holds := func(a model.Address) bool {
		return slices.ContainsFunc(c.blocksInOrder, func(block netip.Prefix) bool { return block.Bits() > 0 && block.Contains(a.Prefix.Addr()) })
	}
	return slices.ContainsFunc(m.removed, holds) || slices.ContainsFunc(m.added, holds)
}

// someoneIn gives the pod, or the workload, of the first name that has an address in
// a block, and its first address there.
func (c *compiler) someoneIn(cidr netip.Prefix) (found *party, at netip.Addr) {
	look := func(pod *party) {
		if n := slices.IndexFunc(pod.addresses, cidr.Contains); n >= 0 && (found == nil || pod.name.Compare(found.name) < 0) {
			found, at = pod, pod.addresses[n]
		}
	}
	if c.parties != nil {
		for _, pod := range c.parties {
			look(pod)
		}
		return found, at
	}
	if c.kept == nil || c.kept.people == nil {
		return nil, netip.Addr{}
	}
	for a := range c.listed.From(func(a *model.Address) int { return a.Prefix.Addr().Compare(cidr.Addr()) }) {
		if !cidr.Contains(a.Prefix.Addr()) {
			break
		}
		if who := c.partyAt(a.Prefix.Addr()); who != nil && a.Prefix.IsSingleIP() {
			look(who)
		}
	}
	return found, at
}
