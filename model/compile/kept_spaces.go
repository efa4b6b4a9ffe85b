// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// takeNamespaces makes the compiler know namespaces that have changed. The pods of
// one that says something else are to be made again, since that is a part of their
// labels. It is not ok where one is gone: what was of it is refused then.
func (i *Incremental) takeNamespaces(change *change) bool {
	c := i.c
	if len(change.namespaces) == 0 {
		return true
	}
	i.readPeople()
	for name, ns := range change.namespaces {
		if ns == nil {
			return i.no("a namespace is gone")
		}
		put(c.objs.Namespaces, name, ns)
		if maps.Equal(c.namespaces[name], labelsOfNamespace(ns)) {
			continue
		}
		for key := range c.kept.people.spaces[name] {
			change.touch(key, c.objs.Pods[key])
		}
	}
	return true
}

// relabel gives namespaces the labels that they have now. Their pods have been taken
// out, and are not put in yet.
func (c *compiler) relabel(changed map[string]*corev1.Namespace) {
	for name, ns := range changed {
		c.namespaces[name] = labelsOfNamespace(ns)
	}
}

// labelsOfNamespace are those of a namespace, and its name, which the API server has
// it say always.
func labelsOfNamespace(ns *corev1.Namespace) labels.Set {
	set := labels.Set{}
	maps.Copy(set, ns.Labels)
	set[corev1.LabelMetadataName] = ns.Name
	return set
}

// takeNodes makes the compiler know Nodes that have changed. It is not ok where one
// says something else than before of what is read of it: kubelets write theirs every
// few minutes, with other times.
func (i *Incremental) takeNodes(changed map[string]*corev1.Node) bool {
	c := i.c
	for name, node := range changed {
		before := c.objs.Nodes[name]
		if before == nil || node == nil {
			return i.no("a node comes or goes")
		}
		if !saySame(before, node) {
			return i.no("a node has other addresses, podCIDRs, labels or another readiness")
		}
		c.objs.Nodes[name] = node
		c.vouchers[node], c.podBlocksOf[node] = c.vouchedBy(before), c.podBlocksOf[before]
		for _, v := range c.vouchers[node] {
			if c.nodeAt[v.addr] == before {
				c.nodeAt[v.addr] = node
			}
		}
		delete(c.vouchers, before)
		delete(c.podBlocksOf, before)
		if len(c.podBlocksOf[node]) == 0 {
			delete(c.podBlocksOf, node)
		}
	}
	return true
}

// saySame is whether two versions of a Node say the same to a compiler.
func saySame(a, b *corev1.Node) bool {
	read := func(node *corev1.Node) any {
		return []any{
			node.Labels, node.Annotations, node.Spec.PodCIDR, node.Spec.PodCIDRs, node.Status.Addresses, isReadyNode(node),
			node.Status.DaemonEndpoints.KubeletEndpoint.Port, node.CreationTimestamp.Unix(), node.CreationTimestamp.IsZero(),
		}
	}
	return reflect.DeepEqual(read(a), read(b))
}
