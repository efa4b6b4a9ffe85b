// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/agent/identity"
)

// UninstallOptions are of one removal.
type UninstallOptions struct {
	// Image runs the clean-up on nodes; empty: the one that was installed.
	Image string
	// Policies removes policies of the kinds that Install brought, and their
	// kinds; else kinds that have policies stay.
	Policies bool
	// Timeout is for each of the two waits: for the agents to be gone, and for
	// the nodes to be clean.
	Timeout time.Duration
}

// Uninstall takes Weir out: agents first, which leave the datapath forwarding,
// then what it is on each node, then its objects. Pods of before have no
// network from then on. A node that cannot be cleaned does not keep others
// from being, is named in the error, and the ConfigMap stays: Uninstall again
// goes on from there.
func (c *Cluster) Uninstall(ctx context.Context, o UninstallOptions) error {
	if err := c.checkPermissions(ctx, uninstallPermissions()); err != nil {
		return err
	}
	image, err := c.installedImage(ctx, o.Image)
	if err != nil {
		return err
	}
	if err := c.removeAgents(ctx, o.Timeout); err != nil {
		return err
	}
	if err := c.cleanNodes(ctx, image, o.Timeout); err != nil {
		return err
	}
	if err := c.removeKinds(ctx, o.Policies, o.Timeout); err != nil {
		return err
	}
	if err := c.removeObjects(ctx); err != nil {
		return err
	}
	return c.unready(ctx)
}

// kubelets look for a network every few seconds.
const kubeletPatience = 15 * time.Second

// unready waits until kubelets know that their nodes have no network, lest an
// Install right after it takes them for another plugin's. Those that have
// another plugin's stay ready.
func (c *Cluster) unready(ctx context.Context) error {
	err := poll(ctx, kubeletPatience, func(ctx context.Context) (bool, error) {
		nodes, err := c.nodes(ctx)
		ready := slices.ContainsFunc(nodes, func(n corev1.Node) bool { return isReady(&n) })
		return !ready, err
	})
	if err == nil {
		c.tell("nodes have no network, and are not ready")
	}
	return ctx.Err()
}

func uninstallPermissions() []authorizationv1.ResourceAttributes {
	return slices.Concat(
		permissions(resourceNode, "", "", "list"),
		permissions(resourceCRD, "", "", "get", "delete"),
		permissions(resourceClusterRole, "", "", "delete"),
		permissions(resourceClusterRoleBinding, "", "", "delete"),
		permissions(resourceServiceAccount, "", Namespace, "delete"),
		permissions(resourceConfigMap, "", Namespace, "get", "delete"),
		permissions(resourceDaemonSet, "", Namespace, "get", "delete"),
		permissions(resourcePod, "", Namespace, "list", "create", "delete"),
	)
}

