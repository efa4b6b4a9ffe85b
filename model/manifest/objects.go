// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
)

// Objects is a cluster, as its API would show it, and who has addresses elsewhere.
// Namespaced kinds are kept by "namespace/name", the others by name; workloads,
// which are of several kinds and clusters, by their keys. An object is never
// changed once it is in here: to change one, Upsert another in its place.
type Objects struct {
	Pods            map[string]*corev1.Pod
	Namespaces      map[string]*corev1.Namespace
	Nodes           map[string]*corev1.Node
	Services        map[string]*corev1.Service
	EndpointSlices  map[string]*discoveryv1.EndpointSlice
	NetworkPolicies map[string]*networkingv1.NetworkPolicy

	ClusterNetworkPolicies           map[string]*policyv1alpha2.ClusterNetworkPolicy
	CiliumNetworkPolicies            map[string]*CiliumNetworkPolicy
	CiliumClusterwideNetworkPolicies map[string]*CiliumClusterwideNetworkPolicy

	Workloads map[model.Key]*Workload

	standIns map[model.Ref]metav1.Object // what Isolate has put in; nil: nothing
}

// ErrNotFound is returned for an object that is not among the Objects.
var ErrNotFound = errors.New("not found")

// NewObjects gives an empty cluster.
func NewObjects() *Objects {
	return &Objects{
		Pods:            map[string]*corev1.Pod{},
		Namespaces:      map[string]*corev1.Namespace{},
		Nodes:           map[string]*corev1.Node{},
		Services:        map[string]*corev1.Service{},
		EndpointSlices:  map[string]*discoveryv1.EndpointSlice{},
		NetworkPolicies: map[string]*networkingv1.NetworkPolicy{},

		ClusterNetworkPolicies:           map[string]*policyv1alpha2.ClusterNetworkPolicy{},
		CiliumNetworkPolicies:            map[string]*CiliumNetworkPolicy{},
		CiliumClusterwideNetworkPolicies: map[string]*CiliumClusterwideNetworkPolicy{},

		Workloads: map[model.Key]*Workload{},
	}
}

// Len is the number of objects.
func (o *Objects) Len() int {
	return len(o.Pods) + len(o.Namespaces) + len(o.Nodes) + len(o.Services) +
		len(o.EndpointSlices) + len(o.NetworkPolicies) + len(o.ClusterNetworkPolicies) +
		len(o.CiliumNetworkPolicies) + len(o.CiliumClusterwideNetworkPolicies) + len(o.Workloads)
}

// Refs names all objects, sorted.
func (o *Objects) Refs() []model.Ref {
	refs := slices.Concat(refsOf(o.Pods), refsOf(o.Namespaces), refsOf(o.Nodes), refsOf(o.Services),
		refsOf(o.EndpointSlices), refsOf(o.NetworkPolicies), refsOf(o.ClusterNetworkPolicies),
		refsOf(o.CiliumNetworkPolicies), refsOf(o.CiliumClusterwideNetworkPolicies), refsOf(o.Workloads))
	slices.SortFunc(refs, model.Ref.Compare)
	return refs
}

// Each calls visit with every object, in the order of CompareRefs. visit may take
// it out.
func (o *Objects) Each(visit func(metav1.Object)) {
	each(o.Namespaces, visit)
	each(o.Nodes, visit)
	each(o.Pods, visit)
	each(o.Services, visit)
	each(o.EndpointSlices, visit)
	each(o.NetworkPolicies, visit)
	each(o.ClusterNetworkPolicies, visit)
	each(o.CiliumNetworkPolicies, visit)
	each(o.CiliumClusterwideNetworkPolicies, visit)
	for _, w := range o.WorkloadsInOrder() {
		visit(w)
	}
}

// WorkloadsInOrder gives them by ascending key.
func (o *Objects) WorkloadsInOrder() []*Workload {
	return slices.SortedFunc(maps.Values(o.Workloads), func(a, b *Workload) int { return a.Key().Compare(b.Key()) })
}

func each[T metav1.Object](objs map[string]T, visit func(metav1.Object)) {
	for _, object := range InOrder(objs) {
		visit(object)
	}
}

