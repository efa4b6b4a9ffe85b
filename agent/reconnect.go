// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/cni"
	"github.com/weirnet/weir/model"
)

// Pods whose devices a plugin has taken away when it was removed, Weir itself
// say, run on without a network, and nobody connects them anew: for the runtime
// they are connected. The runtime's records say where they are, and which
// addresses they had.

// reconnect gives such a pod new devices with its addresses. It fails with
// errNobodys where the pod is not one.
func (a *Agent) reconnect(pod *corev1.Pod, local *localNode, node *connections) error {
	addrs := addressesOf(pod)
	result := node.addressed(pod)
	if result == nil || a.isDeleted(result.ContainerID) || !a.ofPrefixes(addrs) {
		return errNobodys
	}
	path := a.onHost(result.sandbox())
	if empty, err := lacksDevice(path, result.IfName); err != nil || !empty {
		return errors.Join(errNobodys, err)
	}
	e, err := a.store.Restore(api.EndpointRequest{
		ContainerID: result.ContainerID, IfName: result.IfName, Netns: path,
		PodNamespace: pod.Namespace, PodName: pod.Name, PodUID: string(pod.UID),
	}, addrs, model.Gateways(), local.mtu)
	if err != nil {
		return err
	}
	at := api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName}
	ifindex, err := cni.Wire(&e)
	if err == nil {
		_, err = a.store.Wire(at, ifindex)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("it has no network any more: %w", err), cni.RemoveDevice(e.HostDevice), a.store.Delete(at))
	}
	a.log.Info("a pod whose devices were gone is connected anew", "pod", pod.Namespace+"/"+pod.Name, "addresses", addrs, "container", e.ContainerID)
	a.hurry()
	return nil
}

// addressed is what the runtime keeps of the interface that has a pod's
// addresses, of all that it asked for; nil: nothing.
func (c *connections) addressed(pod *corev1.Pod) *cniResult {
	for i := range c.results {
		if r := &c.results[i]; len(r.Result.IPs) > 0 && r.isOf(pod) {
			return r
		}
	}
	return nil
}

func (a *Agent) ofPrefixes(addrs []netip.Addr) bool {
	prefixes := a.store.Pool.Prefixes()
	for _, addr := range addrs {
		if !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return false
		}
	}
	return len(addrs) > 0
}

// onHost is where the agent sees a path of the node. /var/run leads to /run on
// every node, by a link that would lead to the agent's own.
func (a *Agent) onHost(path string) string {
	if root := a.opts.Paths.HostRoot; root != "" && path != "" {
		return filepath.Join(root, strings.TrimPrefix(path, "/var"))
	}
	return path
}

// lacksDevice is whether a network namespace is there, and has no device of a
// name.
func lacksDevice(path, name string) (bool, error) {
	ns, err := netns.GetFromPath(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open its network namespace %s: %w", path, err)
	}
	defer ns.Close()
	there, err := netlink.NewHandleAt(ns)
	if err != nil {
		return false, fmt.Errorf("look into its network namespace: %w", err)
	}
	defer there.Close()
	_, err = there.LinkByName(name)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return true, nil
	}
	return false, err
}
