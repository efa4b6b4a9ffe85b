// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"sort"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// knowledge is the objects as the oracle looks things up in them: by address,
// not by identity.
type knowledge struct {
	objs      *Objects
	node      string
	local     Local
	pods      map[netip.Addr]*corev1.Pod // those that have the address for themselves
	nodeOf    map[netip.Addr]string      // addresses of nodes
	own       []netip.Addr               // this node's, in the Node's order
	frontends map[frontend]*served
	policies  map[string][]*networkingv1.NetworkPolicy // by namespace, by name

	addresses map[*corev1.Pod][]netip.Addr
	endpoints map[string]*corev1.Pod       // that the datapath of this node serves, by namespace/name
	labels    map[string]map[string]string // of namespaces

	// Of services, by namespace/name, and of namespaces.
	slices map[string][]*discoveryv1.EndpointSlice
	inside map[string][]*corev1.Pod
}

type frontend struct {
	addr     netip.Addr
	port     uint16
	protocol Protocol
}

// served is one port of a service and who serves it.
type served struct {
	service string // namespace/name
	port    uint16
	servers []server
	since   int // epoch of the objects in which the frontend came
}

type server struct {
	addr     netip.Addr
	port     uint16
	eligible bool // for new flows; the others keep theirs
}

// know indexes objects. It is tolerant: what the compiler refuses is left out.
func know(objs *Objects, node string, local Local) *knowledge {
	k := &knowledge{
		objs: objs, node: node, local: local,
		pods: map[netip.Addr]*corev1.Pod{}, nodeOf: map[netip.Addr]string{},
		frontends: map[frontend]*served{}, policies: map[string][]*networkingv1.NetworkPolicy{},
		slices: map[string][]*discoveryv1.EndpointSlice{}, inside: map[string][]*corev1.Pod{},
		addresses: map[*corev1.Pod][]netip.Addr{}, endpoints: map[string]*corev1.Pod{}, labels: map[string]map[string]string{},
	}
	for name, n := range objs.Nodes {
		for _, a := range n.Status.Addresses {
			addr, err := netip.ParseAddr(a.Address)
			if err != nil || a.Type != "InternalIP" && a.Type != "ExternalIP" {
				continue
			}
			k.nodeOf[addr] = name
			if name == node {
				k.own = append(k.own, addr)
			}
		}
	}
	for _, slice := range objs.EndpointSlices {
		name := spaceOf(slice.Namespace) + "/" + slice.Labels["kubernetes.io/service-name"]
		k.slices[name] = append(k.slices[name], slice)
	}
	for _, pod := range objs.Pods {
		k.addresses[pod] = addressesIn(pod)
		space := spaceOf(pod.Namespace)
		k.inside[space] = append(k.inside[space], pod)
		if pod.Spec.HostNetwork || pod.Status.Phase == "Succeeded" || pod.Status.Phase == "Failed" {
			continue
		}
		for _, addr := range k.addresses[pod] {
			k.pods[addr] = pod
		}
	}
	for name := range local.Devices {
		if pod := k.plugged(name); pod != nil {
			k.endpoints[name] = pod
		}
	}
	for _, svc := range objs.Services {
		k.learnService(svc)
	}
	for _, policy := range objs.NetworkPolicies {
		ns := spaceOf(policy.Namespace)
		k.policies[ns] = append(k.policies[ns], policy)
	}
	for _, list := range k.policies {
		sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	}
	return k
}

func spaceOf(namespace string) string {
	if namespace == "" {
		return "default"
	}
	return namespace
}

func podName(pod *corev1.Pod) string { return spaceOf(pod.Namespace) + "/" + pod.Name }

func addressesIn(pod *corev1.Pod) []netip.Addr {
	texts := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// endpoint gives a pod that the datapath of this node serves, nil for any other.
func (k *knowledge) endpoint(name string) *corev1.Pod { return k.endpoints[name] }

// plugged gives a pod that has a device on this node, nil for any other.
func (k *knowledge) plugged(name string) *corev1.Pod {
	pod := k.objs.Pods[name]
	if pod == nil || !k.isHere(pod) {
		return nil
	}
	for _, addr := range k.addresses[pod] {
		if k.pods[addr] == pod {
			return pod
		}
	}
	return nil
}

func (k *knowledge) isHere(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" {
		return len(k.objs.Nodes) < 2
	}
	return pod.Spec.NodeName == k.node
}

// endpointAt gives the local pod with an address, nil when there is none.
func (k *knowledge) endpointAt(addr netip.Addr) *corev1.Pod {
	pod := k.pods[addr]
	if pod == nil {
		return nil
	}
	if name := podName(pod); k.endpoints[name] == pod {
		return pod
	}
	return nil
}

func (k *knowledge) isGateway(addr netip.Addr) bool {
	for _, gateway := range k.local.Gateways {
		if gateway == addr {
			return true
		}
	}
	return false
}

// isHost is whether an address is this node's, or the gateway that it plays.
func (k *knowledge) isHost(addr netip.Addr) bool {
	node, isNode := k.nodeOf[addr]
	return isNode && node == k.node || k.isGateway(addr)
}

func (k *knowledge) hasRoute(addr netip.Addr) bool {
	if k.local.Routes == nil {
		return true
	}
	for _, route := range k.local.Routes {
		if route.Contains(addr) {
			return true
		}
	}
	return false
}

