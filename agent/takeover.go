// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model/manifest"
)

// Pods that another plugin has connected are taken over as they are: their
// devices get the datapath's programs, and policy holds for them. That needs a
// veth pair of the pod's own, and a pod that sends everything to a gateway:
//
//	pod eth0 (10.244.1.5, default via 10.244.1.1) ~~~ veth1234 :host
//	                                                  10.244.1.5 dev veth1234
//
// Everything that the other plugin has made stays: its route, since ours is
// behind it, and the gateway's address, for which the datapath answers.

// takeover is what is known of pods that have no record. It is used with
// compiling held.
type takeover struct {
	tries map[types.UID]try
}

// try is the last attempt at a pod.
type try struct {
	first, last time.Time
	problem     string // empty: there is nothing to take over
	told        bool
}

const (
	// A sandbox that is being made anew has no record for a moment.
	takeoverPatience = 10 * time.Second
	takeoverInterval = 5 * time.Second
	// A pod whose sandbox has ended has its address by the API until the next.
	lostPatience = time.Minute
)

// takeOver records the pods of this node that another plugin has connected,
// and gives those for which it cannot.
func (a *Agent) takeOver(pods *pods, local *localNode) []api.Refused {
	begin := a.kept.takeover.tries == nil
	tries := map[types.UID]try{}
	var refused []api.Refused
	var node *connections // read when it is needed
	for _, name := range a.strangers(pods) {
		pod := pods.said[name]
		t := a.kept.takeover.tries[pod.UID]
		if t.first.IsZero() {
			t.first = time.Now()
		}
		if time.Since(t.last) > takeoverInterval {
			if node == nil {
				node = a.readConnections()
			}
			err := a.takeOverPod(pod, local, node)
			if err == nil {
				continue
			}
			t.last, t.problem = time.Now(), ""
			if !errors.Is(err, errNobodys) || time.Since(t.first) > lostPatience {
				t.problem = err.Error()
			}
		}
		// What the first look has told stays told.
		t.told = t.problem != "" && pod.DeletionTimestamp == nil && (t.told || begin || time.Since(t.first) > takeoverPatience)
		tries[pod.UID] = t
		if t.told {
			refused = append(refused, api.Refused{
				Object: manifest.RefOf(pod), UID: string(pod.UID),
				Problem: t.problem + ": policies do not hold for it, and pods of this node may not reach it, until it is deleted and made anew",
			})
		}
	}
	a.kept.takeover.tries = tries
	return refused
}