// CompareRefs orders by kind, those first that others are of and workloads last,
// and by ascending key.
func CompareRefs(a, b model.Ref) int {
	if IsWorkload(a) || IsWorkload(b) {
		return a.Owner().Compare(b.Owner())
	}
	return cmp.Or(cmp.Compare(kindOrder(a.Kind), kindOrder(b.Kind)), cmp.Compare(a.Key(), b.Key()))
}

// IsWorkload is whether a Ref names a Workload: of a kind, or a cluster, that no
// other object has.
func IsWorkload(ref model.Ref) bool {
	return ref.Cluster != 0 || ref.Owner().Kind != model.OwnerPod
}

func kindOrder(kind string) int {
	return slices.Index([]string{
		"Namespace", "Node", "Pod", "Service", "EndpointSlice", "NetworkPolicy", "ClusterNetworkPolicy",
		"CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy",
	}, kind)
}

func refsOf[K comparable, T metav1.Object](objs map[K]T) []model.Ref {
	var refs []model.Ref
	for _, obj := range objs {
		refs = append(refs, RefOf(obj))
	}
	return refs
}

// Find gives the object of a name; nil if it is not there.
func (o *Objects) Find(ref model.Ref) metav1.Object {
	if IsWorkload(ref) {
		return find(o.Workloads, ref.Owner())
	}
	for _, k := range kinds() {
		if k.name == ref.Kind {
			return k.find(o, ref.Key())
		}
	}
	return nil
}

func find[K comparable, T metav1.Object](m map[K]T, key K) metav1.Object {
	if obj, found := m[key]; found {
		return obj
	}
	return nil
}

// Clone gives Objects that can be changed without changing o. The objects
// themselves are shared: nobody changes those.
func (o *Objects) Clone() *Objects {
	c := NewObjects()
	c.Merge(o)
	return c
}

// Merge puts every object of other into o, in place of those that have the
// same kind and name.
func (o *Objects) Merge(other *Objects) {
	maps.Copy(o.Pods, other.Pods)
	maps.Copy(o.Namespaces, other.Namespaces)
	maps.Copy(o.Nodes, other.Nodes)
	maps.Copy(o.Services, other.Services)
	maps.Copy(o.EndpointSlices, other.EndpointSlices)
	maps.Copy(o.NetworkPolicies, other.NetworkPolicies)
	maps.Copy(o.ClusterNetworkPolicies, other.ClusterNetworkPolicies)
	maps.Copy(o.CiliumNetworkPolicies, other.CiliumNetworkPolicies)
	maps.Copy(o.CiliumClusterwideNetworkPolicies, other.CiliumClusterwideNetworkPolicies)
	maps.Copy(o.Workloads, other.Workloads)
	for _, object := range other.standIns {
		o.MarkStandIn(object)
	}
}

// Upsert puts obj in place of the one that has its kind and name, if any. A
// namespaced object without a namespace is of namespace "default". It fails
// for a kind that Objects does not hold; it does not validate.
func (o *Objects) Upsert(obj metav1.Object) error {
	switch obj := obj.(type) {
	case *corev1.Pod:
		o.Pods[NameOf(obj)] = obj
	case *corev1.Service:
		o.Services[NameOf(obj)] = obj
	case *discoveryv1.EndpointSlice:
		o.EndpointSlices[NameOf(obj)] = obj
	case *networkingv1.NetworkPolicy:
		o.NetworkPolicies[NameOf(obj)] = obj
	case *policyv1alpha2.ClusterNetworkPolicy:
		o.ClusterNetworkPolicies[obj.Name] = obj
	case *CiliumNetworkPolicy:
		o.CiliumNetworkPolicies[NameOf(obj)] = obj
	case *CiliumClusterwideNetworkPolicy:
		o.CiliumClusterwideNetworkPolicies[obj.Name] = obj
	case *corev1.Namespace:
		o.Namespaces[obj.Name] = obj
	case *corev1.Node:
		o.Nodes[obj.Name] = obj
	case *Workload:
		o.Workloads[obj.Key()] = obj
	default:
		return fmt.Errorf("upsert object: %T is not a kind that is kept: use %s", obj, strings.Join(kindNames(), ", "))
	}
	return nil
}

