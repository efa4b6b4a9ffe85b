// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model/manifest"
)

// asPod is the pod that selectors would match if they match a workload; nil for one
// of another cluster, which none of this one does.
func asPod(w *manifest.Workload) *corev1.Pod {
	if w.Cluster != 0 {
		return nil
	}
	var container corev1.Container
	for _, port := range w.Ports {
		container.Ports = append(container.Ports, corev1.ContainerPort{
			Name: port.Name, ContainerPort: int32(port.Port), Protocol: corev1.Protocol(strings.ToUpper(port.Protocol.String())),
		})
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Name, Labels: w.Labels, Annotations: w.Annotations},
		Spec:       corev1.PodSpec{ServiceAccountName: w.Account, Containers: []corev1.Container{container}},
	}
}

// standIn is the one pod as which a workload is seen; nil for none, and for one of
// another cluster.
func (k *knowledge) standIn(w *manifest.Workload) *corev1.Pod {
	if w == nil || w.Cluster != 0 {
		return nil
	}
	pod := k.standIns[w]
	if pod == nil {
		pod = asPod(w)
		if _, attached := k.local.Devices[w.Key()]; attached {
			pod.Spec.NodeName = k.node
		}
		k.standIns[w], k.names[pod] = pod, w.Key()
		for _, addr := range w.Addresses {
			if k.workloads[addr] == w && !slices.Contains(k.addresses[pod], addr) {
				k.addresses[pod] = append(k.addresses[pod], addr)
			}
		}
	}
	return pod
}

// isForeign is whether a party is a workload of another cluster.
func (p *party) isForeign() bool { return p.workload != nil && p.as == nil }

// isPodOrWorkload is whether an address is a pod's, or a workload's, whose packets are
// treated as those of a pod.
func (k *knowledge) isPodOrWorkload(addr netip.Addr) bool {
	return k.pods[addr] != nil || k.workloads[addr] != nil
}
