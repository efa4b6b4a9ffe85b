// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// Hosts of the world.
const (
	client  = "default/client"
	outside = "outside"
	far     = "node-2"
)

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// topology is two nodes with uplinks; the first has the client and those whom it
// talks to.
func topology() lab.Topology {
	return lab.Topology{
		Nodes: []lab.Host{{Name: "node", Addresses: addrs(node1[:]...)}, {Name: far, Addresses: addrs(node2[:]...)}},
		Pods: []lab.Host{
			{Name: client, Addresses: addrs("10.0.0.1", "fd00::1")}, {Name: "default/web", Addresses: addrs(web[:]...)},
			{Name: "default/guarded", Addresses: addrs(guarded[:]...)}, {Name: "default/picky", Addresses: addrs(picky[:]...)},
		},
		Outside:  []lab.Host{{Name: outside, Addresses: addrs("203.0.113.10", "2001:db8:9::10")}},
		Gateways: model.Gateways(),
		Uplinks:  true,
	}
}

// The service of pods has a port for each 50,000 flows of its one client, and each
// has a port of the backend to itself: no two flows are one behind it.
const (
	firstServicePort = 80
	firstTargetPort  = 8000
	servicePorts     = 48
)

// farPods is how many backends the other node has: the node's address has a source
// port towards each of them once.
const farPods = 96

// common are objects that never differ.
const common = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guarded}
spec: {podSelector: {matchLabels: {app: guarded}}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: picky}
spec:
  podSelector: {matchLabels: {app: picky}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}, {podSelector: {matchLabels: {app: far}}}]
    ports: [{port: 8080, endPort: 8110}]
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {type: NodePort, clusterIP: 10.96.0.11, clusterIPs: [10.96.0.11, "fd96::11"], ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6],
  selector: {app: far}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: far-dsr}
spec: {type: NodePort, clusterIP: 10.96.0.12, clusterIPs: [10.96.0.12, "fd96::12"], ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6],
  selector: {app: far}, ports: [{port: 80, targetPort: 8081, nodePort: 30090}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-dsr}
spec: {type: NodePort, clusterIP: 10.96.0.13, clusterIPs: [10.96.0.13, "fd96::13"], ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6],
  selector: {app: web}, ports: [{name: a, port: 80, targetPort: 9000, nodePort: 30091}, {name: b, port: 81, targetPort: 9001, nodePort: 30092}]}
`

// dsr are the node ports whose backends answer for themselves.
var dsr = map[uint16]bool{30090: true, 30091: true, 30092: true}

// objects are what the cluster of the world has.
func objects() string {
	all := []string{common}
	node := func(name string, at [2]string) {
		all = append(all, fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: %s}
status: {addresses: [{type: InternalIP, address: %s}, {type: InternalIP, address: "%s"}]}
`, name, at[0], at[1]))
	}
	pod := func(name, app, on string, four, six string) {
		all = append(all, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec: {nodeName: %s}
status: {podIPs: [{ip: %s}, {ip: "%s"}]}
`, name, app, on, four, six))
	}
	node("node", node1)
	node(far, node2)
	pod("client", "client", "node", "10.0.0.1", "fd00::1")
	pod("web", "web", "node", web[0], web[1])
	pod("guarded", "guarded", "node", guarded[0], guarded[1])
	pod("picky", "picky", "node", picky[0], picky[1])
	for i := range farPods {
		pod(fmt.Sprintf("far-%d", i), "far", far, hostAt(netip.MustParseAddr(farPod[0]), i).String(), hostAt(netip.MustParseAddr(farPod[1]), i).String())
	}
	var ports []string
	for i := range servicePorts {
		ports = append(ports, fmt.Sprintf("{name: p%d, port: %d, targetPort: %d}", i, firstServicePort+i, firstTargetPort+i))
	}
	all = append(all, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: %s, clusterIPs: [%s, "%s"], ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], selector: {app: web}, ports: [%s]}
`, service[0], service[0], service[1], strings.Join(ports, ", ")))
	return strings.Join(all, "---")
}

// state is what the first node has of the objects.
func state(w *prog.World, topo lab.Topology) (*model.State, error) {
	objs, err := manifest.Parse("bench", strings.NewReader(objects()))
	if err != nil {
		return nil, err
	}
	s, warnings, err := compile.All(manifest.DeriveEndpointSlices(objs), topo.Nodes[0].Name, model.Local{
		Devices: model.DevicesOf(w.Devices("")), Uplinks: w.Uplinks(""), Gateways: topo.Gateways,
		Options: model.Options{Masquerade: true, Return: model.ReturnDSR, Tunnel: model.TunnelGeneve},
	})
	if err != nil {
		return nil, fmt.Errorf("compile what is measured: %w", err)
	}
	if len(warnings) > 0 {
		return nil, fmt.Errorf("compile what is measured: %v", warnings)
	}
	for one := range s.Services.All() {
		one.DSR = one.DSR && dsr[one.Port]
	}
	return s, nil
}

// apply applies the state to the first node.
func apply(ctx context.Context, w *prog.World, s *model.State) error {
	_, err := w.Apply(ctx, "", s)
	return err
}
