// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// DeriveEndpointSlices gives objs with the EndpointSlices that a cluster's
// controller would add for the services that have a selector and no slice of
// their own: one for each family and set of resolved ports. objs itself is
// not changed, so that deriving again after a change begins from the same.
//
// Where the service has a trafficDistribution, who is ready is given hints.
//
// A pod is ready when its Ready condition says so, or, without one, when its
// phase is Running or empty. A pod that is being deleted is terminating; one
// that has finished is not listed.
func DeriveEndpointSlices(objs *Objects) *Objects {
	derived := objs.Clone()
	explicit := map[string]bool{}
	for _, slice := range objs.EndpointSlices {
		explicit[ServiceOf(slice)] = true
	}
	pods := IndexByLabel(InOrder(objs.Pods))
	for name, svc := range objs.Services {
		if len(svc.Spec.Selector) == 0 || explicit[name] || svc.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		for _, slice := range slicesOf(svc, pods.Candidates(svc), objs.Nodes) {
			derived.EndpointSlices[NameOf(slice)] = slice
		}
	}
	return derived
}

// labelled is a label of a namespace's pods.
type labelled struct{ namespace, key, value string }

// PodIndex finds pods by one label, in the order of their names.
type PodIndex map[labelled][]*corev1.Pod

// IndexByLabel puts pods under each of their labels.
func IndexByLabel(pods []*corev1.Pod) PodIndex {
	index := PodIndex{}
	for _, pod := range pods {
		index.Add(pod)
	}
	return index
}

// Add puts a pod behind the others.
func (i PodIndex) Add(pod *corev1.Pod) {
	for key, value := range pod.Labels {
		label := labelled{NamespaceOr(pod.Namespace), key, value}
		i[label] = append(i[label], pod)
	}
}

// Remove takes a pod out; the last of those that share a label with it has its
// place then.
func (i PodIndex) Remove(pod *corev1.Pod) {
	for key, value := range pod.Labels {
		label := labelled{NamespaceOr(pod.Namespace), key, value}
		have := i[label]
		at := slices.Index(have, pod)
		if at < 0 {
			continue
		}
		last := len(have) - 1
		have[at], have[last] = have[last], nil
		if i[label] = have[:last]; last == 0 {
			delete(i, label)
		}
	}
}

// Candidates are the pods that have the rarest label of a service's selector.
func (i PodIndex) Candidates(svc *corev1.Service) []*corev1.Pod {
	var fewest []*corev1.Pod
	first := true
	for key, value := range svc.Spec.Selector {
		have := i[labelled{NamespaceOr(svc.Namespace), key, value}]
		if first || len(have) < len(fewest) {
			fewest, first = have, false
		}
	}
	return fewest
}

// ServiceOf names the service that a slice belongs to; empty when none.
func ServiceOf(slice *discoveryv1.EndpointSlice) string {
	name := slice.Labels[discoveryv1.LabelServiceName]
	if name == "" {
		return ""
	}
	return NamespaceOr(slice.Namespace) + "/" + name
}

func slicesOf(svc *corev1.Service, pods []*corev1.Pod, nodes map[string]*corev1.Node) []*discoveryv1.EndpointSlice {
	var made []*discoveryv1.EndpointSlice
	byPorts := map[string]*discoveryv1.EndpointSlice{}
	for _, family := range familiesOf(svc) {
		for _, pod := range pods {
			endpoint, listed := endpointOf(svc, pod, family, nodes[pod.Spec.NodeName])
			if !listed {
				continue
			}
			ports, key := portsOf(svc, pod)
			key = string(family) + key
			slice := byPorts[key]
			if slice == nil {
				slice = emptySlice(svc, family, len(made))
				slice.Ports = ports
				byPorts[key] = slice
				made = append(made, slice)
			}
			slice.Endpoints = append(slice.Endpoints, endpoint)
		}
	}
	if len(made) == 0 {
		// The controller makes an empty one, so that "no slice yet" and
		// "nobody serves" can be told apart.
		made = append(made, emptySlice(svc, familiesOf(svc)[0], 0))
	}
	return made
}

func emptySlice(svc *corev1.Service, family discoveryv1.AddressType, n int) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: NamespaceOr(svc.Namespace),
			Name:      fmt.Sprintf("%s-derived-%s-%d", svc.Name, strings.ToLower(string(family)), n),
			Labels:    map[string]string{discoveryv1.LabelServiceName: svc.Name},
		},
		AddressType: family,
	}
}

// familiesOf gives the families that a service serves. A headless service
// without ipFamilies serves those that its pods have.
func familiesOf(svc *corev1.Service) []discoveryv1.AddressType {
	var families []discoveryv1.AddressType
	add := func(family discoveryv1.AddressType) {
		if !slices.Contains(families, family) {
			families = append(families, family)
		}
	}
	for _, family := range svc.Spec.IPFamilies {
		add(discoveryv1.AddressType(family))
	}
	for _, addr := range ClusterIPsOf(svc) {
		add(AddressTypeOf(addr))
	}
	if len(families) == 0 {
		return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
	}
	return families
}

