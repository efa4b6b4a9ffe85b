// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// Nobody harms another: whatever a tenant writes into its own namespace, later
// than others, what these have stays: their frontends with whom they lead to,
// their addresses, what policies say between them; what the cluster's policies
// deny the tenant's pods is denied whatever is written into them; and it has no
// address that the operator does not allow. So it is when the Node of a machine
// that is gone is wrong about its addresses.
func FuzzNobodyHarmsAnother(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 7))
		written, _ := randomServices(r)
		before := written.Clone()
		addOperator(r, before)
		makeOld(before)
		local := randomLocal(r)
		local.Addresses = pick(r, [][]netip.Addr{nil, {netip.MustParseAddr("172.18.0.77")}})
		local.Options.HostPorts = pick(r, []model.Allowed{{}, {}, {Only: prefixes("172.18.0.0/16")}, {Off: true}})
		local.Options.ExternalIPs = pick(r, []model.Allowed{{}, {}, {Only: prefixes("203.0.113.0/24")}, {Only: prefixes("0.0.0.0/0")}, {Off: true}})
		for name, pod := range before.Pods {
			if pod.Spec.NodeName == "node-a" {
				local.Devices[model.ParseKey(name)] = model.Device{Name: "veth-" + name}
			}
		}
		denials := rand.New(rand.NewPCG(seed, 11))
		local.Options.DeniedIngress, local.Options.DeniedEgress = anyDenial(denials), anyDenial(denials)
		local.Identities = model.NewAllocator()
		first := stateOf(t, before, local)
		mine := tenant(r, before)
		for _, policy := range mine.NetworkPolicies {
			policy.Annotations = map[string]string{"weir.net/denied-ingress": string(cmp.Or(anyDenial(denials), model.DenialDrop)), "weir.net/denied-egress": string(cmp.Or(anyDenial(denials), model.DenialDrop))}
		}
		after := before.Clone()
		after.Merge(mine)
		for name := range mine.Pods {
			local.Devices[model.ParseKey(name)] = model.Device{Name: "veth-" + name}
		}
		second := stateOf(t, after, local)
		requireUnharmed(t, &local, first, second)
		requireAllowed(t, &local, mine, second)
		gone := after.Clone()
		gone.Nodes["a-gone"] = staleNode(r, after, second)
		third := stateOf(t, gone, local)
		requireUnharmed(t, &local, first, third)
		requireUnharmed(t, &local, second, third)
		plain := before.Clone()
		plain.Merge(withoutWords(mine))
		requireDenied(t, after, stateOf(t, plain, local), second)
	})
}

func stateOf(t *testing.T, objs *manifest.Objects, local model.Local) *model.State {
	t.Helper()
	state, _, err := compile.All(manifest.DeriveEndpointSlices(objs), "node-a", local)
	require.NoError(t, err)
	return state
}

func requireUnharmed(t *testing.T, local *model.Local, first, second *model.State) {
	t.Helper()
	require.Equal(t, first.Node.Addresses, second.Node.Addresses)
	for _, peer := range first.Peers {
		require.True(t, slices.ContainsFunc(second.Peers, func(other model.Peer) bool { return reflect.DeepEqual(peer, other) }),
			"node %s is not reached as it was", peer.Name)
	}
	for _, list := range [][2][]model.Service{{first.Services.Slice(), second.Services.Slice()}, {first.Loopback, second.Loopback}} {
		for _, s := range list[0] {
			require.True(t, slices.ContainsFunc(list[1], func(other model.Service) bool { return reflect.DeepEqual(s, other) }),
				"%s %s at %s:%d is not what it was", s.Kind, s.Name, s.Address, s.Port)
		}
	}
	owners := map[netip.Prefix]model.Identity{}
	for a := range second.Addresses.All() {
		owners[a.Prefix] = a.Owner()
	}
	for a := range first.Addresses.All() {
		if a.Prefix.IsSingleIP() {
			require.Equal(t, a.Owner(), owners[a.Prefix], "%s is another's", a.Prefix)
		}
	}
	clusterIPs := map[netip.Addr]bool{}
	for s := range first.Services.All() {
		clusterIPs[s.Address] = clusterIPs[s.Address] || s.Kind == model.KindClusterIP
	}
	for s := range second.Services.All() {
		owned := slices.ContainsFunc(first.Addresses.Slice(), func(a model.Address) bool {
			ofNode := a.Owner() == model.IdentityHost || a.Owner() == model.IdentityRemoteNode
			return a.Prefix.IsSingleIP() && a.Prefix.Addr() == s.Address && a.Owner() < model.FirstBlockIdentity && // else a policy's block
				!(ofNode && local.Options.ExternalIPs.Only != nil) // then the operator says which are allowed
		})
		ofKernel := s.Address == netip.MustParseAddr("172.18.0.77") // no Node vouches for it
		if s.Name.Namespace == "mallory" && s.Kind == model.KindExternalIP {
			require.False(t, owned && !ofKernel || clusterIPs[s.Address], "%s %s is at another's address %s", s.Kind, s.Name, s.Address)
		}
	}
	for _, endpoint := range first.Endpoints {
		i := slices.IndexFunc(second.Endpoints, func(e model.Endpoint) bool { return e.Name == endpoint.Name })
		require.GreaterOrEqual(t, i, 0, "%s has no network", endpoint.Name)
		for _, peer := range peersOf(first) {
			eachQuestion(func(direction model.Direction, protocol model.Protocol, port uint16) {
				was, is := lookUp(first, endpoint, direction, peer, protocol, port), lookUp(second, second.Endpoints[i], direction, peer, protocol, port)
				require.Equal(t, passes(was), passes(is), "%s of %s, %s, %s port %d", direction, endpoint.Name, peer, protocol, port)
				require.Equal(t, refuses(was), refuses(is), "whether the sender is told: %s of %s, %s, %s port %d", direction, endpoint.Name, peer, protocol, port)
			})
		}
	}
}

