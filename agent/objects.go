// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model/manifest"
)

// A pod's status says its address only after it was connected, and may say it
// still when another pod has it: of this node's pods the records know better.

// overlay gives this node's pods the addresses that they are recorded with, and
// takes addresses from pods that cannot have them any more. It gives the
// endpoints of the pods by namespace/name.
func overlay(objs *manifest.Objects, node string, list []api.Endpoint) map[string]api.Endpoint {
	ours := map[string]api.Endpoint{}
	owners := map[netip.Addr]string{}
	for _, e := range list { // the newest last: a pod whose sandbox was made anew has two
		name := e.PodNamespace + "/" + e.PodName
		pod := objs.Pods[name]
		if pod == nil || pod.Spec.NodeName != node || pod.Spec.HostNetwork || !isOf(&e, pod) {
			continue
		}
		ours[name] = e
	}
	for name, e := range ours {
		pod := withAddresses(objs.Pods[name], e.Addresses)
		// A pod that is finished has its device until it is taken away, and
		// nothing to say any more: the model knows.
		objs.Pods[name] = pod
		for _, addr := range e.Addresses {
			owners[addr] = name
		}
	}
	dropStale(objs, owners)
	return ours
}

// isOf says whether an endpoint is a pod's, and not of one that had its name
// before. The runtime knows a static pod by the hash of its file.
func isOf(e *api.Endpoint, pod *corev1.Pod) bool {
	uid := types.UID(e.PodUID)
	return uid == "" || uid == pod.UID || string(uid) == pod.Annotations[staticPodHash]
}

const staticPodHash = "kubernetes.io/config.hash"

func withAddresses(pod *corev1.Pod, addrs []netip.Addr) *corev1.Pod {
	changed := *pod
	changed.Status.PodIPs = nil
	changed.Status.PodIP = ""
	for _, addr := range addrs {
		changed.Status.PodIPs = append(changed.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	if len(addrs) > 0 {
		changed.Status.PodIP = addrs[0].String()
	}
	return &changed
}

// dropStale leaves each address to one pod: to whom it is recorded for, else to
// the one that is newest and not going.
func dropStale(objs *manifest.Objects, owners map[netip.Addr]string) {
	names := make([]string, 0, len(objs.Pods))
	for name, pod := range objs.Pods {
		if !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && len(pod.Status.PodIPs) > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(newer(objs.Pods[a], objs.Pods[b]), cmp.Compare(a, b)) })
	for _, name := range names {
		pod := objs.Pods[name]
		var keep []netip.Addr
		stale := false
		for _, ip := range pod.Status.PodIPs {
			addr, err := netip.ParseAddr(ip.IP)
			if err != nil {
				continue // the model names the field
			}
			if owner, taken := owners[addr]; taken && owner != name {
				stale = true
				continue
			}
			owners[addr] = name
			keep = append(keep, addr)
		}
		if stale {
			objs.Pods[name] = withAddresses(pod, keep)
		}
	}
}

// newer orders pods that are not going first, then by age.
func newer(a, b *corev1.Pod) int {
	if going := a.DeletionTimestamp != nil; going != (b.DeletionTimestamp != nil) {
		if going {
			return 1
		}
		return -1
	}
	return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
}

func podCIDRs(node *corev1.Node) []netip.Prefix {
	if node == nil {
		return nil
	}
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 && node.Spec.PodCIDR != "" {
		texts = []string{node.Spec.PodCIDR}
	}
	var prefixes []netip.Prefix
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, prefix.Masked())
		}
	}
	return prefixes
}

func internalAddresses(node *corev1.Node) []netip.Addr {
	if node == nil {
		return nil
	}
	var addrs []netip.Addr
	for _, a := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func (a *Agent) usePrefixes(self *corev1.Node) {
	prefixes := podCIDRs(self)
	if len(prefixes) == 0 {
		return // what was given is kept
	}
	a.report("use the node's podCIDRs", a.store.Pool.SetPrefixes(prefixes))
	a.report("forward packets", a.makeRouter(prefixes))
}
