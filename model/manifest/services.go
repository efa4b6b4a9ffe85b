// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// ClusterIPsOf gives the addresses of a service; none for a headless one.
func ClusterIPsOf(svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := ParseLegacyAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// IsHeadless is whether a service is names for DNS, and nothing for a
// datapath.
func IsHeadless(svc *corev1.Service) bool {
	return svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.Type == corev1.ServiceTypeExternalName
}

// BalancersOf gives what a service's status says of its load balancers; nothing
// where it is none, and the status is left of one that was.
func BalancersOf(svc *corev1.Service) []corev1.LoadBalancerIngress {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	return svc.Status.LoadBalancer.Ingress
}

// Includes is whether labels hold all of those that are wanted.
func Includes(labels, wanted map[string]string) bool {
	for key, value := range wanted {
		if have, found := labels[key]; !found || have != value {
			return false
		}
	}
	return true
}
