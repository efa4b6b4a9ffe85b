// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/scenarios"
)

// nodeName is what scenarios call the node.
const nodeName = "node"

const otherNode = "other"

// Addresses that networks are made of. The node's are those that the devices
// of world prog have.
var (
	gateways = model.Gateways()
	node4    = netip.MustParseAddr("198.18.0.2")
	node6    = netip.MustParseAddr("fd00:198:18::7:0:2")
	other4   = netip.MustParseAddr("198.18.0.3")
	other6   = netip.MustParseAddr("fd00:198:18::7:0:3")

	outsiders = []netip.Addr{
		netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("192.0.2.1"),
		netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("2001:db8:1::77"), netip.MustParseAddr("2606:4700::1"),
		// At the ends of blocks and their exceptions.
		netip.MustParseAddr("203.0.113.63"), netip.MustParseAddr("203.0.113.64"),
		netip.MustParseAddr("2001:db8:0:1::"), netip.MustParseAddr("2001:db8:0:ffff:ffff:ffff:ffff:ffff"),
		// The node's and a pod's but for a word.
		netip.MustParseAddr("fd00:199:18::7:0:2"), netip.MustParseAddr("fd00:198:19::7:0:2"), netip.MustParseAddr("fd20:a:0:b:0:c:0:20"),
	}
)

var namespaces = []string{"default", "blue", "red"}

// ports are those that services and policies speak of.
var ports = []uint16{53, 80, 443, 5353, 8080, 8443, 9090}

// network makes objects by chance, and changes them.
type network struct {
	rng  *rand.Rand
	objs *manifest.Objects
	pods []string // by slot, whether they are there or not
	wide bool     // the node's uplink has programs
	// operator is who has chosen these, where it has.
	operator model.Options
	ends     []uint16 // of ranges of ports that policies have had
}

