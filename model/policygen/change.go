// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model/manifest"
)

// Change gives another cluster of the same pods, nodes and services: some
// policies are gone, some are others, and a pod may have other labels.
func Change(r *rand.Rand, objs *manifest.Objects, o Options) *manifest.Objects {
	m := &maker{r, ClusterWords(), o, objs.Clone()}
	drop(m, m.objs.NetworkPolicies)
	drop(m, m.objs.ClusterNetworkPolicies)
	drop(m, m.objs.CiliumNetworkPolicies)
	drop(m, m.objs.CiliumClusterwideNetworkPolicies)
	for range m.IntN(o.MaxPolicies/2 + 1) {
		m.put(Policy(r, m.w, pick(m, Kinds...), fmt.Sprintf("policy-%d", m.IntN(o.MaxPolicies))))
	}
	if names := slices.Sorted(maps.Keys(objs.Pods)); m.IntN(3) == 0 && len(names) > 0 {
		pod := objs.Pods[pick(m, names...)].DeepCopy()
		pod.Labels = m.labels()
		m.put(pod)
	}
	return m.objs
}

// drop takes away a third of some policies.
func drop[T metav1.Object](m *maker, from map[string]T) {
	for _, key := range slices.Sorted(maps.Keys(from)) {
		if m.IntN(3) == 0 {
			delete(from, key)
		}
	}
}
