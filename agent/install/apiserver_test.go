// SPDX-License-Identifier: Apache-2.0

package install

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func serversSlice(addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To[int32](6443)}},
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

func kubeadm(endpoint string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubeadm-config"},
		Data:       map[string]string{"ClusterConfiguration": "kind: ClusterConfiguration\ncontrolPlaneEndpoint: " + endpoint + "\n"},
	}
}

func TestNodesReachTheAPIServerWhereTheClusterSays(t *testing.T) {
	tests := map[string]struct {
		objects []runtime.Object
		want    string
		err     error
		warns   bool
	}{
		"the one server":                          {objects: []runtime.Object{serversSlice("172.18.0.2"), kubeadm("lab-control-plane:6443")}, want: "172.18.0.2:6443"},
		"the one server, by IPv6":                 {objects: []runtime.Object{serversSlice("fc00::2")}, want: "[fc00::2]:6443"},
		"of several what kubeadm wrote":           {objects: []runtime.Object{serversSlice("10.0.0.1", "10.0.0.2"), kubeadm("api.example:443")}, want: "api.example:443"},
		"kubeadm's name without a port":           {objects: []runtime.Object{serversSlice("10.0.0.1", "10.0.0.2"), kubeadm("api.example")}, want: "api.example:6443"},
		"of several the first, if no one says so": {objects: []runtime.Object{serversSlice("10.0.0.1", "10.0.0.2")}, want: "10.0.0.1:6443", warns: true},
		"nobody says":                             {err: ErrNoAPIServer},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			warned := false
			c := &Cluster{kube: fake.NewClientset(test.objects...), tell: func(string) { warned = true }}
			got, err := c.APIServer(t.Context())
			require.ErrorIs(t, err, test.err)
			require.Equal(t, test.want, got)
			require.Equal(t, test.warns, warned)
		})
	}
}