// newNetwork names the pods that the node may have.
func newNetwork(rng *rand.Rand) *network {
	n := &network{rng: rng, objs: manifest.NewObjects()}
	for i := range 2 + rng.IntN(prog.MaxPods-1) {
		n.pods = append(n.pods, fmt.Sprintf("%s/p%d", pick(rng, namespaces), i))
	}
	return n
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// chance is true in so many of a hundred cases.
func (n *network) chance(percent int) bool { return n.rng.IntN(100) < percent }

// base is the network that a scenario has before its first step.
func base(pods []string, uplink bool) *manifest.Objects {
	n := &network{objs: manifest.NewObjects()}
	add := func(o metav1.Object) { _ = n.objs.Upsert(o) } // all kinds here are kept
	own := node(nodeName, node4, node6)
	if uplink {
		own.Spec.PodCIDRs = podBlocks(0)
		own.Spec.PodCIDR = own.Spec.PodCIDRs[0]
	}
	add(own)
	add(namespace("default", nil))
	for i, name := range pods {
		space, short := split(name)
		add(namespace(space, nil))
		add(podAt(space, short, nodeName, slotAddresses(i)))
	}
	return n.objs
}

// slotAddresses are those of the scenarios' plan.
func slotAddresses(slot int) []string { return texts(scenarios.PodAddresses(slot, 0)) }

// podBlocks are what the pods of the n-th node have addresses of, in scenarios.
func podBlocks(n int) []string { return texts(scenarios.PodBlocks(n)) }

func texts[T fmt.Stringer](of []T) []string {
	var out []string
	for _, one := range of {
		out = append(out, one.String())
	}
	return out
}

// begin changes the network that a scenario begins with into another: by what
// is put there, then by what is taken away.
func (n *network) begin() (put, take *Change) {
	c := &Change{}
	if n.chance(15) {
		c.Upsert = append(c.Upsert, node(nodeName, pick(n.rng, []netip.Addr{node4, node6})))
	}
	remote := n.chance(40) || n.tunnels() && n.chance(80)
	if remote {
		far := node(otherNode, other4, other6)
		if n.wide && n.chance(50) {
			far.Spec.PodCIDRs = podBlocks(1)
			far.Spec.PodCIDR = far.Spec.PodCIDRs[0]
		}
		c.Upsert = append(c.Upsert, far)
	}
	for _, ns := range namespaces {
		c.Upsert = append(c.Upsert, n.tryOut(5, namespace(ns, n.labels("team", teams))))
	}
	take = &Change{}
	for i, name := range n.pods {
		if i >= 2 && n.chance(15) {
			space, short := split(name)
			take.Delete = append(take.Delete, Ref{"pod", space, short})
			continue
		}
		c.Upsert = append(c.Upsert, n.pod(i))
	}
	for range n.rng.IntN(4) {
		if remote {
			c.Upsert = append(c.Upsert, n.remotePod())
		}
	}
	if n.wide && n.chance(50) {
		c.Upsert = append(c.Upsert, n.hostPod())
	}
	if n.wide && n.chance(25) {
		c.Upsert = append(c.Upsert, n.nodePolicy())
	}
	for range n.rng.IntN(5) {
		c.Upsert = append(c.Upsert, n.service()...)
	}
	if n.chance(30) {
		c.Upsert = append(c.Upsert, n.apiServer()...)
	}
	for range n.rng.IntN(6) {
		c.Upsert = append(c.Upsert, n.anyPolicy())
	}
	return c, take
}

// change makes one change by chance. It may be one that does not compile.
func (n *network) change() *Change {
	if n.wide && n.chance(8) {
		return &Change{Upsert: []metav1.Object{n.hostPod()}}
	}
	if n.wide && n.chance(5) {
		return &Change{Upsert: []metav1.Object{n.nodePolicy()}}
	}
	switch n.rng.IntN(14) {
	case 0, 1, 12:
		return &Change{Upsert: []metav1.Object{n.anyPolicy()}}
	case 13:
		return n.retire()
	case 2:
		return n.remove("networkpolicy", slices.Sorted(maps.Keys(n.objs.NetworkPolicies)))
	case 3, 4:
		return &Change{Upsert: n.service()}
	case 5:
		return n.remove("service", slices.Sorted(maps.Keys(n.objs.Services)))
	case 6:
		return n.remove("pod", slices.Sorted(maps.Keys(n.objs.Pods)))
	case 7:
		return &Change{Upsert: []metav1.Object{n.tryOut(10, namespace(pick(n.rng, namespaces), n.labels("team", teams)))}}
	case 8:
		return n.terminate()
	case 9:
		return n.relabel()
	}
	return &Change{Upsert: []metav1.Object{n.pod(n.rng.IntN(len(n.pods)))}}
}

// keep makes a change that compiled part of the network.
func (n *network) keep(objs *manifest.Objects) { n.objs = objs }

func (n *network) remove(kind string, names []string) *Change {
	if len(names) == 0 {
		return &Change{Upsert: []metav1.Object{n.policy()}}
	}
	space, name := split(pick(n.rng, names))
	return &Change{Delete: []Ref{{kind, space, name}}}
}

func split(key string) (space, name string) {
	for i := range key {
		if key[i] == '/' {
			return key[:i], key[i+1:]
		}
	}
	return "", key
}

func node(name string, addrs ...netip.Addr) *corev1.Node {
	o := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addrs {
		o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	return o
}

func namespace(name string, labels map[string]string) metav1.Object {
	all := map[string]string{corev1.LabelMetadataName: name}
	maps.Copy(all, labels)
	return &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: all}}
}

var teams = []string{"a", "b"}

var (
	apps  = []string{"web", "db", "api"}
	tiers = []string{"front", "back"}
)

func (n *network) labels(key string, values []string) map[string]string {
	if n.chance(25) {
		return nil
	}
	return map[string]string{key: pick(n.rng, values)}
}