// Delete removes an object. Kind is understood as kubectl does: Pod, pod, pods
// or po. An empty namespace is "default" for a namespaced kind. It fails with
// ErrNotFound.
func (o *Objects) Delete(kind, namespace, name string) error {
	k := kindCalled(kind)
	if k == nil {
		return fmt.Errorf("delete %s %s: unknown kind %q: use %s", kind, name, kind, strings.Join(kindNames(), ", "))
	}
	key := name
	if k.namespaced {
		key = NamespaceOr(namespace) + "/" + name
	}
	if !k.remove(o, key) {
		return fmt.Errorf("delete %s %s: %w", k.name, key, ErrNotFound)
	}
	return nil
}

// Remove removes the object of a name, and says whether it was there.
func (o *Objects) Remove(ref model.Ref) bool {
	if IsWorkload(ref) {
		return remove(o.Workloads, ref.Owner())
	}
	for _, k := range kinds() {
		if k.name == ref.Kind {
			return k.remove(o, ref.Key())
		}
	}
	return false
}

// kind is what is known of a kind of objects.
type kind struct {
	name       string
	apiVersion string
	called     []string // other names, lower case
	namespaced bool
	make       func() metav1.Object
	find       func(o *Objects, key string) metav1.Object
	remove     func(o *Objects, key string) bool
}

// alike are the other versions of a kind's API that have the same fields and mean the
// same by them: they are read as the one.
func alike(kind string) []string {
	if kind == "ClusterNetworkPolicy" { // sigs.k8s.io/network-policy-api v0.3.0
		return []string{"policy.networking.k8s.io/v1beta1"}
	}
	return nil
}

var kinds = sync.OnceValue(func() []kind {
	return []kind{
		{"Pod", "v1", []string{"pod", "pods", "po"}, true, func() metav1.Object { return new(corev1.Pod) },
			func(o *Objects, key string) metav1.Object { return find(o.Pods, key) },
			func(o *Objects, key string) bool { return remove(o.Pods, key) }},
		{"Namespace", "v1", []string{"namespace", "namespaces", "ns"}, false, func() metav1.Object { return new(corev1.Namespace) },
			func(o *Objects, key string) metav1.Object { return find(o.Namespaces, key) },
			func(o *Objects, key string) bool { return remove(o.Namespaces, key) }},
		{"Node", "v1", []string{"node", "nodes", "no"}, false, func() metav1.Object { return new(corev1.Node) },
			func(o *Objects, key string) metav1.Object { return find(o.Nodes, key) },
			func(o *Objects, key string) bool { return remove(o.Nodes, key) }},
		{"Service", "v1", []string{"service", "services", "svc"}, true, func() metav1.Object { return new(corev1.Service) },
			func(o *Objects, key string) metav1.Object { return find(o.Services, key) },
			func(o *Objects, key string) bool { return remove(o.Services, key) }},
		{"EndpointSlice", "discovery.k8s.io/v1", []string{"endpointslice", "endpointslices"}, true, func() metav1.Object { return new(discoveryv1.EndpointSlice) },
			func(o *Objects, key string) metav1.Object { return find(o.EndpointSlices, key) },
			func(o *Objects, key string) bool { return remove(o.EndpointSlices, key) }},
		{"NetworkPolicy", "networking.k8s.io/v1", []string{"networkpolicy", "networkpolicies", "netpol"}, true, func() metav1.Object { return new(networkingv1.NetworkPolicy) },
			func(o *Objects, key string) metav1.Object { return find(o.NetworkPolicies, key) },
			func(o *Objects, key string) bool { return remove(o.NetworkPolicies, key) }},
		{"ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", []string{"clusternetworkpolicy", "clusternetworkpolicies"}, false, func() metav1.Object { return new(policyv1alpha2.ClusterNetworkPolicy) },
			func(o *Objects, key string) metav1.Object { return find(o.ClusterNetworkPolicies, key) },
			func(o *Objects, key string) bool { return remove(o.ClusterNetworkPolicies, key) }},
		{"CiliumNetworkPolicy", "cilium.io/v2", []string{"ciliumnetworkpolicy", "ciliumnetworkpolicies", "cnp"}, true, func() metav1.Object { return new(CiliumNetworkPolicy) },
			func(o *Objects, key string) metav1.Object { return find(o.CiliumNetworkPolicies, key) },
			func(o *Objects, key string) bool { return remove(o.CiliumNetworkPolicies, key) }},
		{"CiliumClusterwideNetworkPolicy", "cilium.io/v2", []string{"ciliumclusterwidenetworkpolicy", "ciliumclusterwidenetworkpolicies", "ccnp"}, false, func() metav1.Object { return new(CiliumClusterwideNetworkPolicy) },
			func(o *Objects, key string) metav1.Object { return find(o.CiliumClusterwideNetworkPolicies, key) },
			func(o *Objects, key string) bool { return remove(o.CiliumClusterwideNetworkPolicies, key) }},
	}
})

