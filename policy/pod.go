// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model/manifest"
)

// Pod is a pod that policies are about: it has addresses of its own.
type Pod struct {
	Name      string // namespace/pod
	Addresses []netip.Addr

	ports []corev1.ContainerPort // that have names
}

// LeftOut is a pod that no policy can be asked about.
type LeftOut struct {
	Pod string // namespace/pod
	Why string
}

// Pods are all that have an address of their own, by name, and those that are
// left out. Pods that have ended are in neither.
func Pods(objs *manifest.Objects) (pods []Pod, left []LeftOut) {
	for _, name := range slices.Sorted(maps.Keys(objs.Pods)) {
		pod := objs.Pods[name]
		p := Pod{Name: name, ports: namedPorts(pod)}
		for _, ip := range pod.Status.PodIPs {
			if addr, err := netip.ParseAddr(ip.IP); err == nil {
				p.Addresses = append(p.Addresses, addr)
			}
		}
		if addr, err := netip.ParseAddr(pod.Status.PodIP); err == nil && len(p.Addresses) == 0 {
			p.Addresses = []netip.Addr{addr}
		}
		switch {
		case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		case pod.Spec.HostNetwork:
			left = append(left, LeftOut{name, "it is on the host's network, and no policy selects it"})
		case len(p.Addresses) == 0:
			left = append(left, LeftOut{name, "it has no address: give it status.podIPs"})
		default:
			pods = append(pods, p)
		}
	}
	return pods, left
}

// ErrNoPods is told in place of an answer that would say nothing.
var ErrNoPods = errors.New("there is no pod with an address among the objects: give the Pods too, with status.podIPs, on both sides of a comparison")

// of is the pod with its addresses of one family alone.
func (p *Pod) of(family string) *Pod {
	return &Pod{p.Name, slices.DeleteFunc(slices.Clone(p.Addresses), func(a netip.Addr) bool { return a.Is4() != (family == IPv4) }), p.ports}
}

// WithFamily are the pods that have addresses of a family, with these alone.
func WithFamily(pods []Pod, family string) []Pod {
	var found []Pod
	for i := range pods {
		if p := pods[i].of(family); len(p.Addresses) > 0 {
			found = append(found, *p)
		}
	}
	return found
}

// Families, as they are named in answers.
const IPv4, IPv6 = "ipv4", "ipv6"

// meeting gives addresses of two pods by which they could talk.
func meeting(from, to *Pod) (src, dst netip.Addr, ok bool) {
	for _, src := range from.Addresses {
		for _, dst := range to.Addresses {
			if src.Is4() == dst.Is4() {
				return src, dst, true
			}
		}
	}
	return src, dst, false
}