// requireDenied: what a policy of the whole cluster denies a pod that says
// nothing is denied to it whatever it says, and by the same policy's or the operator's
// choice of telling its sender.
func requireDenied(t *testing.T, objs *manifest.Objects, plain, second *model.State) {
	t.Helper()
	for _, endpoint := range plain.Endpoints {
		ofTenant := endpoint.Name.Namespace == "mallory"
		i := slices.IndexFunc(second.Endpoints, func(e model.Endpoint) bool { return e.Name == endpoint.Name })
		require.GreaterOrEqual(t, i, 0)
		for _, peer := range peersOf(plain) {
			eachQuestion(func(direction model.Direction, protocol model.Protocol, port uint16) {
				was := lookUp(plain, endpoint, direction, peer, protocol, port)
				if passes(was) || ofTenant && (was == nil || was.Origin.Policy.Namespace != "" || was.Origin.Policy.IsZero()) {
					return // what is its own it may open
				}
				is := lookUp(second, second.Endpoints[i], direction, peer, protocol, port)
				require.False(t, passes(is), "%s of %s, %s, %s port %d: %v, and with words %v", direction, endpoint.Name, peer, protocol, port, was, is)
				if was != nil && is != nil && was.Origin == is.Origin && was.Origin.Policy.Namespace != "mallory" {
					require.Equal(t, refuses(was), refuses(is), "whether the sender is told: %s of %s, %s, %s port %d: %v, and with words %v", direction, endpoint.Name, peer, protocol, port, was, is)
				}
			})
		}
	}
}

func passes(rule *model.Rule) bool { return rule != nil && !rule.Action.Denies() }

func refuses(rule *model.Rule) bool { return rule != nil && rule.Action == model.RuleRefuse }

// anyDenial is what is said of what becomes of denied packets, if anything is.
func anyDenial(r *rand.Rand) model.Denial {
	return pick(r, []model.Denial{"", model.DenialDrop, model.DenialRefuse})
}

func eachQuestion(ask func(model.Direction, model.Protocol, uint16)) {
	for _, direction := range []model.Direction{model.Ingress, model.Egress} {
		for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolICMP} {
			for _, port := range []uint16{80, 443} {
				ask(direction, protocol, port)
			}
		}
	}
}

// makeOld gives objects that a tenant can name a time before the tenant's, and
// makes nodes ready.
func makeOld(objs *manifest.Objects) {
	old := metav1.NewTime(time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC))
	for name, node := range objs.Nodes {
		node = node.DeepCopy()
		node.CreationTimestamp = old
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		objs.Nodes[name] = node
	}
	for name, svc := range objs.Services {
		svc = svc.DeepCopy()
		svc.CreationTimestamp = old
		objs.Services[name] = svc
	}
	for name, pod := range objs.Pods {
		pod = pod.DeepCopy()
		pod.CreationTimestamp = old
		objs.Pods[name] = pod
	}
}

