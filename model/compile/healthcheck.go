// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/model/manifest"
)

// HealthCheck is what a load balancer beyond the cluster asks a node about a
// Service with externalTrafficPolicy Local: whether it has backends here.
type HealthCheck struct {
	Service types.NamespacedName
	Port    uint16 // spec.healthCheckNodePort, on all of the node's addresses
	// Local is how many ready endpoints of the Service are on the node. Those that
	// are terminating and still serve do not count, though they take new flows while
	// nobody is ready: the balancer is to leave the node, and what it sends until it
	// has is served (KEP-1669).
	Local int
}

// HealthChecks lists the health checks that a node answers, by port. As with
// kube-proxy an endpoint's condition ready is all that is asked: of a terminating
// pod it is false, except where the Service publishes unready ones. As in
// All, EndpointSlices are taken as they are.
func HealthChecks(objs *manifest.Objects, node string) []HealthCheck {
	local := map[string]map[string]bool{} // service → ready endpoints here
	for _, slice := range manifest.InOrder(objs.EndpointSlices) {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue // names lead nowhere
		}
		name := manifest.ServiceOf(slice)
		for _, endpoint := range slice.Endpoints {
			if ptr.Deref(endpoint.NodeName, "") != node || !ptr.Deref(endpoint.Conditions.Ready, true) || len(endpoint.Addresses) == 0 {
				continue
			}
			if local[name] == nil {
				local[name] = map[string]bool{}
			}
			// A pod of both families is in two slices, and one endpoint.
			id := endpoint.Addresses[0]
			if endpoint.TargetRef != nil {
				id = endpoint.TargetRef.Name
			}
			local[name][id] = true
		}
	}
	var checks []HealthCheck
	for _, svc := range manifest.InOrder(objs.Services) {
		spec := svc.Spec
		if spec.HealthCheckNodePort == 0 || spec.Type != corev1.ServiceTypeLoadBalancer || spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			continue
		}
		checks = append(checks, HealthCheck{
			Service: types.NamespacedName{Namespace: manifest.NamespaceOr(svc.Namespace), Name: svc.Name},
			Port:    uint16(spec.HealthCheckNodePort),
			Local:   len(local[manifest.NameOf(svc)]),
		})
	}
	slices.SortFunc(checks, func(a, b HealthCheck) int { return cmp.Compare(a.Port, b.Port) })
	return checks
}