func (n *network) podLabels() map[string]string {
	out := map[string]string{}
	maps.Copy(out, n.labels("app", apps))
	maps.Copy(out, n.labels("tier", tiers))
	return out
}

// pod makes the pod of a slot. Its addresses are mostly the slot's, sometimes
// others that pods take over from each other, a word off from some.
func (n *network) pod(slot int) metav1.Object {
	space, name := split(n.pods[slot])
	addresses := slotAddresses(slot)
	if n.chance(10) {
		addresses = slotAddresses(prog.MaxPods + n.rng.IntN(3))
	}
	return n.dress(podAt(space, name, nodeName, addresses))
}

func (n *network) remotePod() metav1.Object {
	i := n.rng.IntN(4)
	return n.dress(podAt(pick(n.rng, namespaces), fmt.Sprintf("far-%d", i), otherNode, texts(scenarios.PodAddresses(i, 1))))
}

func podAt(space, name, node string, addresses []string) *corev1.Pod {
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: name},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "main"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addresses[0]},
	}
	for _, a := range addresses {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
	}
	return p
}

// dress gives a pod labels and named ports, and sometimes one family only.
func (n *network) dress(p *corev1.Pod) metav1.Object {
	p.Labels = n.podLabels()
	if i := n.rng.IntN(16); i < 2 {
		p.Status.PodIPs = p.Status.PodIPs[i : i+1]
		p.Status.PodIP = p.Status.PodIPs[0].IP
	}
	for _, named := range []struct {
		name     string
		protocol corev1.Protocol
	}{{"http", corev1.ProtocolTCP}, {"dns", corev1.ProtocolUDP}} {
		if n.chance(60) {
			p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{
				Name: named.name, Protocol: named.protocol, ContainerPort: int32(pick(n.rng, ports))})
			if n.wide {
				n.hostPort(&p.Spec.Containers[0].Ports[len(p.Spec.Containers[0].Ports)-1])
			}
		}
	}
	if n.wide {
		n.weigh(p)
	}
	return n.tryOut(5, p)
}

// anyPod gives a copy of a pod that is there, nil when there is none.
func (n *network) anyPod() *corev1.Pod {
	names := slices.Sorted(maps.Keys(n.objs.Pods))
	if len(names) == 0 {
		return nil
	}
	return n.objs.Pods[pick(n.rng, names)].DeepCopy()
}

func (n *network) relabel() *Change {
	p := n.anyPod()
	if p == nil {
		return &Change{Upsert: []metav1.Object{n.pod(0)}}
	}
	p.Labels = n.podLabels()
	return &Change{Upsert: []metav1.Object{p}}
}

func (n *network) terminate() *Change {
	p := n.anyPod()
	if p == nil {
		return &Change{Upsert: []metav1.Object{n.pod(0)}}
	}
	at := metav1.NewTime(time.Unix(1_700_000_000, 0).UTC())
	p.DeletionTimestamp = &at
	return &Change{Upsert: []metav1.Object{p}}
}

var protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP}

// clusterIPs6 are services' IPv6 addresses: those of pods but for a word.
var clusterIPs6 = []string{"fd96:a:0:b:0:c:0:20", "fd10:a:0:96:0:c:0:20", "fd10:a:0:b:0:96:0:20", "fd10:a:0:b:0:c:0:96", "fd96:a:0:c:0:c:0:20"}

