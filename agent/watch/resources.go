// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// builtin are the kinds that every cluster has.
func builtin() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		corev1.SchemeGroupVersion.WithResource("pods"),
		corev1.SchemeGroupVersion.WithResource("namespaces"),
		corev1.SchemeGroupVersion.WithResource("nodes"),
		corev1.SchemeGroupVersion.WithResource("services"),
		discoveryv1.SchemeGroupVersion.WithResource("endpointslices"),
		networkingv1.SchemeGroupVersion.WithResource("networkpolicies"),
	}
}

// Resources are all that a Watcher reads: whoever runs one has to be allowed
// to get, list and watch them.
func Resources() []schema.GroupVersionResource {
	custom := customResources()
	all := append(builtin(), definitionResource)
	for _, name := range slices.Sorted(maps.Keys(custom)) {
		resource := custom[name]
		all = append(all, resource.in(resource.versions[0])) // a right is to a resource, in all versions
	}
	return all
}