// addOperator adds what the cluster's administrator has decided.
func addOperator(r *rand.Rand, objs *manifest.Objects) {
	objs.Namespaces["mallory"] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "mallory"}}
	everybody := &metav1.LabelSelector{}
	of := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "mallory"}}
	objs.ClusterNetworkPolicies["fence"] = &policyv1alpha2.ClusterNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "fence"},
		Spec: policyv1alpha2.ClusterNetworkPolicySpec{
			Tier: pick(r, []policyv1alpha2.Tier{policyv1alpha2.AdminTier, policyv1alpha2.BaselineTier}), Priority: 1,
			Subject: policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: of},
			Egress:  []policyv1alpha2.ClusterNetworkPolicyEgressRule{{Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny, To: []policyv1alpha2.ClusterNetworkPolicyEgressPeer{{Namespaces: everybody}}}},
		},
	}
	objs.CiliumClusterwideNetworkPolicies["keep"] = &manifest.CiliumClusterwideNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "keep"},
		Spec: &manifest.CiliumRule{
			EndpointSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "k8s:io.cilium.k8s.namespace.labels.team", Operator: "NotIn", Values: []string{"trusted"}}}},
			IngressDeny:      []manifest.CiliumIngressRule{{FromEndpoints: []metav1.LabelSelector{{MatchLabels: map[string]string{"io.kubernetes.pod.namespace": "mallory"}}}}},
			EnableDefaultDeny: manifest.CiliumDefaultDeny{
				Ingress: ref(false), Egress: ref(false),
			},
		},
	}
	objs.CiliumNetworkPolicies["default/db"] = &manifest.CiliumNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
		Spec: &manifest.CiliumRule{
			EndpointSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
			Ingress: []manifest.CiliumIngressRule{{FromEndpoints: []metav1.LabelSelector{
				{MatchLabels: map[string]string{"k8s:io.cilium.k8s.namespace.labels.team": "trusted"}},
				{MatchLabels: map[string]string{"k8s:io.cilium.k8s.policy.serviceaccount": "admin"}},
			}}},
		},
	}
}

// tenant is what somebody writes who has a namespace: addresses and node ports
// that the API server, controllers and kubelets give are given to one.
func tenant(r *rand.Rand, others *manifest.Objects) *manifest.Objects {
	mine := manifest.NewObjects()
	meta := func(kind string, i int) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "mallory", Name: fmt.Sprintf("%s%s-%d", pick(r, []string{"", "a-"}), kind, i), CreationTimestamp: metav1.NewTime(time.Date(2040, 1, 1, 0, 0, i, 0, time.UTC))}
	}
	for i := range 1 + r.IntN(3) {
		svc := &corev1.Service{ObjectMeta: meta("service", i)}
		svc.Labels = pick(r, []map[string]string{nil, {"service.kubernetes.io/headless": ""}})
		svc.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.9.%d", i+1), fmt.Sprintf("fd96::9:%d", i+1)}
		svc.Spec.Selector = map[string]string{"app": pick(r, []string{"a", "b"})}
		svc.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: pick(r, []int32{80, 81, 30000, 31000, kubelet}), Protocol: pick(r, []corev1.Protocol{"", "UDP"})}}
		for range r.IntN(4) {
			svc.Spec.ExternalIPs = append(svc.Spec.ExternalIPs, anyAddress(r, others))
		}
		if r.IntN(3) == 0 {
			svc.Spec.Type, svc.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, int32(32000+i)
		}
		mine.Services["mallory/"+svc.Name] = svc
	}
	for i := range r.IntN(3) {
		pod := &corev1.Pod{ObjectMeta: meta("pod", i)}
		pod.Labels = map[string]string{"app": pick(r, []string{"a", "b"})}
		maps.Copy(pod.Labels, pick(r, []map[string]string{nil, {"io.cilium.k8s.namespace.labels.team": "trusted"}, {"io.cilium.k8s.policy.serviceaccount": "admin", "io.kubernetes.pod.namespace": "default"}}))
		pod.Annotations = pick(r, []map[string]string{nil, {"weir.net/policy-audit": "true"}})
		pod.Spec.NodeName = "node-a"
		pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.7.%d", 10+i)}, {IP: fmt.Sprintf("fd00::7:%d", 10+i)}}
		pod.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{
			ContainerPort: 80, HostPort: pick(r, []int32{0, 80, kubelet, 20000, 20001, 30000, 31000}), HostIP: pick(r, []string{"", "0.0.0.0", anyAddress(r, others)}), Protocol: pick(r, []corev1.Protocol{"", "UDP"}),
		}}}}
		mine.Pods["mallory/"+pod.Name] = pod
	}
	if r.IntN(2) == 0 {
		policy := &networkingv1.NetworkPolicy{ObjectMeta: meta("policy", 0)}
		policy.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{}}
		policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: randomPeers(r)}}
		mine.NetworkPolicies["mallory/"+policy.Name] = policy
	}
	return mine
}