// installedImage fails with ErrNotInstalled where nothing says that Weir has
// ever been there, unless an image is given.
func (c *Cluster) installedImage(ctx context.Context, given string) (string, error) {
	config, err := c.kube.CoreV1().ConfigMaps(Namespace).Get(ctx, ConfigMapName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && given == "" {
		return "", ErrNotInstalled
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return "", fmt.Errorf("read ConfigMap %s/%s: %w", Namespace, ConfigMapName, err)
	}
	if given == "" && config.Data[keyImage] == "" {
		return "", fmt.Errorf("ConfigMap %s/%s does not say which image was installed: name it by --image", Namespace, ConfigMapName)
	}
	return cmp.Or(given, config.Data[keyImage]), nil
}

// removeAgents ends them first: one that runs would make anew what is removed.
func (c *Cluster) removeAgents(ctx context.Context, timeout time.Duration) error {
	if err := c.remove(ctx, resourceDaemonSet, Namespace, Name); err != nil {
		return err
	}
	left := 0
	err := poll(ctx, timeout, func(ctx context.Context) (bool, error) {
		pods, err := c.agentPods(ctx)
		left = len(pods)
		return left == 0, err
	})
	if err != nil {
		return fmt.Errorf("wait until agents have ended: %d are left: %w", left, err)
	}
	c.tell("agents have ended")
	return nil
}

// remove deletes an object that may be gone already.
func (c *Cluster) remove(ctx context.Context, resource schema.GroupVersionResource, namespace, name string) error {
	err := c.client(resource, namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", resource.Resource, name, err)
	}
	return nil
}

// cleanNodes runs a pod on each node that removes what the agent made there.
func (c *Cluster) cleanNodes(ctx context.Context, image string, timeout time.Duration) error {
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	// Those of a try that was interrupted: their names are needed.
	if err := c.removeCleanups(ctx, timeout); err != nil {
		return err
	}
	waiting := map[string]string{}
	for i := range nodes {
		if os := nodes[i].Labels[corev1.LabelOSStable]; os != "" && os != "linux" {
			continue
		}
		pod := cleanupPod(nodes[i].Name, image)
		if _, err := c.kube.CoreV1().Pods(Namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create pod %s/%s: %w", Namespace, pod.Name, err)
		}
		waiting[nodes[i].Name] = "nothing heard yet"
	}
	failed := []error{}
	err = poll(ctx, timeout, func(ctx context.Context) (bool, error) {
		pods, err := c.cleanups(ctx)
		if err != nil {
			return false, err
		}
		for i := range pods {
			p := &pods[i]
			if _, ok := waiting[p.Spec.NodeName]; !ok {
				continue
			}
			waiting[p.Spec.NodeName] = podPhase(p)
			switch p.Status.Phase {
			case corev1.PodSucceeded:
				delete(waiting, p.Spec.NodeName)
				c.tellf("node %s: clean", p.Spec.NodeName)
			case corev1.PodFailed:
				delete(waiting, p.Spec.NodeName)
				failed = append(failed, fmt.Errorf("node %s: %s", p.Spec.NodeName, c.said(ctx, p.Name)))
			}
		}
		return len(waiting) == 0, nil
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	for node, phase := range waiting {
		failed = append(failed, fmt.Errorf("node %s: not clean after %s: %s", node, timeout, phase))
	}
	if err := c.removeCleanups(ctx, timeout); err != nil {
		failed = append(failed, err)
	}
	if len(failed) > 0 {
		return fmt.Errorf("clean nodes: run 'weir uninstall' again when these are well:\n%w", errors.Join(failed...))
	}
	return nil
}

func (c *Cluster) said(ctx context.Context, pod string) string {
	text, err := c.kube.CoreV1().Pods(Namespace).GetLogs(pod, &corev1.PodLogOptions{TailLines: ptr.To[int64](5)}).DoRaw(ctx)
	if err != nil {
		return fmt.Sprintf("the clean-up failed, and its log cannot be read: %v", err)
	}
	return cmp.Or(strings.TrimSpace(string(text)), "the clean-up failed, and said nothing")
}

func (c *Cluster) cleanups(ctx context.Context) ([]corev1.Pod, error) {
	list, err := c.kube.CoreV1().Pods(Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector(componentCleanup)})
	if err != nil {
		return nil, fmt.Errorf("list clean-ups: %w", err)
	}
	return list.Items, nil
}

func (c *Cluster) removeCleanups(ctx context.Context, timeout time.Duration) error {
	pods, err := c.cleanups(ctx)
	if err != nil {
		return err
	}
	for i := range pods {
		err := c.kube.CoreV1().Pods(Namespace).Delete(ctx, pods[i].Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete pod %s/%s: %w", Namespace, pods[i].Name, err)
		}
	}
	err = poll(ctx, timeout, func(ctx context.Context) (bool, error) {
		pods, err := c.cleanups(ctx)
		return len(pods) == 0, err
	})
	if err != nil {
		return fmt.Errorf("wait until clean-ups are gone: %w", err)
	}
	return nil
}

// cleanupPod has the node's root with everything that is mounted there. It is
// given its node, as no scheduler would choose one that is not ready.
func cleanupPod(node, image string) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: podNameOf(node), Labels: labelsOf(componentCleanup)},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			HostNetwork:                   true,
			HostPID:                       true,
			DNSPolicy:                     corev1.DNSDefault,
			RestartPolicy:                 corev1.RestartPolicyNever,
			PriorityClassName:             "system-node-critical",
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			AutomountServiceAccountToken:  ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{
				Name:            componentCleanup,
				Image:           image,
				ImagePullPolicy: corev1.PullIfNotPresent,
				Args:            []string{"agent", "cleanup", "--host-root", "/host"},
				SecurityContext: privileged(),
				VolumeMounts: []corev1.VolumeMount{{
					Name: "host", MountPath: "/host", MountPropagation: ptr.To(corev1.MountPropagationHostToContainer),
				}},
			}},
			Volumes: []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: "/", Type: ptr.To(corev1.HostPathDirectory)},
			}}},
		},
	}
}

// podNameOf is short enough for any node's name, which may have 253 characters
// as a pod's may.
func podNameOf(node string) string {
	name := Name + "-cleanup-" + node
	if len(name) > 253 {
		name = strings.TrimRight(name[:253], "-.")
	}
	return name
}

// removeKinds removes the kinds that Install brought, if nobody uses them or
// all policies are to go. Identities are agents' alone.
func (c *Cluster) removeKinds(ctx context.Context, policies bool, timeout time.Duration) error {
	for _, crd := range crds() {
		there, err := c.client(resourceCRD, "").Get(ctx, crd.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && there.GetLabels()[labelManagedBy] != Name {
			continue
		}
		if err != nil {
			return fmt.Errorf("read CustomResourceDefinition %s: %w", crd.Name, err)
		}
		if !policies && crd.Spec.Group != identity.Group {
			resource := schema.GroupVersionResource{Group: crd.Spec.Group, Version: crd.Spec.Versions[0].Name, Resource: crd.Spec.Names.Plural}
			used, err := c.dynamic.Resource(resource).List(ctx, metav1.ListOptions{Limit: 1})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("list %s: %w", crd.Name, err)
			}
			if err == nil && len(used.Items) > 0 {
				c.tellf("%s stays, since there are policies of that kind: --policies removes them too", crd.Name)
				continue
			}
		}
		if err := c.removeKind(ctx, crd.Name, timeout); err != nil {
			return err
		}
	}
	return nil
}

// removeKind waits until a kind is gone: the API server deletes its objects
// first, and one that is made meanwhile would go too.
func (c *Cluster) removeKind(ctx context.Context, name string, timeout time.Duration) error {
	if err := c.remove(ctx, resourceCRD, "", name); err != nil {
		return err
	}
	err := poll(ctx, timeout, func(ctx context.Context) (bool, error) {
		_, err := c.client(resourceCRD, "").Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("wait until CustomResourceDefinition %s is gone: %w", name, err)
	}
	return nil
}

// removeObjects ends with the ConfigMap: while it is there, Weir was.
func (c *Cluster) removeObjects(ctx context.Context) error {
	for _, o := range []struct {
		resource        schema.GroupVersionResource
		namespace, name string
	}{
		{resourceClusterRoleBinding, "", Name},
		{resourceClusterRole, "", Name},
		{resourceServiceAccount, Namespace, Name},
		{resourceConfigMap, Namespace, ConfigMapName},
	} {
		if err := c.remove(ctx, o.resource, o.namespace, o.name); err != nil {
			return err
		}
	}
	c.tell("Weir is gone from the cluster")
	return nil
}
