// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/lab/cluster/traffic"
)

// tenant is somebody who may write what he likes into a namespace of his own,
// and is root in his pods.
type tenant struct {
	*environment
	ns     string
	node   string     // where his pods are, and a client of others
	victim corev1.Pod // of others, on another node where there is one
}

// Names of the tenant's objects.
const (
	evil       = "evil"        // a pod that answers whatever reaches it
	poser      = "poser"       // a pod with a shell
	evilDNS    = "evil-dns"    // a service at the cluster's DNS
	evilSocket = "evil-socket" // a service at the nodes' own sockets
)

// kubeletPort is that of a socket on every node that the cluster relies on.
const kubeletPort = 10250

var resourceClusterPolicy = schema.GroupVersionResource{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"}

// tenants has a tenant try to take what is others': by external addresses of
// services (the cluster's DNS, the kubelets), by a host port at a stranger's
// address, by an annotation that would lift the administrator's policy, by a label
// that poses as a namespace's, and by packets of somebody else's address. He gets
// nothing, and is told what he does not get.
func tenants(e *environment, t *testing.T) {
	made := &tenant{environment: e, node: e.nodes[len(e.nodes)-1].Name}
	made.begin(t)
	t.Cleanup(func() {
		if os.Getenv(envKeep) == "1" && t.Failed() {
			return
		}
		_ = e.kube.CoreV1().Namespaces().Delete(context.Background(), made.ns, metav1.DeleteOptions{})
		_ = e.dynamic.Resource(resourceClusterPolicy).Delete(context.Background(), lockdown(made.ns).GetName(), metav1.DeleteOptions{})
	})
	made.told(t)
	made.takesNoAddress(t)
	made.posesAsNoNamespace(t)
	made.liftsNoPolicy(t)
	made.sendsAsNobodyElse(t)
	made.end(t)
}

// begin makes all of the tenant's claims, and a pod that is another's.
func (e *tenant) begin(t *testing.T) {
	namespace, err := e.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "weir-tenant-"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	e.ns = namespace.Name
	victim := e.server(port)
	victim.NodeName = e.nodes[0].Name
	e.create(t, e.environment.ns, "victim", nil, victim)
	e.victim = e.podsReady(t, e.environment.ns, "app=victim", 1, time.Minute)[0]

	server := e.server(port, kubeletPort)
	server.NodeName = e.node
	for _, ip := range e.victim.Status.PodIPs {
		server.Containers[0].Ports = append(server.Containers[0].Ports, corev1.ContainerPort{ContainerPort: port, HostPort: port, HostIP: ip.IP})
	}
	e.create(t, e.ns, evil, func(pod *corev1.Pod) {
		pod.Labels["io.cilium.k8s.namespace.labels.team"] = "trusted"
		pod.Annotations = map[string]string{"weir.net/policy-audit": "true"}
	}, server)
	e.create(t, e.ns, poser, nil, e.shell())

	dns, err := e.kube.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
	require.NoError(t, err)
	e.claims(t, evilDNS, dns.Spec.ClusterIPs, []corev1.ServicePort{
		{Name: "udp", Port: 53, TargetPort: intstr.FromInt(port), Protocol: corev1.ProtocolUDP},
		{Name: "tcp", Port: 53, TargetPort: intstr.FromInt(port), Protocol: corev1.ProtocolTCP},
	})
	e.claims(t, evilSocket, e.nodeAddresses(), []corev1.ServicePort{{Port: kubeletPort, TargetPort: intstr.FromInt(kubeletPort)}})
	e.podsReady(t, e.ns, "app in ("+evil+","+poser+")", 2, time.Minute)
}

func (e *tenant) create(t *testing.T, namespace, name string, change func(*corev1.Pod), spec corev1.PodSpec) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: spec}
	if change != nil {
		change(pod)
	}
	_, err := e.kube.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
}

// shell is a pod whose root may do to its own network what he likes.
func (e *tenant) shell() corev1.PodSpec {
	return corev1.PodSpec{
		NodeName: e.node, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		TerminationGracePeriodSeconds: ptr.To[int64](0),
		Containers: []corev1.Container{{
			Name: poser, Image: e.tool, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", "while :; do sleep 3600; done"},
			SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)},
			VolumeMounts:    []corev1.VolumeMount{{Name: "host", MountPath: "/host"}},
		}},
		Volumes: []corev1.Volume{{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}},
	}
}

// claims makes a service at addresses that are others'.
func (e *tenant) claims(t *testing.T, name string, addresses []string, ports []corev1.ServicePort) {
	t.Helper()
	_, err := e.kube.CoreV1().Services(e.ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack),
			Selector:       map[string]string{"app": evil}, ExternalIPs: addresses, Ports: ports,
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

func (e *tenant) nodeAddresses() (all []string) {
	for _, n := range e.nodes {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP && e.has(a.Address) {
				all = append(all, a.Address)
			}
		}
	}
	return all
}

