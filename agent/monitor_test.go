// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

func TestAWatcherThatIsTooSlowIsToldHowMuchItMissed(t *testing.T) {
	var m monitor
	slow, leave := m.join()
	defer leave()
	batch := []api.Event{{Verdict: "drop"}, {Verdict: "drop"}}
	for range monitorRoom + 3 {
		m.tell(batch)
	}
	for range monitorRoom {
		require.Zero(t, (<-slow)[0].Missed)
	}
	m.tell(batch)
	next := <-slow
	require.Equal(t, uint64(6), next[0].Missed)
	require.Equal(t, batch, next[1:])
	m.tell(batch)
	require.Equal(t, batch, <-slow)
}

func TestEventsNameWhoseTheAddressesAre(t *testing.T) {
	const text = `
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.7, clusterIPs: [10.96.0.7], ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: default, labels: {tier: front, app: a}}
spec: {nodeName: node-1, containers: [{name: main, image: none}]}
status: {phase: Running, podIPs: [{ip: 10.0.1.1}, {ip: "fd00:1::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: over, namespace: default}
spec: {nodeName: node-1, containers: [{name: main, image: none}]}
status: {phase: Succeeded, podIPs: [{ip: 10.0.1.9}]}
`
	objs := parse(t, text)
	for _, w := range []*manifest.Workload{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a", Labels: map[string]string{"app": "a"}}, Cluster: 7, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("fd00:1::1")}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Kind: model.OwnerExternalWorkload, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")}},
	} {
		require.NoError(t, objs.Upsert(w))
	}
	a := &Agent{kept: kept{cluster: clusterOf(t, objs)}}
	a.kept.cluster.take()
	a.kept.cluster.settle(storeOf(t))
	names := a.directoryOf(newDirectory())
	pod := &api.Party{Kind: "Pod", Name: "default/a", Labels: "app=a,tier=front"}
	for addr, want := range map[string]*api.Party{
		"10.0.1.1": pod, "fd00:1::1": pod, "10.96.0.7": {Kind: "Service", Name: "default/web"},
		"192.0.2.1": {Kind: "Node", Name: "node-1"}, "198.51.100.1": {Kind: "ExternalWorkload", Name: "default/a"},
		"198.51.100.7": {Kind: "Pod", Name: "default/a@7", Labels: "app=a"}, "10.0.1.9": nil, "203.0.113.1": nil,
	} {
		require.Equal(t, want, names.party(netip.MustParseAddr(addr)), addr)
	}
	e := toEvent(&datapath.Event{Tuple: model.Tuple{Src: netip.MustParseAddr("10.0.1.1"), Dst: netip.MustParseAddr("203.0.113.1")}}, time.Second, &names)
	require.Equal(t, pod, e.SourceParty)
	require.Nil(t, e.TargetParty)
	require.Equal(t, []string{"", ""}, []string{e.SourceAfter, e.TargetAfter}, "it is not translated")
	whole := toEvent(&datapath.Event{
		Hook: model.ToContainer, Reply: true, TCPFlags: 0x12,
		Tuple: model.Tuple{Src: netip.MustParseAddr("10.0.1.1"), Sport: 1, Dst: netip.MustParseAddr("203.0.113.1"), Dport: 2},
		After: model.Tuple{Src: netip.MustParseAddr("10.0.1.1"), Sport: 1, Dst: netip.MustParseAddr("203.0.113.1"), Dport: 3},
	}, time.Second, &names)
	require.Equal(t, []any{"", "203.0.113.1:3", "ingress", true, "SA"}, []any{whole.SourceAfter, whole.TargetAfter, whole.Direction, whole.Reply, whole.TCPFlags})
	a.kept.cluster.tables.Delete(model.Ref{Kind: "Pod", Namespace: "default", Name: "a"})
	a.kept.cluster.take()
	a.kept.cluster.settle(storeOf(t))
	again := a.directoryOf(names)
	require.Nil(t, again.party(netip.MustParseAddr("10.0.1.1")), "the objects have changed")
}
