// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
)

// Workload is who has addresses and labels as a pod has, and is no pod of this
// cluster: a machine, which may have a device on a node, or another cluster's pod. No
// kind of the API is read into it: who hears of such makes it.
//
// What policies say of pods holds for a Workload of this cluster. One of another
// is none of the pods that policies of this cluster select, whatever its labels
// say: only blocks of addresses match it, and who is for anybody.
type Workload struct {
	metav1.ObjectMeta // its namespace and name, and labels
	Kind              model.OwnerKind
	Cluster           uint8        // its number; 0: this one
	Addresses         []netip.Addr // that are its own, if nobody has a better claim
	Account           string       // the service account; empty: model.DefaultAccount
	Ports             []model.NamedPort
}

// Key names a Workload among all who have addresses.
func (w *Workload) Key() model.Key {
	return model.Key{Kind: w.Kind, Cluster: w.Cluster, Namespace: NamespaceOr(w.Namespace), Name: w.Name}
}

// AccountOr is the service account, by its name.
func (w *Workload) AccountOr() string { return cmp.Or(w.Account, model.DefaultAccount) }

// workload checks what nobody else has checked.
func (v *validator) workload(w *Workload) {
	if w.Kind == model.OwnerPod && w.Cluster == 0 {
		v.fail("kind", "a pod of this cluster is a Pod: give the workload a kind, or the number of its cluster")
	}
	for i, addr := range w.Addresses {
		if !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() || !ReachesHost(addr) {
			v.fail(fmt.Sprintf("addresses[%d]", i), "%s is not the address of a host that others reach: give a unicast address, neither loopback nor link-local", addr)
		}
	}
}