// anyAddress is somebody's, mostly.
func anyAddress(r *rand.Rand, objs *manifest.Objects) string {
	all := []string{"172.18.0.77", "10.0.255.254", "203.0.113.200"}
	for _, name := range slices.Sorted(maps.Keys(objs.Services)) {
		svc := objs.Services[name]
		all = append(append(all, svc.Spec.ClusterIPs...), svc.Spec.ExternalIPs...)
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			all = append(all, ingress.IP)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(objs.Pods)) {
		all = append(all, objs.Pods[name].Status.PodIPs[0].IP)
	}
	for _, name := range slices.Sorted(maps.Keys(objs.Nodes)) {
		for _, a := range objs.Nodes[name].Status.Addresses {
			all = append(all, a.Address)
		}
	}
	return pick(r, all)
}

// withoutWords takes from pods what their author says of policies.
func withoutWords(mine *manifest.Objects) *manifest.Objects {
	plain := mine.Clone()
	for name, pod := range plain.Pods {
		pod = pod.DeepCopy()
		pod.Annotations = nil
		maps.DeleteFunc(pod.Labels, func(key, _ string) bool { return strings.Contains(key, ".") })
		plain.Pods[name] = pod
	}
	for name, policy := range plain.NetworkPolicies {
		policy = policy.DeepCopy()
		policy.Annotations = nil
		plain.NetworkPolicies[name] = policy
	}
	return plain
}

// A tenant who asks for more than there is loses what is too much, and others
// nothing: their budgets are as good as their own.
func TestNobodyHarmsAnotherByNumbers(t *testing.T) {
	lost := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 11))
		written, _ := randomServices(r)
		before := written.Clone()
		addOperator(r, before)
		makeOld(before)
		local := randomLocal(r)
		for name, pod := range before.Pods {
			if pod.Spec.NodeName == "node-a" {
				local.Devices[model.ParseKey(name)] = model.Device{Name: "veth-" + name}
			}
		}
		denials := rand.New(rand.NewPCG(seed, 11))
		local.Options.DeniedIngress, local.Options.DeniedEgress = anyDenial(denials), anyDenial(denials)
		local.Identities = model.NewAllocator()
		first := stateOf(t, before, local)
		local.Budgets = model.Budgets{}
		for table, entries := range compile.Fill(first) {
			// Enough for what is there to be written down: that is more than is kept.
			local.Budgets[table] = entries + 50 + r.IntN(200)
		}
		after := before.Clone()
		after.Merge(greedy(r))
		for {
			second, _, err := compile.All(manifest.DeriveEndpointSlices(after), "node-a", local)
			if err == nil {
				requireUnharmed(t, &local, first, second)
				break
			}
			joined, ok := err.(interface{ Unwrap() []error })
			require.True(t, ok, err)
			for _, err := range joined.Unwrap() {
				var field *model.FieldError
				require.ErrorAs(t, err, &field)
				require.Equal(t, "mallory", field.Object.Namespace, "seed %d: %s", seed, field)
				_, found := after.LeaveOut(field.Object)
				require.True(t, found)
				lost++
			}
		}
	}
	require.Greater(t, lost, 60)
}

// greedy is a tenant's objects that have more of each table than all others.
func greedy(r *rand.Rand) *manifest.Objects {
	mine := manifest.NewObjects()
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "mallory", Name: name, CreationTimestamp: metav1.NewTime(time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC))}
	}
	for i := range 1 + r.IntN(4) {
		policy := &networkingv1.NetworkPolicy{ObjectMeta: meta(fmt.Sprintf("policy-%d", i))}
		var peers []networkingv1.NetworkPolicyPeer
		for block := range 400 {
			peers = append(peers, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("11.%d.%d.%d/%d", i, block>>7, block&127*2, pick(r, []int{31, 32}))}})
		}
		policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: peers}}
		mine.NetworkPolicies["mallory/"+policy.Name] = policy
		svc := &corev1.Service{ObjectMeta: meta(fmt.Sprintf("service-%d", i))}
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		svc.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.9.%d", i+1)}
		svc.Spec.Selector = map[string]string{"app": pick(r, []string{"a", "b"})}
		for port := range 300 {
			svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", port), Port: int32(10000 + port)})
			svc.Spec.LoadBalancerSourceRanges = append(svc.Spec.LoadBalancerSourceRanges, fmt.Sprintf("11.%d.%d.0/24", i, port&255))
		}
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", 201+i)}}
		mine.Services["mallory/"+svc.Name] = svc
	}
	return mine
}