// strangers are the pods of this node that have addresses by the API and no
// record, by name.
func (a *Agent) strangers(pods *pods) (names []string) {
	recorded := map[string][]api.Endpoint{}
	for _, e := range a.store.List() {
		name := e.PodNamespace + "/" + e.PodName
		recorded[name] = append(recorded[name], e)
	}
	for name := range pods.here {
		pod := pods.said[name]
		isIts := func(e api.Endpoint) bool { return isOf(&e, pod) }
		if a.hasAddresses(pod) && !slices.ContainsFunc(recorded[name], isIts) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (a *Agent) hasAddresses(pod *corev1.Pod) bool {
	return pod.Spec.NodeName == a.opts.Node && mayHave(pod) && len(pod.Status.PodIPs) > 0
}

// spare are the addresses that nobody can be given, since somebody has them
// who was given none: pods of another plugin, and the node itself.
func (a *Agent) spare(pods *pods, local *localNode) map[netip.Addr]bool {
	spare := map[netip.Addr]bool{}
	for addr := range local.addresses {
		spare[addr] = true
	}
	for name := range pods.here {
		pod := pods.said[name]
		if !a.hasAddresses(pod) {
			continue
		}
		for _, addr := range addressesOf(pod) {
			spare[addr] = true
		}
	}
	return spare
}

func addressesOf(pod *corev1.Pod) (addrs []netip.Addr) {
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// errNobodys is an address that leads to nothing on this node: its pod is not
// connected now.
var errNobodys = errors.New("nothing has the address")

func (a *Agent) takeOverPod(pod *corev1.Pod, local *localNode, node *connections) error {
	addrs := addressesOf(pod)
	host, err := a.hostSide(addrs, local)
	if errors.Is(err, errNobodys) {
		return a.reconnect(pod, local, node)
	}
	if err != nil {
		return err
	}
	inside, err := node.podSide(host, addrs)
	if err != nil {
		return err
	}
	for _, s := range sysctlsOfPod(host.Attrs().Name) {
		if err := a.set(s); err != nil {
			return err
		}
	}
	e := api.Endpoint{
		EndpointRequest: api.EndpointRequest{
			ContainerID: node.container(pod, inside.name), IfName: inside.name, Netns: inside.netns,
			PodNamespace: pod.Namespace, PodName: pod.Name, PodUID: string(pod.UID),
		},
		Addresses: addrs, Gateways: inside.gateways, MTU: host.Attrs().MTU,
		HostDevice: host.Attrs().Name, HostMAC: host.Attrs().HardwareAddr.String(), PodMAC: inside.mac, Ifindex: host.Attrs().Index,
	}
	if err := a.store.TakeOver(e); err != nil {
		return err
	}
	a.log.Info("a pod of another plugin is taken over", "pod", pod.Namespace+"/"+pod.Name, "device", e.HostDevice, "addresses", addrs, "gateways", e.Gateways, "container", e.ContainerID)
	return nil
}

// hostSide is the veth to which the node's routes lead for a pod's addresses.
func (a *Agent) hostSide(addrs []netip.Addr, local *localNode) (netlink.Link, error) {
	var found netlink.Link
	for _, addr := range addrs {
		if !slices.ContainsFunc(a.store.Pool.Prefixes(), func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return nil, fmt.Errorf("its address %s is not of the node's podCIDRs, %s", addr, &a.store.Pool)
		}
		routes, err := netlink.RouteGet(addr.AsSlice())
		if err != nil || len(routes) == 0 || len(routes[0].Gw) > 0 {
			return nil, errNobodys
		}
		link := local.byIndex(routes[0].LinkIndex)
		switch {
		case link == nil, isLoopback(link), local.isUplink(link):
			return nil, errNobodys
		case link.Type() != "veth":
			return nil, fmt.Errorf("%s, a %s, leads to its address %s, and no veth pair of its own", link.Attrs().Name, link.Type(), addr)
		case found != nil && found.Attrs().Index != link.Attrs().Index:
			return nil, fmt.Errorf("its addresses %s are behind two devices, %s and %s", addrs, found.Attrs().Name, link.Attrs().Name)
		}
		found = link
	}
	if found == nil {
		return nil, errNobodys
	}
	return found, nil
}

// inside is what a pod's network namespace has.
type inside struct {
	name, mac string
	netns     string // path
	gateways  []netip.Addr
}

// connections are what the node's processes and its runtime say of pods.
type connections struct {
	spaces  map[int]string // paths of network namespaces, by what the kernel calls them here
	results []cniResult
}

// cniResult is what libcni keeps of an interface that it has made
// (libcni/api.go, cachedInfo).
type cniResult struct {
	ContainerID string      `json:"containerId"`
	IfName      string      `json:"ifName"`
	Args        [][2]string `json:"cniArgs"`
	Result      struct {
		Interfaces []struct {
			Sandbox string `json:"sandbox"`
		} `json:"interfaces"`
		IPs []struct {
			Address string `json:"address"`
		} `json:"ips"`
	} `json:"result"`
}

// sandbox is the path of the pod's network namespace on the node; empty where
// the plugin did not say.
func (r *cniResult) sandbox() string {
	for _, i := range r.Result.Interfaces {
		if i.Sandbox != "" {
			return i.Sandbox
		}
	}
	return ""
}

// isFor is whether a pod has the result's addresses, as far as it says.
func (r *cniResult) isFor(pod *corev1.Pod) bool {
	addrs := addressesOf(pod)
	for _, ip := range r.Result.IPs {
		if prefix, err := netip.ParsePrefix(ip.Address); err != nil || !slices.Contains(addrs, prefix.Addr()) {
			return false
		}
	}
	return true
}

func (a *Agent) readConnections() *connections {
	c := &connections{spaces: map[int]string{}}
	procfs := a.opts.Paths.Procfs
	if procfs == "" {
		procfs = "/proc"
	}
	seen := map[string]bool{}
	processes, err := os.ReadDir(procfs)
	a.report("look for pods' network namespaces", err)
	for _, process := range processes {
		if _, err := strconv.Atoi(process.Name()); err != nil {
			continue
		}
		path := filepath.Join(procfs, process.Name(), "ns/net")
		space, err := os.Readlink(path)
		if err != nil || seen[space] {
			continue // it has ended
		}
		seen[space] = true
		if id, err := spaceID(path); err == nil && id >= 0 {
			c.spaces[id] = path
		}
	}
	c.results = readResults(a.opts.Paths.results())
	return c
}

// spaceID is by what number this namespace knows another one.
func spaceID(path string) (int, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	return netlink.GetNetNsIdByFd(int(ns))
}

// podSide looks at the other side of a veth pair, and fails if a pod does not
// send everything to a gateway there.
func (c *connections) podSide(host netlink.Link, addrs []netip.Addr) (*inside, error) {
	path, found := c.spaces[host.Attrs().NetNsID]
	if !found {
		return nil, fmt.Errorf("no process is in the network namespace of the other side of %s: the agent needs the node's processes (hostPID)", host.Attrs().Name)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, errNobodys // the process has ended meanwhile
	}
	defer ns.Close()
	there, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, fmt.Errorf("look into its network namespace: %w", err)
	}
	defer there.Close()
	link, err := there.LinkByIndex(host.Attrs().ParentIndex)
	if err != nil {
		return nil, fmt.Errorf("find the other side of %s: %w", host.Attrs().Name, err)
	}
	side := &inside{name: link.Attrs().Name, mac: link.Attrs().HardwareAddr.String(), netns: path}
	if err := has(there, link, addrs); err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		gateway, err := gatewayOf(there, link, addr)
		if err != nil {
			return nil, err
		}
		side.gateways = append(side.gateways, gateway)
	}
	return side, nil
}

func has(there *netlink.Handle, link netlink.Link, addrs []netip.Addr) error {
	list, err := there.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of its %s: %w", link.Attrs().Name, err)
	}
	for _, addr := range addrs {
		if !slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IP.Equal(addr.AsSlice()) }) {
			return fmt.Errorf("its device %s does not have its address %s", link.Attrs().Name, addr)
		}
	}
	return nil
}

