// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// EachHostPort goes through the ports of containers that run beside each
// other, with their path.
func EachHostPort(pod *corev1.Pod, do func(field string, port corev1.ContainerPort)) {
	EachPort(pod, func(field string, port corev1.ContainerPort) {
		if port.HostPort != 0 {
			do(field, port)
		}
	})
}

// EachPort goes through the ports of containers that run beside each other, with
// their path.
func EachPort(pod *corev1.Pod, do func(field string, port corev1.ContainerPort)) {
	each := func(list string, i int, container *corev1.Container) {
		for j, port := range container.Ports {
			do(fmt.Sprintf("spec.%s[%d].ports[%d]", list, i, j), port)
		}
	}
	for i := range pod.Spec.Containers {
		each("containers", i, &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if container := &pod.Spec.InitContainers[i]; isSidecar(container) {
			each("initContainers", i, container)
		}
	}
}
