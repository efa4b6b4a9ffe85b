// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Cilium's policies are made again together: when one of them changes, when
// identities come or go, and when a pod does so in a block that one names, which is
// told of it.

// takeCilium makes the compiler know Cilium's policies that have changed. It is not
// ok where others have to do with that.
func (i *Incremental) takeCilium(change *change, a *again) bool {
	c := i.c
	had := c.hasCilium()
	if !takeEach(i, a, c.objs.CiliumNetworkPolicies, change.cilium) || !takeEach(i, a, c.objs.CiliumClusterwideNetworkPolicies, change.ciliumCluster) {
		return i.no("a policy of Cilium's names services or the API's servers")
	}
	for _, policy := range change.cilium {
		if policy != nil && !i.hasNamespace(policy, change) {
			return i.no("a policy is of a namespace that is not there")
		}
	}
	if had != c.hasCilium() {
		return i.no("the first policy of Cilium's comes, or the last one goes") // services' labels mean others then
	}
	a.ofCilium = len(change.cilium)+len(change.ciliumCluster) > 0
	return true
}

func takeEach[T object](i *Incremental, a *again, objs, changed map[string]T) bool {
	var none T
	for key, policy := range changed {
		before := objs[key]
		if before != none && !isOfLabelsAndBlocks(before) || policy != none && !isOfLabelsAndBlocks(policy) {
			return false
		}
		a.nameless = a.nameless || before != none && namesNameless(before) || policy != none && namesNameless(policy)
		put(objs, key, policy)
		renameBlocks(i, &a.blocks, before, policy)
	}
	return true
}

// isOfLabelsAndBlocks is whether a policy of Cilium's is about nobody but by labels,
// blocks of addresses, and entities but for the API's servers.
func isOfLabelsAndBlocks(policy metav1.Object) bool {
	one := manifest.NewObjects()
	_ = one.Upsert(policy) // it is of a kind that is kept
	for _, spec := range eachCiliumSpec(one) {
		for _, entry := range spec.entries() {
			if len(entry.services) > 0 {
				return false
			}
		}
	}
	return !namesServers(one)
}

// readsServices is whether policies of Cilium's know of services what has changed:
// whom a service stands for, and labels of its selector.
func (i *Incremental) readsServices(change *change) bool {
	objs := i.c.objs
	if len(objs.CiliumNetworkPolicies)+len(objs.CiliumClusterwideNetworkPolicies) == 0 || len(change.services)+len(change.slices) == 0 {
		return false
	}
	for key, svc := range change.services {
		for _, version := range []*corev1.Service{objs.Services[key], svc} {
			if version != nil && selectsNameless(version) {
				return true
			}
		}
	}
	for _, spec := range eachCiliumSpec(objs) {
		if slices.ContainsFunc(spec.entries(), func(entry ciliumEntry) bool { return len(entry.services) > 0 }) {
			return true
		}
	}
	return false
}

func selectsNameless(svc *corev1.Service) bool {
	for key := range svc.Spec.Selector {
		if slices.ContainsFunc(namelessLabels(), func(nameless string) bool { return strings.Contains(key, nameless) }) {
			return true
		}
	}
	return false
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

// someoneIn gives the pod of the first name that has an address in a block, and its
// first address there.
func (c *compiler) someoneIn(cidr netip.Prefix) (found *compiledPod, at netip.Addr) {
	look := func(pod *compiledPod) {
		if n := slices.IndexFunc(pod.addresses, cidr.Contains); n >= 0 && (found == nil || pod.name < found.name) {
			found, at = pod, pod.addresses[n]
		}
	}
	if c.pods != nil {
		for _, pod := range c.pods {
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
		if pod := c.podAt[a.Prefix.Addr()]; pod != nil && a.Prefix.IsSingleIP() {
			look(c.kept.people.made[manifest.NameOf(pod)])
		}
	}
	return found, at
}
