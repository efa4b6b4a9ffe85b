// SPDX-License-Identifier: Apache-2.0

package install

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weirnet/weir/agent/identity"
	"github.com/weirnet/weir/agent/watch"
)

// Resources of what is applied.
var (
	resourceServiceAccount     = schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}
	resourceConfigMap          = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	resourceDaemonSet          = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	resourceClusterRole        = schema.GroupVersionResource{Group: rbacv1.GroupName, Version: "v1", Resource: "clusterroles"}
	resourceClusterRoleBinding = schema.GroupVersionResource{Group: rbacv1.GroupName, Version: "v1", Resource: "clusterrolebindings"}
	resourceCRD                = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
)

func serviceAccount() *corev1.ServiceAccount {
	return &corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Name, Labels: labels()},
	}
}

// clusterRole lets agents read what the datapath is compiled from, and tell of
// what they refuse, and agree on identities. They change nothing else in the
// cluster.
func clusterRole() *rbacv1.ClusterRole {
	read := []string{"get", "list", "watch"}
	role := &rbacv1.ClusterRole{
		TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRole"},
		ObjectMeta: metav1.ObjectMeta{Name: Name, Labels: labels()},
	}
	for _, r := range watch.Resources() {
		// A rule a group.
		i := slices.IndexFunc(role.Rules, func(rule rbacv1.PolicyRule) bool { return rule.APIGroups[0] == r.Group })
		if i < 0 {
			i = len(role.Rules)
			role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{r.Group}, Verbs: read})
		}
		role.Rules[i].Resources = append(role.Rules[i].Resources, r.Resource)
	}
	role.Rules = append(role.Rules,
		rbacv1.PolicyRule{APIGroups: []string{identity.Group}, Resources: []string{identity.Plural}, Verbs: append(slices.Clone(read), "create", "delete")},
		rbacv1.PolicyRule{APIGroups: []string{"", "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "patch", "update"}},
	)
	return role
}

func clusterRoleBinding() *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: Name, Labels: labels()},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: Name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: Namespace, Name: Name}},
	}
}
