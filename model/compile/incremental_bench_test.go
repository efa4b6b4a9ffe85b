// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

const (
	citySpaces    = 100
	cityApps      = 10 // in each of the namespaces: 1,000 identities
	cityHere      = 100
	cityPolicies  = 1_000
	cityServices  = 10_000
	cityWithEach  = 10 // backends of a service
	cityPodsANode = 100
)

// city is a cluster of so many pods, 1,000 policies, and 10,000 services or one
// for each 10 pods if these are more; node-0 has 100 of the pods.
func city(b *testing.B, pods int) (*manifest.Objects, model.Local) {
	objs := manifest.NewObjects()
	put := func(o metav1.Object) { require.NoError(b, objs.Upsert(o)) }
	local := model.Local{Devices: map[model.Key]model.Device{}, Identities: model.NewAllocator(), Budgets: roomyBudgets()}
	for i := range citySpaces {
		put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("space-%d", i), Labels: map[string]string{"team": fmt.Sprint(i % 7)}}})
	}
	for i := range (pods + cityPodsANode - 1) / cityPodsANode {
		put(cityNode(i))
	}
	for i := range pods {
		pod := cityPod(i)
		put(pod)
		if i < cityHere {
			local.Devices[manifest.KeyOf(pod)] = model.Device{Name: fmt.Sprintf("veth%d", i), Ifindex: 1 + i}
		}
	}
	for i := range cityPolicies {
		put(cityPolicy(i, "client"))
	}
	for i := range max(cityServices, pods/10) {
		put(cityService(i))
		put(citySlice(i, pods, true))
	}
	return objs, local
}

func cityNode(i int) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.18.%d.%d", i/250, 1+i%250)}}}}
}

// cityBlockPolicy lets an app's pods go to a block of addresses.
func cityBlockPolicy(cidr string) *networkingv1.NetworkPolicy {
	policy := cityPolicy(7, "1")
	policy.Name = "block"
	policy.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: cidr}}}}}
	return policy
}

// cityKey is the key of a pod's set of labels.
func cityKey(i int, objs *manifest.Objects) string {
	c := newCompiler(objs, "node-0", model.Local{})
	c.readNamespaces()
	return c.identityOf(cityPod(i), nil).key()
}

func cityAddress(i int) string { return fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255) }

func cityPod(i int) *corev1.Pod {
	app := i % (citySpaces * cityApps)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("space-%d", app%citySpaces), Name: fmt.Sprintf("pod-%d", i),
		Labels: map[string]string{"app": fmt.Sprint(app / citySpaces)}}}
	pod.Spec.NodeName = fmt.Sprintf("node-%d", i/cityPodsANode)
	pod.Spec.Containers = []corev1.Container{{Name: "main", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}
	pod.Status.PodIPs = []corev1.PodIP{{IP: cityAddress(i)}}
	return pod
}

// cityPolicy lets pods of the same namespace, and of one team's, come to an app.
func cityPolicy(i int, peer string) *networkingv1.NetworkPolicy {
	port := intstr.FromInt32(8080)
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("space-%d", i%citySpaces), Name: fmt.Sprintf("policy-%d", i)}}
	policy.Spec.PodSelector.MatchLabels = map[string]string{"app": fmt.Sprint(i / citySpaces % cityApps)}
	policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "1"}}},
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": peer}}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "1"}}},
		},
		Ports: []networkingv1.NetworkPolicyPort{{Port: &port}},
	}}
	return policy
}

func cityService(i int) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprintf("space-%d", i%citySpaces), Name: fmt.Sprintf("service-%d", i)}}
	svc.Spec.ClusterIP = fmt.Sprintf("10.%d.%d.%d", 100+i>>16, i>>8&255, i&255)
	svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	svc.Spec.Selector = map[string]string{"app": fmt.Sprint(i % cityApps)}
	svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	return svc
}

func citySlice(i, pods int, ready bool) *discoveryv1.EndpointSlice {
	svc := cityService(i)
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}}
	slice.AddressType = discoveryv1.AddressTypeIPv4
	slice.Ports = []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To(int32(8080))}}
	for n := range cityWithEach {
		pod := (cityWithEach*i + n) % pods
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{cityAddress(pod)}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready || n > 0)}})
	}
	return slice
}

