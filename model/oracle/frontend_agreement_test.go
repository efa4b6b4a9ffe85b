// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// The oracle finds frontends, backends and what is masqueraded by itself; they
// have to be those of the compiled tables.
func TestFrontendsAgreeWithTheOracle(t *testing.T) {
	seed := seedOf(t)
	met := map[string]int{}
	for round := range 800 {
		context := fmt.Sprintf("TEST_SEED=%d round %d", seed, round)
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		written, listed := randomServices(r)
		local := randomLocal(r)
		state, _, err := compile.All(listed, "node-a", local)
		require.NoError(t, err, context)
		require.True(t, slices.IsSortedFunc(state.Services.Slice(), func(a, b model.Service) int { return a.Address.Compare(b.Address) }), context)
		world := know(written, "node-a", local)
		compareFrontends(t, world, state, context, met)
		compareNative(t, world, state, context, met)
		require.Equal(t, world.tunnel(), state.Node.Tunnel, context)
	}
	for _, kind := range []model.ServiceKind{model.KindClusterIP, model.KindNodePort, model.KindLoadBalancer, model.KindExternalIP, model.KindHostPort} {
		require.Greater(t, met[string(kind)], 100, "few frontends of kind %s were compared", kind)
	}
	for _, what := range []string{"outside", "local", "sources", "affinity", "services' alone", "chosen among several", "masqueraded", "native", "answered directly"} {
		require.Greater(t, met[what], 100, "hardly anything was %s", what)
	}
}

func compareFrontends(t *testing.T, world *knowledge, state *model.State, context string, met map[string]int) {
	expected := 0
	for at, s := range world.frontends {
		if at.scope == model.ScopeInside || len(world.local.Uplinks) > 0 {
			expected++
			require.True(t, slices.ContainsFunc(state.Services.Slice(), func(svc model.Service) bool {
				return frontend{svc.Address, svc.Port, svc.Protocol, svc.Scope} == at
			}), "%s: only the oracle has %s:%d %s %s of %s", context, at.addr, at.port, at.protocol, at.scope, s)
		}
	}
	require.Len(t, state.Services.Slice(), expected, context)
	alone := map[netip.Addr]bool{}
	for _, addr := range state.ServiceAddresses {
		alone[addr] = true
	}
	require.Equal(t, world.services, alone, context)
	met["services' alone"] += len(alone)
	for svc := range state.Services.All() {
		where := fmt.Sprintf("%s: %s %s at %s:%d %s", context, svc.Kind, svc.Name, svc.Address, svc.Port, svc.Scope)
		want := world.frontends[frontend{svc.Address, svc.Port, svc.Protocol, svc.Scope}]
		require.NotNil(t, want, where)
		require.Equal(t, want.kind, svc.Kind, where)
		require.Equal(t, want.local, svc.Local, where)
		require.Equal(t, want.affinity, svc.Affinity, where)
		require.Equal(t, svc.Scope == model.ScopeOutside && svc.Kind != model.KindHostPort && world.answersItself(svc.Protocol), svc.DSR, where)
		if svc.DSR {
			met["answered directly"]++
		}
		for _, client := range []string{"192.0.2.1", "198.51.100.7", "2001:db8::1", "fd00::9"} {
			addr := netip.MustParseAddr(client)
			may := svc.Sources == nil || slices.ContainsFunc(svc.Sources, func(p netip.Prefix) bool { return p.Contains(addr) })
			if addr.Is4() == svc.Address.Is4() {
				require.Equal(t, want.admits(addr), may, "%s: client %s", where, client)
			}
		}
		var eligible, other, wantEligible, wantOther []netip.AddrPort
		for _, b := range svc.Backends {
			if at := netip.AddrPortFrom(b.Address, b.Port); b.Terminating {
				other = append(other, at)
			} else {
				eligible = append(eligible, at)
			}
		}
		for _, s := range want.servers {
			if at := netip.AddrPortFrom(s.addr, s.port); s.eligible {
				wantEligible = append(wantEligible, at)
			} else {
				wantOther = append(wantOther, at)
			}
		}
		require.Equal(t, wantEligible, eligible, "%s: new flows", where)
		require.Equal(t, wantOther, other, "%s: old flows", where)
		met[string(svc.Kind)]++
		count(met, "outside", svc.Scope == model.ScopeOutside)
		count(met, "local", svc.Local && len(eligible) > 0)
		count(met, "sources", svc.Sources != nil)
		count(met, "affinity", svc.Affinity > 0)
		count(met, "chosen among several", len(eligible) > 0 && len(other) > 0)
	}
}

func count(met map[string]int, what string, happened bool) {
	if happened {
		met[what]++
	}
}

