// SPDX-License-Identifier: Apache-2.0

package watch_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirnet/weir/agent/watch"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// patience is how long a test waits for what must come.
const patience = time.Minute // a machine may be busy

var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	cilium      = schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: "ciliumnetworkpolicies"}
)

func definition() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "ciliumnetworkpolicies.cilium.io"},
		"spec":     map[string]any{"versions": []any{map[string]any{"name": "v2", "served": true, "schema": map[string]any{}}}},
		"status":   map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}},
	}}
}

func policy(name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
		"metadata": map[string]any{"name": name, "namespace": "default", "uid": "uid-" + name, "resourceVersion": "1"},
		"spec":     spec,
	}}
}

func start(t *testing.T, custom ...runtime.Object) (*watch.Watcher, *fake.Clientset, *dynamicfake.FakeDynamicClient, chan struct{}) {
	t.Helper()
	typed := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "somebody"}}}})
	dynamic := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		definitions: "CustomResourceDefinitionList", cilium: "CiliumNetworkPolicyList",
	}, custom...)
	changed := make(chan struct{}, 1000)
	w, err := watch.New(typed, dynamic, func() { changed <- struct{}{} })
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	waiting, done := context.WithTimeout(ctx, patience)
	defer done()
	require.NoError(t, w.WaitForSync(waiting))
	return w, typed, dynamic, changed
}

func TestObjectsFollowTheAPI(t *testing.T) {
	w, typed, _, changed := start(t)
	objs, refused := w.Inputs().Objects()
	require.Empty(t, refused)
	require.Contains(t, objs.Namespaces, "default")
	require.Empty(t, objs.Namespaces["default"].ManagedFields)

	_, err := typed.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { objs, _ := w.Inputs().Objects(); return objs.Pods["default/a"] != nil }, patience, 5*time.Millisecond)
	require.NotEmpty(t, changed)
	require.NoError(t, typed.CoreV1().Pods("default").Delete(t.Context(), "a", metav1.DeleteOptions{}))
	require.Eventually(t, func() bool { objs, _ := w.Inputs().Objects(); return len(objs.Pods) == 0 }, patience, 5*time.Millisecond)
}

func TestAPodKeepsWhatADatapathIsMadeFrom(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	port := func(name string, number, host int32) []corev1.ContainerPort {
		return []corev1.ContainerPort{{Name: name, ContainerPort: number, HostPort: host, Protocol: corev1.ProtocolTCP}}
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"weir.net/policy-audit": "true"}},
		Spec: corev1.PodSpec{
			NodeName: "n", ServiceAccountName: "web",
			Containers:     []corev1.Container{{Name: "web", Image: "web:1", Env: []corev1.EnvVar{{Name: "A", Value: "b"}}, Ports: port("http", 8080, 80)}},
			InitContainers: []corev1.Container{{Name: "side", RestartPolicy: &always, Ports: port("side", 9090, 0)}, {Name: "once", Ports: port("once", 1, 0)}},
			Volumes:        []corev1.Volume{{Name: "data"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.2", PodIPs: []corev1.PodIP{{IP: "10.0.0.2"}},
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", Image: "web:1"}},
		},
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n"},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.0.0.0/24"}},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
			Images:    []corev1.ContainerImage{{Names: []string{"web:1"}}},
		},
	}
	w, typed, _, _ := start(t)
	_, err := typed.CoreV1().Pods("default").Create(t.Context(), pod.DeepCopy(), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = typed.CoreV1().Nodes().Create(t.Context(), node.DeepCopy(), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { objs, _ := w.Inputs().Objects(); return len(objs.Pods)+len(objs.Nodes) == 2 }, patience, 5*time.Millisecond)
	objs, _ := w.Inputs().Objects()
	kept := objs.Pods["default/web"]
	require.Empty(t, kept.Spec.Volumes)
	require.Empty(t, kept.Spec.Containers[0].Env)
	require.Empty(t, kept.Status.ContainerStatuses)
	require.Empty(t, objs.Nodes["n"].Status.Images)

	compiled := func(objs *manifest.Objects) *model.State {
		state, _, err := compile.All(objs, "n", model.Local{Devices: map[model.Key]model.Device{model.ParseKey("default/web"): {Ifindex: 7}}})
		require.NoError(t, err)
		return state
	}
	all := manifest.NewObjects()
	all.Namespaces, all.Pods["default/web"], all.Nodes["n"] = objs.Namespaces, pod, node
	require.Len(t, compiled(all).Endpoints, 1)
	require.Equal(t, compiled(all), compiled(objs))
}

