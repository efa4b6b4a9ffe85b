// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
)

// directory says whose addresses are, for people. It is made while somebody
// watches, and anew when the objects have changed.
type directory struct {
	revision uint64 // of the objects
	state    *model.State
	names    map[netip.Addr]api.Party
	owners   map[model.Identity]model.Identity // of numbers that blocks of policies ask for
}

func newDirectory() directory { return directory{revision: noRevision} }

// directoryOf gives the directory of the objects and of what is in force.
func (a *Agent) directoryOf(d directory) directory {
	a.mu.Lock()
	state := a.state
	a.mu.Unlock()
	if d.state != state {
		d.state, d.owners = state, map[model.Identity]model.Identity{}
		for a := range state.Addresses.All() {
			d.owners[a.Identity] = a.Owner()
		}
	}
	objs, revision := a.kept.cluster.snapshot(d.revision)
	if objs == nil {
		return d
	}
	d.revision, d.names = revision, map[netip.Addr]api.Party{}
	for _, w := range objs.Workloads { // whose claims come last
		ref := w.Key().Ref()
		for _, addr := range w.Addresses {
			d.names[addr] = api.Party{Kind: ref.Kind, Name: ref.Key(), Labels: labels.Set(w.Labels).String()}
		}
	}
	for name, node := range objs.Nodes {
		for _, addr := range internalAddresses(node) {
			d.names[addr] = api.Party{Kind: "Node", Name: name}
		}
	}
	for name, service := range objs.Services {
		for _, text := range service.Spec.ClusterIPs {
			if addr, err := netip.ParseAddr(text); err == nil {
				d.names[addr] = api.Party{Kind: "Service", Name: name}
			}
		}
	}
	for name, pod := range objs.Pods {
		if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		party := api.Party{Kind: "Pod", Name: name, Labels: labels.Set(pod.Labels).String()}
		for _, addr := range addressesOf(pod) {
			d.names[addr] = party
		}
	}
	return d
}

// identity is whom a number stands for.
func (d *directory) identity(number model.Identity) uint32 {
	return uint32(cmp.Or(d.owners[number], number))
}

// party is whose an address is; nil: nobody's that the cluster knows.
func (d *directory) party(addr netip.Addr) *api.Party {
	if party, known := d.names[addr]; known {
		return &party
	}
	return nil
}
