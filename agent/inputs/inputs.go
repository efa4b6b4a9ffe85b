// SPDX-License-Identifier: Apache-2.0

// Package inputs keeps what a node's datapath is made from, as tables with
// revisions: who watches a cluster writes them, and who compiles reads what
// changed since the last time.
//
// It decides nothing about what is in them. Its one invariant: who has taken in
// all that Since gave, from revision 0 on, has the rows of the table.
package inputs

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Inputs are the tables, one a kind, with the keys that manifest.Objects has. A
// new kind of input is a table here, and what is derived from it where the tables
// are read.
type Inputs struct {
	Pods            *Table[string, *corev1.Pod]
	Namespaces      *Table[string, *corev1.Namespace]
	Nodes           *Table[string, *corev1.Node]
	Services        *Table[string, *corev1.Service]
	EndpointSlices  *Table[string, *discoveryv1.EndpointSlice]
	NetworkPolicies *Table[string, *networkingv1.NetworkPolicy]

	ClusterNetworkPolicies           *Table[string, *policyv1alpha2.ClusterNetworkPolicy]
	CiliumNetworkPolicies            *Table[string, *manifest.CiliumNetworkPolicy]
	CiliumClusterwideNetworkPolicies *Table[string, *manifest.CiliumClusterwideNetworkPolicy]

	// Workloads are who has addresses and is no object of the API. Nobody writes them yet.
	Workloads *Table[model.Key, *manifest.Workload]

	// Unread are objects that cannot be read, by what Ref.String says.
	Unread *Table[string, manifest.Unread]

	// moving is held while an object goes from the table of its kind to Unread, or
	// back, and by who reads both: a policy that is in neither stops nobody.
	moving sync.Mutex
}

// New gives empty tables.
func New() *Inputs {
	return &Inputs{
		Pods: NewTable[string, *corev1.Pod](), Namespaces: NewTable[string, *corev1.Namespace](), Nodes: NewTable[string, *corev1.Node](),
		Services: NewTable[string, *corev1.Service](), EndpointSlices: NewTable[string, *discoveryv1.EndpointSlice](),
		NetworkPolicies:        NewTable[string, *networkingv1.NetworkPolicy](),
		ClusterNetworkPolicies: NewTable[string, *policyv1alpha2.ClusterNetworkPolicy](),
		CiliumNetworkPolicies:  NewTable[string, *manifest.CiliumNetworkPolicy](), CiliumClusterwideNetworkPolicies: NewTable[string, *manifest.CiliumClusterwideNetworkPolicy](),
		Workloads: NewTable[model.Key, *manifest.Workload](), Unread: NewTable[string, manifest.Unread](),
	}
}

// Put writes an object into the table of its kind: it can be read now. It fails for
// a kind that has none.
func (i *Inputs) Put(object metav1.Object) error {
	i.moving.Lock()
	defer i.moving.Unlock()
	ref := manifest.RefOf(object)
	if err := i.put(ref.Key(), object); err != nil {
		return err
	}
	if i.Unread.Len() > 0 {
		i.Unread.Delete(ref.String())
	}
	return nil
}

// PutUnread writes an object that cannot be read, or not any more.
func (i *Inputs) PutUnread(unread manifest.Unread) {
	i.moving.Lock()
	defer i.moving.Unlock()
	i.Delete(unread.Object)
	i.Unread.Put(unread.Object.String(), unread)
}

// Together calls read, which finds each object in one table alone, and none that is
// there in neither.
func (i *Inputs) Together(read func()) {
	i.moving.Lock()
	defer i.moving.Unlock()
	read()
}

func (i *Inputs) put(key string, object metav1.Object) error {
	switch o := object.(type) {
	case *corev1.Pod:
		i.Pods.Put(key, o)
	case *corev1.Namespace:
		i.Namespaces.Put(key, o)
	case *corev1.Node:
		i.Nodes.Put(key, o)
	case *corev1.Service:
		i.Services.Put(key, o)
	case *discoveryv1.EndpointSlice:
		i.EndpointSlices.Put(key, o)
	case *networkingv1.NetworkPolicy:
		i.NetworkPolicies.Put(key, o)
	case *policyv1alpha2.ClusterNetworkPolicy:
		i.ClusterNetworkPolicies.Put(key, o)
	case *manifest.CiliumNetworkPolicy:
		i.CiliumNetworkPolicies.Put(key, o)
	case *manifest.CiliumClusterwideNetworkPolicy:
		i.CiliumClusterwideNetworkPolicies.Put(key, o)
	case *manifest.Workload:
		i.Workloads.Put(o.Key(), o)
	default:
		return fmt.Errorf("keep an object: %T has no table", object)
	}
	return nil
}

// Delete deletes an object, and says whether it was there.
func (i *Inputs) Delete(ref model.Ref) bool {
	if manifest.IsWorkload(ref) {
		return i.Workloads.Delete(ref.Owner())
	}
	tables := map[string]interface{ Delete(key string) bool }{
		"Pod": i.Pods, "Namespace": i.Namespaces, "Node": i.Nodes, "Service": i.Services,
		"EndpointSlice": i.EndpointSlices, "NetworkPolicy": i.NetworkPolicies,
		"ClusterNetworkPolicy": i.ClusterNetworkPolicies, "CiliumNetworkPolicy": i.CiliumNetworkPolicies,
		"CiliumClusterwideNetworkPolicy": i.CiliumClusterwideNetworkPolicies,
	}
	table, found := tables[ref.Kind]
	return found && table.Delete(ref.Key())
}

// Objects gives what is in the tables now, and what cannot be read.
func (i *Inputs) Objects() (*manifest.Objects, []manifest.Unread) {
	i.moving.Lock()
	defer i.moving.Unlock()
	objs := manifest.NewObjects()
	copyTo(objs.Pods, i.Pods)
	copyTo(objs.Namespaces, i.Namespaces)
	copyTo(objs.Nodes, i.Nodes)
	copyTo(objs.Services, i.Services)
	copyTo(objs.EndpointSlices, i.EndpointSlices)
	copyTo(objs.NetworkPolicies, i.NetworkPolicies)
	copyTo(objs.ClusterNetworkPolicies, i.ClusterNetworkPolicies)
	copyTo(objs.CiliumNetworkPolicies, i.CiliumNetworkPolicies)
	copyTo(objs.CiliumClusterwideNetworkPolicies, i.CiliumClusterwideNetworkPolicies)
	copyTo(objs.Workloads, i.Workloads)
	unread := map[string]manifest.Unread{}
	copyTo(unread, i.Unread)
	return objs, manifest.InOrder(unread)
}

func copyTo[K comparable, V any](into map[K]V, t *Table[K, V]) {
	rows, _, _ := t.Since(0)
	for _, row := range rows {
		into[row.Key] = row.Value
	}
}
