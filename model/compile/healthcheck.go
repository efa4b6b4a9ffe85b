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

// HealthChecks lists the health checks that a node answers, by port. As in All,
// EndpointSlices are taken as they are.
func HealthChecks(objs *manifest.Objects, node string) []HealthCheck {
	slicesOf := map[string][]*discoveryv1.EndpointSlice{}
	for _, slice := range objs.EndpointSlices {
		name := manifest.ServiceOf(slice)
		slicesOf[name] = append(slicesOf[name], slice)
	}
	var checks []HealthCheck
	for _, svc := range manifest.InOrder(objs.Services) {
		if check, asked := HealthCheckOf(svc, slicesOf[manifest.NameOf(svc)], node); asked {
			checks = append(checks, check)
		}
	}
	slices.SortStableFunc(checks, func(a, b HealthCheck) int { return cmp.Compare(a.Port, b.Port) })
	return checks
}

// HealthCheckOf gives the health check of a Service that has these EndpointSlices,
// if there is one. As with kube-proxy an endpoint's condition ready is all that is
// asked: of a terminating pod it is false, except where the Service publishes
// unready ones.
func HealthCheckOf(svc *corev1.Service, slices []*discoveryv1.EndpointSlice, node string) (HealthCheck, bool) {
	spec := &svc.Spec
	if spec.HealthCheckNodePort == 0 || spec.Type != corev1.ServiceTypeLoadBalancer || spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return HealthCheck{}, false
	}
	local := map[string]bool{} // ready endpoints here
	for _, slice := range slices {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue // names lead nowhere
		}
		for i := range slice.Endpoints {
			endpoint := &slice.Endpoints[i]
			if ptr.Deref(endpoint.NodeName, "") != node || !ptr.Deref(endpoint.Conditions.Ready, true) || len(endpoint.Addresses) == 0 {
				continue
			}
			// A pod of both families is in two slices, and one endpoint.
			id := endpoint.Addresses[0]
			if endpoint.TargetRef != nil {
				id = endpoint.TargetRef.Name
			}
			local[id] = true
		}
	}
	return HealthCheck{
		Service: types.NamespacedName{Namespace: manifest.NamespaceOr(svc.Namespace), Name: svc.Name},
		Port:    uint16(spec.HealthCheckNodePort),
		Local:   len(local),
	}, true
}
