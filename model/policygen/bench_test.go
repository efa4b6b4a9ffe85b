// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// town is a cluster of so many pods, 100 on each node, with so many sets of
// labels. Each of its 100 namespaces has a policy that lets its own pods in,
// on some ports, and there is one of each tier and one of Cilium's for all.
func town(pods, identities int) *manifest.Objects {
	objs := manifest.NewObjects()
	put := func(o metav1.Object) {
		if err := objs.Upsert(o); err != nil {
			panic(err)
		}
	}
	const spaces = 100
	port, last, tcp := intstr.FromInt32(8000), int32(8080), corev1.ProtocolTCP
	for i := range spaces {
		space := fmt.Sprintf("space-%d", i)
		put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: space, Labels: map[string]string{"team": fmt.Sprint(i % 7)}}})
		put(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: "own"}, Spec: networkingv1.NetworkPolicySpec{
			Ingress: []networkingv1.NetworkPolicyIngressRule{{
				From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}, {IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("192.0.%d.0/24", i)}}},
				Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &port, EndPort: &last}},
			}},
		}})
	}
	for i := range (pods + 99) / 100 {
		put(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.18.%d.%d", i/250, 1+i%250)}}}})
	}
	for i := range pods {
		which := i % identities
		put(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("space-%d", which%spaces), Name: fmt.Sprintf("pod-%d", i),
				Labels: map[string]string{"app": fmt.Sprint(which / spaces), "tier": fmt.Sprint(which % 3)}},
			Spec: corev1.PodSpec{NodeName: fmt.Sprintf("node-%d", i/100), Containers: []corev1.Container{{Name: "main", Image: "main",
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8000}}}}},
			Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255)}, {IP: fmt.Sprintf("fd00::%x:%x", 1+i>>16, i&0xffff)}}},
		})
	}
	everyPod := policyv1alpha2.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}}
	for tier, does := range map[policyv1alpha2.Tier]policyv1alpha2.ClusterNetworkPolicyRuleAction{
		policyv1alpha2.AdminTier:    policyv1alpha2.ClusterNetworkPolicyRuleActionPass,
		policyv1alpha2.BaselineTier: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
	} {
		put(&policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("tier-%d", len(tier))}, Spec: policyv1alpha2.ClusterNetworkPolicySpec{
			Tier: tier, Subject: everyPod,
			Ingress: []policyv1alpha2.ClusterNetworkPolicyIngressRule{{Action: does,
				From: []policyv1alpha2.ClusterNetworkPolicyIngressPeer{{Namespaces: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "1"}}}}}},
		}})
	}
	put(&manifest.CiliumClusterwideNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "wide"}, Spec: &manifest.CiliumRule{
		EndpointSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "1"}},
		Ingress: []manifest.CiliumIngressRule{{FromEndpoints: []metav1.LabelSelector{{MatchLabels: map[string]string{"app": "1"}}},
			ToPorts: []manifest.CiliumPortRule{{Ports: []manifest.CiliumPort{{Port: "http"}}}}}},
		EgressDeny: []manifest.CiliumEgressRule{{ToEntities: []string{"host"}}},
	}})
	return objs
}

// BenchmarkCompile measures objects to state of one node, which has 100 pods of
// so many, by the clock and by what all threads have computed. The rules of the
// largest are more than the datapath's table has room for.
func BenchmarkCompile(b *testing.B) {
	for _, size := range []struct{ pods, identities int }{{100, 100}, {1000, 1000}, {10_000, 1000}, {10_000, 10_000}, {65_280, 65_280}} {
		b.Run(fmt.Sprintf("pods=%d/identities=%d", size.pods, size.identities), func(b *testing.B) {
			objs := town(size.pods, size.identities)
			local := model.Local{Devices: map[model.Key]model.Device{}, Identities: model.NewAllocator()}
			for i := range 100 {
				local.Devices[model.ParseKey(fmt.Sprintf("space-%d/pod-%d", i%size.identities%100, i))] = model.Device{Name: fmt.Sprintf("veth%d", i), Ifindex: 1 + i}
			}
			rules, begin := 0, computed(b)
			for b.Loop() {
				state, _, err := compile.All(objs, "node-0", local)
				require.NoError(b, err)
				require.Len(b, state.Endpoints, 100)
				rules = 0
				for _, set := range state.RuleSets {
					rules += len(set.Rules)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/compile")
			b.ReportMetric(float64((computed(b)-begin).Milliseconds())/float64(b.N), "CPU-ms/compile")
			b.ReportMetric(float64(rules), "rules")
		})
	}
}

// computed is the time that the process has had of all CPUs.
func computed(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
