// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/lab/kube"
	"github.com/weirnet/weir/lab/probe"
	"github.com/weirnet/weir/model"
)

// Services, each by its name.
const (
	web      = "web"      // plain, with node ports
	local    = "local"    // externalTrafficPolicy Local
	internal = "internal" // internalTrafficPolicy Local
	headless = "headless"
	sticky   = "sticky"   // sessionAffinity ClientIP
	alone    = "alone"    // of server-1 alone, with node ports
	external = "external" // with externalIPs
	balanced = "balanced" // with an address of a load balancer
)

// ownClass is that of load balancers to which a run gives addresses itself.
const ownClass = "lab.weir.net/none"

// servicePort is that of all services, by TCP and UDP.
const servicePort = 80

// Namespaces of a run, by what follows its name.
const (
	inMain   = "test"
	inNodes  = "node" // privileged
	inPolicy = "policy"
	inOther  = "other" // than the policies'
)

// seat is where a probe is to be.
type seat struct {
	namespace string
	node      int // from 0 on
	host      bool
	ports     bool // of the node lead to it
}

// seats are those of all probes.
var seats = map[string]seat{
	client1: {namespace: inMain}, server1: {namespace: inMain},
	client2: {namespace: inMain, node: 1}, server2: {namespace: inMain, node: 1},
	host1: {namespace: inNodes, host: true}, host2: {namespace: inNodes, node: 1, host: true},
	far: {namespace: inNodes, node: 2, host: true}, port1: {namespace: inNodes, ports: true},
	guarded1: {namespace: inPolicy}, guarded2: {namespace: inPolicy, node: 1},
	friend: {namespace: inPolicy}, stranger: {namespace: inPolicy},
	foreigner: {namespace: inOther, node: 1},
}

// role is what a probe is labelled by.
func role(probe string) string { name, _, _ := strings.Cut(probe, "-"); return name }

// bed is what a run has made in a cluster.
type bed struct {
	session    *kube.Session
	families   []Family      // of pods
	nodes      []corev1.Node // 1 to 3
	namespaces map[string]string

	mu       sync.Mutex
	members  map[string]*kube.Member
	services map[string]*corev1.Service
	lacking  map[string]string // services that were refused, and why
	here     *probe.Client
	// noHosts says why there are no pods with nodes' networks; empty: there are.
	noHosts string
}

func newBed(session *kube.Session, families []Family) *bed {
	nodes := session.Ready()
	return &bed{session: session, families: families, nodes: nodes[:min(len(nodes), 3)], namespaces: map[string]string{},
		members: map[string]*kube.Member{}, services: map[string]*corev1.Service{}, lacking: map[string]string{}}
}

// Ports of nodes that no two runs share: below those that the kernel gives to clients,
// and below node ports.
func (b *bed) hostPort() uint16  { return 21000 + 2*uint16(b.session.Number()%4000) }
func (b *bed) portOfPod() uint16 { return b.hostPort() + 1 }
func (b *bed) numbered(v6 bool, kind byte) netip.Addr {
	n := b.session.Number()
	if v6 { // RFC 3849
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0x77, kind, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{198, 18 + kind, byte(n >> 8), byte(n)}) // RFC 2544
}

// uses are the probes and services of an action.
func uses(a *Action) (probes, services []string) {
	if a.From != Outside {
		probes = append(probes, a.From)
	}
	switch a.To.Kind {
	case ToPod, ToNode, ToHostPort:
		probes = append(probes, a.To.Name)
	case ToOutside:
	default:
		services = append(services, a.To.Name)
		if a.To.Name == guardedService {
			return append(probes, guarded1, guarded2), services
		}
		probes = append(probes, servers...)
	}
	return probes, services
}

