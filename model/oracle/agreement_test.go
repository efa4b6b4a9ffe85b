// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// The compiler and the oracle share no logic, so where both are right they
// agree on every pair of addresses and every port, and where one is wrong they
// hardly do.
func TestCompiledTablesAgreeWithTheOracle(t *testing.T) {
	seed := seedOf(t)
	allowed, denied := 0, 0
	for round := range 150 {
		objs := randomCluster(rand.New(rand.NewPCG(seed, uint64(round))))
		local := model.Local{Devices: map[model.Key]model.Device{}}
		for name := range objs.Pods {
			local.Devices[model.ParseKey(name)] = model.Device{Name: "veth-" + name}
		}
		state, _, err := compile.All(objs, "node-a", local)
		require.NoError(t, err, "TEST_SEED=%d round %d", seed, round)
		requireSorted(t, state)
		a, d := compareRulings(t, objs, state, fmt.Sprintf("TEST_SEED=%d round %d", seed, round))
		allowed, denied = allowed+a, denied+d
	}
	require.Greater(t, allowed, 1000, "a comparison in which hardly anything passes says little")
	require.Greater(t, denied, 1000, "a comparison in which hardly anything is denied says little")
}

func compareRulings(t *testing.T, objs *manifest.Objects, state *model.State, context string) (allowed, denied int) {
	world := know(objs, "node-a", model.Local{})
	ports := []uint16{0, 1, 79, 80, 81, 127, 128, 443, 1023, 1024, 8080, 8081, 9000, 65535}
	protocols := []model.Protocol{model.ProtocolTCP, model.ProtocolUDP, model.ProtocolSCTP, model.ProtocolICMP}
	outside := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.200"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.0.200.1")}
	for _, endpoint := range state.Endpoints {
		subject := objs.Pods[endpoint.Name.String()]
		for _, peer := range append(peersOf(state), outside...) {
			for _, direction := range []model.Direction{model.Ingress, model.Egress} {
				for _, protocol := range protocols {
					for _, port := range ports {
						ruling := world.rule(direction, subject, world.party(peer), protocol, port)
						rule := lookUp(state, endpoint, direction, peer, protocol, port)
						passes := rule != nil && !rule.Action.Denies()
						require.Equal(t, ruling.Allowed(), passes,
							"%s: %s port %d: oracle: %s; compiler: %v", context, protocol, port, ruling, rule)
						if passes {
							allowed++
						} else {
							denied++
						}
						switch {
						case !ruling.Origin.Policy.IsZero():
							require.NotNil(t, rule)
							require.Contains(t, ruling.Selecting, rule.Origin.Policy, "%s: who decides", context)
						case rule != nil:
							require.Equal(t, model.Origin{}, rule.Origin, "%s: who decides without a policy", context)
						}
					}
				}
			}
		}
	}
	return allowed, denied
}

func peersOf(state *model.State) []netip.Addr {
	var addrs []netip.Addr
	for a := range state.Addresses.All() {
		if a.Prefix.IsSingleIP() {
			addrs = append(addrs, a.Prefix.Addr())
		}
	}
	return addrs
}

// lookUp does what the datapath does with the tables.
func lookUp(state *model.State, endpoint model.Endpoint, direction model.Direction, peer netip.Addr, protocol model.Protocol, port uint16) *model.Rule {
	identity, longest := model.IdentityWorld, -1
	for a := range state.Addresses.All() {
		if a.Prefix.Contains(peer) && a.Prefix.Bits() > longest {
			identity, longest = a.Identity, a.Prefix.Bits()
		}
	}
	set := slices.IndexFunc(state.RuleSets, func(s model.RuleSet) bool { return s.Key == endpoint.RuleSet })
	var best *model.Rule
	for i := range state.RuleSets[set].Rules {
		r := &state.RuleSets[set].Rules[i]
		samePort := r.PortBits == 0 || (r.Port^port)>>(16-r.PortBits) == 0
		if r.Direction != direction || r.Peer != model.IdentityUnknown && r.Peer != identity ||
			r.Protocol != model.ProtocolAny && r.Protocol != protocol || !samePort {
			continue
		}
		if best == nil || r.Precedence > best.Precedence || r.Precedence == best.Precedence && r.Action.Denies() && !best.Action.Denies() {
			best = r
		}
	}
	return best
}

