// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/agent/api"
)

// ptp connects a pod as the reference plugin of that name does.
//
//	pod: eth0 (10.0.1.5/24, default via 10.0.1.1) ~~~ name (10.0.1.1/32) :host
type ptp struct {
	*sandbox
	device string
	addrs  []netip.Addr
}

var ptpGateways = []netip.Addr{netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("fd00:1::1")}

func (n *node) ptp(pod, id, device string, addrs ...string) *ptp {
	n.t.Helper()
	p := &ptp{sandbox: n.sandbox(pod, id), device: device}
	for _, text := range addrs {
		p.addrs = append(p.addrs, netip.MustParseAddr(text))
	}
	p.pair()
	require.NoError(n.t, p.in(func() error { return p.inside(ptpGateways) }))
	host, err := netlink.LinkByName(device)
	require.NoError(n.t, err)
	for i, addr := range p.addrs {
		require.NoError(n.t, netlink.AddrAdd(host, &netlink.Addr{IPNet: single(ptpGateways[i]), Flags: unix.IFA_F_NODAD}))
		require.NoError(n.t, netlink.RouteAdd(&netlink.Route{LinkIndex: host.Attrs().Index, Dst: single(addr)}))
	}
	return p
}

// pair makes the veth pair, and a process that lives in the pod.
func (p *ptp) pair() {
	t := p.n.t
	ns, err := netns.GetFromPath(p.path)
	require.NoError(t, err)
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.device
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns), PeerTxQLen: -1}))
	host, err := netlink.LinkByName(p.device)
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(host))
	t.Cleanup(func() { _ = netlink.LinkDel(host) })
	process := exec.Command("sleep", "600")
	require.NoError(t, p.in(process.Start))
	t.Cleanup(func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	})
}

func (p *ptp) inside(gateways []netip.Addr) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, l := range []netlink.Link{lo, link} {
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	for i, addr := range p.addrs {
		mask := 24
		if addr.Is6() {
			mask = 64
		}
		wide := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(mask, addr.BitLen())}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: wide, Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE}); err != nil {
			return err
		}
		if gateways == nil {
			continue
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(gateways[i]), Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		all := everyone(addr)
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: gateways[i].AsSlice()}); err != nil {
			return err
		}
	}
	return nil
}

func single(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

func everyone(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, addr.BitLen()/8), Mask: net.CIDRMask(0, addr.BitLen())}
}

// running is a pod as the API shows it when it was connected.
func running(name string, addrs ...string) string {
	var ips []string
	for _, addr := range addrs {
		ips = append(ips, fmt.Sprintf("{ip: %q}", addr))
	}
	status := fmt.Sprintf("status: {phase: Running, podIP: %q, podIPs: [%s]}\n---\n", addrs[0], strings.Join(ips, ", "))
	return strings.Replace(podObject(name), "---\n", status, 1)
}

// remember is what libcni keeps of an ADD.
func (n *node) remember(p *ptp) {
	n.t.Helper()
	n.rememberResult(p.sandbox, "eth0", map[string]any{"cniVersion": "1.0.0", "ips": []map[string]any{{"address": p.addrs[0].String() + "/24"}}})
}

func (n *node) rememberResult(p *sandbox, ifname string, result map[string]any) {
	n.t.Helper()
	require.NoError(n.t, os.MkdirAll(n.options.Paths.Results, 0o700))
	data, err := json.Marshal(map[string]any{
		"kind": "cniCacheV1", "containerId": p.id, "ifName": ifname, "networkName": "ptp",
		"cniArgs": [][]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", p.pod}, {"K8S_POD_UID", "uid-of-" + p.pod}},
		"result":  result,
	})
	require.NoError(n.t, err)
	require.NoError(n.t, os.WriteFile(filepath.Join(n.options.Paths.Results, ifname+"-"+p.id), data, 0o600))
}

func newOccupiedNode(t *testing.T) *node {
	n := newNode(t)
	n.options.Paths.Results = filepath.Join(t.TempDir(), "results")
	return n
}

const onlyB = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-b, namespace: default}
spec:
  podSelector: {matchLabels: {app: old}}
  ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]