// gatewayOf is the next hop of the default route of an address's family. A
// route without a next hop is for neighbours, for whom nobody answers.
func gatewayOf(there *netlink.Handle, link netlink.Link, addr netip.Addr) (gateway netip.Addr, err error) {
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := there.RouteList(link, family)
	if err != nil {
		return gateway, fmt.Errorf("list routes of its %s: %w", link.Attrs().Name, err)
	}
	for i := range list {
		to, ok := destination(&list[i], addr)
		switch next, gw := netip.AddrFromSlice(list[i].Gw); {
		case !ok:
		case gw && to.Bits() == 0:
			gateway = next.Unmap()
		case !gw && !to.IsSingleIP() && !to.Addr().IsLinkLocalUnicast() && !to.Addr().IsMulticast():
			return gateway, fmt.Errorf("its route to %s expects neighbours on its device %s, as on a bridge", to, link.Attrs().Name)
		}
	}
	if !gateway.IsValid() {
		return gateway, fmt.Errorf("it has no default route by a gateway for its address %s", addr)
	}
	return gateway, nil
}

func destination(route *netlink.Route, addr netip.Addr) (netip.Prefix, bool) {
	if route.Dst == nil {
		prefix, err := addr.Prefix(0)
		return prefix, err == nil
	}
	to, ok := netip.AddrFromSlice(route.Dst.IP)
	bits, _ := route.Dst.Mask.Size()
	return netip.PrefixFrom(to.Unmap(), bits), ok
}

// readResults reads what the runtime keeps; nothing where it keeps it
// elsewhere, or does not keep it.
func readResults(dir string) (results []cniResult) {
	const kind = "cniCacheV1"
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || dir == "" {
		return nil
	}
	for _, path := range files {
		var result struct {
			Kind string `json:"kind"`
			cniResult
		}
		data, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(data, &result) == nil && result.Kind == kind {
			results = append(results, result.cniResult)
		}
	}
	return results
}

// container is the ID by which the runtime will ask for a pod's deletion. One
// that it is not known by is forgotten when its device goes.
func (c *connections) container(pod *corev1.Pod, ifname string) string {
	for i := range c.results {
		if r := &c.results[i]; r.IfName == ifname && r.isOf(pod) {
			return r.ContainerID
		}
	}
	return "unknown-" + strings.ToLower(string(pod.UID))
}

// isOf is whether the runtime asked for a pod's interface.
func (r *cniResult) isOf(pod *corev1.Pod) bool {
	args := map[string]string{}
	for _, arg := range r.Args {
		args[arg[0]] = arg[1]
	}
	uid := args["K8S_POD_UID"]
	return r.isFor(pod) && args["K8S_POD_NAMESPACE"] == pod.Namespace && args["K8S_POD_NAME"] == pod.Name &&
		(uid == "" || uid == string(pod.UID) || uid == pod.Annotations[staticPodHash])
}

// forgetTakenOver forgets endpoints that another plugin made and took away
// again.
func (a *Agent) forgetTakenOver(local *localNode) {
	for _, e := range a.store.List() {
		link := local.links[e.HostDevice]
		if !e.TakenOver || link != nil && link.Attrs().Index == e.Ifindex {
			continue
		}
		a.log.Info("the device of a pod that was taken over is gone: so is the endpoint", "pod", e.PodNamespace+"/"+e.PodName)
		a.report("forget an endpoint", a.store.Delete(api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName}))
	}
}
