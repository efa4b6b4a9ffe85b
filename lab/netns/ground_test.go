// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// Addresses of the services of serviceObjects.
var (
	webServiceV4, webServiceV6 = netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd96::10")
)

// serviceObjects are the pods of topology, and a service of the pod web for
// each port that the tests use, which it serves under another number.
const serviceObjects = `
apiVersion: v1
kind: Node
metadata: {name: node}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.1}
  - {type: InternalIP, address: "2001:db8::1"}
---
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default, labels: {app: client}}
spec: {nodeName: node, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}}
spec: {nodeName: node, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: default, labels: {app: other}}
spec: {nodeName: node, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.3}, {ip: "fd00::3"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd96::10"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports:
  - {name: http, port: 80, targetPort: 8080, protocol: TCP}
  - {name: dns-udp, port: 53, targetPort: 5353, protocol: UDP}
  - {name: dns-tcp, port: 53, targetPort: 5353, protocol: TCP}
  - {name: iperf-tcp, port: 5001, targetPort: 5201, protocol: TCP}
  - {name: iperf-udp, port: 5001, targetPort: 5201, protocol: UDP}
`

// onlyClient is a policy under which web takes what the client sends, alone.
const onlyClient = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-client, namespace: default}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
`

// applyObjects compiles objects and gives them to the world's datapath.
func applyObjects(t testing.TB, w *World, documents ...string) {
	t.Helper()
	objects, err := manifest.Parse("objects.yaml", strings.NewReader(strings.Join(documents, "\n---\n")))
	require.NoError(t, err)
	state, warnings, err := compile.All(manifest.DeriveEndpointSlices(objects), "node", model.Local{
		Devices: model.DevicesOf(w.Devices("")), Gateways: w.topology.Gateways,
	})
	require.NoError(t, err)
	require.Empty(t, warnings)
	_, err = w.Apply(t.Context(), "", state)
	require.NoError(t, err)
}

// ground is a world and the addresses by which the client reaches web in it.
type ground struct {
	name      string
	options   Options
	addresses []netip.Addr
	// port leads to the port target of web.
	port func(target uint16) uint16
}

// grounds are the kernel's own forwarding, which shows that a test is sound
// and what can be reached, and the datapath with a service.
func grounds() []ground {
	same := func(port uint16) uint16 { return port }
	services := map[uint16]uint16{8080: 80, 5353: 53, 5201: 5001}
	return []ground{
		{name: "kernel alone", options: Options{Plain: true}, addresses: []netip.Addr{webV4, webV6}, port: same},
		{name: "datapath pod", addresses: []netip.Addr{webV4, webV6}, port: same},
		{name: "datapath service", addresses: []netip.Addr{webServiceV4, webServiceV6},
			port: func(target uint16) uint16 { return services[target] }},
	}
}

func (g ground) build(t testing.TB, blind bool) *World {
	t.Helper()
	g.options.Blind = blind
	w := newTestWorld(t, g.options)
	if !g.options.Plain {
		applyObjects(t, w, serviceObjects)
	}
	return w
}

// at is where the client finds what web serves on target.
func (g ground) at(address netip.Addr, target uint16) netip.AddrPort {
	return netip.AddrPortFrom(address, g.port(target))
}

func family(a netip.Addr) string {
	return fmt.Sprintf("IPv%d", map[bool]int{true: 4, false: 6}[a.Is4()])
}
