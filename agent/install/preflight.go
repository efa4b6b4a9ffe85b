// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Obstacle is something in the cluster that keeps Weir from working.
type Obstacle struct {
	What   string // one sentence
	Remedy string
}

func (o Obstacle) String() string { return o.What + ": " + o.Remedy }

// checkPermissions asks the API server whether it would let us do what Install
// or Uninstall does, before anything is done.
func (c *Cluster) checkPermissions(ctx context.Context, needs []authorizationv1.ResourceAttributes) error {
	var denied []string
	for i := range needs {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &needs[i]}}
		answer, err := c.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("ask the API server for permissions: %w", err)
		}
		if !answer.Status.Allowed {
			denied = append(denied, permissionName(&needs[i]))
		}
	}
	if len(denied) > 0 {
		return fmt.Errorf("check permissions: the kubeconfig's user may not %s: use one with the ClusterRole cluster-admin", strings.Join(denied, ", "))
	}
	return nil
}

func permissionName(a *authorizationv1.ResourceAttributes) string {
	name := a.Verb + " " + a.Resource
	if a.Subresource != "" {
		name += "/" + a.Subresource
	}
	if a.Group != "" {
		name += "." + a.Group
	}
	if a.Namespace != "" {
		name += " in " + a.Namespace
	}
	return name
}

// permissions pairs verbs with a resource. The namespace is Namespace for
// those that have one.
func permissions(resource schema.GroupVersionResource, subresource, namespace string, verbs ...string) []authorizationv1.ResourceAttributes {
	var list []authorizationv1.ResourceAttributes
	for _, verb := range verbs {
		list = append(list, authorizationv1.ResourceAttributes{
			Verb: verb, Group: resource.Group, Version: resource.Version, Resource: resource.Resource, Subresource: subresource, Namespace: namespace,
		})
	}
	return list
}

var (
	resourceNode = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}
	resourcePod  = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
)

// installPermissions are what Install needs. Who grants a ClusterRole needs all
// that it grants, or the verb escalate.
func installPermissions() []authorizationv1.ResourceAttributes {
	return slices.Concat(
		permissions(resourceNode, "", "", "list"),
		permissions(resourceCRD, "", "", "get", "create", "patch"),
		permissions(resourceClusterRole, "", "", "create", "patch"),
		permissions(resourceClusterRoleBinding, "", "", "create", "patch"),
		permissions(resourceServiceAccount, "", Namespace, "create", "patch"),
		permissions(resourceConfigMap, "", Namespace, "get", "create", "patch"),
		permissions(resourceDaemonSet, "", Namespace, "get", "create", "patch"),
		permissions(resourceDaemonSet, "", "", "list"),
		permissions(resourcePod, "", Namespace, "list"),
	)
}

// obstacles are what keeps the agent from working in the cluster as it is.
// empty is whether no node is to have a network: there is no agent yet, and
// nothing to take over.
func obstacles(nodes []corev1.Node, sets []appsv1.DaemonSet, empty bool) []Obstacle {
	var found []Obstacle
	for i := range sets {
		found = append(found, setObstacles(&sets[i])...)
	}
	foreign := len(found) > 0
	if len(nodes) == 0 {
		found = append(found, Obstacle{"the cluster has no node", "add one"})
	}
	for i := range nodes {
		found = append(found, nodeObstacles(&nodes[i], empty && !foreign)...)
	}
	return found
}

// setObstacles are of DaemonSets that do what Weir does.
func setObstacles(set *appsv1.DaemonSet) []Obstacle {
	name := set.Namespace + "/" + set.Name
	switch {
	case set.Namespace == Namespace && set.Name == Name:
		return nil
	case writesNetConf(&set.Spec.Template.Spec):
		return []Obstacle{{
			fmt.Sprintf("DaemonSet %s writes CNI configuration, and pods have one network", name),
			"remove that CNI plugin's daemon; its pods can be taken over (--take-over)",
		}}
	case strings.Contains(set.Name, "kube-proxy"):
		return []Obstacle{{
			fmt.Sprintf("DaemonSet %s runs kube-proxy, whose rules would lead services' packets before Weir's do", name),
			fmt.Sprintf("kubectl -n %s delete daemonset %s, then 'kube-proxy --cleanup' on every node", set.Namespace, set.Name),
		}}
	}
	return nil
}

// writesNetConf is whether pods of a spec have the node's CNI configuration
// and may write it.
func writesNetConf(spec *corev1.PodSpec) bool {
	writable := func(volume string) bool {
		for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
			for _, m := range c.VolumeMounts {
				if m.Name == volume && !m.ReadOnly {
					return true
				}
			}
		}
		return false
	}
	for i := range spec.Volumes {
		host := spec.Volumes[i].HostPath
		if host == nil {
			continue
		}
		p := path.Clean(host.Path)
		if (p == "/etc/cni" || p == dirNetConf) && writable(spec.Volumes[i].Name) {
			return true
		}
	}
	return false
}

// nodeObstacles are of one node. A node that is ready without an agent has
// another network; unless that was named already, it is one more.
func nodeObstacles(node *corev1.Node, empty bool) []Obstacle {
	var found []Obstacle
	if len(node.Spec.PodCIDRs) == 0 {
		found = append(found, Obstacle{
			fmt.Sprintf("node %s has no podCIDR, so its pods would have no addresses", node.Name),
			"start kube-controller-manager with --allocate-node-cidrs and --cluster-cidr (networking.podSubnet of kubeadm)",
		})
	}
	if kernel := node.Status.NodeInfo.KernelVersion; kernel != "" && !newEnough(kernel) {
		found = append(found, Obstacle{
			fmt.Sprintf("node %s has Linux %s, and the datapath needs 5.10", node.Name, kernel), "update its kernel",
		})
	}
	if empty && isReady(node) {
		found = append(found, Obstacle{
			fmt.Sprintf("node %s is ready, so it has a CNI plugin already", node.Name),
			"remove its daemon, then take its pods over (--take-over); or, where there are none, remove its file in " + dirNetConf + " of the node",
		})
	}
	return found
}

// newEnough is whether a kernel's release is 5.10 or later. One that is no
// version is left to the agent to judge.
func newEnough(release string) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return true
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return true
	}
	digits := strings.IndexFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' })
	if digits >= 0 {
		parts[1] = parts[1][:digits]
	}
	minor, err := strconv.Atoi(parts[1])
	return err != nil || major > 5 || major == 5 && minor >= 10
}

func isReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// obstacleError joins what was found. Each line has its remedy.
func obstacleError(found []Obstacle) error {
	if len(found) == 0 {
		return nil
	}
	var errs []error
	for _, o := range found {
		errs = append(errs, errors.New(o.String()))
	}
	return fmt.Errorf("nothing was applied, as the cluster is not ready for Weir (--force applies all the same):\n%w", errors.Join(errs...))
}
