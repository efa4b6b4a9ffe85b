// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirnet/weir/model/manifest"
)

// takeNamespaces makes the compiler know namespaces that have changed. The pods and
// workloads of one that says something else are to be made again, since that is a
// part of their labels. It is not ok where one is gone before what was of it, which is refused then.
func (i *Incremental) takeNamespaces(change *change) bool {
	c := i.c
	for name, ns := range change.namespaces {
		put(c.objs.Namespaces, name, ns)
		if ns == nil && !slices.Contains(manifest.BornNamespaces(), name) {
			if i.isInhabited(name, change) {
				return i.no("a namespace is gone before what was of it")
			}
			i.met("a namespace is gone")
			i.touchLodging(name, change)
			continue
		}
		if _, known := c.namespaces[name]; !known {
			i.met("a namespace comes")
		}
		if maps.Equal(c.namespaces[name], labelsOfNamespace(name, ns)) {
			continue
		}
		for key := range c.kept.people.spaces[name] {
			change.touch(key, c.objs.Pods[key])
		}
		i.touchLodging(name, change)
	}
	return true
}

func (i *Incremental) touchLodging(space string, change *change) {
	for key := range i.c.kept.people.lodging[space] {
		touch(&change.workloads, key, i.c.objs.Workloads[key])
	}
}

// isInhabited is whether an object is left, or comes, that cannot be without its
// namespace.
func (i *Incremental) isInhabited(space string, ch *change) bool {
	objs := i.c.objs
	for key := range i.c.kept.people.spaces[space] {
		if now, changed := ch.pods[key]; !changed || now != nil {
			return true
		}
	}
	return remains(space, nil, ch.pods) || remains(space, objs.Services, ch.services) ||
		remains(space, objs.NetworkPolicies, ch.policies) || remains(space, objs.CiliumNetworkPolicies, ch.cilium)
}

// remains is whether an object of a namespace is there after a change.
func remains[T object](space string, was, changed map[string]T) bool {
	var none T
	for _, now := range changed {
		if now != none && manifest.NamespaceOr(now.GetNamespace()) == space {
			return true
		}
	}
	for key, before := range was {
		if _, differs := changed[key]; !differs && manifest.NamespaceOr(before.GetNamespace()) == space {
			return true
		}
	}
	return false
}

// relabel gives namespaces the labels that they have now. Their pods have been taken
// out, and are not put in yet.
func (c *compiler) relabel(changed map[string]*corev1.Namespace) {
	for name, ns := range changed {
		if ns == nil && !slices.Contains(manifest.BornNamespaces(), name) {
			delete(c.namespaces, name)
			continue
		}
		c.namespaces[name] = labelsOfNamespace(name, ns)
	}
}

// labelsOfNamespace are those of a namespace, which may be nil for one that every
// cluster has, and its name, which the API server has it say always.
func labelsOfNamespace(name string, ns *corev1.Namespace) labels.Set {
	set := labels.Set{}
	if ns != nil {
		maps.Copy(set, ns.Labels)
	}
	set[corev1.LabelMetadataName] = name
	return set
}
