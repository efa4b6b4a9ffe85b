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
		Nodes: []lab.Host{{Name: "node", Addresses: addrs("198.18.0.2")}, {Name: "node-2", Addresses: addrs("198.18.0.3")}},
		Pods: []lab.Host{
			{Name: client, Addresses: addrs("10.0.0.1")}, {Name: "default/web", Addresses: addrs("10.0.0.2")},
			{Name: "default/guarded", Addresses: addrs("10.0.0.3")}, {Name: "default/far", Addresses: addrs("10.0.1.1"), Node: "node-2"},
		},
		Outside:  []lab.Host{{Name: outside, Addresses: addrs("203.0.113.10")}},
		Gateways: model.Gateways(),
		Uplinks:  true,
	}
}

// objects are what the cluster of the world has.
const objects = `
apiVersion: v1
kind: Node
metadata: {name: node}
status: {addresses: [{type: InternalIP, address: 198.18.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-2}
status: {addresses: [{type: InternalIP, address: 198.18.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: node}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: node}
status: {podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: guarded, labels: {app: guarded}}
spec: {nodeName: node}
status: {podIPs: [{ip: 10.0.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: far}}
spec: {nodeName: node-2}
status: {podIPs: [{ip: 10.0.1.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {type: NodePort, clusterIP: 10.96.0.11, selector: {app: far}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: guarded}
spec: {podSelector: {matchLabels: {app: guarded}}, policyTypes: [Ingress]}
`

// apply compiles the objects and applies them to the first node.
func apply(ctx context.Context, w *prog.World, topo lab.Topology) error {
	objs, err := manifest.Parse("bench", strings.NewReader(objects))
	if err != nil {
		return err
	}
	state, _, err := compile.All(manifest.DeriveEndpointSlices(objs), topo.Nodes[0].Name, model.Local{
		Devices: w.Devices(""), Uplinks: w.Uplinks(""), Gateways: topo.Gateways, Options: model.Options{Masquerade: true},
	})
	if err != nil {
		return fmt.Errorf("compile what is measured: %w", err)
	}
	_, err = w.Apply(ctx, "", state)
	return err
}