func TestANodeThatOnlyLivesIsNoChange(t *testing.T) {
	w, typed, _, changed := start(t)
	nodes := typed.CoreV1().Nodes()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	_, err := nodes.Create(t.Context(), node, metav1.CreateOptions{})
	require.NoError(t, err)
	has := func(what func(*corev1.Node) bool) func() bool {
		return func() bool { node, found := w.Inputs().Nodes.Get("n"); return found && what(node) }
	}
	require.Eventually(t, has(func(*corev1.Node) bool { return true }), patience, 5*time.Millisecond)
	<-changed // the namespace of the start
	<-changed
	require.Empty(t, changed)
	for _, tt := range []struct {
		change  func(*corev1.Node)
		matters bool
	}{
		{func(n *corev1.Node) {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
		}, false},
		{func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionTrue }, true}, // one that begins to live is believed
		{func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Now() }, false},
		{func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.0.0.0/24"} }, true},
	} {
		node = node.DeepCopy()
		tt.change(node)
		_, err = nodes.Update(t.Context(), node, metav1.UpdateOptions{})
		require.NoError(t, err)
		if tt.matters {
			<-changed
		}
	}
	require.Eventually(t, has(func(n *corev1.Node) bool { return len(n.Spec.PodCIDRs) == 1 }), patience, 5*time.Millisecond)
	require.Empty(t, changed)
	_, now, _ := w.Inputs().Nodes.Since(0)
	require.Equal(t, uint64(3), now, "it came, and two things mattered")
}

// What the API counts up by itself is no change either.
func TestAnObjectThatSaysTheSameIsNoChange(t *testing.T) {
	w, typed, _, changed := start(t)
	pods := typed.CoreV1().Pods("default")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}}
	_, err := pods.Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	// Until it is watched, only the last of its changes would be told.
	require.Eventually(t, func() bool { _, found := w.Inputs().Pods.Get("default/a"); return found }, patience, 5*time.Millisecond)
	for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodPending, corev1.PodRunning} {
		pod = pod.DeepCopy()
		pod.Status.Phase = phase
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: "main"})
		pod.ResourceVersion, pod.Generation = fmt.Sprint(len(pod.Status.ContainerStatuses)), int64(len(pod.Status.ContainerStatuses))
		_, err = pods.Update(t.Context(), pod, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		pod, found := w.Inputs().Pods.Get("default/a")
		return found && pod.Status.Phase == corev1.PodRunning
	}, patience, 5*time.Millisecond)
	_, now, _ := w.Inputs().Pods.Since(0)
	require.Equal(t, uint64(3), now, "it came, was pending, and runs")
	require.NotEmpty(t, changed)
}

func TestPoliciesOfADefinitionThatComesAndGoes(t *testing.T) {
	good := policy("good", map[string]any{"endpointSelector": map[string]any{}, "ingress": []any{map[string]any{}}})
	bad := policy("bad", map[string]any{"endpointSelector": map[string]any{}, "egress": []any{map[string]any{"toFQDNs": []any{map[string]any{"matchName": "example.org"}}}}})
	w, _, dynamic, _ := start(t, good, bad)
	objs, refused := w.Inputs().Objects()
	require.Empty(t, objs.CiliumNetworkPolicies, "the cluster does not have the kind")
	require.Empty(t, refused)

	_, err := dynamic.Resource(definitions).Create(t.Context(), definition(), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { objs, _ := w.Inputs().Objects(); return len(objs.CiliumNetworkPolicies) == 1 }, patience, 5*time.Millisecond)
	_, refused = w.Inputs().Objects()
	require.Len(t, refused, 1)
	require.Equal(t, "CiliumNetworkPolicy default/bad", refused[0].Object.String())
	require.Equal(t, "spec.egress[0].toFQDNs", refused[0].Field)
	require.Contains(t, refused[0].Problem, "is not supported yet")
	require.Contains(t, string(refused[0].Raw), `"toFQDNs":[{"matchName":"example.org"}]`, "whom it selects is still known")

	require.NoError(t, dynamic.Resource(definitions).Delete(t.Context(), "ciliumnetworkpolicies.cilium.io", metav1.DeleteOptions{}))
	require.Eventually(t, func() bool {
		objs, refused := w.Inputs().Objects()
		return len(objs.CiliumNetworkPolicies)+len(refused) == 0
	}, patience, 5*time.Millisecond)
}

func TestPoliciesThatAreThereAtTheStartAreReadBeforeAnythingIsApplied(t *testing.T) {
	good := policy("good", map[string]any{"endpointSelector": map[string]any{}, "ingress": []any{map[string]any{}}})
	w, _, _, _ := start(t, definition(), good)
	objs, _ := w.Inputs().Objects()
	require.Len(t, objs.CiliumNetworkPolicies, 1)
}
