// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Scenario is a scenario file with everything that can be prepared before it
// runs, shared by all its runs.
type Scenario struct {
	*syntax.File
	topology lab.Topology
	hosts    map[string]lab.Host // by their names in the script
	objects  *manifest.Objects   // before the first step
	attached map[string]*manifest.Objects
	services map[string]*corev1.Service // by NAME.NAMESPACE
}

// The plan of addresses: the n-th of each kind. Pods of the n-th node are of
// its PodBlocks.
var (
	gateways = model.Gateways()

	nodePlan    = plan("198.18.0.2", "fd00:198:18::7:0:2")
	outsidePlan = plan("203.0.113.10", "2001:db8::10")
	secondPlan  = plan("198.19.0.10", "fd00:1919::10") // behind second uplinks
)

// PodBlocks are what the pods of the n-th node have addresses of. The one of
// IPv6 is so large that it leaves a part of each word to them.
func PodBlocks(n int) []netip.Prefix {
	v6 := [16]byte{0: 0xfd, 1: byte(0x10 + n)}
	return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n), 0}), 24), netip.PrefixFrom(netip.AddrFrom16(v6), 16)}
}

// PodAddresses are those of the i-th pod of the n-th node.
func PodAddresses(i, n int) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(n), byte(10 + i)}), apart(byte(0x10+n), i)}
}

// NodeAddresses are those of the n-th node, and OutsideAddresses of the n-th host
// outside.
func NodeAddresses(n int) []netip.Addr    { return nodePlan(n) }
func OutsideAddresses(n int) []netip.Addr { return outsidePlan(n) }

// servicePlan gives the ClusterIPs of the n-th service.
func servicePlan(n int) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(10 + n)}), apart(0x96, n)}
}

// balancerPlan gives the addresses of the n-th load balancer.
func balancerPlan(n int) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + n)}), apart(0x51, n)}
}

// wordsApart are the words, as bits, in which an address differs from the first
// of its kind: one of the four by turn, so that a program that compares a word
// less takes two of them for one.
var wordsApart = [...]byte{0, 1 << 1, 1 << 2, 1 << 3, 1 << 0, 1<<1 | 1<<2, 1<<2 | 1<<3, 1<<3 | 1<<0}

// apart is the n-th IPv6 address of a block of 16 bits. No word of it is 0, and
// no two are alike.
func apart(block byte, n int) netip.Addr {
	a := [16]byte{0xfd, block, 0, 0x0a, 0, 0, 0, 0x0b, 0, 0, 0, 0x0c, 0, 0, 0, 0x20}
	for word := range 4 {
		a[4*word+3] += wordsApart[n%len(wordsApart)] >> word & 1
	}
	a[14] = byte(n / len(wordsApart))
	return netip.AddrFrom16(a)
}

func plan(v4, v6 string) func(n int) []netip.Addr {
	first := []netip.Addr{netip.MustParseAddr(v4), netip.MustParseAddr(v6)}
	return func(n int) []netip.Addr {
		out := slices.Clone(first)
		for i := range out {
			for range n {
				out[i] = out[i].Next()
			}
		}
		return out
	}
}

// Parse reads a scenario. Its error joins all mistakes, with their places.
func Parse(path string, data []byte) (*Scenario, error) {
	s, err := ParseRehearsed(path, data)
	if err != nil {
		return nil, err
	}
	if err := s.rehearse(); err != nil {
		return nil, err
	}
	return s, nil
}

// ParseRehearsed reads what Parse has read before, without the rehearsal, which is
// most of the work. A step that is impossible fails when it is run.
func ParseRehearsed(path string, data []byte) (*Scenario, error) {
	file, err := syntax.Parse(path, data)
	if err != nil {
		return nil, err
	}
	s := &Scenario{
		File: file, hosts: map[string]lab.Host{}, objects: manifest.NewObjects(),
		attached: map[string]*manifest.Objects{}, services: map[string]*corev1.Service{},
	}
	s.plan()
	for name, f := range file.Files {
		objs, err := manifest.Parse(name, bytes.NewReader(f.Data))
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, f.Line, err)
		}
		s.attached[name] = objs
	}
	s.giveClusterIPs()
	s.giveBalancers()
	s.giveNodePorts()
	if err := s.addressesApart(); err != nil {
		return nil, err
	}
	if err := s.route(); err != nil {
		return nil, err
	}
	return s, nil
}