func compareNative(t *testing.T, world *knowledge, state *model.State, context string, met map[string]int) {
	asked := []netip.Addr{}
	for _, text := range []string{"192.0.2.1", "198.51.100.7", "198.51.100.200", "10.9.1.1", "10.9.1.130", "10.0.200.1", "2001:db8::1", "2001:db8:1::1", "fd99::1"} {
		asked = append(asked, netip.MustParseAddr(text))
	}
	for _, addr := range append(asked, peersOf(state)...) {
		var longest model.Address
		for a := range state.Addresses.All() {
			if a.Prefix.Contains(addr) && (!longest.Prefix.IsValid() || a.Prefix.Bits() > longest.Prefix.Bits()) {
				longest = *a
			}
		}
		if state.Node.Masquerade == nil {
			require.False(t, longest.Native, context)
			continue
		}
		require.Equal(t, world.masquerades(addr), !longest.Native, "%s: %s by %v", context, addr, longest)
		count(met, "native", longest.Native)
		count(met, "masqueraded", !longest.Native)
	}
	if m := state.Node.Masquerade; m != nil {
		first, last := world.lentPorts()
		require.Equal(t, [2]uint16{first, last}, [2]uint16{m.FirstPort, m.LastPort}, context)
		own, end := world.lentPortsAt(model.ToDevice)
		next, rest := world.lentPortsAt(model.FromContainer)
		require.Equal(t, [4]uint16{m.FirstPort, m.FirstPort + m.NodePorts - 1, m.FirstPort + m.NodePorts, m.LastPort}, [4]uint16{own, end, next, rest}, context)
		for _, lent := range []netip.Addr{m.IPv4, m.IPv6} {
			if want, has := world.lent(lent); lent.IsValid() {
				require.True(t, has, context)
				require.Equal(t, want, lent, context)
			}
		}
	}
}

func randomLocal(r *rand.Rand) model.Local {
	local := model.Local{Devices: map[model.Key]model.Device{}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.255.254")}}
	if r.IntN(4) > 0 {
		local.Uplinks = []model.Uplink{{Name: "eth0", Ifindex: 2}}
	}
	local.Options.Masquerade = r.IntN(3) > 0
	local.Options.NodePortAddresses = pick(r, [][]netip.Prefix{nil, nil, prefixes("172.18.0.0/16"), prefixes("fd18::/64", "10.0.0.0/8"), prefixes("192.0.2.0/24")})
	local.Options.MasqueradeExcluded = pick(r, [][]netip.Prefix{nil, nil, prefixes("198.51.100.0/24"), prefixes("198.51.100.192/26", "2001:db8::/32"), prefixes("::/0"), prefixes("0.0.0.0/0")})
	local.Options.FirstPort = pick(r, []uint16{0, 40000})
	local.Options.Return = pick(r, []model.Return{"", "", model.ReturnSNAT, model.ReturnDSR, model.ReturnDSR, model.ReturnHybrid})
	if local.Options.Return == model.ReturnDSR || local.Options.Return == model.ReturnHybrid {
		local.Options.Tunnel = pick(r, []model.Tunnel{"", model.TunnelIPIP, model.TunnelGeneve})
	}
	return local
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// randomServices makes a cluster with services of all kinds, as it is written
// and as it is listed: by the controller, or by somebody who wrote the slices.
func randomServices(r *rand.Rand) (written, listed *manifest.Objects) {
	objs := randomCluster(r)
	for i, name := range []string{"node-a", "node-b"} {
		node := objs.Nodes[name].DeepCopy()
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: fmt.Sprintf("fd18::%d", 2+i)})
		node.Labels = pick(r, []map[string]string{nil, {corev1.LabelTopologyZone: "x"}, {corev1.LabelTopologyZone: pick(r, []string{"x", "y"})}})
		node.Spec.PodCIDRs = pick(r, [][]string{nil, {fmt.Sprintf("10.9.%d.0/24", i), fmt.Sprintf("fd99:%d::/64", i)}})
		objs.Nodes[name] = node
	}
	for i, name := range slices.Sorted(keysOf(objs.Pods)) {
		objs.Pods[name] = randomPod(r, objs.Pods[name].DeepCopy(), i)
	}
	for i := range 4 {
		svc := randomService(r, i)
		objs.Services[spaceOf(svc.Namespace)+"/"+svc.Name] = svc
	}
	listed = manifest.DeriveEndpointSlices(objs)
	for _, name := range slices.Sorted(keysOf(listed.EndpointSlices)) {
		listed.EndpointSlices[name] = randomConditions(r, listed.EndpointSlices[name].DeepCopy(), r.IntN(2) == 0)
	}
	if r.IntN(2) == 0 {
		return listed, listed
	}
	return objs, manifest.DeriveEndpointSlices(objs)
}

func keysOf[T any](m map[string]T) func(func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

func randomPod(r *rand.Rand, pod *corev1.Pod, i int) *corev1.Pod {
	switch r.IntN(5) {
	case 0:
		pod.DeletionTimestamp = &metav1.Time{}
	case 1:
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: pick(r, []corev1.ConditionStatus{"True", "False"})}}
	case 2:
		pod.DeletionTimestamp = &metav1.Time{}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: "False"}}
	}
	if r.IntN(3) == 0 && !pod.Spec.HostNetwork {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{
			RestartPolicy: pick(r, []*corev1.ContainerRestartPolicy{nil, ref(corev1.ContainerRestartPolicyAlways)}),
			Ports: []corev1.ContainerPort{{
				ContainerPort: 9000, HostPort: int32(20000 + i),
				HostIP:   pick(r, []string{"", "", "0.0.0.0", "::", "172.18.0.2", "203.0.113.9"}),
				Protocol: pick(r, []corev1.Protocol{"", "UDP"}),
			}},
		})
	}
	return pod
}

