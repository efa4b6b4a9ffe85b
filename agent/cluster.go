// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/endpoints"
	"github.com/weirnet/weir/agent/inputs"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// cluster is what the node's datapath is compiled from: the objects of the
// tables, where pods have the addresses that they can have. It takes in what
// changed in the tables, and costs that.
//
// The agent's loop alone changes it. Others read by snapshot.
type cluster struct {
	tables *inputs.Inputs
	seen   struct {
		pods, namespaces, nodes, services, slices, policies, clusterPolicies, cilium, ciliumClusterwide, workloads, unread uint64
	}
	pods pods

	mu       sync.RWMutex // held while objs is changed
	objs     *manifest.Objects
	revision uint64 // how often objs was changed

	unread  map[string]manifest.Unread
	changed map[model.Ref]bool // objects that are others than those that were compiled
}

func newCluster(tables *inputs.Inputs, node string) *cluster {
	objs := manifest.NewObjects()
	return &cluster{
		tables: tables, pods: newPods(node, objs.Pods), objs: objs,
		unread: map[string]manifest.Unread{}, changed: map[model.Ref]bool{},
	}
}

// take takes in what changed in the tables. Pods have their addresses after
// settle.
func (c *cluster) take() {
	c.mu.Lock()
	defer c.mu.Unlock()
	follow(c, c.tables.Namespaces, &c.seen.namespaces, c.objs.Namespaces)
	follow(c, c.tables.Nodes, &c.seen.nodes, c.objs.Nodes)
	follow(c, c.tables.Services, &c.seen.services, c.objs.Services)
	follow(c, c.tables.EndpointSlices, &c.seen.slices, c.objs.EndpointSlices)
	follow(c, c.tables.NetworkPolicies, &c.seen.policies, c.objs.NetworkPolicies)
	follow(c, c.tables.Workloads, &c.seen.workloads, c.objs.Workloads)
	readTable(c.tables.Pods, &c.seen.pods, c.pods.said, c.pods.put)
	c.tables.Together(c.takeCustom)
}

// takeCustom takes in what changed of kinds whose objects may be such as cannot be
// read.
func (c *cluster) takeCustom() {
	follow(c, c.tables.ClusterNetworkPolicies, &c.seen.clusterPolicies, c.objs.ClusterNetworkPolicies)
	follow(c, c.tables.CiliumNetworkPolicies, &c.seen.cilium, c.objs.CiliumNetworkPolicies)
	follow(c, c.tables.CiliumClusterwideNetworkPolicies, &c.seen.ciliumClusterwide, c.objs.CiliumClusterwideNetworkPolicies)
	readTable(c.tables.Unread, &c.seen.unread, c.unread, func(key string, unread manifest.Unread, gone bool) {
		if c.unread[key] = unread; gone {
			delete(c.unread, key)
		}
	})
}

// settle gives pods their addresses, those of the node by its records.
func (c *cluster) settle(records *endpoints.Store) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods.record(records)
	for _, ref := range c.pods.settle() {
		c.note(ref)
	}
}

func (c *cluster) note(ref model.Ref) {
	c.changed[ref] = true
	c.revision++
}

// takeChanged gives the objects that are others than when it was asked last.
func (c *cluster) takeChanged() []model.Ref {
	refs := make([]model.Ref, 0, len(c.changed))
	for ref := range c.changed {
		refs = append(refs, ref)
	}
	c.changed = map[model.Ref]bool{} // one that was large is slow to walk
	return refs
}

// count gives how many objects, and policies of all kinds, are not refused.
func (c *cluster) count(refused []api.Refused) (objects, policies int) {
	o := c.objs
	objects = o.Len()
	policies = len(o.NetworkPolicies) + len(o.ClusterNetworkPolicies) + len(o.CiliumNetworkPolicies) + len(o.CiliumClusterwideNetworkPolicies)
	for i := range refused {
		r := &refused[i]
		if r.FieldOnly || o.Find(r.Object) == nil {
			continue
		}
		if objects--; strings.HasSuffix(r.Object.Kind, "NetworkPolicy") {
			policies--
		}
	}
	return objects, policies
}

// noRevision is of somebody who has no objects yet.
const noRevision = ^uint64(0)

// snapshot gives the objects and how often they were changed, to somebody who has
// those of a revision: nil where these are the same.
func (c *cluster) snapshot(has uint64) (*manifest.Objects, uint64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if has == c.revision {
		return nil, has
	}
	return c.objs.Clone(), c.revision
}

// follow keeps a kind's objects as the table has them.
func follow[K comparable, T metav1.Object](c *cluster, table *inputs.Table[K, T], seen *uint64, objs map[K]T) {
	readTable(table, seen, objs, func(key K, object T, gone bool) {
		if gone {
			if last, found := objs[key]; found {
				c.note(manifest.RefOf(last))
				delete(objs, key)
			}
			return
		}
		objs[key] = object
		c.note(manifest.RefOf(object))
	})
}

// readTable tells of the rows that changed since a revision, to somebody who has the
// rows of that.
func readTable[K comparable, V any](table *inputs.Table[K, V], seen *uint64, has map[K]V, tell func(key K, value V, gone bool)) {
	changes, now, whole := table.Since(*seen)
	if whole && len(has) > 0 {
		there := map[K]bool{}
		for i := range changes {
			there[changes[i].Key] = true
		}
		var none V
		for key := range has {
			if !there[key] {
				tell(key, none, true)
			}
		}
	}
	for i := range changes {
		tell(changes[i].Key, changes[i].Value, changes[i].Gone)
	}
	*seen = now
}
