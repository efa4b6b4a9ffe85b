// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/model/manifest"
)

func TestDerivedEndpointsSayWhereAndForWhomTheyAre(t *testing.T) {
	const cluster = `
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: east}}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
---
apiVersion: v1
kind: Pod
metadata: {name: a, uid: "7", labels: {app: web}}
spec: {nodeName: node-a}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: web}}
spec: {nodeName: node-b}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: c, labels: {app: web}, deletionTimestamp: "2030-01-01T00:00:00Z"}
spec: {nodeName: node-a}
status: {podIP: 10.0.0.3}
---
`
	tests := []struct {
		name, spec string
		want       []string
	}{
		{"without a wish", `{clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, protocol: SCTP}]}`, []string{
			"Pod default/a 7 on node-a in east ready, for nodes [] zones []",
			"Pod default/b  on node-b in  ready, for nodes [] zones []",
			"Pod default/c  on node-a in east terminating, for nodes [] zones []",
		}},
		{"for the zone", `{trafficDistribution: PreferSameZone, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, protocol: SCTP}]}`, []string{
			"Pod default/a 7 on node-a in east ready, for nodes [] zones [{east}]",
			"Pod default/b  on node-b in  ready, for nodes [] zones []",
			"Pod default/c  on node-a in east terminating, for nodes [] zones []",
		}},
		{"for the node, and unready ones are published", `{publishNotReadyAddresses: true, trafficDistribution: PreferSameNode, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, protocol: SCTP}]}`, []string{
			"Pod default/a 7 on node-a in east ready, for nodes [{node-a}] zones [{east}]",
			"Pod default/b  on node-b in  ready, for nodes [{node-b}] zones []",
			"Pod default/c  on node-a in east terminating ready, for nodes [{node-a}] zones [{east}]",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			derived := manifest.DeriveEndpointSlices(mustParse(t, cluster+service(tt.spec)))
			slice := derived.EndpointSlices["default/web-derived-ipv4-0"]
			require.NotNil(t, slice)
			require.EqualValues(t, "SCTP", *slice.Ports[0].Protocol)
			var lines []string
			for _, e := range slice.Endpoints {
				hints := &discoveryv1.EndpointHints{}
				if e.Hints != nil {
					hints = e.Hints
				}
				line := fmt.Sprintf("%s %s/%s %s on %s in %s", e.TargetRef.Kind, e.TargetRef.Namespace, e.TargetRef.Name, e.TargetRef.UID, ptr.Deref(e.NodeName, ""), ptr.Deref(e.Zone, ""))
				if ptr.Deref(e.Conditions.Terminating, false) {
					line += " terminating"
				}
				if ptr.Deref(e.Conditions.Ready, false) {
					line += " ready"
				}
				lines = append(lines, fmt.Sprintf("%s, for nodes %v zones %v", line, hints.ForNodes, hints.ForZones))
			}
			require.Equal(t, tt.want, lines)
		})
	}
}

func BenchmarkCompileManyServices(b *testing.B) {
	objs := overlay(b, frontsYAML)
	web := overlay(b, service(`{type: NodePort, clusterIP: 10.96.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}`)).Services["default/web"]
	for i := range 10_000 {
		svc := web.DeepCopy()
		svc.Name = fmt.Sprintf("web-%d", i)
		svc.Spec.ClusterIP = fmt.Sprintf("10.97.%d.%d", i>>8, i&255)
		svc.Spec.Ports[0].NodePort = int32(20000 + i)
		require.NoError(b, objs.Upsert(svc))
	}
	listed := manifest.DeriveEndpointSlices(objs)
	for b.Loop() {
		if _, _, err := All(listed, "node-a", withUplink()); err != nil {
			b.Fatal(err)
		}
	}
}