---
`

func TestPodsOfAnotherPluginAreTakenOver(t *testing.T) {
	n := newOccupiedNode(t)
	old := n.ptp("old", "0123", "veth-old", "10.0.1.2", "fd00:1::2")
	second := n.ptp("second", "4567", "veth-second", "10.0.1.3")
	n.remember(old)
	cluster := nodes + running("old", "10.0.1.2", "fd00:1::2") + running("second", "10.0.1.3") + podObject("b") + podObject("c")
	n.source.set(cluster)
	n.start()
	s := n.status()
	require.True(t, s.Ready, s.NotReady)
	require.Empty(t, s.Refused)
	require.Equal(t, api.EndpointCount{Known: 2, Ready: 2, TakenOver: 2}, s.Endpoints)

	byPod := map[string]api.Endpoint{}
	for _, e := range n.endpoints() {
		require.True(t, e.TakenOver && e.Ready, e.PodName)
		byPod[e.PodName] = e
	}
	require.Equal(t, "0123", byPod["old"].ContainerID, "as the runtime calls it")
	require.Equal(t, "veth-old", byPod["old"].HostDevice)
	require.Equal(t, ptpGateways, byPod["old"].Gateways)
	require.Equal(t, "unknown-uid-of-second", byPod["second"].ContainerID)

	b, c := n.sandbox("b", "bbbb"), n.sandbox("c", "cccc")
	given := append(b.add(), c.add()...)
	for _, addr := range append(append(ptpGateways, old.addrs...), second.addrs...) {
		require.NotContains(t, given, addr, "somebody has it")
	}
	for _, at := range old.addrs {
		require.NoError(t, b.reach(old.sandbox, at), at)
	}
	require.NoError(t, old.reach(second.sandbox, second.addrs[0]))
	for _, at := range given[:2] {
		require.NoError(t, old.reach(b, at), at)
	}

	n.source.set(cluster + onlyB)
	require.Eventually(t, func() bool { return c.miss(old.sandbox, old.addrs[0]) != nil }, patience, 10*time.Millisecond)
	for _, at := range old.addrs {
		require.NoError(t, b.reach(old.sandbox, at), at)
		require.ErrorContains(t, c.miss(old.sandbox, at), "timeout", at)
	}
	_, err := old.call("CHECK", map[string]any{"prevResult": map[string]any{"cniVersion": "1.1.0"}})
	require.NoError(t, err)
}

func TestAPodThatWasTakenOverIsReachedByTheNode(t *testing.T) {
	n := newOccupiedNode(t)
	old := n.ptp("old", "0123", "veth-old", "10.0.1.2", "fd00:1::2")
	n.source.set(nodes + running("old", "10.0.1.2", "fd00:1::2") + onlyB)
	n.start()
	for i, at := range old.addrs {
		require.NoError(t, n.self().reach(old.sandbox, at), at)
		require.NoError(t, old.reach(n.self(), ptpGateways[i]), "its gateway is the node")
		// Who listed neighbours before asks anew.
		require.NoError(t, old.in(func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: ptpGateways[i].AsSlice()})
		}))
		require.NoError(t, old.reach(n.self(), ptpGateways[i]), "the datapath answers for the gateway")
	}
}

// self is the node's own namespace as a sandbox.
func (n *node) self() *sandbox { return &sandbox{n: n, path: "/proc/thread-self/ns/net"} }

func TestAPodThatWasTakenOverIsTakenAwayByTheRuntime(t *testing.T) {
	for _, tt := range []struct {
		name string
		take func(n *node, old *ptp)
	}{
		{"with an agent", func(n *node, old *ptp) {
			_, err := old.call("DEL", nil)
			require.NoError(n.t, err)
		}},
		{"without an agent", func(n *node, old *ptp) {
			n.stop()
			_, err := old.call("DEL", nil)
			require.NoError(n.t, err)
			_, err = netlink.LinkByName("veth-old")
			require.ErrorContains(n.t, err, "not found", "the device goes first")
			n.start()
		}},
		{"by its own plugin", func(n *node, old *ptp) {
			link, err := netlink.LinkByName("veth-old")
			require.NoError(n.t, err)
			require.NoError(n.t, netlink.LinkDel(link))
			n.source.set(nodes)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newOccupiedNode(t)
			old := n.ptp("old", "0123", "veth-old", "10.0.1.2")
			n.remember(old)
			n.source.set(nodes + running("old", "10.0.1.2"))
			n.start()
			require.Len(t, n.endpoints(), 1)
			_, err := old.call("GC", map[string]any{"cni.dev/valid-attachments": []any{}})
			require.NoError(t, err)
			require.Len(t, n.endpoints(), 1, "the runtime may not count it to this network")
			tt.take(n, old)
			require.Eventually(t, func() bool { return len(n.endpoints()) == 0 }, patience, 10*time.Millisecond)
			require.Empty(t, n.status().Refused)
			_, err = netlink.LinkByName("veth-old")
			require.ErrorContains(t, err, "not found")
		})
	}
}

func TestAnAgentThatIsStartedAgainKeepsWhatItTookOver(t *testing.T) {
	n := newOccupiedNode(t)
	old := n.ptp("old", "0123", "veth-old", "10.0.1.2")
	n.remember(old)
	n.source.set(nodes + running("old", "10.0.1.2") + podObject("b"))
	n.start()
	before := n.endpoints()
	n.stop()
	n.start()
	require.Equal(t, before, n.endpoints())
	b := n.sandbox("b", "bbbb")
	b.add()
	require.NoError(t, b.reach(old.sandbox, old.addrs[0]))
}

func TestPodsThatLostTheirDevicesWithAnUninstallAreConnectedAnew(t *testing.T) {
	n := newOccupiedNode(t)
	objects := nodes + podObject("a") + podObject("b")
	n.source.set(objects)
	n.start()
	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	result, err := a.call("ADD", nil)
	require.NoError(t, err)
	n.rememberResult(a, "eth0", result)
	n.rememberResult(a, "a-loopback", map[string]any{"cniVersion": "1.0.0"}) // which comes first
	had := n.endpoints()[0].Addresses
	n.leavesNothing()

	n.source.set(nodes + running("a", had[0].String(), had[1].String()) + podObject("b"))
	n.start()
	require.Eventually(t, func() bool { list := n.endpoints(); return len(list) == 1 && list[0].Ready }, patience, 10*time.Millisecond)
	again := n.endpoints()[0]
	require.Equal(t, had, again.Addresses)
	require.Equal(t, "aaaa", again.ContainerID)
	require.False(t, again.TakenOver)
	for i, at := range b.add() {
		require.NoError(t, a.reach(b, at))
		require.NoError(t, b.reach(a, had[i]))
	}
	_, err = a.call("CHECK", map[string]any{"prevResult": result})
	require.NoError(t, err)
	_, err = a.call("DEL", nil)
	require.NoError(t, err)
	require.Len(t, n.endpoints(), 1)
}

func TestUninstallLeavesOthersPodsAsTheyWere(t *testing.T) {
	n := newOccupiedNode(t)
	old := n.ptp("old", "0123", "veth-old", "10.0.1.2")
	n.source.set(nodes + running("old", "10.0.1.2"))
	n.start()
	require.Len(t, n.endpoints(), 1)
	n.leavesNothing()
	require.NoError(t, n.self().reach(old.sandbox, old.addrs[0]), "by the route of its own plugin")
}

func TestPodsThatCannotBeTakenOverAreNamedWithTheReason(t *testing.T) {
	n := newOccupiedNode(t)
	told := make(chan api.Refused, 10)
	n.options.Events = func(r api.Refused) { told <- r }

	// On a bridge, with a route to the whole network.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "cni0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	require.NoError(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { _ = netlink.LinkDel(bridge) })
	bridged := &ptp{sandbox: n.sandbox("bridged", "b1"), device: "veth-bridged", addrs: []netip.Addr{netip.MustParseAddr("10.0.1.9")}}
	bridged.pair()
	port, err := netlink.LinkByName("veth-bridged")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetMaster(port, bridge))
	require.NoError(t, netlink.LinkSetUp(bridge))
	require.NoError(t, netlink.AddrAdd(bridge, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, 1, 1).To4(), Mask: net.CIDRMask(24, 32)}}))
	require.NoError(t, bridged.in(func() error {
		if err := bridged.inside(nil); err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(10, 0, 1, 0).To4(), Mask: net.CIDRMask(24, 32)}, Scope: netlink.SCOPE_LINK})
	}))
	// On a veth of its own, without a gateway.
	alone := &ptp{sandbox: n.sandbox("alone", "b2"), device: "veth-alone", addrs: []netip.Addr{netip.MustParseAddr("10.0.1.8")}}
	alone.pair()
	require.NoError(t, alone.in(func() error { return alone.inside(nil) }))
	link, err := netlink.LinkByName("veth-alone")
	require.NoError(t, err)
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(alone.addrs[0]), Scope: netlink.SCOPE_LINK}))

	n.source.set(nodes + running("bridged", "10.0.1.9") + running("alone", "10.0.1.8") + running("elsewhere", "172.30.0.9") + running("not-there", "fd00:1::77") + podObject("b"))
	n.start()
	problems := map[string]string{}
	for _, r := range n.status().Refused {
		require.Contains(t, r.Problem, "deleted and made anew")
		problems[r.Object.String()] = r.Problem
	}
	require.Len(t, problems, 3, problems)
	require.Contains(t, problems["Pod default/bridged"], "cni0, a bridge, leads to its address 10.0.1.9")
	require.Contains(t, problems["Pod default/alone"], "no default route by a gateway")
	require.Contains(t, problems["Pod default/elsewhere"], "172.30.0.9 is not of the node's podCIDRs, 10.0.1.0/24")
	require.Len(t, told, 3, "an event each")
	for range 3 {
		applied := n.status().Objects
		n.source.set(n.source.text + "---\n" + podObject(fmt.Sprint("more-", applied)))
		require.Eventually(t, func() bool { return n.status().Objects > applied }, patience, 10*time.Millisecond)
		require.Len(t, n.status().Refused, 3, "told until it is over")
	}
	require.True(t, n.status().Ready)

	require.NoError(t, n.self().reach(bridged.sandbox, bridged.addrs[0]), "the bridge's route stays")
	b := n.sandbox("b", "bbbb")
	require.NotContains(t, []string{"10.0.1.1", "10.0.1.8", "10.0.1.9"}, b.add()[0].String())

	n.source.set(nodes + podObject("b"))
	require.Eventually(t, func() bool { return len(n.status().Refused) == 0 }, patience, 10*time.Millisecond)
}