// told awaits that each object which claims what is another's is told so: from
// then on nodes know of it, and whatever it would have taken is taken.
func (e *tenant) told(t *testing.T) {
	want := []string{"Pod " + evil, "Service " + evilDNS, "Service " + evilSocket}
	e.eventually(t, 30*time.Second, "claims on what is others' are refused by field", func(ctx context.Context) (bool, string) {
		events, err := e.kube.CoreV1().Events(e.ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=ClaimLost"})
		if err != nil {
			return false, err.Error()
		}
		var told []string
		for _, event := range events.Items {
			if field, _, named := strings.Cut(event.Message, ": "); named && strings.Contains(field, ".") {
				told = append(told, event.InvolvedObject.Kind+" "+event.InvolvedObject.Name)
			}
		}
		slices.Sort(told)
		told = slices.Compact(told)
		return slices.Equal(want, told), fmt.Sprintf("told are %q", told)
	})
}

// takesNoAddress asks those whose addresses the tenant claims, from his node and
// from outside.
func (e *tenant) takesNoAddress(t *testing.T) {
	clients := e.podsReady(t, e.environment.ns, "app=client", len(e.nodes), time.Minute)
	for i := range clients {
		name := e.settled(t, &clients[i], traffic.Load{Target: "web." + e.environment.ns + ":80", Rate: 20, Duration: time.Second, Timeout: 5 * time.Second})
		e.say("  %s still resolves names: %d answers", clients[i].Spec.NodeName, name.Answered)
		for _, ip := range e.victim.Status.PodIPs {
			target := net.JoinHostPort(ip.IP, strconv.Itoa(port))
			report := e.settled(t, &clients[i], traffic.Load{Target: target, Rate: 20, Duration: time.Second / 2, Timeout: 5 * time.Second})
			require.Equal(t, map[string]int{"victim": report.Answered}, report.By, "%s is answered by whom it belongs to", target)
		}
	}
	for _, address := range e.nodeAddresses() {
		target := net.JoinHostPort(address, strconv.Itoa(kubeletPort))
		report := traffic.Load{Target: target, Rate: 10, Duration: time.Second / 2, Timeout: time.Second}.Run(t.Context())
		require.NotContains(t, report.By, evil, "%s is the kubelet's: %s", target, report)
		report, err := e.load(t.Context(), clients[len(clients)-1].Name, traffic.Load{Target: target, Rate: 10, Duration: time.Second / 2, Timeout: time.Second})
		require.NoError(t, err)
		require.NotContains(t, report.By, evil, "%s is the kubelet's: %s", target, report)
	}
	e.say("  addresses are answered by those whose they are")
}

// reaches awaits that the tenant's pod reaches the victim, or not.
func (e *tenant) reaches(t *testing.T, want bool, when string) {
	t.Helper()
	for _, ip := range e.victim.Status.PodIPs {
		target := net.JoinHostPort(ip.IP, strconv.Itoa(port))
		e.quietly(t, 20*time.Second, fmt.Sprintf("%s -> %s is allowed=%t %s", evil, target, want, when), func(ctx context.Context) (bool, string) {
			report, err := e.loadFrom(ctx, e.ns, evil, traffic.Load{Target: target, Rate: 5, Duration: time.Second / 2, Timeout: time.Second})
			if err != nil {
				return false, err.Error()
			}
			return report.OK() == want, report.String()
		})
	}
	e.say("  %s -> victim allowed=%t %s", evil, want, when)
}

// posesAsNoNamespace has a policy ask for namespaces with a label that the
// tenant's pod has written beside its own.
func (e *tenant) posesAsNoNamespace(t *testing.T) {
	e.reaches(t, true, "at first")
	policies := e.dynamic.Resource(resourceCiliumPolicy).Namespace(e.environment.ns)
	policy := object(t, `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: trusted-alone}
spec:
  endpointSelector: {matchLabels: {app: victim}}
  ingress:
  - fromEndpoints: [{matchLabels: {"k8s:io.cilium.k8s.namespace.labels.team": trusted}}]
`)
	_, err := policies.Create(t.Context(), policy, metav1.CreateOptions{})
	require.NoError(t, err)
	e.reaches(t, false, "with a label of its own that poses as its namespace's")
	patch := []byte(`{"metadata":{"labels":{"team":"trusted"}}}`)
	_, err = e.kube.CoreV1().Namespaces().Patch(t.Context(), e.ns, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	require.NoError(t, err)
	e.reaches(t, true, "with its namespace's label")
	require.NoError(t, policies.Delete(t.Context(), policy.GetName(), metav1.DeleteOptions{}))
}

// lockdown is the administrator's policy: a namespace's pods reach nobody's.
func lockdown(namespace string) *unstructured.Unstructured {
	policy := new(unstructured.Unstructured)
	policy.SetUnstructuredContent(map[string]any{
		"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
		"metadata": map[string]any{"name": "weir-test-lockdown"},
		"spec": map[string]any{
			"tier": "Admin", "priority": int64(1),
			"subject": map[string]any{"namespaces": map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": namespace}}},
			"egress":  []any{map[string]any{"action": "Deny", "to": []any{map[string]any{"namespaces": map[string]any{}}}}},
		},
	})
	return policy
}

// liftsNoPolicy denies the tenant everything, whose pod has an annotation that
// lifts the policies of its own namespace.
func (e *tenant) liftsNoPolicy(t *testing.T) {
	policies := e.dynamic.Resource(resourceClusterPolicy)
	policy := lockdown(e.ns)
	_, err := policies.Create(t.Context(), policy, metav1.CreateOptions{})
	require.NoError(t, err)
	e.reaches(t, false, "by the administrator's policy, whatever the pod's annotation")
	require.NoError(t, policies.Delete(t.Context(), policy.GetName(), metav1.DeleteOptions{}))
	e.reaches(t, true, "without that policy")
}

// sendsAsNobodyElse has the tenant take a stranger's address in his own pod, and
// send from it. He asks for his gateway by his own address before: a kernel that
// does not know its gateway asks in the name of the packet that waits, is not
// answered (bad-arp, bad-ndp), and then the packet itself never leaves.
func (e *tenant) sendsAsNobodyElse(t *testing.T) {
	own := e.podsReady(t, e.ns, "app="+poser, 1, time.Minute)[0]
	clients := e.podsReady(t, e.environment.ns, "app=client", len(e.nodes), time.Minute)
	for i, ip := range e.victim.Status.PodIPs {
		stranger := clients[len(clients)-1].Status.PodIPs[i].IP
		bits := "32"
		if strings.Contains(stranger, ":") {
			bits = "128"
		}
		dial := func(from string) string {
			return fmt.Sprintf("nc -z -w 2 -s %s %s %d", from, ip.IP, port)
		}
		e.quietly(t, 20*time.Second, fmt.Sprintf("%s reaches %s by its own address", poser, ip.IP), func(ctx context.Context) (bool, string) {
			_, err := e.exec(ctx, e.ns, poser, "sh", "-c", dial(own.Status.PodIPs[i].IP))
			return err == nil, fmt.Sprint(err)
		})
		before := e.spoofed(t)
		// An address that is still asked for by others (DAD) can't be sent from.
		_, err := e.exec(t.Context(), e.ns, poser, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/eth0/dad_transmits && chroot /host ip address add "+stranger+"/"+bits+" dev eth0")
		require.NoError(t, err)
		_, err = e.exec(t.Context(), e.ns, poser, "sh", "-c", dial(stranger))
		require.Error(t, err, "nobody is reached from %s, which is another's", stranger)
		require.Greater(t, e.spoofed(t), before, "packets from %s are dropped, and counted: %v", stranger, err)
		e.say("  %s -> victim as %s: dropped", poser, stranger)
	}
}

// spoofed is how many packets the tenant's node dropped for their senders.
func (e *tenant) spoofed(t *testing.T) (packets float64) {
	t.Helper()
	out, err := e.onNode(t.Context(), e.node, "curl -s http://127.0.0.1:9879/metrics")
	require.NoError(t, err)
	require.Contains(t, out, "weir_packets_total{")
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "weir_packets_total{") || !strings.Contains(line, `reason="spoofed-source"`) {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
		require.NoError(t, err)
		packets += n
	}
	return packets
}

// end takes all of it away.
func (e *tenant) end(t *testing.T) {
	require.NoError(t, e.kube.CoreV1().Pods(e.environment.ns).Delete(t.Context(), "victim", metav1.DeleteOptions{}))
	require.NoError(t, e.kube.CoreV1().Namespaces().Delete(t.Context(), e.ns, metav1.DeleteOptions{}))
	e.eventually(t, time.Minute, "the tenant is gone", func(ctx context.Context) (bool, string) {
		pods, err := e.kube.CoreV1().Pods(e.ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		return len(pods.Items) == 0, fmt.Sprintf("%d pods are left", len(pods.Items))
	})
}

// object reads one of a kind that has no type here.
func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := new(unstructured.Unstructured)
	require.NoError(t, yaml.Unmarshal([]byte(text), &o.Object))
	return o
}