// service makes or changes a service, some with slices of their own.
func (n *network) service() []metav1.Object {
	i := n.rng.IntN(5)
	space := namespaces[i%len(namespaces)]
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: space, Name: fmt.Sprintf("s%d", i)},
	}
	ips := []string{fmt.Sprintf("10.96.0.%d", i+10), clusterIPs6[i]}
	if i == 4 {
		ips[0] = "169.254.20.10"
	}
	switch n.rng.IntN(6) {
	case 0:
		ips = ips[:1]
	case 1:
		ips = ips[1:]
	}
	s.Spec.ClusterIPs, s.Spec.ClusterIP = ips, ips[0]
	for _, ip := range ips {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, familyOf(netip.MustParseAddr(ip)))
	}
	for j := range 1 + n.rng.IntN(3) {
		p := corev1.ServicePort{Name: fmt.Sprintf("port-%d", j), Protocol: pick(n.rng, protocols), Port: int32(pick(n.rng, ports))}
		switch n.rng.IntN(3) {
		case 0:
			p.TargetPort = intstr.FromInt32(int32(pick(n.rng, ports)))
		case 1:
			p.TargetPort = intstr.FromString(map[corev1.Protocol]string{corev1.ProtocolTCP: "http", corev1.ProtocolUDP: "dns"}[p.Protocol])
		}
		if n.wide && p.Protocol == corev1.ProtocolUDP && n.chance(15) {
			p.TargetPort = intstr.FromInt32(tunnelPort)
		}
		taken := func(o corev1.ServicePort) bool { return o.Port == p.Port && o.Protocol == p.Protocol }
		if !slices.ContainsFunc(s.Spec.Ports, taken) {
			s.Spec.Ports = append(s.Spec.Ports, p)
		}
	}
	if n.wide {
		n.expose(s, i)
	}
	if !n.chance(25) {
		s.Spec.Selector = n.selector()
		return []metav1.Object{s}
	}
	out := []metav1.Object{s}
	for _, family := range s.Spec.IPFamilies {
		out = append(out, n.slice(s, family))
	}
	return out
}

func (n *network) selector() map[string]string {
	if n.chance(50) {
		return map[string]string{"app": pick(n.rng, apps)}
	}
	return map[string]string{"tier": pick(n.rng, tiers)}
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// slice lists backends by address: pods, and others that are none.
func (n *network) slice(s *corev1.Service, family corev1.IPFamily) metav1.Object {
	e := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name + "-" + map[corev1.IPFamily]string{corev1.IPv4Protocol: "v4", corev1.IPv6Protocol: "v6"}[family],
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}},
		AddressType: discoveryv1.AddressType(family),
	}
	for _, p := range s.Spec.Ports {
		port := int32(pick(n.rng, ports))
		if p.Protocol == corev1.ProtocolSCTP {
			port = p.Port // as its checksum wants
		}
		e.Ports = append(e.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &port})
	}
	all := n.addresses()
	if n.chance(20) { // a tenant lists what he likes
		all = append(all, pick(n.rng, []netip.Addr{netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("240.0.0.9")}))
	}
	for _, a := range all {
		if familyOf(a) != family || n.chance(60) {
			continue
		}
		yes, no := true, false
		one := discoveryv1.Endpoint{Addresses: []string{a.String()}}
		switch n.rng.IntN(6) {
		case 0:
			one.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
		case 1:
			one.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no}
		case 2:
			one.Conditions = discoveryv1.EndpointConditions{Ready: &yes}
		}
		if at := n.nodeOf(a); n.wide && at != "" && n.chance(80) {
			one.NodeName = &at
		}
		e.Endpoints = append(e.Endpoints, one)
	}
	return e
}

// addresses are all that somebody may have: of pods, nodes and outside.
func (n *network) addresses() []netip.Addr {
	var out []netip.Addr
	for _, name := range slices.Sorted(maps.Keys(n.objs.Pods)) {
		out = append(out, podAddresses(n.objs.Pods[name])...)
	}
	out = append(out, outsiders...)
	if n.wide {
		out = append(out, node4, node6)
	}
	return append(out, other4, other6)
}

func podAddresses(p *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for _, ip := range p.Status.PodIPs {
		out = append(out, netip.MustParseAddr(ip.IP))
	}
	return out
}