func requireSorted(t *testing.T, state *model.State) {
	t.Helper()
	require.True(t, slices.IsSortedFunc(state.Endpoints, func(a, b model.Endpoint) int { return a.Name.Compare(b.Name) }))
	require.True(t, slices.IsSortedFunc(state.RuleSets, func(a, b model.RuleSet) int { return compareStrings(a.Key, b.Key) }))
	for _, set := range state.RuleSets {
		type match struct {
			direction model.Direction
			peer      model.Identity
			protocol  model.Protocol
			port      uint16
			bits      uint8
		}
		seen := map[match]bool{}
		for _, r := range set.Rules {
			m := match{r.Direction, r.Peer, r.Protocol, r.Port, r.PortBits}
			require.False(t, seen[m], "two rules of one set match the same: %v", r)
			require.False(t, r.Protocol == model.ProtocolAny && r.PortBits != 0)
			seen[m] = true
		}
	}
	prefixes := map[netip.Prefix]bool{}
	for a := range state.Addresses.All() {
		require.False(t, prefixes[a.Prefix], "%s is there twice", a.Prefix)
		require.Equal(t, a.Prefix.Masked(), a.Prefix)
		prefixes[a.Prefix] = true
	}
}

func compareStrings(a, b string) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// randomCluster makes a small cluster of two nodes, in which labels, ports and
// selectors are few, so that they often meet.
func randomCluster(r *rand.Rand) *manifest.Objects {
	objs := manifest.NewObjects()
	for i, name := range []string{"node-a", "node-b"} {
		objs.Nodes[name] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.18.0.%d", 2+i)}}}}
	}
	spaces := []string{"default", "shop", "bank"}
	for _, name := range spaces[1:] {
		objs.Namespaces[name] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: randomLabels(r)}}
	}
	space, labels := "default", randomLabels(r)
	for i := range 2 + r.IntN(7) {
		if r.IntN(2) == 0 { // else a pod like the one before
			space, labels = pick(r, spaces), randomLabels(r)
		}
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: fmt.Sprintf("pod-%d", i), Labels: labels},
			Spec:       corev1.PodSpec{NodeName: pick(r, []string{"node-a", "node-a", "node-b"})},
			Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.0.%d", 10+i)}, {IP: fmt.Sprintf("fd00::%d", 10+i)}}},
		}
		switch r.IntN(8) {
		case 0:
			pod.Status.Phase = pick(r, []corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded})
		case 1:
			pod.Spec.HostNetwork = true
			pod.Status.PodIPs = []corev1.PodIP{{IP: "172.18.0.2"}}
		}
		if r.IntN(2) == 0 {
			pod.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{
				{Name: "http", ContainerPort: pick(r, []int32{80, 8080}), Protocol: pick(r, []corev1.Protocol{"", corev1.ProtocolTCP, corev1.ProtocolUDP})}}}}
		}
		objs.Pods[spaceOf(pod.Namespace)+"/"+pod.Name] = pod
	}
	for i := range r.IntN(4) {
		w := &manifest.Workload{
			ObjectMeta: metav1.ObjectMeta{Namespace: pick(r, append(spaces, "nowhere")), Name: fmt.Sprintf("pod-%d", i), Labels: randomLabels(r)},
			Kind:       model.OwnerExternalWorkload, Cluster: pick(r, []uint8{0, 0, 7}),
			Addresses: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", 100+i)), netip.MustParseAddr(fmt.Sprintf("fd00::%d", 100+i))},
			Ports:     pick(r, [][]model.NamedPort{nil, {{Name: "http", Protocol: model.ProtocolTCP, Port: 8080}}}),
		}
		objs.Workloads[w.Key()] = w
	}
	for i := range r.IntN(5) {
		policy := &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: pick(r, spaces), Name: fmt.Sprintf("policy-%d", i)},
			Spec:       networkingv1.NetworkPolicySpec{PodSelector: randomSelector(r)},
		}
		for range r.IntN(3) {
			policy.Spec.Ingress = append(policy.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: randomPorts(r), From: randomPeers(r)})
		}
		for range r.IntN(3) {
			policy.Spec.Egress = append(policy.Spec.Egress, networkingv1.NetworkPolicyEgressRule{Ports: randomPorts(r), To: randomPeers(r)})
		}
		policy.Spec.PolicyTypes = pick(r, [][]networkingv1.PolicyType{nil, nil, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}})
		objs.NetworkPolicies[spaceOf(policy.Namespace)+"/"+policy.Name] = policy
	}
	return objs
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func randomLabels(r *rand.Rand) map[string]string {
	labels := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if value := pick(r, []string{"", "a", "b", "absent"}); value != "absent" {
			labels[key] = value
		}
	}
	return labels
}

