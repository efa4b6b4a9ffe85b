// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Workloads have addresses after all others, and identities as pods have them. One of
// this cluster that has a device of this node is an endpoint; the others are nowhere
// that the node knows of. None is a backend by a name, or one of the pods that services
// select.

// readWorkloads gives workloads the addresses that are nobody else's.
func (c *compiler) readWorkloads() {
	all := c.objs.WorkloadsInOrder()
	byClaim := slices.Clone(all)
	slices.SortFunc(byClaim, compareWorkloads)
	for _, w := range byClaim {
		for i, addr := range w.Addresses {
			c.readWorkload(w, i, addr)
		}
	}
	for _, w := range all {
		if won := c.wonByWorkload(w); len(won) > 0 {
			who := &party{name: w.Key(), object: w, addresses: won, local: c.isAttached(w)}
			if c.parties = append(c.parties, who); who.local {
				c.locals = append(c.locals, who)
			}
		}
	}
}

// isAttached is whether a workload's device is on this node. One of another cluster
// has none here.
func (c *compiler) isAttached(w *manifest.Workload) bool {
	_, found := c.local.Devices[w.Key()]
	return found && w.Cluster == 0
}

func (c *compiler) readWorkload(w *manifest.Workload, i int, addr netip.Addr) {
	if c.workloadAt[addr] == w {
		return // it says so twice
	}
	before := len(c.warnings)
	if owner, taken := c.owners[addr]; taken {
		c.lose(w, fmt.Sprintf("addresses[%d]", i), "%s is the address of %s, whose claim comes first: give the workload another", addr, owner)
	} else {
		c.owners[addr], c.workloadAt[addr] = ownerOf(w), w
	}
	c.noteLosses(addr, before, turn{phase: ofWorkloads, object: w, index: i})
}

// compareWorkloads orders those first that are to be believed first: this cluster's,
// then the older.
func compareWorkloads(a, b *manifest.Workload) int {
	return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), compareClaims(a, b), cmp.Compare(a.Kind, b.Kind))
}

// wonByWorkload are the addresses that a workload has.
func (c *compiler) wonByWorkload(w *manifest.Workload) (won []netip.Addr) {
	for _, addr := range w.Addresses {
		if c.workloadAt[addr] == w && !slices.Contains(won, addr) {
			won = append(won, addr)
		}
	}
	return won
}

// identityOfWorkload is that of a pod with the same labels, in the same cluster. A
// namespace has no labels but its name where this cluster has none of it. Names of
// ports are asked of this cluster's alone.
func (c *compiler) identityOfWorkload(w *manifest.Workload, ignored []string) *identity {
	space := manifest.NamespaceOr(w.Namespace)
	id := &identity{
		namespace: space, namespaceLabels: labelsOfNamespace(space, nil), podLabels: without(w.Labels, ignored),
		ports: map[namedPort]uint16{}, account: w.AccountOr(), cluster: w.Cluster,
	}
	if w.Cluster != 0 {
		return id
	}
	if here, found := c.namespaces[space]; found {
		id.namespaceLabels = here
	}
	for _, port := range w.Ports {
		named := namedPort{port.Name, port.Protocol}
		if _, first := id.ports[named]; !first && port.Name != "" {
			id.ports[named] = port.Port
		}
	}
	return id
}

// partyAt is who has an address as a pod has it, of those that are kept; nil: nobody.
func (c *compiler) partyAt(addr netip.Addr) *party {
	var name model.Key
	switch pod, w := c.podAt[addr], c.workloadAt[addr]; {
	case pod != nil:
		name = manifest.KeyOf(pod)
	case w != nil:
		name = w.Key()
	}
	return c.kept.people.made[name]
}