func randomService(r *rand.Rand, i int) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: pick(r, []string{"default", "shop"}), Name: fmt.Sprintf("s%d", i)}}
	spec := &svc.Spec
	spec.Selector = map[string]string{"app": pick(r, []string{"", "a", "b"})}
	spec.ClusterIPs = pick(r, [][]string{{fmt.Sprintf("10.96.0.%d", i+1), fmt.Sprintf("fd96::%d", i+1)}, {fmt.Sprintf("10.96.0.%d", i+1)}, {fmt.Sprintf("fd96::%d", i+1)}})
	spec.PublishNotReadyAddresses = r.IntN(5) == 0
	spec.Type = pick(r, []corev1.ServiceType{"", "ClusterIP", "NodePort", "LoadBalancer", "LoadBalancer"})
	spec.Ports = []corev1.ServicePort{
		{Name: "a", Port: 80, Protocol: pick(r, []corev1.Protocol{"TCP", "UDP", ""}), TargetPort: pick(r, []intstr.IntOrString{intstr.FromInt32(8080), intstr.FromString("http"), {}})},
		{Name: "b", Port: 81, Protocol: pick(r, []corev1.Protocol{"TCP", "SCTP"})},
	}
	if spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer {
		spec.Ports[0].NodePort = int32(30000 + i)
		spec.ExternalTrafficPolicy = pick(r, []corev1.ServiceExternalTrafficPolicy{"", "Cluster", "Local"})
		if spec.Ports[1].Protocol == corev1.ProtocolTCP {
			spec.Ports[1].NodePort = int32(31000 + i)
		} else if spec.Type == corev1.ServiceTypeNodePort {
			spec.Ports = spec.Ports[:1]
		}
	}
	has := func(family string) bool {
		return slices.ContainsFunc(spec.ClusterIPs, func(text string) bool { return strings.Contains(text, ":") == (family == "IPv6") })
	}
	if has("IPv4") && r.IntN(2) == 0 {
		spec.ExternalIPs = append(spec.ExternalIPs, fmt.Sprintf("203.0.113.%d", 100+i))
		if spec.Type == "" || spec.Type == corev1.ServiceTypeClusterIP {
			spec.ExternalTrafficPolicy = pick(r, []corev1.ServiceExternalTrafficPolicy{"", "Local"})
		}
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, of := range []struct{ family, text string }{{"IPv4", fmt.Sprintf("203.0.113.%d", 200+i)}, {"IPv6", fmt.Sprintf("2001:db8:ff::%d", i+1)}} {
			if has(of.family) {
				svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: of.text, IPMode: pick(r, []*corev1.LoadBalancerIPMode{nil, nil, ref(corev1.LoadBalancerIPModeVIP), ref(corev1.LoadBalancerIPModeProxy)})})
			}
		}
		spec.LoadBalancerSourceRanges = pick(r, [][]string{nil, {"192.0.2.0/24"}, {"2001:db8::/32"}, {"::/0"}, {"198.51.100.0/24", "2001:db8::/32"}})
	}
	if r.IntN(3) == 0 {
		spec.InternalTrafficPolicy = ref(pick(r, []corev1.ServiceInternalTrafficPolicy{"Local", "Local", "Cluster"}))
	}
	if r.IntN(3) == 0 {
		spec.TrafficDistribution = ref(pick(r, []string{"PreferClose", "PreferSameZone", "PreferSameNode"}))
	}
	if r.IntN(3) == 0 {
		spec.SessionAffinity = corev1.ServiceAffinityClientIP
		if r.IntN(2) == 0 {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ref(int32(1 + r.IntN(86400)))}}
		}
	}
	return svc
}

// randomConditions is what somebody else than the controller may write.
func randomConditions(r *rand.Rand, slice *discoveryv1.EndpointSlice, change bool) *discoveryv1.EndpointSlice {
	for i := range slice.Endpoints {
		endpoint := &slice.Endpoints[i]
		if change && r.IntN(2) == 0 {
			truth := []*bool{nil, ref(true), ref(false)}
			endpoint.Conditions = discoveryv1.EndpointConditions{Ready: pick(r, truth), Serving: pick(r, truth), Terminating: pick(r, truth)}
		}
		if r.IntN(4) == 0 {
			endpoint.NodeName = pick(r, []*string{nil, ref("node-a"), ref("node-b")})
		}
		if change && r.IntN(3) == 0 {
			endpoint.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: pick(r, []string{"x", "y"})}}, ForNodes: []discoveryv1.ForNode{{Name: pick(r, []string{"node-a", "node-b"})}}}
		}
	}
	return slice
}
