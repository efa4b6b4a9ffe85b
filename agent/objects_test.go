// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/endpoints"
	"github.com/weirnet/weir/agent/inputs"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

func parse(t *testing.T, text string) *manifest.Objects {
	t.Helper()
	objs, err := manifest.Parse("objects", strings.NewReader(text))
	require.NoError(t, err)
	return objs
}

func record(id, pod, uid string, addrs ...string) api.Endpoint {
	e := api.Endpoint{EndpointRequest: api.EndpointRequest{ContainerID: id, IfName: "eth0", PodNamespace: "default", PodName: pod, PodUID: uid}}
	for _, addr := range addrs {
		e.Addresses = append(e.Addresses, netip.MustParseAddr(addr))
	}
	return e
}

// clusterOf is a cluster that has not taken in yet what it is.
func clusterOf(t *testing.T, objs *manifest.Objects) *cluster {
	t.Helper()
	tables := inputs.New()
	for _, ref := range objs.Refs() {
		require.NoError(t, tables.Put(objs.Find(ref)))
	}
	return newCluster(tables, "self")
}

func storeOf(t *testing.T, records ...api.Endpoint) *endpoints.Store {
	t.Helper()
	store, err := endpoints.Open(t.TempDir())
	require.NoError(t, err)
	for _, e := range records {
		_, err := store.Restore(e.EndpointRequest, e.Addresses, nil, 1500)
		require.NoError(t, err)
	}
	return store
}