// make makes what the actions need.
func (b *bed) make(ctx context.Context, actions []Action) error {
	probes, services := map[string]bool{}, map[string]bool{}
	for i := range actions {
		p, s := uses(&actions[i])
		for _, name := range p {
			probes[name] = true
		}
		for _, name := range s {
			services[name] = true
		}
	}
	if probes[far] && len(b.nodes) < 3 { // two of a node would have one port
		delete(probes, far)
		probes[host2] = true
	}
	for name := range probes {
		if seats[name].node >= len(b.nodes) {
			delete(probes, name)
		}
	}
	for name := range probes {
		if err := b.namespace(ctx, seats[name].namespace); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for name := range services {
		g.Go(func() error { return b.service(ctx, name) })
	}
	for name := range probes {
		g.Go(func() error { return b.start(ctx, name) })
	}
	b.here = b.session.Here()
	return errors.Join(g.Wait(), b.serveOutside(ctx))
}

func (b *bed) namespace(ctx context.Context, which string) error {
	if b.namespaces[which] != "" {
		return nil
	}
	labels := map[string]string{}
	if which == inOther {
		labels[labelRole] = foreigner
	}
	name, err := b.session.Namespace(ctx, which, which == inNodes, labels)
	b.namespaces[which] = name
	return err
}

func (b *bed) start(ctx context.Context, name string) error {
	s := seats[name]
	o := kube.Order{Name: name, Node: b.nodes[s.node].Name, Labels: map[string]string{labelRole: role(name), "name": name}, Host: s.host}
	if s.ports {
		o.HostPorts = map[uint16]uint16{b.portOfPod(): mainPort}
	}
	m, err := b.session.Start(ctx, b.namespaces[s.namespace], o)
	b.mu.Lock()
	if s.namespace == inNodes && apierrors.IsForbidden(err) {
		b.noHosts, err, m = err.Error(), nil, nil // a cluster may refuse these while it takes others
	} else if err == nil {
		b.members[name] = m
	}
	b.mu.Unlock()
	if err != nil || m == nil {
		return err
	}
	port := uint16(mainPort)
	if s.host {
		port, m.Addresses = b.hostPort(), b.nodeAddresses(m.Node)
	}
	return serve(ctx, m.Client, name, m.Addresses, port, !s.host)
}

// serve listens on a port by TCP and UDP, and on the other one.
func serve(ctx context.Context, c *probe.Client, name string, at []netip.Addr, port uint16, another bool) error {
	listens := []probe.Listen{{Protocol: model.ProtocolTCP, Port: port}, {Protocol: model.ProtocolUDP, Port: port}}
	if another {
		listens = append(listens, probe.Listen{Protocol: model.ProtocolTCP, Port: otherPort})
	}
	for _, l := range listens {
		l.Name, l.Addresses = name, at
		if err := c.Listen(ctx, l); err != nil {
			return fmt.Errorf("listen on %s port %d of %s: %w", l.Protocol, l.Port, name, err)
		}
	}
	return nil
}

// serveOutside listens beside the nodes, where that is.
func (b *bed) serveOutside(ctx context.Context) error {
	var at []netip.Addr
	for _, family := range Families() {
		if a := b.session.Outside(family.is6()); a.IsValid() {
			at = append(at, a)
		}
	}
	if len(at) == 0 {
		return nil
	}
	return serve(ctx, b.here, Outside, at, b.hostPort(), false)
}

// member is the probe of a name.
func (b *bed) member(name string) (*kube.Member, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if name == Outside {
		return &kube.Member{Client: b.here, Name: Outside, Addresses: []netip.Addr{b.session.Outside(false), b.session.Outside(true)}}, nil
	}
	if m := b.members[name]; m != nil {
		return m, nil
	}
	if m := b.members[host2]; name == far && m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("there is no probe %s", name)
}

// service makes one, and remembers why it is refused.
func (b *bed) service(ctx context.Context, name string) error {
	namespace := inMain
	if name == guardedService {
		namespace = inPolicy
	}
	api := b.session.Kube().CoreV1().Services(b.namespaces[namespace])
	made, err := api.Create(ctx, b.serviceSpec(name), metav1.CreateOptions{})
	if err == nil && name == balanced {
		for _, family := range made.Spec.IPFamilies {
			a := b.numbered(family == corev1.IPv6Protocol, 1)
			made.Status.LoadBalancer.Ingress = append(made.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
		}
		made, err = api.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err):
		b.lacking[name] = fmt.Sprintf("the API server refuses the service: %v", err)
		return nil
	case err != nil:
		return fmt.Errorf("make service %s: %w", name, err)
	}
	b.services[name] = made
	return nil
}

func (b *bed) serviceSpec(name string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}}
	s := &svc.Spec
	s.Selector = map[string]string{labelRole: role(server1)}
	s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack)
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		s.Ports = append(s.Ports, corev1.ServicePort{Name: strings.ToLower(string(protocol)), Protocol: protocol, Port: servicePort, TargetPort: intstr.FromInt(mainPort)})
	}
	switch name {
	case web:
		s.Type = corev1.ServiceTypeNodePort
	case local:
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
	case internal:
		s.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	case headless:
		s.ClusterIP = corev1.ClusterIPNone
		for i := range s.Ports { // nobody translates them
			s.Ports[i].Port = mainPort
		}
	case sticky:
		s.SessionAffinity = corev1.ServiceAffinityClientIP
	case alone:
		s.Type, s.Selector = corev1.ServiceTypeNodePort, map[string]string{"name": server1}
	case external:
		for _, family := range b.families {
			s.ExternalIPs = append(s.ExternalIPs, b.numbered(family.is6(), 0).String())
		}
	case balanced:
		// Nobody else gives addresses to services of this class.
		s.Type, s.LoadBalancerClass = corev1.ServiceTypeLoadBalancer, ptr.To(ownClass)
		s.AllocateLoadBalancerNodePorts = ptr.To(false)
	case guardedService:
		s.Selector = map[string]string{labelRole: "guarded"}
	}
	return svc
}

