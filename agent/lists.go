// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// applied gives what is in force.
func (a *Agent) applied() *model.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// objects gives what it is made from. It may be newer than what is in force.
func (a *Agent) objects() *manifest.Objects {
	objs, _ := a.kept.cluster.snapshot(noRevision)
	return objs
}

func (a *Agent) listServices() []api.Service {
	list := []api.Service{}
	state := a.applied()
	if state == nil {
		return list
	}
	services := state.Services.With(state.Loopback...)
	for s := range services.All() {
		row := api.Service{
			Name: s.Name.String(), Kind: string(s.Kind), Scope: s.Scope.String(), Protocol: s.Protocol.String(),
			Address: netip.AddrPortFrom(s.Address, s.Port).String(), Backends: []string{},
		}
		for _, b := range s.Backends {
			row.Backends = append(row.Backends, netip.AddrPortFrom(b.Address, b.Port).String())
		}
		list = append(list, row)
	}
	return list
}

// listPolicies counts the rules that each policy has here.
func (a *Agent) listPolicies() []api.Policy {
	list := []api.Policy{}
	state, objs := a.applied(), a.objects()
	counts := map[model.PolicyRef]int{}
	if state != nil {
		for _, set := range state.RuleSets {
			for _, rule := range set.Rules {
				counts[rule.Origin.Policy]++
			}
		}
	}
	for _, policies := range [][]model.Ref{
		inOrder(objs.NetworkPolicies), inOrder(objs.ClusterNetworkPolicies),
		inOrder(objs.CiliumNetworkPolicies), inOrder(objs.CiliumClusterwideNetworkPolicies),
	} {
		for _, policy := range policies {
			list = append(list, api.Policy{Object: policy, Rules: counts[policy.Policy()]})
		}
	}
	return list
}

// inOrder gives the objects of one kind, sorted as their keys are.
func inOrder[T metav1.Object](objs map[string]T) (refs []model.Ref) {
	for _, key := range slices.Sorted(maps.Keys(objs)) {
		refs = append(refs, manifest.RefOf(objs[key]))
	}
	return refs
}

func (a *Agent) listIdentities() []api.Identity {
	state, objs := a.applied(), a.objects()
	if state == nil {
		return []api.Identity{}
	}
	at, inBlocks := map[netip.Addr]model.Identity{}, map[model.Identity][]netip.Addr{}
	of := map[model.Identity]model.Identity{}
	list := reservedIdentities()
	for addr := range state.Addresses.All() {
		if addr.Of != model.IdentityUnknown {
			inBlocks[addr.Identity] = append(inBlocks[addr.Identity], addr.Prefix.Addr())
			of[addr.Identity] = addr.Of
		}
		if addr.Prefix.IsSingleIP() {
			at[addr.Prefix.Addr()] = addr.Owner()
		}
		if addr.Owner() >= model.FirstBlockIdentity {
			list = append(list, api.Identity{Number: uint32(addr.Identity), Scope: api.ScopeLocal, Labels: "cidr:" + addr.Prefix.String(), Pods: []string{}})
		}
	}
	known := map[model.Identity]map[string]string{}
	for _, w := range a.identities.Wanted() {
		known[w.Number] = w.Labels.PodLabels
	}
	rows := map[model.Identity]*api.Identity{}
	for name, pod := range objs.Pods {
		number, found := identityOf(pod, at)
		if !found {
			continue
		}
		if rows[number] == nil {
			set, found := known[number]
			if !found {
				set = pod.Labels // it has another number by now
			}
			rows[number] = &api.Identity{Number: uint32(number), Scope: api.ScopeLocal, Namespace: pod.Namespace, Labels: labels.Set(set).String()}
			if a.shared != nil && number.IsShared() {
				rows[number].Scope = api.ScopeShared
			}
		}
		rows[number].Pods = append(rows[number].Pods, name)
	}
	for _, row := range rows {
		slices.Sort(row.Pods)
		list = append(list, *row)
	}
	for number, addrs := range inBlocks {
		text := fmt.Sprintf("identity:%d at %s", of[number], addrs[0])
		if len(addrs) > 1 {
			text += fmt.Sprintf(" and %d more", len(addrs)-1)
		}
		list = append(list, api.Identity{Number: uint32(number), Scope: api.ScopeLocal, Labels: text, Pods: []string{}})
	}
	slices.SortFunc(list, func(a, b api.Identity) int { return cmp.Compare(a.Number, b.Number) })
	return list
}

// reservedIdentities are those of who is no pod and has no address that a
// policy names.
func reservedIdentities() []api.Identity {
	var list []api.Identity
	for number, who := range map[model.Identity]string{
		model.IdentityHost: "host", model.IdentityWorld: "world", model.IdentityRemoteNode: "remote-node",
		model.IdentityUnmanaged: "unmanaged", model.IdentityHealth: "health",
	} {
		list = append(list, api.Identity{Number: uint32(number), Scope: api.ScopeReserved, Labels: "reserved:" + who, Pods: []string{}})
	}
	return list
}

func identityOf(pod *corev1.Pod, at map[netip.Addr]model.Identity) (model.Identity, bool) {
	if pod.Spec.HostNetwork {
		return 0, false
	}
	for _, ip := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if number, found := at[addr]; err == nil && found && number >= model.FirstLabelIdentity && number < model.FirstBlockIdentity {
			return number, true
		}
	}
	return 0, false
}