func randomSelector(r *rand.Rand) metav1.LabelSelector {
	var s metav1.LabelSelector
	if r.IntN(3) == 0 {
		s.MatchLabels = map[string]string{pick(r, []string{"app", "tier"}): pick(r, []string{"", "a", "b"})}
	}
	for range r.IntN(2) {
		e := metav1.LabelSelectorRequirement{
			Key:      pick(r, []string{"app", "tier", "kubernetes.io/metadata.name"}),
			Operator: pick(r, []metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}),
		}
		if e.Operator == "In" || e.Operator == "NotIn" {
			e.Values = pick(r, [][]string{{"a"}, {"b", ""}, {"shop", "a"}})
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

func randomPeers(r *rand.Rand) []networkingv1.NetworkPolicyPeer {
	var peers []networkingv1.NetworkPolicyPeer
	for range r.IntN(3) {
		var peer networkingv1.NetworkPolicyPeer
		pods, spaces := randomSelector(r), randomSelector(r)
		switch r.IntN(4) {
		case 0:
			peer.PodSelector = &pods
		case 1:
			peer.NamespaceSelector = &spaces
		case 2:
			peer.PodSelector, peer.NamespaceSelector = &pods, &spaces
		case 3:
			peer.IPBlock = pick(r, []*networkingv1.IPBlock{
				{CIDR: "0.0.0.0/0"}, {CIDR: "::/0"}, {CIDR: "0.0.0.0/0", Except: []string{"198.51.100.0/24"}},
				{CIDR: "198.51.100.0/24", Except: []string{"198.51.100.128/25"}}, {CIDR: "198.51.100.200/32"},
				{CIDR: "10.0.0.0/16"}, {CIDR: "10.0.0.10/32"}, {CIDR: "2001:db8::/32"},
			})
		}
		peers = append(peers, peer)
	}
	return peers
}

func randomPorts(r *rand.Rand) []networkingv1.NetworkPolicyPort {
	var ports []networkingv1.NetworkPolicyPort
	for range r.IntN(3) {
		var port networkingv1.NetworkPolicyPort
		if protocol := pick(r, []corev1.Protocol{"", "TCP", "UDP", "SCTP"}); protocol != "" {
			port.Protocol = &protocol
		}
		switch r.IntN(4) {
		case 0:
			name := intstr.FromString("http")
			port.Port = &name
		case 1:
			number := intstr.FromInt32(pick(r, []int32{80, 443, 65535}))
			port.Port = &number
		case 2:
			first := intstr.FromInt32(pick(r, []int32{1, 79, 80, 1000}))
			last := pick(r, []int32{1000, 1023, 8081, 65535})
			port.Port, port.EndPort = &first, &last
		}
		ports = append(ports, port)
	}
	return ports
}
