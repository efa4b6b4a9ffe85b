// SPDX-License-Identifier: Apache-2.0

package install

import (
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
)

func node(name string, ready bool, podCIDRs ...string) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: podCIDRs}}
	n.Status.NodeInfo.KernelVersion = "6.1.0-31-amd64"
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
	return n
}

func hostPathSet(namespace, name, path string, readOnly bool) appsv1.DaemonSet {
	set := appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	set.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "conf", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}}}
	set.Spec.Template.Spec.Containers = []corev1.Container{{VolumeMounts: []corev1.VolumeMount{{Name: "conf", MountPath: "/x", ReadOnly: readOnly}}}}
	return set
}

func TestObstacles(t *testing.T) {
	old := node("a", false, "10.0.0.0/24")
	old.Status.NodeInfo.KernelVersion = "5.4.0-150-generic"
	tests := map[string]struct {
		nodes []corev1.Node
		sets  []appsv1.DaemonSet
		again bool
		want  []string // a part of each
	}{
		"an empty cluster is taken":            {nodes: []corev1.Node{node("a", false, "10.0.0.0/24")}},
		"no node":                              {want: []string{"no node"}},
		"a node without podCIDR":               {nodes: []corev1.Node{node("a", false)}, want: []string{"node a has no podCIDR"}},
		"a node that is ready has a plugin":    {nodes: []corev1.Node{node("a", true, "10.0.0.0/24")}, want: []string{"node a is ready, so it has a CNI plugin"}},
		"a node with Weir is ready by right":   {nodes: []corev1.Node{node("a", true, "10.0.0.0/24")}, again: true},
		"a kernel that is too old":             {nodes: []corev1.Node{old}, want: []string{"Linux 5.4.0-150-generic, and the datapath needs 5.10"}},
		"what only reads configuration may do": {nodes: []corev1.Node{node("a", false, "10.0.0.0/24")}, sets: []appsv1.DaemonSet{hostPathSet("monitoring", "exporter", "/etc/cni/net.d", true)}},
		"another host path is nobody's plugin": {nodes: []corev1.Node{node("a", false, "10.0.0.0/24")}, sets: []appsv1.DaemonSet{hostPathSet("logging", "agent", "/var/log", false)}},
		"Weir is no obstacle to itself":        {nodes: []corev1.Node{node("a", true, "10.0.0.0/24")}, again: true, sets: []appsv1.DaemonSet{hostPathSet(Namespace, Name, "/etc/cni/net.d", false)}},
		"another plugin is named once, and not by each node that it made ready": {
			nodes: []corev1.Node{node("a", true, "10.0.0.0/24"), node("b", true, "10.0.1.0/24")},
			sets:  []appsv1.DaemonSet{hostPathSet("kube-system", "kindnet", "/etc/cni/net.d/", false)},
			want:  []string{"DaemonSet kube-system/kindnet writes CNI configuration"},
		},
		"kube-proxy": {
			nodes: []corev1.Node{node("a", false, "10.0.0.0/24")},
			sets:  []appsv1.DaemonSet{{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy"}}},
			want:  []string{"DaemonSet kube-system/kube-proxy runs kube-proxy"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			found := obstacles(test.nodes, test.sets, !test.again)
			require.Len(t, found, len(test.want), "%v", found)
			for i, want := range test.want {
				require.Contains(t, found[i].What, want)
				require.NotEmpty(t, found[i].Remedy)
			}
			require.Equal(t, len(test.want) == 0, obstacleError(found) == nil)
		})
	}
}

func TestKernelsFrom510AreNewEnough(t *testing.T) {
	for release, want := range map[string]bool{
		"5.10.0-46-cloud-amd64": true, "5.10": true, "5.15.167.4-microsoft": true, "6.1.0": true, "7.2.0-rc1": true,
		"5.9.16": false, "4.18.0-553.el8_10.x86_64": false, "5.4": false, "unknown": true, "": true,
	} {
		require.Equal(t, want, newEnough(release), release)
	}
}

func TestMissingPermissionsAreNamedTogether(t *testing.T) {
	kube := fake.NewClientset()
	kube.PrependReactor("create", "selfsubjectaccessreviews", func(action ktesting.Action) (bool, runtime.Object, error) {
		review := action.(ktesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		review.Status.Allowed = review.Spec.ResourceAttributes.Resource != "daemonsets" && review.Spec.ResourceAttributes.Resource != "clusterroles"
		return true, review, nil
	})
	c := &Cluster{kube: kube, tell: func(string) {}}
	err := c.checkPermissions(t.Context(), installPermissions())
	require.EqualError(t, err, "check permissions: the kubeconfig's user may not create clusterroles.rbac.authorization.k8s.io, patch clusterroles.rbac.authorization.k8s.io, "+
		"get daemonsets.apps in kube-system, create daemonsets.apps in kube-system, patch daemonsets.apps in kube-system, list daemonsets.apps: use one with the ClusterRole cluster-admin")
}
