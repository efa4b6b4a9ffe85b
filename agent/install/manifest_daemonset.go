// SPDX-License-Identifier: Apache-2.0

package install

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/agent/api"
)

// Places on a node.
const (
	dirBin     = "/opt/cni/bin"
	dirNetConf = "/etc/cni/net.d"
	dirRun     = "/run/weir"
	dirBPF     = "/sys/fs/bpf"
	dirConfig  = "/etc/weir" // in the pod: the ConfigMap

	// metricsPort answers on loopback alone.
	metricsPort = 9879
)

// annotationConfig holds the digest of the configuration.
const annotationConfig = "weir.net/config"

// daemonSet runs an agent on every node: it is what makes a node ready, so it
// tolerates every taint, and is the last to go.
func (m *Manifest) daemonSet(config *corev1.ConfigMap) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"},
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Name, Labels: labelsOf(componentAgent)},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{labelName: Name, labelComponent: componentAgent}},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type: appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{
					MaxUnavailable: ptr.To(intstr.FromInt32(1)), MaxSurge: ptr.To(intstr.FromInt32(0)),
				},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{
					Labels:      labelsOf(componentAgent),
					Annotations: map[string]string{annotationConfig: digest(config), annotationContainer: containerAgent},
				},
				Spec: m.podSpec(),
			},
		},
	}
}

const (
	containerAgent      = "agent"
	annotationContainer = "kubectl.kubernetes.io/default-container"
)

func (m *Manifest) podSpec() corev1.PodSpec {
	return corev1.PodSpec{
		ServiceAccountName: Name,
		HostNetwork:        true,
		// The node's cgroups are found by its first process.
		HostPID: true,
		// The API server may be given by a name that the node's resolver knows.
		DNSPolicy:                     corev1.DNSDefault,
		PriorityClassName:             "system-node-critical",
		NodeSelector:                  map[string]string{corev1.LabelOSStable: "linux"},
		Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		TerminationGracePeriodSeconds: ptr.To[int64](10),
		InitContainers: []corev1.Container{{
			Name:            "install-cni",
			Image:           m.Image,
			ImagePullPolicy: corev1.PullIfNotPresent,
			Args:            []string{"agent", "install-cni", "--bin-dir", "/host" + dirBin},
			SecurityContext: privileged(),
			VolumeMounts:    []corev1.VolumeMount{{Name: "cni-bin", MountPath: "/host" + dirBin}},
		}},
		Containers: []corev1.Container{m.agent()},
		Volumes: []corev1.Volume{
			hostVolume("run", dirRun), hostVolume("state", api.DefaultStateDir), hostVolume("bpf", dirBPF),
			hostVolume("cni-bin", dirBin), hostVolume("cni-conf", dirNetConf),
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: ConfigMapName},
				Items:                []corev1.KeyToPath{{Key: keyConfig, Path: keyConfig}},
			}}},
		},
	}
}

func (m *Manifest) agent() corev1.Container {
	return corev1.Container{
		Name:            containerAgent,
		Image:           m.Image,
		ImagePullPolicy: corev1.PullIfNotPresent,
		Args:            []string{"agent"},
		Env: []corev1.EnvVar{
			{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "spec.nodeName"}}},
			configEnv("KUBERNETES_SERVICE_HOST", keyHost), configEnv("KUBERNETES_SERVICE_PORT", keyPort),
		},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
		}},
		// Why an agent ended is in the pod's status, for 'weir status'.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext:          privileged(),
		StartupProbe:             probe("/healthz", 1, 120),
		LivenessProbe:            probe("/healthz", 10, 6),
		ReadinessProbe:           probe("/readyz", 2, 3),
		VolumeMounts: []corev1.VolumeMount{
			{Name: "run", MountPath: dirRun},
			{Name: "state", MountPath: api.DefaultStateDir},
			// Both ways: where the node has no BPF file system, the agent mounts
			// one, and its pins have to outlive the pod.
			{Name: "bpf", MountPath: dirBPF, MountPropagation: ptr.To(corev1.MountPropagationBidirectional)},
			{Name: "cni-conf", MountPath: dirNetConf},
			{Name: "config", MountPath: dirConfig, ReadOnly: true},
		},
	}
}

func configEnv(name, key string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: ConfigMapName}, Key: key,
	}}}
}

func hostVolume(name, path string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
		Path: path, Type: ptr.To(corev1.HostPathDirectoryOrCreate),
	}}}
}

func probe(path string, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Host: "127.0.0.1", Path: path, Port: intstr.FromInt32(metricsPort), Scheme: corev1.URISchemeHTTP,
		}},
		PeriodSeconds: period, FailureThreshold: failures, TimeoutSeconds: 5, SuccessThreshold: 1,
	}
}

// privileged is what loading programs, writing sysctls and making devices in
// the node's namespaces take.
func privileged() *corev1.SecurityContext {
	return &corev1.SecurityContext{Privileged: ptr.To(true)}
}
