// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func kubeconfig(t *testing.T, server string) string {
	path := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(path, []byte(`
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "`+server+`"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
`), 0o600))
	return path
}

func TestAClusterThatIsNotThereIsToldWithTheRemedy(t *testing.T) {
	_, err := Open(t.Context(), Options{Kubeconfig: filepath.Join(t.TempDir(), "none")})
	require.ErrorContains(t, err, "name the file by --kubeconfig")

	_, err = Open(t.Context(), Options{Kubeconfig: kubeconfig(t, "http://127.0.0.1:1"), Context: "other"})
	require.ErrorContains(t, err, `context "other" does not exist`)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close()) // nobody is there now
	_, err = Open(t.Context(), Options{Kubeconfig: kubeconfig(t, "http://"+l.Addr().String())})
	require.ErrorContains(t, err, "reach the API server http://"+l.Addr().String())
	require.ErrorContains(t, err, "name another kubeconfig by --kubeconfig, or bring the cluster up")
}

func TestAPodThatCannotStartIsToldApart(t *testing.T) {
	waits := func(reason string) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "it says so"}}}}}}
	}
	require.True(t, cannotStart(waits("ErrImagePull")))
	require.Equal(t, "ErrImagePull: it says so", stateOf(waits("ErrImagePull")))
	require.False(t, cannotStart(waits("ContainerCreating")))
	require.Equal(t, "it is Pending", stateOf(&corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}))
}

func slice(family discoveryv1.AddressType, ready map[string]bool) discoveryv1.EndpointSlice {
	s := discoveryv1.EndpointSlice{AddressType: family, ObjectMeta: metav1.ObjectMeta{
		Labels: map[string]string{discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}}}
	for name, is := range ready {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{Name: name}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(is)}})
	}
	return s
}

func TestEndpointsAreAwaitedInEachFamily(t *testing.T) {
	want := map[string]bool{"web-1": true, "web-2": false}
	v4, v6 := slice(discoveryv1.AddressTypeIPv4, want), slice(discoveryv1.AddressTypeIPv6, want)
	require.True(t, sliced([]discoveryv1.EndpointSlice{v4, v6}, want))
	require.False(t, sliced(nil, want), "there is none yet")
	require.False(t, sliced([]discoveryv1.EndpointSlice{v4, slice(discoveryv1.AddressTypeIPv6, map[string]bool{"web-1": true})}, want))
	require.False(t, sliced([]discoveryv1.EndpointSlice{v4, v6}, map[string]bool{"web-1": true, "web-2": true}), "web-2 is to be ready again")
	require.True(t, sliced([]discoveryv1.EndpointSlice{{}}, want), "the scenario's own say what they say")
}