// at is what an action asks, or why there is no such thing.
func (b *bed) at(a *Action) (to netip.AddrPort, lacks string, err error) {
	v6, none := a.Family.is6(), netip.AddrPort{}
	switch a.To.Kind {
	case ToOutside:
		return netip.AddrPortFrom(b.session.Outside(v6), b.hostPort()), "", nil
	case ToPod, ToNode, ToHostPort:
		m, err := b.member(a.To.Name)
		if err != nil {
			return none, "", err
		}
		at, port := m.Address(v6), a.To.Port
		if a.To.Kind == ToNode {
			port = b.hostPort()
		}
		if a.To.Kind == ToHostPort {
			at, port = kube.NodeAddress(b.node(m.Node), v6), b.portOfPod()
		}
		if !at.IsValid() {
			return none, "", fmt.Errorf("%s has no %s address", a.To.Name, a.Family)
		}
		return netip.AddrPortFrom(at, port), "", nil
	}
	return b.ofService(a)
}

// ofService is at for what leads to a service.
func (b *bed) ofService(a *Action) (to netip.AddrPort, lacks string, err error) {
	b.mu.Lock()
	svc, lacks := b.services[a.To.Name], b.lacking[a.To.Name]
	b.mu.Unlock()
	if lacks != "" {
		return to, lacks, nil
	}
	if svc == nil {
		return to, "", fmt.Errorf("there is no service %s", a.To.Name)
	}
	if !slices.Contains(svc.Spec.IPFamilies, map[Family]corev1.IPFamily{IPv4: corev1.IPv4Protocol, IPv6: corev1.IPv6Protocol}[a.Family]) {
		return to, fmt.Sprintf("services have no %s addresses", a.Family), nil
	}
	pick := func(texts []string) netip.AddrPort {
		for _, text := range texts {
			if at, err := netip.ParseAddr(text); err == nil && at.Is6() == a.Family.is6() {
				return netip.AddrPortFrom(at, servicePort)
			}
		}
		return netip.AddrPort{}
	}
	switch a.To.Kind {
	case ToClusterIP:
		to = pick(svc.Spec.ClusterIPs)
	case ToExternalIP:
		to = pick(svc.Spec.ExternalIPs)
	case ToLoadBalancer:
		var all []string
		for _, i := range svc.Status.LoadBalancer.Ingress {
			all = append(all, i.IP)
		}
		to = pick(all)
	case ToNodePort:
		for _, p := range svc.Spec.Ports {
			if strings.EqualFold(string(p.Protocol), a.Verb.protocol().String()) {
				to = netip.AddrPortFrom(kube.NodeAddress(&b.nodes[a.To.Node-1], a.Family.is6()), uint16(p.NodePort))
			}
		}
	case ToName:
		return to, "", nil // the resolver tells
	}
	if !to.Addr().IsValid() {
		return to, fmt.Sprintf("there is no such %s address", a.Family), nil
	}
	return to, "", nil
}

// nodeAddresses are those by which others reach a node.
func (b *bed) nodeAddresses(name string) (all []netip.Addr) {
	for _, family := range Families() {
		if a := kube.NodeAddress(b.node(name), family.is6()); a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

func (b *bed) node(name string) *corev1.Node {
	for i := range b.nodes {
		if b.nodes[i].Name == name {
			return &b.nodes[i]
		}
	}
	return new(corev1.Node)
}

// name of a service as a resolver takes it, whatever the cluster's domain.
func (b *bed) name(service string) string { return service + "." + b.namespaces[inMain] + ".svc" }

// named are the addresses that a name has to have, sorted.
func (b *bed) named(service string, family Family) (all []netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if service == headless {
		for _, name := range servers {
			if m := b.members[name]; m != nil {
				all = append(all, m.Address(family.is6()))
			}
		}
	} else if svc := b.services[service]; svc != nil {
		for _, text := range svc.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(text); err == nil && a.Is6() == family.is6() {
				all = append(all, a)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// close ends the streams to all probes.
func (b *bed) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range slices.Collect(maps.Values(b.members)) {
		m.Close() // the pod goes
	}
	if b.here != nil {
		b.here.Close() // and what it listens on
	}
}

// addresses are those of a probe.
func (b *bed) addresses(name string) []netip.Addr {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m := b.members[name]; m != nil {
		return m.Addresses
	}
	return nil
}
