// SPDX-License-Identifier: Apache-2.0

package install

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/weirnet/weir/agent/identity"
)

// installed is a cluster with Weir in it, whose nodes' clean-ups end in a
// phase each.
func installed(t *testing.T, phases map[string]corev1.PodPhase, more ...runtime.Object) (*Cluster, *[]string) {
	m, err := NewManifest(Options{APIServer: "192.0.2.1:6443"})
	require.NoError(t, err)
	config, err := m.configMap()
	require.NoError(t, err)
	objects := []runtime.Object{config}
	for name := range phases {
		n := node(name, true, "10.0.0.0/24")
		objects = append(objects, &n)
	}
	kube := fake.NewClientset(objects...)
	kube.PrependReactor("create", "selfsubjectaccessreviews", func(action ktesting.Action) (bool, runtime.Object, error) {
		review := action.(ktesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		review.Status.Allowed = true
		return true, review, nil
	})
	kube.PrependReactor("create", "pods", func(action ktesting.Action) (bool, runtime.Object, error) {
		pod := action.(ktesting.CreateAction).GetObject().(*corev1.Pod)
		pod.Status.Phase = phases[pod.Spec.NodeName]
		// Its kubelet finds no network then.
		cleaned := node(pod.Spec.NodeName, false, "10.0.0.0/24")
		return false, nil, kube.Tracker().Update(corev1.SchemeGroupVersion.WithResource("nodes"), &cleaned, "")
	})
	all, err := m.objects()
	require.NoError(t, err)
	var applied []runtime.Object
	for i := range all {
		applied = append(applied, all[i].Unstructured)
	}
	kinds := map[schema.GroupVersionResource]string{
		resourceCiliumPolicy: "CiliumNetworkPolicyList",
		{Group: "cilium.io", Version: "v2", Resource: "ciliumclusterwidenetworkpolicies"}:            "CiliumClusterwideNetworkPolicyList",
		{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"}: "ClusterNetworkPolicyList",
	}
	said := new([]string)
	return &Cluster{
		kube: kube, dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, append(applied, more...)...),
		tell: func(line string) { *said = append(*said, line) },
	}, said
}

var resourceCiliumPolicy = schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: "ciliumnetworkpolicies"}

func ciliumPolicy() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": map[string]any{"namespace": "default", "name": "rule1"},
	}}
}

// left are the objects of a manifest that are still there, by title.
func left(t *testing.T, c *Cluster) []string {
	m, err := NewManifest(Options{APIServer: "192.0.2.1:6443"})
	require.NoError(t, err)
	all, err := m.objects()
	require.NoError(t, err)
	var titles []string
	for i := range all {
		_, err := c.client(all[i].resource, all[i].GetNamespace()).Get(t.Context(), all[i].GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		require.NoError(t, err)
		titles = append(titles, all[i].title())
	}
	return titles
}

func TestUninstallLeavesNothing(t *testing.T) {
	c, said := installed(t, map[string]corev1.PodPhase{"a": corev1.PodSucceeded, "b": corev1.PodSucceeded})
	require.NoError(t, c.Uninstall(t.Context(), UninstallOptions{Timeout: 10 * time.Second}))
	require.Contains(t, *said, "nodes have no network, and are not ready")
	require.Empty(t, left(t, c))
	require.Contains(t, *said, "node a: clean")
	require.Contains(t, *said, "node b: clean")
	pods, err := c.cleanups(t.Context())
	require.NoError(t, err)
	require.Empty(t, pods)
}

func TestUninstallKeepsKindsThatAreUsed(t *testing.T) {
	c, said := installed(t, map[string]corev1.PodPhase{"a": corev1.PodSucceeded}, ciliumPolicy())
	require.NoError(t, c.Uninstall(t.Context(), UninstallOptions{Timeout: 10 * time.Second}))
	require.Equal(t, []string{"CustomResourceDefinition ciliumnetworkpolicies.cilium.io"}, left(t, c))
	require.Contains(t, strings.Join(*said, "\n"), "--policies removes them too")

	c, _ = installed(t, map[string]corev1.PodPhase{"a": corev1.PodSucceeded}, ciliumPolicy())
	require.NoError(t, c.Uninstall(t.Context(), UninstallOptions{Timeout: 10 * time.Second, Policies: true}))
	require.Empty(t, left(t, c))
}

func TestUninstallRemovesIdentities(t *testing.T) {
	used := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "4711"}}}
	used.SetGroupVersionKind(identity.Resource().GroupVersion().WithKind(identity.Kind))
	c, _ := installed(t, map[string]corev1.PodPhase{"a": corev1.PodSucceeded}, used)
	require.Contains(t, left(t, c), "CustomResourceDefinition identities.weir.net")
	require.NoError(t, c.Uninstall(t.Context(), UninstallOptions{Timeout: 10 * time.Second}))
	require.Empty(t, left(t, c), "nobody has written them but agents")
}

func TestUninstallGoesOnWhereItWasInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose second is over when nothing is left to do
		phases := map[string]corev1.PodPhase{"a": corev1.PodSucceeded, "b": corev1.PodPending, "c": corev1.PodFailed}
		c, _ := installed(t, phases)
		err := c.Uninstall(t.Context(), UninstallOptions{Timeout: time.Second})
		require.ErrorContains(t, err, "node b: not clean after 1s")
		require.ErrorContains(t, err, "node c: fake logs")
		require.NotContains(t, err.Error(), "node a")
		require.Contains(t, left(t, c), "ConfigMap kube-system/weir-config")
		require.NotContains(t, left(t, c), "DaemonSet kube-system/weir")

		phases["b"], phases["c"] = corev1.PodSucceeded, corev1.PodSucceeded
		require.NoError(t, c.Uninstall(t.Context(), UninstallOptions{Timeout: 10 * time.Second}))
		require.Empty(t, left(t, c))
	})
}

func TestUninstallOfNothingSaysSo(t *testing.T) {
	c, _ := installed(t, nil)
	require.NoError(t, c.kube.CoreV1().ConfigMaps(Namespace).Delete(t.Context(), ConfigMapName, metav1.DeleteOptions{}))
	require.ErrorIs(t, c.Uninstall(t.Context(), UninstallOptions{Timeout: time.Second}), ErrNotInstalled)
}

func TestNamesOfCleanupsAreShortEnough(t *testing.T) {
	require.Equal(t, "weir-cleanup-lab-worker", podNameOf("lab-worker"))
	require.LessOrEqual(t, len(podNameOf(strings.Repeat("a", 252))), 253)
}
