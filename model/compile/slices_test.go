// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/model"
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

// One slice's change among many services: by All, and by what is kept of the last
// time. cpu-ms is what the process used for it, and to-10k how many times that
// of a tenth of the services.
func BenchmarkOneServiceChanges(b *testing.B) {
	used := map[string]time.Duration{}
	for _, many := range []int{10_000, 100_000} {
		objs := manyServices(b, many)
		local := withUplink()
		local.Identities, local.Budgets = model.NewAllocator(), roomyBudgets()
		slice := objs.EndpointSlices["default/web-7"]
		turn := 0
		change := func() *manifest.Objects {
			turn++
			changed := slice.DeepCopy()
			changed.Endpoints[0].Conditions.Ready = ptr.To(turn%2 == 0)
			objs.EndpointSlices["default/web-7"] = changed
			return objs
		}
		measure := func(b *testing.B, how string, all func(*manifest.Objects, string, model.Local) (*model.State, []Warning, error)) {
			began := cpuTime(b)
			for b.Loop() {
				_, _, err := all(change(), "node-a", local)
				require.NoError(b, err)
			}
			once := (cpuTime(b) - began) / time.Duration(b.N)
			b.ReportMetric(float64(once.Microseconds())/1000, "cpu-ms/op")
			if less, measured := used[how]; measured {
				b.ReportMetric(float64(once)/float64(less), "to-10k")
				return
			}
			used[how] = once
		}
		b.Run(fmt.Sprintf("%dk/all", many/1000), func(b *testing.B) { measure(b, "all", All) })
		b.Run(fmt.Sprintf("%dk/again", many/1000), func(b *testing.B) {
			var again Incremental
			for range 2 { // the second counts what is there
				_, _, err := again.All(change(), "node-a", local)
				require.NoError(b, err)
			}
			runtime.GC() // what All has left is not this one's
			measure(b, "again", again.All)
			require.EqualValues(b, 1, again.Whole())
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	var used unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// roomyBudgets have room for everything.
func roomyBudgets() model.Budgets {
	budgets := model.Budgets{}
	for _, table := range model.Tables() {
		budgets[table] = 10_000_000
	}
	return budgets
}

// manyServices have ten backends each, on other nodes.
func manyServices(b *testing.B, many int) *manifest.Objects {
	objs := overlay(b, frontsYAML)
	for i := range many {
		name := fmt.Sprintf("web-%d", i)
		svc := &corev1.Service{}
		svc.Namespace, svc.Name = "default", name
		svc.Spec.ClusterIP = fmt.Sprintf("10.%d.%d.%d", 100+i>>16, i>>8&255, i&255)
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
		svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
		slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
		slice.Namespace, slice.Name = "default", name
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		slice.Ports = []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To(int32(8080))}}
		for n := range 10 {
			at := 10*i + n
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("11.%d.%d.%d", at>>16, at>>8&255, at&255)}, NodeName: ptr.To("node-b")})
		}
		require.NoError(b, objs.Upsert(svc))
		require.NoError(b, objs.Upsert(slice))
	}
	return objs
}
