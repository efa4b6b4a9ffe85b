// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
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
}

// walk names all that is another object than it was, or gone.
func walk(was, is *manifest.Objects) []model.Ref {
	return slices.Concat(
		differing(was.Namespaces, is.Namespaces), differing(was.Nodes, is.Nodes), differing(was.Pods, is.Pods),
		differing(was.Services, is.Services), differing(was.EndpointSlices, is.EndpointSlices),
		differing(was.NetworkPolicies, is.NetworkPolicies), differing(was.ClusterNetworkPolicies, is.ClusterNetworkPolicies),
		differing(was.CiliumNetworkPolicies, is.CiliumNetworkPolicies),
		differing(was.CiliumClusterwideNetworkPolicies, is.CiliumClusterwideNetworkPolicies),
	)
}

// differing names those that are other objects than they were, or gone.
func differing[T object](was, is map[string]T) (refs []model.Ref) {
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
	switch ref.Kind {
	case "Namespace":
		setOne(&ch.namespaces, was.Namespaces, ref, now)
	case "Node":
		setOne(&ch.nodes, was.Nodes, ref, now)
	case "Pod":
		setOne(&ch.pods, was.Pods, ref, now)
	case "Service":
		setOne(&ch.services, was.Services, ref, now)
	case "EndpointSlice":
		setOne(&ch.slices, was.EndpointSlices, ref, now)
	case "NetworkPolicy":
		setOne(&ch.policies, was.NetworkPolicies, ref, now)
	case "ClusterNetworkPolicy":
		setOne(&ch.cluster, was.ClusterNetworkPolicies, ref, now)
	case "CiliumNetworkPolicy":
		setOne(&ch.cilium, was.CiliumNetworkPolicies, ref, now)
	case "CiliumClusterwideNetworkPolicy":
		setOne(&ch.ciliumCluster, was.CiliumClusterwideNetworkPolicies, ref, now)
	}
}

func setOne[T comparable](changed *map[string]T, was map[string]T, ref model.Ref, object metav1.Object) {
	now, _ := object.(T)
	if before := was[ref.Key()]; before == now || reflect.DeepEqual(before, now) {
		return
	}
	if *changed == nil {
		*changed = map[string]T{}
	}
	(*changed)[ref.Key()] = now
}

// touch has a pod made again that is the same object as before.
func (ch *change) touch(key string, pod *corev1.Pod) {
	if ch.pods == nil {
		ch.pods = map[string]*corev1.Pod{}
	}
	if _, changed := ch.pods[key]; !changed {
		ch.pods[key] = pod
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
	return complain(k, "Namespace", ch.namespaces, m) || complain(k, "Node", ch.nodes, m) || complain(k, "Pod", ch.pods, m) ||
		complain(k, "Service", ch.services, m) || complain(k, "EndpointSlice", ch.slices, m) ||
		complain(k, "NetworkPolicy", ch.policies, m) || complain(k, "ClusterNetworkPolicy", ch.cluster, m) ||
		complain(k, "CiliumNetworkPolicy", ch.cilium, m) || complain(k, "CiliumClusterwideNetworkPolicy", ch.ciliumCluster, m)
}

func complain[T object](k *kept, kind string, now map[string]T, m *moves) bool {
	var none T
	for key, one := range now {
		at := annotated{kind, key}
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

// annotated is an object by its kind and key.
type annotated struct{ kind, key string }

// annotatedInOrder gives those of which something is told, as validate finds them.
func (k *kept) annotatedInOrder() []annotated {
	kinds := manifest.Kinds()
	return slices.SortedFunc(maps.Keys(k.ofAnnotations), func(a, b annotated) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.kind), slices.Index(kinds, b.kind)), cmp.Compare(a.key, b.key))
	})
}
