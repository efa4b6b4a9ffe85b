// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// change is what is to be made again: by their keys, objects that are others, as
// they are now; nil: gone.
type change struct {
	namespaces    map[string]*corev1.Namespace
	nodes         map[string]*corev1.Node
	pods          map[string]*corev1.Pod
	services      map[string]*corev1.Service
	slices        map[string]*discoveryv1.EndpointSlice
	policies      map[string]*networkingv1.NetworkPolicy
	cluster       map[string]*policyv1alpha2.ClusterNetworkPolicy
	cilium        map[string]*manifest.CiliumNetworkPolicy
	ciliumCluster map[string]*manifest.CiliumClusterwideNetworkPolicy
	workloads     map[model.Key]*manifest.Workload
}

// walk names all that is another object than it was, or gone.
func walk(was, is *manifest.Objects) []model.Ref {
	return slices.Concat(
		differing(was.Namespaces, is.Namespaces), differing(was.Nodes, is.Nodes), differing(was.Pods, is.Pods),
		differing(was.Services, is.Services), differing(was.EndpointSlices, is.EndpointSlices),
		differing(was.NetworkPolicies, is.NetworkPolicies), differing(was.ClusterNetworkPolicies, is.ClusterNetworkPolicies),
		differing(was.CiliumNetworkPolicies, is.CiliumNetworkPolicies),
		differing(was.CiliumClusterwideNetworkPolicies, is.CiliumClusterwideNetworkPolicies),
		differing(was.Workloads, is.Workloads),
	)
}

// differing names those that are other objects than they were, or gone.
func differing[K comparable, T object](was, is map[K]T) (refs []model.Ref) {
	found := 0
	for key, now := range is {
		before, there := was[key]
		if there {
			found++
		}
		if before != now {
			refs = append(refs, manifest.RefOf(now))
		}
	}
	if found == len(was) {
		return refs
	}
	for key, gone := range was {
		if _, there := is[key]; !there {
			refs = append(refs, manifest.RefOf(gone))
		}
	}
	return refs
}

// set adds what an object is now, nil where it is gone, if it was something else.
func (ch *change) set(was *manifest.Objects, ref model.Ref, now metav1.Object) {
	if manifest.IsWorkload(ref) {
		setOne(&ch.workloads, was.Workloads, ref.Owner(), now)
		return
	}
	switch key := ref.Key(); ref.Kind {
	case "Namespace":
		setOne(&ch.namespaces, was.Namespaces, key, now)
	case "Node":
		setOne(&ch.nodes, was.Nodes, key, now)
	case "Pod":
		setOne(&ch.pods, was.Pods, key, now)
	case "Service":
		setOne(&ch.services, was.Services, key, now)
	case "EndpointSlice":
		setOne(&ch.slices, was.EndpointSlices, key, now)
	case "NetworkPolicy":
		setOne(&ch.policies, was.NetworkPolicies, key, now)
	case "ClusterNetworkPolicy":
		setOne(&ch.cluster, was.ClusterNetworkPolicies, key, now)
	case "CiliumNetworkPolicy":
		setOne(&ch.cilium, was.CiliumNetworkPolicies, key, now)
	case "CiliumClusterwideNetworkPolicy":
		setOne(&ch.ciliumCluster, was.CiliumClusterwideNetworkPolicies, key, now)
	}
}

func setOne[K, T comparable](changed *map[K]T, was map[K]T, key K, object metav1.Object) {
	now, _ := object.(T)
	if before := was[key]; before == now || reflect.DeepEqual(before, now) {
		return
	}
	if *changed == nil {
		*changed = map[K]T{}
	}
	(*changed)[key] = now
}

// touch has a pod made again that is the same object as before.
func (ch *change) touch(key string, pod *corev1.Pod) { touch(&ch.pods, key, pod) }

// touchParty has whoever has addresses made again.
func (ch *change) touchParty(p *party) {
	switch object := p.object.(type) {
	case *corev1.Pod:
		ch.touch(p.name.String(), object)
	case *manifest.Workload:
		touch(&ch.workloads, p.name, object)
	}
}

func touch[K comparable, T any](all *map[K]T, key K, object T) {
	if *all == nil {
		*all = map[K]T{}
	}
	if _, changed := (*all)[key]; !changed {
		(*all)[key] = object
	}
}

// object is a pointer to one.
type object interface {
	comparable
	metav1.Object
}

// complains is whether an object that has changed is refused by itself. What is told
// of annotations is asked again.
func (i *Incremental) complains(ch *change, m *moves) bool {
	k := i.c.kept
	of := func(kind string) func(string) model.Ref {
		return func(key string) model.Ref {
			name := model.ParseKey(key)
			return model.Ref{Kind: kind, Namespace: name.Namespace, Name: name.Name}
		}
	}
	ofOwner := func(key model.Key) model.Ref { return key.Ref() }
	return complain(k, of("Namespace"), ch.namespaces, m) || complain(k, of("Node"), ch.nodes, m) || complain(k, of("Pod"), ch.pods, m) ||
		complain(k, of("Service"), ch.services, m) || complain(k, of("EndpointSlice"), ch.slices, m) ||
		complain(k, of("NetworkPolicy"), ch.policies, m) || complain(k, of("ClusterNetworkPolicy"), ch.cluster, m) ||
		complain(k, of("CiliumNetworkPolicy"), ch.cilium, m) || complain(k, of("CiliumClusterwideNetworkPolicy"), ch.ciliumCluster, m) ||
		complain(k, ofOwner, ch.workloads, m)
}

func complain[K comparable, T object](k *kept, refOf func(K) model.Ref, now map[K]T, m *moves) bool {
	var none T
	for key, one := range now {
		at := refOf(key)
		_, was := k.ofAnnotations[at]
		if delete(k.ofAnnotations, at); one != none {
			if !k.c.valid && len(manifest.Validate(one)) > 0 {
				return true
			}
			keep(k.ofAnnotations, at, k.telling(func() { k.c.warnOfAnnotations(one) }))
		}
		_, is := k.ofAnnotations[at]
		m.told = m.told || was || is
	}
	return false
}

// annotatedInOrder gives those of which something is told, as validate finds them.
func (k *kept) annotatedInOrder() []model.Ref {
	return slices.SortedFunc(maps.Keys(k.ofAnnotations), manifest.CompareRefs)
}
