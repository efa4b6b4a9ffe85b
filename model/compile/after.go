// SPDX-License-Identifier: Apache-2.0

package compile

import (
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
func differing[T interface {
	comparable
	metav1.Object
}](was, is map[string]T) (refs []model.Ref) {
	found := 0
	for key, object := range is {
		before, there := was[key]
		if there {
			found++
		}
		if before != object {
			refs = append(refs, manifest.RefOf(object))
		}
	}
	if found == len(was) {
		return refs
	}
	for key, object := range was {
		if _, there := is[key]; !there {
			refs = append(refs, manifest.RefOf(object))
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

// complains is whether an object that has changed is, or was, warned of or refused
// by itself.
func (i *Incremental) complains(ch *change) bool {
	was := i.c.objs
	return complain(i.c, was.Namespaces, ch.namespaces) || complain(i.c, was.Nodes, ch.nodes) || complain(i.c, was.Pods, ch.pods) ||
		complain(i.c, was.Services, ch.services) || complain(i.c, was.EndpointSlices, ch.slices) ||
		complain(i.c, was.NetworkPolicies, ch.policies) || complain(i.c, was.ClusterNetworkPolicies, ch.cluster) ||
		complain(i.c, was.CiliumNetworkPolicies, ch.cilium) || complain(i.c, was.CiliumClusterwideNetworkPolicies, ch.ciliumCluster)
}

func complain[T interface {
	comparable
	metav1.Object
}](c *compiler, was, now map[string]T) bool {
	var none T
	c.warnings = nil
	for key, object := range now {
		if before := was[key]; before != none {
			c.warnOfAnnotations(before)
		}
		if object == none {
			continue
		}
		if c.warnOfAnnotations(object); len(manifest.Validate(object)) > 0 {
			return true
		}
	}
	return len(c.warnings) > 0
}
