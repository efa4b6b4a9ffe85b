// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// Where everybody claims everybody's addresses and ports, all that compiles is
// whose the oracle says it is, and it is the same each time.
func TestClaimsAgreeWithTheOracle(t *testing.T) {
	seed := seedOf(t)
	met := map[string]int{}
	for round := range 3000 {
		context := fmt.Sprintf("TEST_SEED=%d round %d", seed, round)
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		objs, local := quarrel(r)
		listed := manifest.DeriveEndpointSlices(objs)
		state, warnings, err := compile.All(listed, "node-a", local)
		require.NoError(t, err, context)
		again, same, err := compile.All(listed.Clone(), "node-a", local)
		require.NoError(t, err, context)
		require.Equal(t, state.Services, again.Services, context)
		require.Equal(t, state.Node, again.Node, context)
		require.Equal(t, lost(warnings), lost(same), context)

		world := know(objs, "node-a", local)
		compareOwners(t, world, state, context, met)
		compareFrontends(t, world, state, context, met)
		compareNative(t, world, state, context, met)
		require.Len(t, state.Loopback, len(world.loopback), context)
		for _, s := range state.Loopback {
			want := world.loopback[frontend{s.Address, s.Port, s.Protocol, s.Scope}]
			require.NotNil(t, want, "%s: %s at %s:%d", context, s.Name, s.Address, s.Port)
			require.Equal(t, []server{{s.Backends[0].Address, s.Backends[0].Port, true}}, want.servers, context)
			met["at loopback"]++
		}
		for _, w := range warnings {
			count(met, "lost "+w.Object.Kind, w.Lost)
		}
	}
	require.Greater(t, met["at loopback"], 30)
	for _, what := range []string{"the node's", "another node's", "a pod's", "an endpoint", "a workload's", "lost ExternalWorkload", "lost Service", "lost Pod", "lost Node", "ClusterIP", "NodePort", "LoadBalancer", "HostPort", "ExternalIP"} {
		require.Greater(t, met[what], 200, "hardly anything was %s", what)
	}
}

// lost writes what is lost, in its order.
func lost(warnings []compile.Warning) []string {
	var texts []string
	for _, w := range warnings {
		if w.Lost {
			texts = append(texts, w.String())
		}
	}
	return texts
}

func compareOwners(t *testing.T, world *knowledge, state *model.State, context string, met map[string]int) {
	require.Equal(t, world.own, state.Node.Addresses, context)
	owners := map[netip.Addr]model.Identity{}
	for a := range state.Addresses.All() {
		if a.Prefix.IsSingleIP() {
			owners[a.Prefix.Addr()] = a.Owner()
		}
	}
	expected := 0
	for addr, node := range world.nodeOf {
		want := model.IdentityRemoteNode
		if node == "node-a" {
			want = model.IdentityHost
			expected--
		}
		expected++
		require.Equal(t, want, owners[addr], "%s: %s of node %s", context, addr, node)
		count(met, "the node's", want == model.IdentityHost)
		count(met, "another node's", want == model.IdentityRemoteNode)
	}
	remote := 0
	for a := range state.Addresses.All() {
		if a.Owner() == model.IdentityRemoteNode {
			remote++
		}
	}
	require.Equal(t, expected, remote, "%s: other nodes' addresses", context)
	for addr := range world.pods {
		require.GreaterOrEqual(t, owners[addr], model.FirstLabelIdentity, "%s: %s is a pod's", context, addr)
		met["a pod's"]++
	}
	for addr, w := range world.workloads {
		require.GreaterOrEqual(t, owners[addr], model.FirstLabelIdentity, "%s: %s is of %s", context, addr, w.Key())
		met["a workload's"]++
	}
	labelled := 0
	for _, owner := range owners {
		if owner >= model.FirstLabelIdentity && owner < model.FirstBlockIdentity {
			labelled++
		}
	}
	require.Equal(t, len(world.pods)+len(world.workloads), labelled, "%s: who has labels", context)
	endpoints := 0
	for name, pod := range world.endpoints {
		i := slices.IndexFunc(state.Endpoints, func(e model.Endpoint) bool { return e.Name.String() == name })
		require.GreaterOrEqual(t, i, 0, "%s: %s", context, name)
		for _, addr := range []netip.Addr{state.Endpoints[i].IPv4, state.Endpoints[i].IPv6} {
			if addr.IsValid() {
				require.Contains(t, world.addresses[pod], addr, context)
				endpoints--
			}
		}
		endpoints += len(world.addresses[pod])
		met["an endpoint"]++
	}
	require.Zero(t, endpoints, "%s: addresses of endpoints", context)
	require.Len(t, state.Endpoints, len(world.endpoints), context)
}