// AddressTypeOf gives an address's family as EndpointSlices name it.
func AddressTypeOf(addr netip.Addr) discoveryv1.AddressType {
	if addr.Is4() {
		return discoveryv1.AddressTypeIPv4
	}
	return discoveryv1.AddressTypeIPv6
}

func endpointOf(svc *corev1.Service, pod *corev1.Pod, family discoveryv1.AddressType, node *corev1.Node) (discoveryv1.Endpoint, bool) {
	none := discoveryv1.Endpoint{}
	if IsFinished(pod) || !Includes(pod.Labels, svc.Spec.Selector) {
		return none, false
	}
	for _, addr := range PodAddresses(pod) {
		if AddressTypeOf(addr) != family {
			continue
		}
		serving := isReady(pod)
		terminating := pod.DeletionTimestamp != nil
		ready := serving && !terminating || svc.Spec.PublishNotReadyAddresses
		endpoint := discoveryv1.Endpoint{
			Addresses:  []string{addr.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: NamespaceOr(pod.Namespace), Name: pod.Name, UID: pod.UID},
		}
		if pod.Spec.NodeName != "" {
			endpoint.NodeName = &pod.Spec.NodeName
		}
		if node != nil && node.Labels[corev1.LabelTopologyZone] != "" {
			zone := node.Labels[corev1.LabelTopologyZone]
			endpoint.Zone = &zone
		}
		endpoint.Hints = hintsFor(&endpoint, ptr.Deref(svc.Spec.TrafficDistribution, ""))
		return endpoint, true
	}
	return none, false
}

// hintsFor says by whom an endpoint should be reached: as the controller has
// it, by its zone, and where the service prefers the same node, by that too.
// One that is not ready has none.
func hintsFor(endpoint *discoveryv1.Endpoint, distribution string) *discoveryv1.EndpointHints {
	if distribution == "" || !*endpoint.Conditions.Ready {
		return nil
	}
	hints := &discoveryv1.EndpointHints{}
	if endpoint.Zone != nil {
		hints.ForZones = []discoveryv1.ForZone{{Name: *endpoint.Zone}}
	}
	if distribution == corev1.ServiceTrafficDistributionPreferSameNode && endpoint.NodeName != nil {
		hints.ForNodes = []discoveryv1.ForNode{{Name: *endpoint.NodeName}}
	}
	if len(hints.ForZones)+len(hints.ForNodes) == 0 {
		return nil
	}
	return hints
}

// IsFinished is whether all containers of a pod have ended for good: its address may
// be another's by now.
func IsFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func isReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return pod.Status.Phase == corev1.PodRunning || pod.Status.Phase == ""
}

// PodAddresses gives the addresses of a pod, at most one of each family;
// what is not an address is left out, Validate complains of it.
func PodAddresses(pod *corev1.Pod) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if addr, err := ParseLegacyAddr(ip.IP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	if len(pod.Status.PodIPs) == 0 {
		if addr, err := ParseLegacyAddr(pod.Status.PodIP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// portsOf resolves a service's target ports on one pod. A port whose name no
// container of the pod has is left out.
func portsOf(svc *corev1.Service, pod *corev1.Pod) (ports []discoveryv1.EndpointPort, key string) {
	for _, port := range svc.Spec.Ports {
		number := port.TargetPort.IntVal
		if port.TargetPort.Type == intstr.String {
			number = containerPort(pod, port.TargetPort.StrVal, ProtocolOr(port.Protocol))
			if number == 0 {
				continue
			}
		} else if number == 0 {
			number = port.Port
		}
		name, protocol := port.Name, ProtocolOr(port.Protocol)
		ports = append(ports, discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &number, AppProtocol: port.AppProtocol})
		key += fmt.Sprintf("|%s/%s/%d", name, protocol, number)
	}
	return ports, key
}

// RunningContainers are those that run beside each other: containers, and the
// init containers that are restarted (sidecars).
func RunningContainers(pod *corev1.Pod) []corev1.Container {
	running := slices.Clone(pod.Spec.Containers)
	for _, container := range pod.Spec.InitContainers {
		if isSidecar(&container) {
			running = append(running, container)
		}
	}
	return running
}

// isSidecar is whether an init container runs on beside the others.
func isSidecar(container *corev1.Container) bool {
	return ptr.Deref(container.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
}

// containerPort is the number of a pod's port by name; 0 when none has it.
func containerPort(pod *corev1.Pod, name string, protocol corev1.Protocol) int32 {
	for _, container := range RunningContainers(pod) {
		for _, port := range container.Ports {
			if port.Name == name && ProtocolOr(port.Protocol) == protocol {
				return port.ContainerPort
			}
		}
	}
	return 0
}
