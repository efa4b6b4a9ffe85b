// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// knowledge is the objects as the oracle looks things up in them: by address,
// not by identity.
type knowledge struct {
	objs      *manifest.Objects
	node      string
	local     model.Local
	pods      map[netip.Addr]*corev1.Pod // those that have the address for themselves
	workloads map[netip.Addr]*manifest.Workload
	nodeOf    map[netip.Addr]string // addresses of nodes
	own       []netip.Addr          // this node's, in the Node's order
	native    []netip.Prefix        // reached without masquerading, beside pods and nodes
	frontends map[frontend]*served
	services  map[netip.Addr]bool                      // addresses that are services' alone
	loopback  map[frontend]*served                     // of host ports, for the node's own sockets
	policies  map[string][]*networkingv1.NetworkPolicy // by namespace, by name
	cluster   []*policyv1alpha2.ClusterNetworkPolicy   // in the order in which they are asked
	cilium    []ciliumText
	audits    bool                // some denials are only told
	servers   map[netip.Addr]bool // addresses behind default/kubernetes

	addresses map[*corev1.Pod][]netip.Addr
	said      map[*corev1.Pod][]netip.Addr // that are perhaps another's
	doubted   map[netip.Addr]bool          // of pods, outside of their nodes' blocks
	vouched   map[netip.Addr]bool          // of nodes, by their Nodes
	clusterAt map[netip.Addr]*corev1.Service
	blocks    []blockFor
	blocksOf  map[*corev1.Node][]netip.Prefix
	bids      []bid
	held      map[place]string       // who has places where packets arrive
	endpoints map[string]*corev1.Pod // that the datapath of this node serves, by the texts of their keys
	standIns  map[*manifest.Workload]*corev1.Pod
	names     map[*corev1.Pod]model.Key    // of stand-ins
	labels    map[string]map[string]string // of namespaces

	// Of services, by namespace/name, and of namespaces.
	slices map[string][]*discoveryv1.EndpointSlice
	inside map[string][]*corev1.Pod
	// sockets are the node's own to which services lead.
	sockets map[place]bool
}

// know indexes objects. It is tolerant: what the compiler refuses is left out.
func know(objs *manifest.Objects, node string, local model.Local) *knowledge {
	k := &knowledge{
		objs: objs, node: node, local: local,
		pods: map[netip.Addr]*corev1.Pod{}, workloads: map[netip.Addr]*manifest.Workload{}, nodeOf: map[netip.Addr]string{},
		frontends: map[frontend]*served{}, loopback: map[frontend]*served{}, policies: map[string][]*networkingv1.NetworkPolicy{},
		slices: map[string][]*discoveryv1.EndpointSlice{}, inside: map[string][]*corev1.Pod{},
		addresses: map[*corev1.Pod][]netip.Addr{}, said: map[*corev1.Pod][]netip.Addr{}, doubted: map[netip.Addr]bool{},
		vouched: map[netip.Addr]bool{}, clusterAt: map[netip.Addr]*corev1.Service{}, held: map[place]string{}, blocksOf: map[*corev1.Node][]netip.Prefix{}, endpoints: map[string]*corev1.Pod{}, standIns: map[*manifest.Workload]*corev1.Pod{}, names: map[*corev1.Pod]model.Key{}, sockets: map[place]bool{}, labels: map[string]map[string]string{},
	}
	for _, slice := range objs.EndpointSlices {
		name := spaceOf(slice.Namespace) + "/" + slice.Labels["kubernetes.io/service-name"]
		k.slices[name] = append(k.slices[name], slice)
	}
	for _, pod := range objs.Pods {
		space := spaceOf(pod.Namespace)
		k.inside[space] = append(k.inside[space], pod)
	}
	k.learnOwners()
	for key := range local.Devices {
		if pod := k.plugged(key.String()); pod != nil {
			k.endpoints[key.String()] = pod
		} else if pod := k.attached(key); pod != nil {
			k.endpoints[key.String()] = pod
		}
	}
	for _, svc := range objs.Services {
		k.learnService(svc)
	}
	for _, pod := range objs.Pods {
		k.learnHostPorts(pod)
	}
	k.grant()
	k.learnServiceAddresses()
	k.learnSockets()
	k.learnNative()
	for _, policy := range objs.NetworkPolicies {
		ns := spaceOf(policy.Namespace)
		k.policies[ns] = append(k.policies[ns], policy)
	}
	for _, list := range k.policies {
		sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	}
	k.learnPolicies()
	k.learnAudits()
	return k
}

// learnSockets finds the node's own sockets to which services lead.
func (k *knowledge) learnSockets() {
	for at, s := range k.frontends {
		for _, server := range s.servers {
			if k.isHost(server.addr) {
				k.sockets[place{server.addr, server.port, at.protocol}] = true
			}
		}
	}
}

func spaceOf(namespace string) string {
	if namespace == "" {
		return "default"
	}
	return namespace
}

func keyOf(object metav1.Object) model.Key {
	return model.Key{Namespace: spaceOf(object.GetNamespace()), Name: object.GetName()}
}

func podName(pod *corev1.Pod) string { return keyOf(pod).String() }

func addressesIn(pod *corev1.Pod) []netip.Addr {
	texts := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, ok := looseAddr(text); ok && !slices.Contains(addrs, addr) {
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

// attached gives the stand-in of a workload that has a device on this node, nil for
// any other.
func (k *knowledge) attached(key model.Key) *corev1.Pod {
	pod := k.standIn(k.objs.Workloads[key])
	if pod == nil || len(k.addresses[pod]) == 0 {
		return nil
	}
	return pod
}

func (k *knowledge) isHere(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" {
		return len(k.objs.Nodes) < 2
	}
	return pod.Spec.NodeName == k.node
}

// endpointAt gives the endpoint of this node with an address, nil when there is none.
func (k *knowledge) endpointAt(addr netip.Addr) *corev1.Pod {
	pod := k.pods[addr]
	if w := k.workloads[addr]; w != nil {
		pod = k.standIn(w)
	}
	if pod != nil && k.endpoints[k.nameOf(pod).String()] == pod {
		return pod
	}
	return nil
}

// nameOf is a pod's name among all who have addresses, or that of the workload for
// which it stands in.
func (k *knowledge) nameOf(pod *corev1.Pod) model.Key {
	if name, stands := k.names[pod]; stands {
		return name
	}
	return keyOf(pod)
}

func (k *knowledge) isGateway(addr netip.Addr) bool {
	for _, gateway := range k.local.Gateways {
		if gateway == addr {
			return true
		}
	}
	for _, device := range k.local.Devices {
		for _, gateway := range device.Gateways {
			if gateway == addr {
				return true
			}
		}
	}
	return false
}

// refOf names an endpoint for people, by the text of its key.
func refOf(endpoint string) model.Ref { return model.ParseKey(endpoint).Ref() }

// device is that of an endpoint of this node.
func (k *knowledge) device(endpoint string) model.Device {
	return k.local.Devices[model.ParseKey(endpoint)]
}

// isGatewayOf is whether a pod's default route leads to an address.
func (k *knowledge) isGatewayOf(pod string, addr netip.Addr) bool {
	gateways := k.local.Gateways
	for _, own := range k.device(pod).Gateways {
		if own.Is4() == addr.Is4() {
			gateways = k.device(pod).Gateways
		}
	}
	for _, gateway := range gateways {
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
