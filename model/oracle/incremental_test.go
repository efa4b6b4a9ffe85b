// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// What is made of changes one by one is what is made of all objects at once,
// whatever they quarrel about.
func TestChangesOneByOneComeToTheSameAsAllAtOnce(t *testing.T) {
	seed, rounds := seedOf(t), numberIn(t, "TEST_ROUNDS", 200)
	met := map[string]int{}
	for round := range rounds {
		compareSteps(t, seed, round, 30, met)
	}
	t.Logf("%v", met)
	n := int(rounds)
	require.Greater(t, met["alone"], 5*n, "hardly anything was made again alone")
	require.Greater(t, met["whole"], 2*n, "hardly anything was made as a whole")
	require.Greater(t, met["refused"], n/2, "hardly anything had no room")
}

// seedOf gives the seed of TEST_SEED, or one by chance, and says which: whatever
// fails can be run again.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := numberIn(t, "TEST_SEED", uint64(rand.Uint32()))
	t.Logf("TEST_SEED=%d", seed)
	return seed
}

// numberIn gives what an environment variable says.
func numberIn(t *testing.T, variable string, otherwise uint64) uint64 {
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, variable)
	return n
}

func compareSteps(t *testing.T, seed, round uint64, steps int, met map[string]int) {
	r := rand.New(rand.NewPCG(seed, round))
	objs, local := quarrel(r)
	if r.IntN(2) == 0 {
		objs = manifest.DeriveEndpointSlices(objs)
	}
	if r.IntN(2) == 0 {
		local.Budgets = model.Budgets{}
		for _, table := range model.Tables() {
			local.Budgets[table] = 4 + r.IntN(30)
		}
		local.Budgets[model.TableMaglev] = pick(r, []int{30_000, 100_000})
	}
	var again compile.Incremental
	mine, others := local, local
	mine.Identities, others.Identities = model.NewAllocator(), model.NewAllocator()
	var given, meant *model.State
	for step := range steps {
		context := fmt.Sprintf("TEST_SEED=%d round %d step %d", seed, round, step)
		whole := again.Whole()
		state, warnings, err := again.All(objs, "node-a", mine)
		want, wanted, wrong := compile.All(objs, "node-a", others)
		require.Equal(t, wrong, err, context)
		require.Equal(t, want, state, context)
		require.Equal(t, wanted, warnings, context)
		require.Equal(t, meant, given, "what was given is changed: %s", context)
		given, meant = state, want
		switch {
		case err != nil:
			met["refused"]++
		case again.Whole() == whole:
			met["alone"]++
		default:
			met["whole"]++
		}
		objs = changed(r, objs)
	}
}

// changed gives other objects, a few of which are others.
func changed(r *rand.Rand, objs *manifest.Objects) *manifest.Objects {
	after := objs.Clone()
	for range 1 + r.IntN(3) {
		changeOne(r, after)
	}
	return after
}

func changeOne(r *rand.Rand, objs *manifest.Objects) {
	other, _ := quarrel(r)
	switch r.IntN(27) {
	case 25:
		key := pick(r, slices.SortedFunc(maps.Keys(other.Workloads), model.Key.Compare))
		objs.Workloads[key] = other.Workloads[key]
	case 26:
		for key := range objs.Workloads {
			delete(objs.Workloads, key)
			break
		}
	case 0:
		copyOne(r, objs.Pods, other.Pods)
	case 1:
		copyOne(r, objs.Nodes, other.Nodes)
	case 2, 3:
		deleteOne(r, objs.Services)
	case 4, 5:
		deleteOne(r, objs.EndpointSlices)
	case 6, 7, 8, 9, 10, 11:
		copyOne(r, objs.Services, other.Services)
	case 12, 13, 14, 15:
		// The same addresses, and something else.
		alterOne(r, objs.Services, func(svc *corev1.Service) {
			svc.Spec.Ports[0].Port = pick(r, []int32{80, 81, 82})
			svc.Spec.ExternalIPs = pick(r, [][]string{nil, svc.Spec.ExternalIPs, {"203.0.113.1"}, {"10.96.0.1"}})
		})
	case 16:
		// A ClusterIP that nobody else has.
		alterOne(r, objs.Services, func(svc *corev1.Service) {
			svc.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.7.%d", 1+r.IntN(20))}
			svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
		})
	case 17:
		policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}
		policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
			{IPBlock: &networkingv1.IPBlock{CIDR: pick(r, []string{"10.96.0.1/32", "10.96.7.3/32", "10.96.0.0/16", "fd96::1/128"})}},
		}}}
		objs.NetworkPolicies["default/p"] = policy
	default:
		slice := anySlice(r)
		objs.EndpointSlices[slice.Namespace+"/"+slice.Name] = slice
	}
}

func copyOne[T any](r *rand.Rand, to, from map[string]T) {
	key := pick(r, slices.Sorted(maps.Keys(from)))
	to[key] = from[key]
}

func deleteOne[T any](r *rand.Rand, from map[string]T) {
	if len(from) > 0 {
		delete(from, pick(r, slices.Sorted(maps.Keys(from))))
	}
}

// alterOne lets a copy of one service be changed, and puts it in its place.
func alterOne(r *rand.Rand, services map[string]*corev1.Service, alter func(*corev1.Service)) {
	if len(services) > 0 {
		key := pick(r, slices.Sorted(maps.Keys(services)))
		svc := services[key].DeepCopy()
		alter(svc)
		services[key] = svc
	}
}

// anySlice lists who may serve a service, which may not be there.
func anySlice(r *rand.Rand) *discoveryv1.EndpointSlice {
	truth := []*bool{nil, ref(true), ref(false)}
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.Namespace, slice.Name = pick(r, []string{"default", "shop"}), fmt.Sprintf("slice-%d", r.IntN(6))
	slice.Labels = pick(r, []map[string]string{{discoveryv1.LabelServiceName: fmt.Sprintf("service-%d", r.IntN(4))}, {discoveryv1.LabelServiceName: fmt.Sprintf("service-%d", r.IntN(4))}, {discoveryv1.LabelServiceName: "kubernetes"}, nil})
	addrs := []string{"10.9.0.1", "10.9.0.2", "10.9.1.1", "172.18.0.2", "10.96.0.1", "10.96.7.3", "192.0.2.1", "192.0.2.2"}
	switch r.IntN(8) {
	case 0:
		slice.AddressType, addrs = discoveryv1.AddressTypeIPv6, []string{"fd99::1", "fd18::2", "fd96::1", "2001:db8::7"}
	case 1:
		slice.AddressType, addrs = discoveryv1.AddressTypeFQDN, []string{"example.org"}
	}
	for range 1 + r.IntN(3) {
		endpoint := discoveryv1.Endpoint{
			Addresses:  []string{pick(r, addrs)},
			Conditions: discoveryv1.EndpointConditions{Ready: pick(r, truth), Serving: pick(r, truth), Terminating: pick(r, truth)},
			NodeName:   pick(r, []*string{nil, ref("node-a"), ref("node-b")}),
		}
		if r.IntN(2) == 0 {
			endpoint.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("pod-%d", r.IntN(5))}
		}
		slice.Endpoints = append(slice.Endpoints, endpoint)
	}
	for range 1 + r.IntN(2) {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: ref(""), Port: ref(pick(r, []int32{80, 8080}))})
	}
	slice.Ports = slice.Ports[:1]
	return slice
}