// What one change costs a node: of a pod elsewhere that is one of many alike, of
// one whose labels nobody else has, of who serves a service, of a policy of each
// kind and of blocks of addresses, of a pod here, of a namespace's labels (a hundredth
// of all pods is of it), of a namespace and a Node that come and go, of a Node that tells
// that it lives, of a pod that waits for its node, claims what another has, or has another
// weight, and of an identity's number that all nodes share (a thousandth of all pods has
// it). cpu-ms is what the process used for it.
func BenchmarkOneChange(b *testing.B) {
	for _, pods := range []int{1_000, 10_000, 100_000} {
		objs, local := city(b, pods)
		turn := 0
		var again Incremental
		all := func(b *testing.B, changed model.Ref) {
			_, _, _, err := again.KeepAfter(objs, nil, []model.Ref{changed}, "node-0", local)
			require.NoError(b, err)
		}
		for _, kind := range []struct {
			name   string
			change func() model.Ref
		}{
			{"pod", func() model.Ref {
				pod := cityPod(500)
				if turn%2 == 0 {
					pod.Status.PodIPs[0].IP = "10.99.0.1"
				}
				objs.Pods[manifest.NameOf(pod)] = pod
				return manifest.RefOf(pod)
			}},
			{"identity", func() model.Ref {
				pod := cityPod(500)
				if turn%2 == 0 {
					pod.Labels["app"] = "1-new"
				}
				objs.Pods[manifest.NameOf(pod)] = pod
				return manifest.RefOf(pod)
			}},
			{"service", func() model.Ref {
				slice := citySlice(7, pods, turn%2 == 0)
				objs.EndpointSlices[manifest.NameOf(slice)] = slice
				return manifest.RefOf(slice)
			}},
			{"policy", func() model.Ref {
				policy := cityPolicy(7, fmt.Sprint(turn%2))
				objs.NetworkPolicies[manifest.NameOf(policy)] = policy
				return manifest.RefOf(policy)
			}},
			{"own-pod", func() model.Ref {
				pod := cityPod(5)
				if turn%2 == 0 {
					pod.Status.PodIPs[0].IP = "10.99.0.2"
				}
				objs.Pods[manifest.NameOf(pod)] = pod
				return manifest.RefOf(pod)
			}},
			{"namespace", func() model.Ref {
				space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "space-3", Labels: map[string]string{"team": fmt.Sprint(3 + turn%2)}}}
				objs.Namespaces[space.Name] = space
				return manifest.RefOf(space)
			}},
			{"node", func() model.Ref {
				node := cityNode(9_999)
				if delete(objs.Nodes, node.Name); turn%2 == 0 {
					objs.Nodes[node.Name] = node
				}
				return manifest.RefOf(node)
			}},
			{"new-namespace", func() model.Ref {
				space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "run-1"}}
				if delete(objs.Namespaces, space.Name); turn%2 == 0 {
					objs.Namespaces[space.Name] = space
				}
				return manifest.RefOf(space)
			}},
			{"waiting-pod", func() model.Ref {
				pod := cityPod(501)
				if turn%2 == 0 {
					pod.Spec.NodeName, pod.Status.PodIPs = "", nil
				}
				objs.Pods[manifest.NameOf(pod)] = pod
				return manifest.RefOf(pod)
			}},
			{"disputed-address", func() model.Ref {
				pod := cityPod(502)
				pod.Name = "next"
				if delete(objs.Pods, manifest.NameOf(pod)); turn%2 == 0 {
					objs.Pods[manifest.NameOf(pod)] = pod
				}
				return manifest.RefOf(pod)
			}},
			{"weighted-pod", func() model.Ref {
				pod := cityPod(503)
				pod.Annotations = map[string]string{manifest.AnnotationWeight: fmt.Sprint(2 + turn%2)}
				objs.Pods[manifest.NameOf(pod)] = pod
				return manifest.RefOf(pod)
			}},
			{"shared-number", func() model.Ref {
				key := cityKey(504, objs)
				local.Identities.Share(map[string]model.Identity{key: model.FirstLabelIdentity + model.Identity(5_000+turn%2)})
				return model.Ref{}
			}},
			{"block", func() model.Ref { // of the world
				policy := cityBlockPolicy(fmt.Sprintf("198.51.%d.0/24", turn%2))
				objs.NetworkPolicies[manifest.NameOf(policy)] = policy
				return manifest.RefOf(policy)
			}},
			{"block-of-pods", func() model.Ref { // it holds 16 pods
				policy := cityBlockPolicy(fmt.Sprintf("10.1.2.%d/28", 16*(turn%2)))
				objs.NetworkPolicies[manifest.NameOf(policy)] = policy
				return manifest.RefOf(policy)
			}},
			{"heartbeat", func() model.Ref {
				node := objs.Nodes["node-7"].DeepCopy()
				node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeMemoryPressure, LastHeartbeatTime: metav1.NewTime(time.Unix(int64(turn), 0))}}
				objs.Nodes[node.Name] = node
				return manifest.RefOf(node)
			}},
			{"cluster-policy", func() model.Ref {
				policy := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "guard"}}
				policy.Spec.Tier, policy.Spec.Priority = policyv1alpha2.AdminTier, int32(1+turn%2)
				policy.Spec.Subject.Namespaces = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "2"}}
				policy.Spec.Ingress = []policyv1alpha2.ClusterNetworkPolicyIngressRule{{
					Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
					From:   []policyv1alpha2.ClusterNetworkPolicyIngressPeer{{Namespaces: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "1"}}}},
				}}
				objs.ClusterNetworkPolicies[policy.Name] = policy
				return manifest.RefOf(policy)
			}},
			{"cilium-policy", func() model.Ref {
				policy := &manifest.CiliumNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "space-3", Name: "one"}}
				policy.Spec = &manifest.CiliumRule{EndpointSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(turn % 2)}}}
				policy.Spec.Ingress = []manifest.CiliumIngressRule{{FromEndpoints: []metav1.LabelSelector{{MatchLabels: map[string]string{"app": "3"}}}}}
				objs.CiliumNetworkPolicies[manifest.NameOf(policy)] = policy
				return manifest.RefOf(policy)
			}},
		} {
			b.Run(fmt.Sprintf("%dk/%s", pods/1000, kind.name), func(b *testing.B) {
				for range 3 { // what is counted lazily is there then
					turn++
					all(b, kind.change())
				}
				whole := again.Whole()
				runtime.GC()
				began, rounds := cpuTime(b), 0
				for b.Loop() {
					for range 20 {
						turn++
						all(b, kind.change())
						rounds++
					}
				}
				once := (cpuTime(b) - began) / time.Duration(rounds)
				b.ReportMetric(float64(once.Microseconds())/1000, "cpu-ms/change")
				b.ReportMetric(0, "ns/op")
				require.Equal(b, whole, again.Whole(), "it was made anew: %s", again.Why())
			})
		}
	}
}