// plan gives every host its addresses, and makes the objects that stand for
// the network that the file describes.
func (s *Scenario) plan() {
	t := &s.topology
	t.Gateways, t.Uplinks, t.Sockets, t.SmallShares = gateways, s.Uplinks, s.Sockets, s.SmallShares
	for i, n := range s.Nodes {
		h := lab.Host{Name: n.Name, Addresses: nodePlan(i), Silent: slices.Contains(s.Silent, n.Name)}
		t.Nodes = append(t.Nodes, h)
		s.hosts[n.Name] = h
		s.objects.Nodes[n.Name] = nodeObject(n, h.Addresses)
		if t.Routed() || len(s.Nodes) > 1 {
			givePodBlocks(s.objects.Nodes[n.Name], PodBlocks(i))
		}
	}
	s.addNamespace(syntax.Namespace{Name: "default"})
	for _, ns := range s.Namespaces {
		s.addNamespace(ns)
	}
	of := make([]int, len(s.Nodes)) // pods of each node
	for _, p := range s.Pods {
		node := slices.Index(s.NodeNames(), p.Node)
		h := lab.Host{Name: p.Namespace + "/" + p.Name, Node: p.Node, Silent: slices.Contains(s.Silent, p.HostName())}
		h.Addresses = PodAddresses(of[node], node)
		of[node]++
		t.Pods = append(t.Pods, h)
		s.hosts[p.HostName()] = h
		s.objects.Pods[h.Name] = podObject(p, h.Addresses)
		if s.objects.Namespaces[p.Namespace] == nil {
			s.addNamespace(syntax.Namespace{Name: p.Namespace})
		}
	}
	for i, name := range s.Outside {
		h := lab.Host{Name: name, Addresses: outsidePlan(i), Silent: slices.Contains(s.Silent, name)}
		if second := slices.Index(s.Second, name); second >= 0 {
			h.Second, h.Addresses = true, secondPlan(second)
		}
		t.Outside = append(t.Outside, h)
		s.hosts[name] = h
	}
}

func (s *Scenario) addNamespace(ns syntax.Namespace) {
	s.objects.Namespaces[ns.Name] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: syntax.LabelsOf(ns)}}
}

func nodeObject(of syntax.Node, addresses []netip.Addr) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: of.Name, Labels: of.Labels}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	return n
}

func givePodBlocks(n *corev1.Node, blocks []netip.Prefix) {
	for _, block := range blocks {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, block.String())
	}
	n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
}

var protocolNames = map[model.Protocol]corev1.Protocol{
	model.ProtocolTCP: corev1.ProtocolTCP, model.ProtocolUDP: corev1.ProtocolUDP, model.ProtocolSCTP: corev1.ProtocolSCTP,
}

func podObject(p syntax.Pod, addresses []netip.Addr) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels},
		Spec:       corev1.PodSpec{NodeName: p.Node, Containers: []corev1.Container{{Name: "main", Image: "main"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, port := range p.Ports {
		pod.Spec.Containers[0].Ports = append(pod.Spec.Containers[0].Ports, corev1.ContainerPort{
			Name: port.Name, ContainerPort: int32(port.Port), Protocol: protocolNames[port.Protocol]})
	}
	for _, a := range addresses {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	pod.Status.PodIP = addresses[0].String()
	return pod
}

// address looks a name up in a family: a host, the gateway, a service's
// ClusterIP or its load balancer's address, an address that has a name, or one
// as it is.
func (s *Scenario) address(name string, family syntax.Family) (netip.Addr, error) {
	return s.addressAmong(s.services, name, family)
}

func (s *Scenario) addressAmong(services map[string]*corev1.Service, name string, family syntax.Family) (netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return a, nil
	}
	var candidates []netip.Addr
	switch h, ok := s.hosts[name]; {
	case ok:
		candidates = h.Addresses
	case name == "gateway":
		candidates = gateways
	case s.HasAddress(name):
		candidates = s.named(name)
	case services[name] != nil:
		svc := services[name]
		for _, ip := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
			if a, err := netip.ParseAddr(ip); err == nil {
				candidates = append(candidates, a)
			}
		}
	case services[syntax.BalancedService(name)] != nil:
		candidates = balancedAt(services[syntax.BalancedService(name)])
	}
	for _, a := range candidates {
		if a.Is6() == family.V6() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no %s address", name, family)
}

// named are the addresses that have a name.
func (s *Scenario) named(name string) []netip.Addr {
	i := slices.IndexFunc(s.Named, func(n syntax.Named) bool { return n.Name == name })
	return s.Named[i].Addresses
}

// hostAt finds the host that has an address, for people.
func (s *Scenario) hostAt(a netip.Addr) string {
	for name, h := range s.hosts {
		if slices.Contains(h.Addresses, a) {
			return name
		}
	}
	return a.String()
}

// scriptName is what the script calls a world's host.
func (s *Scenario) scriptName(worldName string) string {
	short := strings.TrimPrefix(worldName, "default/")
	if h, ok := s.hosts[short]; ok && h.Name == worldName {
		return short
	}
	return worldName
}