// quarrel makes a small cluster in which addresses, ports and times are few.
func quarrel(r *rand.Rand) (*manifest.Objects, model.Local) {
	addr := func() string {
		return pick(r, []string{"172.18.0.2", "172.18.0.3", "172.18.0.4", "10.9.0.1", "10.9.0.2", "10.9.1.1", "10.9.1.2", "10.96.0.1", "10.96.0.2", "10.96.0.3",
			"203.0.113.1", "203.0.113.2", "10.9.255.254", "172.018.0.2", "::ffff:10.9.0.1", "fd18::2", "fd18::3", "fd99::1", "fd96::1", "2001:db8::1"})
	}
	clusterIP := func() string { return pick(r, []string{"10.96.0.1", "10.96.0.2", "10.96.0.3", addr()}) }
	meta := func(kind, space string, i int) metav1.ObjectMeta {
		m := metav1.ObjectMeta{Namespace: space, Name: fmt.Sprintf("%s-%d", kind, i)}
		if made := r.IntN(4); made > 0 {
			m.CreationTimestamp = metav1.NewTime(time.Date(2020+made, 1, 1, 0, 0, 0, 0, time.UTC))
		}
		return m
	}
	objs := manifest.NewObjects()
	objs.Namespaces["shop"] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	nodes := []string{"node-a", "node-b", "node-c"}
	for i, name := range nodes {
		node := &corev1.Node{ObjectMeta: meta("node", "", i)}
		node.Name = name
		for range 1 + r.IntN(3) {
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{
				Type:    pick(r, []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName}),
				Address: pick(r, []string{fmt.Sprintf("172.18.0.%d", 2+i), fmt.Sprintf("fd18::%d", 2+i), addr(), "127.0.0.1", "name"}),
			})
		}
		node.Spec.PodCIDRs = pick(r, [][]string{nil, {fmt.Sprintf("10.9.%d.0/24", i)}, {fmt.Sprintf("10.9.%d.7/24", i), fmt.Sprintf("fd99:%d::/64", i)}, {"10.9.0.0/16"}, {"172.18.0.0/30"}, {"10.9.0.0/24", "fd99::/64"}})
		node.Status.Conditions = pick(r, [][]corev1.NodeCondition{nil, {{Type: corev1.NodeReady, Status: pick(r, []corev1.ConditionStatus{"True", "Unknown"})}}})
		node.Status.DaemonEndpoints.KubeletEndpoint.Port = pick(r, []int32{0, 0, 80, 30080})
		objs.Nodes[name] = node
	}
	local := randomLocal(r)
	local.Gateways = []netip.Addr{netip.MustParseAddr("10.9.255.254")}
	local.Addresses = pick(r, [][]netip.Addr{nil, {netip.MustParseAddr("172.18.0.77")}, {netip.MustParseAddr("10.96.0.2"), netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("10.9.0.2")}})
	local.Options.ExternalIPs = pick(r, []model.Allowed{{}, {}, {Off: true}, {Only: prefixes("203.0.113.0/24", "172.18.0.0/16")}})
	local.Options.HostPorts = pick(r, []model.Allowed{{}, {}, {Off: true}, {Only: prefixes("172.18.0.0/16")}})
	local.Options.ReservedPorts = pick(r, [][]uint16{nil, {}, {80}, {30080}})
	for i := range 5 {
		pod := &corev1.Pod{ObjectMeta: meta("pod", pick(r, []string{"default", "shop"}), i)}
		pod.Labels = map[string]string{"app": pick(r, []string{"a", "b"})}
		pod.Spec.NodeName = pick(r, append(nodes, "node-a", "node-gone"))
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: pick(r, []string{"10.9.0.1", "10.9.0.2", "10.9.1.1", addr()})})
		pod.Spec.HostNetwork = r.IntN(5) == 0
		if r.IntN(4) == 0 {
			pod.DeletionTimestamp = &metav1.Time{}
		}
		if r.IntN(4) > 0 {
			pod.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{
				ContainerPort: 80, HostPort: pick(r, []int32{0, 80, 30080}), HostIP: pick(r, []string{"", "", "0.0.0.0", "::", "172.018.0.2", "eth0", "224.0.0.1", addr()}), Protocol: pick(r, []corev1.Protocol{"", "UDP"}),
			}}}}
			if port := &pod.Spec.Containers[0].Ports[0]; pod.Spec.HostNetwork && port.HostPort != 0 {
				port.ContainerPort = port.HostPort
			}
		}
		objs.Pods[spaceOf(pod.Namespace)+"/"+pod.Name] = pod
		if r.IntN(2) == 0 {
			local.Devices[model.ParseKey(spaceOf(pod.Namespace)+"/"+pod.Name)] = model.Device{Name: "veth-" + pod.Name}
		}
	}
	for i := range 3 {
		w := &manifest.Workload{ObjectMeta: meta("pod", pick(r, []string{"default", "shop", "nowhere"}), i)}
		w.Labels = map[string]string{"app": pick(r, []string{"a", "b"})}
		w.Kind, w.Cluster = model.OwnerExternalWorkload, pick(r, []uint8{0, 0, 1, 2})
		if w.Cluster > 0 && r.IntN(2) == 0 {
			w.Kind = model.OwnerPod
		}
		for range 1 + r.IntN(2) {
			one, _ := looseAddr(pick(r, []string{"192.0.2.8", "192.0.2.9", addr()}))
			w.Addresses = append(w.Addresses, one)
		}
		objs.Workloads[w.Key()] = w
	}
	for i := range 4 {
		svc := &corev1.Service{ObjectMeta: meta("service", pick(r, []string{"default", "shop"}), i)}
		svc.Labels = pick(r, []map[string]string{nil, nil, nil, {"service.kubernetes.io/headless": ""}, {"service.kubernetes.io/service-proxy-name": "other"}})
		spec := &svc.Spec
		spec.Selector = map[string]string{"app": pick(r, []string{"a", "b"})}
		spec.Type = pick(r, []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer})
		spec.ClusterIPs = []string{clusterIP()}
		if r.IntN(3) == 0 && len(spec.ClusterIPs[0]) < 12 {
			spec.ClusterIPs = []string{pick(r, []string{"10.96.0.1", "10.96.0.2"}), pick(r, []string{"fd96::1", "fd96::2", "fd18::3"})}
		}
		spec.Ports = []corev1.ServicePort{{Port: pick(r, []int32{80, 81})}}
		for range r.IntN(3) {
			spec.ExternalIPs = append(spec.ExternalIPs, addr())
		}
		if spec.Type != corev1.ServiceTypeClusterIP {
			spec.Ports[0].NodePort = pick(r, []int32{30080, 30081, 80})
			spec.ExternalTrafficPolicy = pick(r, []corev1.ServiceExternalTrafficPolicy{"Cluster", "Local"})
		}
		if spec.Type == corev1.ServiceTypeLoadBalancer {
			for range r.IntN(3) {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: pick(r, []string{addr(), addr(), addr(), "169.254.7.7", "::1"})})
			}
			spec.LoadBalancerSourceRanges = pick(r, [][]string{nil, {" 192.0.2.7/24"}, {"2001:db8::1/32 "}, {"192.000.2.0/24", "::/0"}})
			if spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
				spec.HealthCheckNodePort = pick(r, []int32{0, 30082, 30081})
				if spec.HealthCheckNodePort == spec.Ports[0].NodePort {
					spec.HealthCheckNodePort = 0
				}
			}
		}
		objs.Services[spaceOf(svc.Namespace)+"/"+svc.Name] = svc
	}
	if r.IntN(3) == 0 {
		objs.EndpointSlices["default/kubernetes"] = &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{pick(r, []string{"172.18.0.2", "203.0.113.1"})}}},
			Ports:       []discoveryv1.EndpointPort{{Port: ref(int32(80))}},
		}
	}
	return objs, local
}