// policy makes or changes a network policy.
func (n *network) policy() metav1.Object {
	i := n.rng.IntN(6)
	p := &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespaces[i%len(namespaces)], Name: fmt.Sprintf("n%d", i)},
	}
	p.Spec.PodSelector = *n.labelSelector("app", apps)
	in, out := n.chance(75), n.chance(45)
	if in || !out {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
	}
	if out {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
	for range n.rng.IntN(4) {
		if n.chance(75) {
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: n.peers(), Ports: n.policyPorts()})
		}
		if out && n.chance(75) {
			p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: n.peers(), Ports: n.policyPorts()})
		}
	}
	if n.chance(10) {
		p.Spec.PolicyTypes = nil
	}
	return p
}

var operators = []metav1.LabelSelectorOperator{metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist}

func (n *network) labelSelector(key string, values []string) *metav1.LabelSelector {
	switch n.rng.IntN(4) {
	case 0:
		return &metav1.LabelSelector{}
	case 1:
		op := pick(n.rng, operators)
		e := metav1.LabelSelectorRequirement{Key: key, Operator: op}
		if op == metav1.LabelSelectorOpIn || op == metav1.LabelSelectorOpNotIn {
			e.Values = values[:1+n.rng.IntN(len(values))]
		}
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{e}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: pick(n.rng, values)}}
}

var blocks = []string{"0.0.0.0/0", "203.0.113.0/24", "203.0.113.10/32", "192.0.0.0/8", "10.0.0.0/8", "198.18.0.0/15",
	"::/0", "2001:db8::/32", "2001:db8::10/128", "fd00::/8"}

var exceptions = map[string][]string{"0.0.0.0/0": {"203.0.113.0/26", "10.0.0.0/8"}, "203.0.113.0/24": {"203.0.113.77/32"},
	"::/0": {"2001:db8:1::/48"}, "2001:db8::/32": {"2001:db8::/64"}}

func (n *network) peers() []networkingv1.NetworkPolicyPeer {
	var out []networkingv1.NetworkPolicyPeer
	for range n.rng.IntN(3) {
		var p networkingv1.NetworkPolicyPeer
		switch n.rng.IntN(4) {
		case 0:
			p.NamespaceSelector = n.labelSelector("team", teams)
		case 1:
			p.NamespaceSelector, p.PodSelector = n.labelSelector("team", teams), n.labelSelector("tier", tiers)
		case 2:
			p.PodSelector = n.labelSelector("app", apps)
		case 3:
			cidr := pick(n.rng, blocks)
			p.IPBlock = &networkingv1.IPBlock{CIDR: cidr}
			if n.chance(50) {
				p.IPBlock.Except = exceptions[cidr]
			}
		}
		out = append(out, p)
	}
	return out
}

// port is mostly one that objects speak of, else one at the end of a range.
func (n *network) port() uint16 {
	if len(n.ends) == 0 || !n.chance(15) {
		return pick(n.rng, ports)
	}
	// Ranges of policies that are gone say little.
	recent := n.ends[max(0, len(n.ends)-8):]
	return uint16(int(pick(n.rng, recent)) + n.rng.IntN(3) - 1)
}

func (n *network) policyPorts() []networkingv1.NetworkPolicyPort {
	var out []networkingv1.NetworkPolicyPort
	for range n.rng.IntN(3) {
		proto := pick(n.rng, []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP})
		p := networkingv1.NetworkPolicyPort{Protocol: &proto}
		port := intstr.FromInt32(int32(pick(n.rng, ports)))
		switch n.rng.IntN(5) {
		case 0:
		case 1:
			port = intstr.FromString(pick(n.rng, []string{"http", "dns"}))
			p.Port = &port
		case 2:
			end := port.IntVal + int32(n.rng.IntN(3000))
			p.Port, p.EndPort = &port, &end
			n.ends = append(n.ends, uint16(port.IntVal), uint16(end))
		default:
			p.Port = &port
		}
		out = append(out, p)
	}
	return out
}