// APIVersionOf gives the version of the API in which a kind is kept; empty for
// one that is not.
func APIVersionOf(kindName string) string {
	for _, k := range kinds() {
		if k.name == kindName {
			return k.apiVersion
		}
	}
	return ""
}

func remove[K comparable, T any](m map[K]T, key K) bool {
	_, found := m[key]
	delete(m, key)
	return found
}

func kindNames() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

func kindCalled(name string) *kind {
	for _, k := range kinds() {
		if slices.Contains(k.called, strings.ToLower(name)) {
			return &k
		}
	}
	return nil
}

// KindOf names the kind of an object by its Go type: TypeMeta is empty in what
// a client decodes.
func KindOf(obj metav1.Object) string {
	switch obj := obj.(type) {
	case *corev1.Pod:
		return "Pod"
	case *corev1.Service:
		return "Service"
	case *discoveryv1.EndpointSlice:
		return "EndpointSlice"
	case *networkingv1.NetworkPolicy:
		return "NetworkPolicy"
	case *policyv1alpha2.ClusterNetworkPolicy:
		return "ClusterNetworkPolicy"
	case *CiliumNetworkPolicy:
		return "CiliumNetworkPolicy"
	case *CiliumClusterwideNetworkPolicy:
		return "CiliumClusterwideNetworkPolicy"
	case *corev1.Namespace:
		return "Namespace"
	case *corev1.Node:
		return "Node"
	case *Workload:
		return obj.Kind.String()
	}
	return fmt.Sprintf("%T", obj)
}

// NameOf gives namespace/name.
func NameOf(obj metav1.Object) string {
	return NamespaceOr(obj.GetNamespace()) + "/" + obj.GetName()
}

// KeyOf names an object of a namespace, whose kind is known.
func KeyOf(obj metav1.Object) model.Key {
	return model.Key{Namespace: NamespaceOr(obj.GetNamespace()), Name: obj.GetName()}
}

// RefOf names an object.
func RefOf(obj metav1.Object) model.Ref {
	if w, is := obj.(*Workload); is {
		return w.Key().Ref()
	}
	ref := model.Ref{Kind: KindOf(obj), Name: obj.GetName()}
	switch obj.(type) {
	case *corev1.Namespace, *corev1.Node, *policyv1alpha2.ClusterNetworkPolicy, *CiliumClusterwideNetworkPolicy:
	default:
		ref.Namespace = NamespaceOr(obj.GetNamespace())
	}
	return ref
}

// NamespaceOr gives the namespace that an object without one is in: default.
func NamespaceOr(namespace string) string {
	if namespace == "" {
		return metav1.NamespaceDefault
	}
	return namespace
}

// InOrder gives the values by ascending key.
func InOrder[T any](m map[string]T) []T {
	type entry struct {
		key   string
		value T
	}
	entries := make([]entry, 0, len(m))
	for key, value := range m {
		entries = append(entries, entry{key, value})
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	values := make([]T, len(entries))
	for i := range entries {
		values[i] = entries[i].value
	}
	return values
}
