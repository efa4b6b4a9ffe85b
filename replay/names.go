// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model/manifest"
)

// serviceKind stands before a service's name.
const serviceKind = "service "

func isService(name string) bool { return strings.HasPrefix(name, serviceKind) }

// namesOf is what objects call addresses: a pod by namespace/name, and behind its
// kind a service or a node. A pod's word goes before a service's, and that before a
// node's, whose address pods may share.
func namesOf(objs *manifest.Objects) map[netip.Addr]string {
	names := map[netip.Addr]string{}
	give := func(name string, addresses ...string) {
		for _, text := range addresses {
			addr, err := netip.ParseAddr(text)
			if known, ok := names[addr]; err == nil && (!ok || name < known) {
				names[addr] = name
			}
		}
	}
	for name, pod := range objs.Pods {
		if pod.Spec.HostNetwork {
			continue
		}
		give(name, pod.Status.PodIP)
		for _, ip := range pod.Status.PodIPs {
			give(name, ip.IP)
		}
	}
	pods := names
	names = map[netip.Addr]string{}
	for name, service := range objs.Services {
		name = serviceKind + name
		give(name, service.Spec.ClusterIP)
		give(name, service.Spec.ClusterIPs...)
		give(name, service.Spec.ExternalIPs...)
		for _, in := range service.Status.LoadBalancer.Ingress {
			give(name, in.IP)
		}
	}
	services := names
	names = map[netip.Addr]string{}
	for name, node := range objs.Nodes {
		for _, a := range node.Status.Addresses {
			if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
				give("node "+name, a.Address)
			}
		}
	}
	for _, more := range []map[netip.Addr]string{services, pods} {
		for addr, name := range more {
			names[addr] = name
		}
	}
	return names
}
