// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// The objects of the tests: servers and clients are the program under test,
// which has both ends of traffic; the tool is a shell on each node.

const port = 8080

func (e *environment) server(ports ...int) corev1.PodSpec {
	spec := corev1.PodSpec{
		Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		TerminationGracePeriodSeconds: ptr.To[int64](1),
	}
	for _, p := range ports {
		spec.Containers = append(spec.Containers, corev1.Container{
			Name: fmt.Sprintf("port-%d", p), Image: e.image, ImagePullPolicy: corev1.PullIfNotPresent,
			Args:  []string{"lab", "traffic", "serve", "--port", fmt.Sprint(p)},
			Ports: []corev1.ContainerPort{{ContainerPort: int32(p)}},
			ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
				TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(p)},
			}},
		})
	}
	return spec
}

// deploy makes a Deployment whose pods are spread over the nodes.
func (e *environment) deploy(t *testing.T, name string, replicas int) {
	label := map[string]string{"app": name}
	spec := e.server(port)
	spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchLabels: label},
	}}
	_, err := e.kube.AppsV1().Deployments(e.ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(replicas)),
			Selector: &metav1.LabelSelector{MatchLabels: label},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: label}, Spec: spec},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// service makes one of all of the cluster's families, with a node port.
func (e *environment) service(t *testing.T, name string) *corev1.Service {
	service, err := e.kube.CoreV1().Services(e.ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type:           corev1.ServiceTypeNodePort,
			IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack),
			Selector:       map[string]string{"app": name},
			Ports:          []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt(port), Protocol: corev1.ProtocolTCP}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return service
}

// pod makes one with these labels that answers on ports.
func (e *environment) pod(t *testing.T, name string, labels map[string]string, ports ...int) {
	_, err := e.kube.CoreV1().Pods(e.ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       e.server(ports...),
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// startTools runs a shell on each node, with the node's network, processes and
// files.
func (e *environment) startTools(t *testing.T) {
	label := map[string]string{"app": "tool"}
	_, err := e.kube.AppsV1().DaemonSets(e.ns).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "tool"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: label},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: label}, Spec: corev1.PodSpec{
				HostNetwork: true, HostPID: true,
				Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				TerminationGracePeriodSeconds: ptr.To[int64](0),
				Containers: []corev1.Container{{
					Name: "tool", Image: e.tool, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", "while :; do sleep 3600; done"},
					SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)},
					VolumeMounts:    []corev1.VolumeMount{{Name: "host", MountPath: "/host", MountPropagation: ptr.To(corev1.MountPropagationHostToContainer)}},
				}},
				Volumes: []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}},
			}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// onNode runs a script by the node's tool.
func (e *environment) onNode(ctx context.Context, node, script string) (string, error) {
	pods, err := e.kube.CoreV1().Pods(e.ns).List(ctx, metav1.ListOptions{LabelSelector: "app=tool", FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return "", err
	}
	for i := range pods.Items {
		if isPodReady(&pods.Items[i]) {
			return e.exec(ctx, e.ns, pods.Items[i].Name, "sh", "-c", script)
		}
	}
	return "", fmt.Errorf("node %s has no tool that is ready", node)
}

// namespace makes one for the objects, which goes with the test.
func (e *environment) namespace(t *testing.T) {
	made, err := e.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "weir-test-"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	e.ns = made.Name
	e.say("namespace %s", e.ns)
}
