// SPDX-License-Identifier: Apache-2.0

package policygen

import (
	"fmt"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model/manifest"
)

// Options bound a cluster.
type Options struct {
	// Nodes is how many there are; pods are on any of them.
	Nodes int
	// MaxPods and MaxPolicies are the most there may be.
	MaxPods, MaxPolicies int
	// OneFamily gives pods an IPv4 address alone.
	OneFamily bool
}

// Ports that policies of a Cluster name are on both sides of most of these.
var Ports = []uint16{0, 1, 53, 79, 80, 81, 127, 128, 443, 1023, 1024, 8080, 8081, 65535}

// Outside are addresses of who is neither pod nor node, and of the API's
// server.
var Outside = []string{"192.0.2.1", "198.51.100.7", "198.51.100.200", "203.0.113.9", "10.0.200.1", "2001:db8::1", "2001:db9::1"}

type maker struct {
	*rand.Rand
	w    *Words
	o    Options
	objs *manifest.Objects
}

// Cluster makes a cluster.
func Cluster(r *rand.Rand, o Options) *manifest.Objects {
	m := &maker{r, ClusterWords(), o, manifest.NewObjects()}
	m.nodes()
	for _, name := range m.w.Namespaces[1:] {
		m.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: m.labels()}})
	}
	m.pods()
	m.services()
	for i := range m.IntN(o.MaxPolicies + 1) {
		m.put(Policy(r, m.w, pick(m, Kinds...), fmt.Sprintf("policy-%d", i)))
	}
	return m.objs
}

// put keeps an object; all kinds that are made here are kept.
func (m *maker) put(obj metav1.Object) {
	if err := m.objs.Upsert(obj); err != nil {
		panic(err)
	}
}

func pick[T any](m *maker, from ...T) T { return from[m.IntN(len(from))] }

func (m *maker) nodes() {
	for i := range m.o.Nodes {
		m.put(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%c", 'a'+i), Labels: map[string]string{"zone": pick(m, "a", "b")}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.18.0.%d", 2+i)},
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("fd00:18::%d", 2+i)},
			}},
		})
	}
}

func (m *maker) pods() {
	space, labels := "default", m.labels()
	for i := range 2 + m.IntN(m.o.MaxPods-1) {
		if m.IntN(2) == 0 { // else a pod like the one before
			space, labels = pick(m, m.w.Namespaces...), m.labels()
		}
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: fmt.Sprintf("pod-%d", i), Labels: labels},
			Spec:       corev1.PodSpec{NodeName: fmt.Sprintf("node-%c", 'a'+m.IntN(m.o.Nodes))},
			Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", m.IntN(2), 10+i)}}},
		}
		if !m.o.OneFamily {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: fmt.Sprintf("fd00::%d", 10+i)})
		}
		if m.IntN(4) == 0 {
			pod.Spec.ServiceAccountName = "robot"
		}
		if m.IntN(2) == 0 {
			pod.Spec.Containers = []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{
				{Name: "http", ContainerPort: pick[int32](m, 80, 8080), Protocol: pick(m, "", corev1.ProtocolTCP, corev1.ProtocolUDP)},
				{Name: pick(m, "dns", "http"), ContainerPort: 53, Protocol: corev1.ProtocolUDP},
			}}}
		}
		m.put(pod)
	}
}

// services are one with a selector, one for addresses outside, and the API's.
func (m *maker) services() {
	m.put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: pick(m, m.w.Namespaces...), Name: "web", Labels: m.labels()},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Selector: map[string]string{"app": pick(m, "a", "b")}, Ports: []corev1.ServicePort{{Port: 80}}}})
	m.put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "far", Labels: m.labels()},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.2", Ports: []corev1.ServicePort{{Port: 80}}}})
	m.listed("shop", "far", "198.51.100.7")
	if m.IntN(2) == 0 {
		m.put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
			Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.3", Ports: []corev1.ServicePort{{Port: 443}}}})
		m.listed("default", "kubernetes", pick(m, "203.0.113.9", "172.18.0.2"))
	}
}

func (m *maker) listed(space, service, addr string) {
	port, name := int32(80), ""
	m.put(&discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: space, Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{addr}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	})
}

func (m *maker) labels() map[string]string {
	labels := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if value := pick(m, "", "a", "b", "absent"); value != "absent" {
			labels[key] = value
		}
	}
	return labels
}
