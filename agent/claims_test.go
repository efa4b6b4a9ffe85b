// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

const tenants = `
apiVersion: v1
kind: Namespace
metadata: {name: aaa}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, creationTimestamp: "2025-01-01T00:00:00Z"}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{name: dns, protocol: UDP, port: 53}, {name: tcp, port: 53}]}
---
`

func external(name, clusterIP, port, address string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: aaa, uid: uid-of-%s, creationTimestamp: "2020-01-01T00:00:00Z"}
spec: {clusterIP: %s, clusterIPs: [%s], externalIPs: [%s], ports: [%s]}
---
`, name, name, clusterIP, clusterIP, address, port)
}

// frontends are those in force: kind, address and name of each.
func (n *node) frontends() []string {
	n.t.Helper()
	var list []api.Service
	require.NoError(n.t, n.client.Get(n.t.Context(), api.PathServices, &list))
	var lines []string
	for _, s := range list {
		lines = append(lines, fmt.Sprint(s.Kind, " ", s.Address, " ", s.Name))
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// awaitFrontends waits until these are in force, and gives all that are. A pod may be
// connected beside a pass: its host ports are the next one's.
func (n *node) awaitFrontends(lines ...string) []string {
	n.t.Helper()
	var all []string
	require.Eventually(n.t, func() bool {
		all = n.frontends()
		return !slices.ContainsFunc(lines, func(line string) bool { return !slices.Contains(all, line) })
	}, patience, 10*time.Millisecond, "%s", lines)
	return all
}

func TestATenantTakesNobodysAddressOrPort(t *testing.T) {
	n := newNode(t)
	told := make(chan api.Refused, 20)
	n.options.Events = func(r api.Refused) { told <- r }
	victim := strings.Replace(podObject("victim"), "image: none", "image: none, ports: [{containerPort: 80, hostPort: 8080}]", 1)
	n.source.set(defaultNamespace + tenants + nodes + victim + podObject("b") +
		external("evil", "10.96.0.66", "{protocol: UDP, port: 53}", "10.96.0.10") + external("taker", "10.96.0.67", "{port: 8080}", "192.0.2.1"))
	n.start()
	v, b := n.sandbox("victim", "vvvv"), n.sandbox("b", "bbbb")
	at := v.add()
	b.add()
	require.NoError(t, b.reach(v, at[0]), "a pod is connected whatever others claim")
	fronts := n.awaitFrontends(
		"ClusterIP 10.96.0.10:53 kube-system/kube-dns:dns", "ClusterIP 10.96.0.10:53 kube-system/kube-dns:tcp",
		"HostPort 192.0.2.1:8080 default/victim:8080", "ClusterIP 10.96.0.66:53 aaa/evil:53", "ClusterIP 10.96.0.67:8080 aaa/taker:8080")
	require.NotContains(t, strings.Join(fronts, "\n"), "ExternalIP")
	refused := n.status().Refused
	require.Len(t, refused, 2)
	for i, want := range []api.Refused{
		{Object: model.Ref{Kind: "Service", Namespace: "aaa", Name: "evil"}, UID: "uid-of-evil", Problem: "10.96.0.10 is the address of Service kube-system/kube-dns"},
		{Object: model.Ref{Kind: "Service", Namespace: "aaa", Name: "taker"}, UID: "uid-of-taker", Problem: "192.0.2.1 is the address of Node node-1"},
	} {
		require.Equal(t, want.Object, refused[i].Object)
		require.Equal(t, want.UID, refused[i].UID)
		require.Equal(t, "spec.externalIPs[0]", refused[i].Field)
		require.Contains(t, refused[i].Problem, want.Problem)
		require.True(t, refused[i].FieldOnly)
		require.Equal(t, want.UID, (<-told).UID, "it is told by an event of its own")
	}
	require.Empty(t, told, "once")
}

func TestABalancerOfHostPortsIsServed(t *testing.T) {
	n := newNode(t)
	n.source.set(defaultNamespace + nodes + podObject("a") + `
