// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/policygen"
)

// What networks have when the node's uplink has programs: operators' choices,
// services that outsiders reach, pods of the nodes' own network.

// router is whom the uplink's frames come from and go to.
var router = []byte{0x02, 0x0a, 0, 0, 0, 0xfe}

// lentFirst is where the ports begin that conversations are held from, and
// that are lent where there are few of them.
const lentFirst = 40000

// options are an operator's, by chance.
func (n *network) options() model.Options {
	var o model.Options
	if n.chance(70) {
		o.Masquerade = true
		for range n.rng.IntN(3) {
			o.MasqueradeExcluded = append(o.MasqueradeExcluded, pick(n.rng, excluded))
		}
		if n.chance(50) {
			o.FirstPort = lentFirst
			o.LastPort = lentFirst + pick(n.rng, []uint16{0, 1, 7, 7, 20})
		}
	}
	if n.chance(40) {
		o.Algorithm, o.MaglevSize = model.AlgorithmMaglev, pick(n.rng, []int{7, 251})
	}
	if n.chance(20) {
		o.NodePortAddresses = []netip.Prefix{pick(n.rng, []netip.Prefix{subnet4, subnet6, netip.PrefixFrom(node4, 32)})}
	}
	n.direct(&o)
	return o
}

var excluded = []netip.Prefix{
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2606:4700::/32"), netip.MustParsePrefix("fd00::/8"),
}

// expose has the i-th service reached from outside as well, in some way.
func (n *network) expose(s *corev1.Service, i int) {
	if n.chance(20) {
		port := int32(30100 + i)
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "sctp", Protocol: corev1.ProtocolSCTP, Port: port, TargetPort: intstr.FromInt32(port)})
	}
	has := func(a string) bool { return slices.Contains(s.Spec.IPFamilies, familyOf(netip.MustParseAddr(a))) }
	outside := n.chance(20)
	if outside {
		s.Spec.ExternalIPs = slices.DeleteFunc([]string{pick(n.rng, []string{"198.51.101.1", "192.0.2.1", "198.18.0.2"}),
			pick(n.rng, []string{"2001:db8:52::1", "2606:4700::1", "fd00:198:18::7:0:2"})}, func(a string) bool { return !has(a) })
		outside = len(s.Spec.ExternalIPs) > 0
	}
	switch n.rng.IntN(7) {
	case 0, 1, 2:
		s.Spec.Type, outside = corev1.ServiceTypeNodePort, true
	case 3, 4, 5:
		s.Spec.Type, outside = corev1.ServiceTypeLoadBalancer, true
		n.balance(s, i, has)
	}
	if s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer && n.chance(70) {
		for j := range s.Spec.Ports {
			p := &s.Spec.Ports[j]
			p.NodePort = int32(30000 + 4*i + j)
			if p.Protocol == corev1.ProtocolSCTP {
				p.NodePort = p.Port
			}
		}
	}
	if outside && n.chance(40) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if n.chance(20) {
		local := corev1.ServiceInternalTrafficPolicyLocal
		s.Spec.InternalTrafficPolicy = &local
	}
	if n.chance(30) {
		seconds := pick(n.rng, []int32{10, 30, 300})
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	if n.chance(20) {
		s.Annotations = map[string]string{manifest.AnnotationAlgorithm: pick(n.rng, []string{"random", "maglev"})}
	}
}

// balancers6 are load balancers' IPv6 addresses: the node's but for a word, and others.
var balancers6 = []string{"fd51:a:0:b:0:c:0:20", "fd00:198:51::7:0:2", "fd51:198:18::7:0:2", "2001:db8:51::13", "2001:db8:51::14"}

// balance gives a load balancer its addresses, and says from where it is used.
func (n *network) balance(s *corev1.Service, i int, has func(string) bool) {
	far := balancers6[i]
	if n.chance(30) { // no octet of which is as elsewhere
		far = fmt.Sprintf("2a17:c394:e5b8:716d:8f2e:a4d1:93c6:b5%02x", i+10)
	}
	for _, a := range []string{fmt.Sprintf("198.51.100.%d", i+10), far} {
		if has(a) && n.chance(90) {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
		}
	}
	if n.chance(40) {
		for range 1 + n.rng.IntN(3) {
			s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, pick(n.rng, blocks))
		}
	}
}

// hostPorts are those of the node that pods ask for.
var hostPorts = []int32{9000, 9001, 9002}

// hostPort has a container's port reached by one of the node's.
func (n *network) hostPort(p *corev1.ContainerPort) {
	if !n.chance(15) {
		return
	}
	p.HostPort = pick(n.rng, hostPorts)
	if n.chance(20) {
		p.HostIP = pick(n.rng, []string{node4.String(), node6.String(), "0.0.0.0", "198.51.102.1"})
	}
}

// hostPod is a pod of a node's own network.
func (n *network) hostPod() metav1.Object {
	where, addresses := nodeName, []string{node4.String(), node6.String()}
	if n.chance(30) {
		where, addresses = otherNode, []string{other4.String(), other6.String()}
	}
	p := podAt(pick(n.rng, namespaces), "host-"+where, where, addresses)
	p.Spec.HostNetwork = true
	p.Labels = n.podLabels()
	return p
}