// source is the address that a hairpin flow is given.
func (k *knowledge) source(like netip.Addr) (netip.Addr, bool) {
	for _, addr := range k.own {
		if addr.Is4() == like.Is4() {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func (k *knowledge) learnService(svc *corev1.Service) {
	texts := append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...)
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		for _, port := range svc.Spec.Ports {
			key := frontend{addr, uint16(port.Port), numberOf(port.Protocol)}
			k.frontends[key] = &served{
				service: spaceOf(svc.Namespace) + "/" + svc.Name,
				port:    uint16(port.Port),
				servers: k.serversOf(svc, port, addr.Is4()),
			}
		}
	}
}

func numberOf(protocol corev1.Protocol) Protocol {
	return map[corev1.Protocol]Protocol{"": ProtocolTCP, "TCP": ProtocolTCP, "UDP": ProtocolUDP, "SCTP": ProtocolSCTP}[protocol]
}

// serversOf finds who serves a port: those whom the service's slices list, or,
// while it has no slice, the pods that its selector matches.
func (k *knowledge) serversOf(svc *corev1.Service, port corev1.ServicePort, v4 bool) []server {
	found := map[netip.AddrPort]bool{}
	listed := k.slices[spaceOf(svc.Namespace)+"/"+svc.Name]
	for _, slice := range listed {
		k.serversIn(slice, port, v4, found)
	}
	if len(listed) == 0 && len(svc.Spec.Selector) > 0 {
		k.serversSelected(svc, port, v4, found)
	}
	var servers []server
	for at, eligible := range found {
		servers = append(servers, server{at.Addr(), at.Port(), eligible})
	}
	sort.Slice(servers, func(i, j int) bool {
		a, b := servers[i], servers[j]
		return a.addr.Less(b.addr) || a.addr == b.addr && a.port < b.port
	})
	return servers
}

func (k *knowledge) serversIn(slice *discoveryv1.EndpointSlice, port corev1.ServicePort, v4 bool, found map[netip.AddrPort]bool) {
	if string(slice.AddressType) == "FQDN" {
		return
	}
	number, matched := uint16(0), false
	for _, p := range slice.Ports {
		name, protocol := "", corev1.Protocol("")
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if p.Port != nil && name == port.Name && numberOf(protocol) == numberOf(port.Protocol) {
			number, matched = uint16(*p.Port), true
			break
		}
	}
	for _, endpoint := range slice.Endpoints {
		if !matched || len(endpoint.Addresses) == 0 {
			continue
		}
		addr, err := netip.ParseAddr(endpoint.Addresses[0])
		if err != nil || addr.Is4() != v4 {
			continue
		}
		conditions := endpoint.Conditions
		terminating := conditions.Terminating != nil && *conditions.Terminating
		serving := conditions.Serving != nil && *conditions.Serving
		ready := conditions.Ready == nil || *conditions.Ready
		if ready || serving || terminating {
			at := netip.AddrPortFrom(addr, number)
			found[at] = found[at] || ready && !terminating
		}
	}
}

func (k *knowledge) serversSelected(svc *corev1.Service, port corev1.ServicePort, v4 bool, found map[netip.AddrPort]bool) {
	for _, pod := range k.inside[spaceOf(svc.Namespace)] {
		if pod.Status.Phase == "Succeeded" || pod.Status.Phase == "Failed" {
			continue
		}
		matches := true
		for key, wanted := range svc.Spec.Selector {
			have, labelled := pod.Labels[key]
			matches = matches && labelled && have == wanted
		}
		number := targetOn(pod, port)
		if !matches || number == 0 {
			continue
		}
		terminating := pod.DeletionTimestamp != nil
		ready := saysReady(pod)
		if !ready && !terminating && !svc.Spec.PublishNotReadyAddresses {
			continue
		}
		for _, addr := range k.addresses[pod] {
			if addr.Is4() == v4 {
				found[netip.AddrPortFrom(addr, number)] = !terminating
			}
		}
	}
}

func saysReady(pod *corev1.Pod) bool {
	ready := pod.Status.Phase == "Running" || pod.Status.Phase == ""
	for _, condition := range pod.Status.Conditions {
		if condition.Type == "Ready" {
			ready = condition.Status == "True"
		}
	}
	return ready
}

// targetOn is the port of a pod to which a service's port leads, 0 when the
// pod has none of that name.
func targetOn(pod *corev1.Pod, port corev1.ServicePort) uint16 {
	if port.TargetPort.Type == intstr.String {
		return namedOn(pod, port.TargetPort.StrVal, numberOf(port.Protocol))
	}
	if port.TargetPort.IntVal == 0 {
		return uint16(port.Port)
	}
	return uint16(port.TargetPort.IntVal)
}

func namedOn(pod *corev1.Pod, name string, protocol Protocol) uint16 {
	in := func(container corev1.Container) uint16 {
		for _, p := range container.Ports {
			if p.Name == name && numberOf(p.Protocol) == protocol {
				return uint16(p.ContainerPort)
			}
		}
		return 0
	}
	for _, container := range pod.Spec.Containers {
		if port := in(container); port != 0 {
			return port
		}
	}
	for _, container := range pod.Spec.InitContainers {
		sidecar := container.RestartPolicy != nil && *container.RestartPolicy == "Always"
		if port := in(container); sidecar && port != 0 {
			return port
		}
	}
	return 0
}