apiVersion: v1
kind: Pod
metadata: {name: svclb, namespace: default, uid: uid-of-svclb, labels: {app: svclb}}
spec: {nodeName: node-1, containers: [{name: main, image: none, ports: [{containerPort: 80, hostPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: traefik, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.20
  ports: [{name: http, port: 80, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2}]}}
---
`)
	n.start()
	a, lb := n.sandbox("a", "aaaa"), n.sandbox("svclb", "bbbb")
	a.add()
	at := lb.add()
	require.NoError(t, a.reach(lb, at[0]))
	n.awaitFrontends("LoadBalancer 192.0.2.1:80 default/traefik:http", "LoadBalancer 192.0.2.2:80 default/traefik:http",
		"HostPort [2001:db8::1]:80 default/svclb:80") // where the balancer is not
	require.Eventually(t, func() bool { return len(n.status().Ignored) == 1 }, patience, 10*time.Millisecond)
	require.Equal(t, "Pod default/svclb", n.status().Ignored[0].Object.String())
	require.Empty(t, n.status().Refused)
}

// A Node whose machine is gone stays for a while, and another machine may have
// its address by now: this one, or another node's.
func TestANodeThatIsGoneTakesNothing(t *testing.T) {
	n := newNode(t)
	n.source.set(defaultNamespace + nodes + podObject("a") + podObject("b"))
	n.start()
	a, b := n.sandbox("a", "aaaa"), n.sandbox("b", "bbbb")
	at := a.add()
	b.add()
	before := n.routes()
	for i, gone := range []string{
		`address: 192.0.2.1}]`, `address: 192.0.2.2}]`, `address: 10.0.2.9}]`, `address: ` + at[0].String() + `}]`, `address: name}]`,
		`address: 192.0.2.9}, {type: InternalIP, address: 192.0.2.1}]`,
	} {
		n.source.set(defaultNamespace + nodes + podObject("a") + podObject("b") + fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: a-gone, creationTimestamp: "2020-01-01T00:00:00Z"}
spec: {podCIDR: 10.0.2.0/23, podCIDRs: [10.0.2.0/23, "fd00:1::/63"]}
status: {addresses: [{type: InternalIP, %s}
---
apiVersion: v1
kind: Service
metadata: {name: late-%d, namespace: default}
spec: {clusterIP: 10.96.0.99, ports: [{port: 80}]}
---
`, gone, i))
		late := fmt.Sprintf("ClusterIP 10.96.0.99:80 default/late-%d:80", i)
		require.Eventually(t, func() bool { return slices.Contains(n.frontends(), late) }, patience, 10*time.Millisecond, gone)
		s := n.status()
		require.True(t, s.Ready, s.NotReady)
		for _, r := range append(s.Refused, s.Ignored...) {
			require.Equal(t, "Node a-gone", r.Object.String(), r.Problem)
			require.True(t, r.FieldOnly)
		}
		require.ElementsMatch(t, before, n.routes(), gone)
		require.NoError(t, b.reach(a, at[0]), gone)
	}
}

func TestNodePortsFollowTheKernelsAddresses(t *testing.T) {
	n := newNode(t)
	n.source.set(defaultNamespace + nodes + podObject("a") + `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: NodePort, clusterIP: 10.96.0.20, ports: [{port: 80, nodePort: 30080}]}
---
`)
	n.start()
	const more = "NodePort 192.0.2.100:30080 default/web:80"
	require.Eventually(t, func() bool { return slices.Contains(n.frontends(), "NodePort 192.0.2.1:30080 default/web:80") }, patience, 10*time.Millisecond)
	require.NotContains(t, n.frontends(), more)
	link, err := netlink.LinkByName(uplink)
	require.NoError(t, err)
	addr, err := netlink.ParseAddr("192.0.2.100/24")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(link, addr))
	require.Eventually(t, func() bool { return slices.Contains(n.frontends(), more) }, patience, 10*time.Millisecond)
	require.NoError(t, netlink.AddrDel(link, addr))
	require.Eventually(t, func() bool { return !slices.Contains(n.frontends(), more) }, patience, 10*time.Millisecond)
}

func TestServicesAreTakenAsTheAPITakesThem(t *testing.T) {
	n := newNode(t)
	n.source.set(defaultNamespace + nodes + podObject("a") + `
apiVersion: v1
kind: Service
metadata: {name: padded, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.20
  ports: [{name: http, port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: default}
spec:
  clusterIP: 10.96.0.21
  ports: [{name: http, port: 80}]
---
`)
	n.source.change(func(o *manifest.Objects) {
		svc := *o.Services["default/padded"]
		svc.Spec.LoadBalancerSourceRanges = []string{" 203.0.113.9/24"}
		o.Services["default/padded"] = &svc
		mixed := *o.Services["default/mixed"]
		mixed.Spec.ExternalIPs = []string{"2001:db8:51::77", "203.0.113.7"}
		o.Services["default/mixed"] = &mixed
	})
	n.start()
	require.Eventually(t, func() bool { return slices.Contains(n.frontends(), "ExternalIP 203.0.113.7:80 default/mixed:http") }, patience, 10*time.Millisecond)
	require.Contains(t, n.frontends(), "ClusterIP 10.96.0.20:80 default/padded:http")
	s := n.status()
	require.Empty(t, s.Refused)
	require.Len(t, s.Ignored, 1)
	require.Equal(t, "spec.externalIPs[0]", s.Ignored[0].Field)
}

func TestTheOperatorSwitchesClaimsOff(t *testing.T) {
	n := newNode(t)
	n.options.Config.ExternalIPs = model.Allowed{Off: true}
	n.options.Config.HostPorts = model.Allowed{Only: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	asks := strings.Replace(podObject("asks"), "image: none", "image: none, ports: [{containerPort: 80, hostPort: 8080}]", 1)
	n.source.set(defaultNamespace + tenants + nodes + asks + external("away", "10.96.0.66", "{port: 80}", "203.0.113.7"))
	n.start()
	n.sandbox("asks", "aaaa").add()
	for _, line := range n.awaitFrontends("HostPort 192.0.2.1:8080 default/asks:8080", "ClusterIP 10.96.0.66:80 aaa/away:80") {
		require.NotContains(t, line, "ExternalIP")
		require.False(t, strings.HasPrefix(line, "HostPort") && !strings.Contains(line, "192.0.2.1:"), line)
	}
	require.Equal(t, "Service aaa/away", n.status().Refused[0].Object.String())
}