// nodePolicy is a policy of the node's own traffic: one of Cilium's that selects
// nodes, what it says of others being what it might say of pods. Mostly it lets
// much through, so that what is behind it is reached.
func (n *network) nodePolicy() metav1.Object {
	p := policygen.Policy(n.rng, words, "CiliumClusterwideNetworkPolicy", fmt.Sprintf("node-%d", n.rng.IntN(2))).(*manifest.CiliumClusterwideNetworkPolicy)
	rules := p.Specs
	if p.Spec != nil {
		rules = append(rules, p.Spec)
	}
	for _, r := range rules {
		r.EndpointSelector, r.NodeSelector = nil, &metav1.LabelSelector{}
		if n.chance(15) {
			r.NodeSelector.MatchLabels = map[string]string{"role": "gateway"} // no node's
		}
		if n.chance(50) {
			r.Ingress = append(r.Ingress, manifest.CiliumIngressRule{FromEntities: []string{pick(n.rng, entities)}})
		}
	}
	return n.tryOut(15, asWritten(p))
}

// entities are those whom a node's policies let in.
var entities = []string{"all", "world", "cluster", "remote-node", "host"}

// weigh gives a pod a share of its services' flows.
func (n *network) weigh(p *corev1.Pod) {
	if n.chance(20) {
		p.Annotations = map[string]string{manifest.AnnotationWeight: strconv.Itoa(1 + n.rng.IntN(4))}
	}
}

// nodeOf names the node that has an address; empty when it is not known.
func (n *network) nodeOf(a netip.Addr) string {
	for _, p := range n.objs.Pods {
		if slices.Contains(podAddresses(p), a) {
			return p.Spec.NodeName
		}
	}
	switch a {
	case node4, node6:
		return nodeName
	case other4, other6:
		return otherNode
	}
	return ""
}

// place is an address and a port at which something is served.
type place struct {
	addr     netip.Addr
	port     uint16
	protocol model.Protocol
}

var protocolNumbers = map[corev1.Protocol]model.Protocol{
	corev1.ProtocolTCP: model.ProtocolTCP, corev1.ProtocolUDP: model.ProtocolUDP, corev1.ProtocolSCTP: model.ProtocolSCTP,
}

// places are where services and host ports are reached, from wherever.
func (n *network) places() []place {
	var out []place
	for _, name := range sortedKeys(n.objs.Services) {
		s := n.objs.Services[name]
		all := slices.Concat(s.Spec.ClusterIPs, s.Spec.ExternalIPs)
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			all = append(all, ingress.IP)
		}
		for _, p := range s.Spec.Ports {
			for _, a := range all {
				out = append(out, place{netip.MustParseAddr(a), uint16(p.Port), protocolNumbers[p.Protocol]})
			}
			for _, a := range []netip.Addr{node4, node6, node4, node6, other4, other6} {
				if p.NodePort != 0 {
					out = append(out, place{a, uint16(p.NodePort), protocolNumbers[p.Protocol]})
				}
			}
		}
	}
	for _, name := range sortedKeys(n.objs.Pods) {
		for _, p := range n.objs.Pods[name].Spec.Containers[0].Ports {
			if p.HostPort != 0 {
				out = append(out, place{node4, uint16(p.HostPort), protocolNumbers[p.Protocol]},
					place{node6, uint16(p.HostPort), protocolNumbers[p.Protocol]})
			}
		}
	}
	return out
}

// beyond opens a conversation of others than pods: of outsiders, of the node
// itself, or of whom the node only forwards.
func (t *talk) beyond() *conversation {
	c := &conversation{at: model.Where{Hook: model.FromDevice, Endpoint: nodeName}}
	if t.chance(30) {
		c.at.Hook = model.ToDevice
	}
	own := pick(t.rng, []netip.Addr{node4, node6})
	c.tuple = model.Tuple{Src: own, Sport: uint16(lentFirst + t.rng.IntN(8)), Dport: pick(t.rng, ports), Protocol: t.protocol(own)}
	if c.at.Hook == model.FromDevice {
		c.tuple.Src = t.stranger(own)
	}
	everybody := append(t.elsewhereOf(), addressesOf(t.localEnds())...)
	switch n := t.rng.IntN(10); {
	case n < 6:
		t.toPlace(c)
		if c.tuple.Dst.IsValid() && c.at.Hook == model.FromDevice && t.tunnels() && t.chance(50) {
			t.lead(c)
		}
	case n == 6 && c.at.Hook == model.FromDevice: // to a port that is lent, or may be
		c.tuple.Dst, c.tuple.Sport, c.tuple.Dport = own, c.tuple.Dport, c.tuple.Sport
	case n == 7 && c.at.Hook == model.ToDevice: // forwarded
		c.tuple.Src = t.like(own, everybody)
	}
	if !c.tuple.Dst.IsValid() {
		c.tuple.Dst = t.like(own, everybody)
	}
	if c.tuple.Protocol == model.ProtocolICMP || c.tuple.Protocol == model.ProtocolICMPv6 {
		c.tuple.Dport = 0
	}
	if c.tuple.Protocol == model.ProtocolUDP && t.tunnels() && t.chance(20) {
		t.feign(c)
	}
	c.script = t.script(c.tuple.Protocol)
	return c
}