func TestWhoHasAnAddressWhenStatusesAreLate(t *testing.T) {
	for _, tt := range []struct {
		name, pods string
		records    []api.Endpoint
		want       map[string]string // address by pod
	}{
		{
			"a pod has its recorded address before its status says so",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
`,
			[]api.Endpoint{record("x", "a", "1", "10.0.0.1")}, map[string]string{"a": "10.0.0.1"},
		},
		{
			"the newest sandbox of a pod counts",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
`,
			[]api.Endpoint{record("x", "a", "1", "10.0.0.1"), record("y", "a", "1", "10.0.0.2")}, map[string]string{"a": "10.0.0.2"},
		},
		{
			"a record of an earlier pod of that name is not the pod's",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "2"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
`,
			[]api.Endpoint{record("x", "a", "1", "10.0.0.1")}, map[string]string{"a": ""},
		},
		{
			"a static pod is known by the hash of its file",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "2", annotations: {kubernetes.io/config.hash: "1"}}
spec: {nodeName: self, containers: [{name: main, image: none}]}
`,
			[]api.Endpoint{record("x", "a", "1", "10.0.0.1")}, map[string]string{"a": "10.0.0.1"},
		},
		{
			"an address goes to whom it is recorded for",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, uid: "2"}
spec: {nodeName: self, containers: [{name: main, image: none}]}
`,
			[]api.Endpoint{record("x", "b", "2", "10.0.0.1")}, map[string]string{"a": "", "b": "10.0.0.1"},
		},
		{
			"of two pods elsewhere the one that is going loses",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1", creationTimestamp: "2026-01-02T00:00:00Z", deletionTimestamp: "2026-01-02T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, uid: "2", creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
`,
			nil, map[string]string{"a": "", "b": "10.0.0.1"},
		},
		{
			"of two pods elsewhere the newer one wins",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1", creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, uid: "2", creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
`,
			nil, map[string]string{"a": "", "b": "10.0.0.1"},
		},
		{
			"a finished pod keeps nothing from others",
			`
kind: Pod
apiVersion: v1
metadata: {name: a, uid: "1", creationTimestamp: "2026-01-03T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {phase: Succeeded, podIPs: [{ip: 10.0.0.1}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, uid: "2", creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {nodeName: other, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 10.0.0.1}]}
`,
			nil, map[string]string{"b": "10.0.0.1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := clusterOf(t, parse(t, tt.pods))
			c.take()
			c.settle(storeOf(t, tt.records...))
			for name, want := range tt.want {
				got := ""
				for _, ip := range c.objs.Pods["default/"+name].Status.PodIPs {
					got += ip.IP
				}
				require.Equal(t, want, got, name)
			}
		})
	}
}

// changer changes a small cluster by chance, in which much is disputed.
type changer struct {
	t      *testing.T
	random *rand.Rand
	tables *inputs.Inputs
	store  *endpoints.Store
	uids   int
}

func (c *changer) pod() *corev1.Pod {
	c.uids++
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = "default", fmt.Sprint("pod-", c.random.IntN(8))
	pod.UID = types.UID(fmt.Sprint(c.random.IntN(2)))
	pod.Spec.NodeName = []string{"self", "self", "other", ""}[c.random.IntN(4)]
	pod.Spec.HostNetwork = c.random.IntN(10) == 0
	pod.Status.Phase = []corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed}[c.random.IntN(5)]
	pod.CreationTimestamp = metav1.NewTime(time.Unix(int64(c.random.IntN(3)), 0))
	if c.random.IntN(4) == 0 {
		pod.DeletionTimestamp = &metav1.Time{}
	}
	for range c.random.IntN(3) {
		text := fmt.Sprint("10.0.0.", c.random.IntN(6))
		if c.random.IntN(20) == 0 {
			text = "none"
		}
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: text})
	}
	return pod
}

func (c *changer) service() *corev1.Service {
	svc := &corev1.Service{}
	svc.Namespace, svc.Name = "default", fmt.Sprint("svc-", c.random.IntN(3))
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	svc.Spec.HealthCheckNodePort = int32(c.random.IntN(4))
	return svc
}

func (c *changer) slice() *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.Namespace, slice.Name = "default", fmt.Sprint("slice-", c.random.IntN(5))
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("svc-", c.random.IntN(3))}
	here := "self"
	for n := range c.random.IntN(3) {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprint("10.0.0.", n)}, NodeName: &here})
	}
	return slice
}

func (c *changer) workload() *manifest.Workload {
	w := &manifest.Workload{Kind: model.OwnerExternalWorkload, Cluster: uint8(c.random.IntN(2))}
	w.Namespace, w.Name = "default", fmt.Sprint("pod-", c.random.IntN(3))
	return w
}

func (c *changer) once() {
	switch c.random.IntN(10) {
	case 8:
		require.NoError(c.t, c.tables.Put(c.workload()))
	case 9:
		c.tables.Delete(manifest.RefOf(c.workload()))
	case 0, 1:
		require.NoError(c.t, c.tables.Put(c.pod()))
	case 2:
		c.tables.Delete(manifest.RefOf(c.pod()))
	case 3:
		require.NoError(c.t, c.tables.Put(c.service()))
	case 4:
		require.NoError(c.t, c.tables.Put(c.slice()))
	case 5:
		c.tables.Delete(manifest.RefOf([]metav1.Object{c.service(), c.slice()}[c.random.IntN(2)]))
	case 6:
		req := record(fmt.Sprint("c", c.random.IntN(6)), fmt.Sprint("pod-", c.random.IntN(8)), []string{"0", "1", ""}[c.random.IntN(3)]).EndpointRequest
		// An address that is another's is refused.
		_, _ = c.store.Restore(req, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(c.random.IntN(6))})}, nil, 1500)
	case 7:
		require.NoError(c.t, c.store.Delete(api.Attachment{ContainerID: fmt.Sprint("c", c.random.IntN(6)), IfName: "eth0"}))
	}
}

func TestWhatIsMadeAgainIsWhatIsMadeAnew(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TEST_SEED=%d", seed)
	change := &changer{t: t, random: rand.New(rand.NewPCG(seed, 0)), tables: inputs.New(), store: storeOf(t)}
	kept := newCluster(change.tables, "self")
	checks := newHealthChecks("self")
	before := manifest.NewObjects()
	for range 1500 {
		for range 1 + change.random.IntN(3) {
			change.once()
		}
		kept.take()
		kept.settle(change.store)
		changed := kept.takeChanged()
		anew, _ := change.tables.Objects()
		ours := overlay(anew, "self", change.store.List())
		require.Equal(t, anew, kept.objs)
		require.Equal(t, ours, kept.pods.ours)
		for _, ref := range anew.Clone().Refs() {
			if before.Find(ref) == nil || before.Find(ref) != kept.objs.Find(ref) {
				require.Contains(t, changed, ref)
			}
		}
		for _, ref := range before.Refs() {
			if kept.objs.Find(ref) == nil {
				require.Contains(t, changed, ref, "it is gone")
			}
		}
		before = kept.objs.Clone()

		var refusals []compile.Refusal // of some of what there is
		for _, ref := range []model.Ref{{Kind: "Service", Namespace: "default", Name: "svc-0"}, {Kind: "EndpointSlice", Namespace: "default", Name: "slice-1"}} {
			if change.random.IntN(4) == 0 && anew.Find(ref) != nil {
				refusals = append(refusals, compile.Refusal{Object: ref})
				require.NoError(t, anew.Delete(ref.Kind, ref.Namespace, ref.Name))
			}
		}
		checks.take(kept.objs, changed, refusals)
		require.ElementsMatch(t, compile.HealthChecks(anew, "self"), checks.list)
	}
}

// What follows is what a cluster's pods are, made anew of all of them.

// overlay gives this node's pods the addresses that they are recorded with, and
// takes addresses from pods that cannot have them any more. It gives the
// endpoints of the pods.
func overlay(objs *manifest.Objects, node string, list []api.Endpoint) map[model.Key]api.Endpoint {
	ours := map[model.Key]api.Endpoint{}
	owners := map[netip.Addr]string{}
	for _, e := range list { // the newest last: a pod whose sandbox was made anew has two
		name := e.PodNamespace + "/" + e.PodName
		pod := objs.Pods[name]
		if pod == nil || pod.Spec.NodeName != node || pod.Spec.HostNetwork || !isOf(&e, pod) {
			continue
		}
		ours[model.ParseKey(name)] = e
	}
	for key, e := range ours {
		name := key.String()
		pod := withAddresses(objs.Pods[name], e.Addresses)
		// A pod that is finished has its device until it is taken away, and
		// nothing to say any more: the model knows.
		objs.Pods[name] = pod
		for _, addr := range e.Addresses {
			owners[addr] = name
		}
	}
	dropStale(objs, owners)
	return ours
}

// dropStale leaves each address to one pod: to whom it is recorded for, else to
// the one that is newest and not going.
func dropStale(objs *manifest.Objects, owners map[netip.Addr]string) {
	names := make([]string, 0, len(objs.Pods))
	for name, pod := range objs.Pods {
		if !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && len(pod.Status.PodIPs) > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(newer(objs.Pods[a], objs.Pods[b]), cmp.Compare(a, b)) })
	for _, name := range names {
		pod := objs.Pods[name]
		var keep []netip.Addr
		stale := false
		for _, ip := range pod.Status.PodIPs {
			addr, err := netip.ParseAddr(ip.IP)
			if err != nil {
				continue // the model names the field
			}
			if owner, taken := owners[addr]; taken && owner != name {
				stale = true
				continue
			}
			owners[addr] = name
			keep = append(keep, addr)
		}
		if stale {
			objs.Pods[name] = withAddresses(pod, keep)
		}
	}
}

func TestAPolicyThatIsMendedIsNeverMissed(t *testing.T) {
	policy := &manifest.CiliumNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}
	policy.Kind = "CiliumNetworkPolicy"
	tables := inputs.New()
	require.NoError(t, tables.Put(policy))
	c := newCluster(tables, "self")
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		for range 5_000 {
			tables.PutUnread(manifest.Unread{Object: manifest.RefOf(policy)})
			_ = tables.Put(policy)
		}
	}()
	for {
		c.take()
		require.Equal(t, 1, len(c.objs.CiliumNetworkPolicies)+len(c.unread))
		select {
		case <-moved:
			return
		default:
		}
	}
}