// feign has a conversation, or its answers, look like the nodes' tunnel: it is mostly
// with a pod of another node.
func (t *talk) feign(c *conversation) {
	others := slices.DeleteFunc(t.elsewhereOf(), func(a netip.Addr) bool {
		return slices.Contains(outsiders, a) || slices.Contains([]netip.Addr{node4, node6, other4, other6}, a)
	})
	far := t.like(c.tuple.Src, others)
	if c.at.Hook == model.FromDevice {
		c.tuple.Sport = tunnelPort
		if far.IsValid() && t.chance(80) {
			c.tuple.Src = far
		}
		return
	}
	c.tuple.Dport = tunnelPort
	if far.IsValid() && t.chance(80) {
		c.tuple.Dst = far
	}
}

// nobodies are sources that nobody beyond the node has: the pods' gateways, the
// loopback device, and others that are good on a link at most.
var nobodies = append([]netip.Addr{
	netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("169.254.7.7"), netip.MustParseAddr("224.0.0.9"),
	netip.MustParseAddr("::1"), netip.MustParseAddr("fe80::7"), netip.MustParseAddr("ff02::9"),
}, gateways...)

// stranger is who sends to the node from beyond it: mostly one who may.
func (t *talk) stranger(like netip.Addr) netip.Addr {
	switch t.rng.IntN(12) {
	case 0, 1, 2:
		return t.like(like, t.elsewhereOf())
	case 3:
		return t.like(like, append(addressesOf(t.localEnds()), node4, node6))
	case 4:
		return t.like(like, nobodies)
	}
	if t.chance(10) {
		return t.like(like, foreigners)
	}
	return t.like(like, outsiders)
}

// foreigners are outsiders with addresses of which no octet is as in others.
var foreigners = []netip.Addr{netip.MustParseAddr("151.117.93.71"), netip.MustParseAddr("3b21:d6a3:f49c:628e:7d5b:b1e7:c8a9:4fd2")}

// toPlace aims a conversation at where something is served, if that is
// anywhere in its family.
func (t *talk) toPlace(c *conversation) {
	all := slices.DeleteFunc(t.places(), func(p place) bool { return p.addr.Is4() != c.tuple.Src.Is4() })
	if len(all) == 0 {
		return
	}
	to := pick(t.rng, all)
	c.tuple.Dst, c.tuple.Dport, c.tuple.Protocol = to.addr, to.port, to.protocol
}

// arrivedBeyond is arrived for nodes whose uplinks have programs.
func (s *sequence) arrivedBeyond(f *Frame, r *ran) model.Where {
	switch to := f.At; {
	case to.Hook == model.ToContainer:
		return model.Where{Hook: model.FromContainer, Endpoint: to.Endpoint}
	case r.decision.Out == model.OutLocal:
		pod, _ := s.player.behind(r.decision.Ifindex)
		return model.Where{Hook: model.FromContainer, Endpoint: pod}
	case r.decision.Out == model.OutDevice:
		return model.Where{Hook: model.FromDevice, Endpoint: nodeName}
	case to.Hook == model.FromContainer:
		return model.Where{Hook: model.ToContainer, Endpoint: to.Endpoint}
	}
	return model.Where{Hook: model.ToDevice, Endpoint: nodeName}
}

// onwards is a frame as the node's stack leads it into a pod, after a hook has
// given it to the stack; nil when it ends there.
func (s *sequence) onwards(f *Frame, r *ran) *Frame {
	p := frame.Decode(r.out)
	if f.At.Hook != model.FromDevice || r.decision.Out != model.OutHost || p.Version == 0 || p.TTL <= 1 {
		return nil
	}
	for _, e := range s.localEnds() {
		if e.addr != p.Dst {
			continue
		}
		data := slices.Clone(r.out)
		copy(data, s.devices[e.pod].PodMAC)
		copy(data[6:], s.devices[e.pod].MAC)
		if p.Version == 6 {
			data[p.L3+7]--
		} else {
			data[p.L3+8]--
			recheck(data[p.L3:])
		}
		return &Frame{model.Where{Hook: model.ToContainer, Endpoint: e.pod}, data}
	}
	return nil
}

// passes says whether a frame comes to a hook of the uplink in a scenario: the
// node leads by other ways what is for its pods and itself, and a host of the
// outside has an address of its own.
func passes(f *Frame, pods []string) bool {
	p := frame.Decode(f.Data)
	if p.Version == 0 {
		return true
	}
	switch f.At.Hook {
	case model.FromDevice:
		return p.Dst != outsiders[0] && p.Dst != outsiders[3]
	case model.ToDevice:
		theirs := []netip.Addr{node4, node6, gateways[0], gateways[1]}
		for i := range pods {
			for _, a := range slotAddresses(i) {
				theirs = append(theirs, netip.MustParseAddr(a))
			}
		}
		return !slices.Contains(theirs, p.Dst)
	}
	return true
}
