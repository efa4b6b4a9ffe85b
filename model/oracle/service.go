// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weirnet/weir/model"
)

// frontend is where a service is reached. The datapath's hooks ask in one
// scope each.
type frontend struct {
	addr     netip.Addr
	port     uint16
	protocol model.Protocol
	scope    model.Scope
}

// served is one frontend and who serves it.
type served struct {
	service  string // namespace/name, of a Pod for a host port
	kind     model.ServiceKind
	port     uint16
	servers  []server
	local    bool // only this node's serve: without one, packets are not refused
	affinity time.Duration
	sources  []netip.Prefix // who may come; nil: everybody
	since    int            // epoch of the objects in which the frontend came
}

func (s *served) String() string {
	if s.kind == model.KindHostPort {
		return "the host port of Pod " + s.service
	}
	return "Service " + s.service + " (" + string(s.kind) + ")"
}

type server struct {
	addr     netip.Addr
	port     uint16
	eligible bool // for new flows; the others keep those of TCP
}

func (s *served) serverAt(addr netip.Addr, port uint16) (server, bool) {
	for _, b := range s.servers {
		if b.addr == addr && b.port == port {
			return b, true
		}
	}
	return server{}, false
}

func (s *served) admits(client netip.Addr) bool {
	if s.sources == nil {
		return true
	}
	for _, source := range s.sources {
		if source.Contains(client) {
			return true
		}
	}
	return false
}

// learnService finds all the places where a service is reached.
func (k *knowledge) learnService(svc *corev1.Service) {
	if svc.Spec.ClusterIP == "None" || string(svc.Spec.Type) == "ExternalName" {
		return
	}
	for _, port := range svc.Spec.Ports {
		k.learnAnyNode(svc, port)
		everybody := map[bool][]listed{}
		for _, f := range k.facesOf(svc, port) {
			v4 := f.addr.Is4()
			if everybody[v4] == nil {
				everybody[v4] = k.listedFor(svc, port, v4)
			}
			for _, scope := range []model.Scope{model.ScopeInside, model.ScopeOutside} {
				local := k.onlyHere(svc, f.kind, scope)
				if f.kind == model.KindClusterIP && scope == model.ScopeOutside {
					continue
				}
				s := &served{
					service: spaceOf(svc.Namespace) + "/" + svc.Name, kind: f.kind, port: f.port,
					local: local, affinity: affinityOf(svc),
					servers: k.serve(svc, everybody[v4], local),
				}
				if f.kind == model.KindLoadBalancer {
					s.sources = sourcesOf(svc)
				}
				k.frontends[frontend{f.addr, f.port, numberOf(port.Protocol), scope}] = s
			}
		}
	}
}

// face is one address and port under which a service shows itself.
type face struct {
	kind model.ServiceKind
	addr netip.Addr
	port uint16
}

func (k *knowledge) facesOf(svc *corev1.Service, port corev1.ServicePort) []face {
	var faces []face
	families := map[bool]bool{}
	for _, text := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
		if addr, err := netip.ParseAddr(text); err == nil {
			families[addr.Is4()] = true
			faces = append(faces, face{model.KindClusterIP, addr, uint16(port.Port)})
		}
	}
	for _, text := range svc.Spec.ExternalIPs {
		if addr, err := netip.ParseAddr(text); err == nil && families[addr.Is4()] {
			faces = append(faces, face{model.KindExternalIP, addr, uint16(port.Port)})
		}
	}
	// An address that is named twice is restricted as the balancer's is.
	balanced := string(svc.Spec.Type) == "LoadBalancer"
	if balanced {
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			proxied := ingress.IPMode != nil && string(*ingress.IPMode) == "Proxy"
			if addr, err := netip.ParseAddr(ingress.IP); err == nil && !proxied && families[addr.Is4()] {
				faces = append(faces, face{model.KindLoadBalancer, addr, uint16(port.Port)})
			}
		}
	}
	if port.NodePort != 0 && (balanced || string(svc.Spec.Type) == "NodePort") {
		for _, addr := range k.nodePortAddresses() {
			if families[addr.Is4()] {
				faces = append(faces, face{model.KindNodePort, addr, uint16(port.NodePort)})
			}
		}
	}
	return faces
}

// nodePortAddresses are those of the node that answer on node ports.
func (k *knowledge) nodePortAddresses() []netip.Addr {
	chosen := k.local.Options.NodePortAddresses
	var addrs []netip.Addr
	for _, addr := range k.own {
		allowed := chosen == nil
		for _, prefix := range chosen {
			allowed = allowed || prefix.Contains(addr)
		}
		if allowed && !addr.IsLoopback() {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// onlyHere is whether a frontend leads to pods of this node alone. Who comes
// from inside to an address for those outside is served by everybody.
func (k *knowledge) onlyHere(svc *corev1.Service, kind model.ServiceKind, scope model.Scope) bool {
	if kind == model.KindClusterIP {
		policy := svc.Spec.InternalTrafficPolicy
		return policy != nil && string(*policy) == "Local"
	}
	return scope == model.ScopeOutside && string(svc.Spec.ExternalTrafficPolicy) == "Local"
}

func affinityOf(svc *corev1.Service) time.Duration {
	if string(svc.Spec.SessionAffinity) != "ClientIP" {
		return 0
	}
	config := svc.Spec.SessionAffinityConfig
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
		return 3 * time.Hour
	}
	return time.Duration(*config.ClientIP.TimeoutSeconds) * time.Second
}

func sourcesOf(svc *corev1.Service) []netip.Prefix {
	if len(svc.Spec.LoadBalancerSourceRanges) == 0 {
		return nil
	}
	sources := []netip.Prefix{}
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			sources = append(sources, prefix)
		}
	}
	return sources
}

// learnHostPorts finds where the pods of this node are reached by the node's
// address.
func (k *knowledge) learnHostPorts(pod *corev1.Pod) {
	if !k.isHere(pod) || k.plugged(podName(pod)) != pod {
		return
	}
	for _, container := range containersOf(pod) {
		for _, p := range container.Ports {
			if p.HostPort == 0 {
				continue
			}
			for _, at := range k.hostAddresses(p.HostIP) {
				for _, addr := range k.addresses[pod] {
					if addr.Is4() != at.Is4() {
						continue
					}
					for _, scope := range []model.Scope{model.ScopeInside, model.ScopeOutside} {
						k.frontends[frontend{at, uint16(p.HostPort), numberOf(p.Protocol), scope}] = &served{
							service: podName(pod), kind: model.KindHostPort, port: uint16(p.HostPort),
							servers: []server{{addr, uint16(p.ContainerPort), true}},
						}
					}
				}
			}
		}
	}
}

// hostAddresses are those on which a host port answers. The unspecified
// address stands for all of its family, none at all for all.
func (k *knowledge) hostAddresses(text string) []netip.Addr {
	if text == "" {
		return k.own
	}
	wanted, err := netip.ParseAddr(text)
	switch {
	case err != nil, wanted.IsLoopback():
		return nil // nothing is translated on the node's way to itself
	case !wanted.IsUnspecified():
		return []netip.Addr{wanted}
	}
	var addrs []netip.Addr
	for _, addr := range k.own {
		if addr.Is4() == wanted.Is4() {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func numberOf(protocol corev1.Protocol) model.Protocol {
	return map[corev1.Protocol]model.Protocol{"": model.ProtocolTCP, "TCP": model.ProtocolTCP, "UDP": model.ProtocolUDP, "SCTP": model.ProtocolSCTP}[protocol]
}

// listed is who a service lists, in whatever condition.
type listed struct {
	at       netip.AddrPort
	ready    bool
	lingers  bool // it is being ended, and serves still
	here     bool
	forZones []string
	forNodes []string
}

// serve says who of those listed is eligible: who is ready, else who lingers.
func (k *knowledge) serve(svc *corev1.Service, everybody []listed, local bool) []server {
	var there []listed
	for _, l := range everybody {
		if l.here || !local {
			there = append(there, l)
		}
	}
	anyReady := slices.ContainsFunc(there, func(l listed) bool { return l.ready })
	hinted := func(listed) bool { return true }
	if !local {
		hinted = k.hinted(svc, there)
	}
	servers := make([]server, 0, len(there))
	for _, l := range there {
		eligible := l.ready && hinted(l) || !anyReady && l.lingers
		servers = append(servers, server{l.at.Addr(), l.at.Port(), eligible})
	}
	sort.Slice(servers, func(i, j int) bool {
		a, b := servers[i], servers[j]
		return a.addr.Less(b.addr) || a.addr == b.addr && a.port < b.port
	})
	return servers
}

// hinted is by whom of those who are ready this node is to be served. Hints
// count when everybody has them and one fits: for the node where the service
// asks for that, else for its zone.
func (k *knowledge) hinted(svc *corev1.Service, there []listed) func(listed) bool {
	sets := []struct {
		of   func(listed) []string
		name string
	}{{func(l listed) []string { return l.forZones }, k.zoneOf(k.node)}}
	if d := svc.Spec.TrafficDistribution; d != nil && *d == "PreferSameNode" {
		byNode := sets[0]
		byNode.of, byNode.name = func(l listed) []string { return l.forNodes }, k.node
		sets = append(sets[:0:0], byNode, sets[0])
	}
	for _, set := range sets {
		all, fits := true, false
		for _, l := range there {
			if l.ready {
				all = all && len(set.of(l)) > 0
				fits = fits || slices.Contains(set.of(l), set.name)
			}
		}
		if all && fits && set.name != "" {
			return func(l listed) bool { return slices.Contains(set.of(l), set.name) }
		}
	}
	return func(listed) bool { return true }
}

func (k *knowledge) zoneOf(node string) string {
	if n := k.objs.Nodes[node]; n != nil {
		return n.Labels["topology.kubernetes.io/zone"]
	}
	return ""
}

// listedFor finds who is listed for a port: by the service's slices, or, while
// it has no slice, the pods that its selector matches.
func (k *knowledge) listedFor(svc *corev1.Service, port corev1.ServicePort, v4 bool) []listed {
	found := map[netip.AddrPort]listed{}
	add := func(l listed) {
		if old, twice := found[l.at]; twice {
			l.ready, l.lingers, l.here = l.ready || old.ready, l.lingers || old.lingers, l.here || old.here
			l.forZones, l.forNodes = append(l.forZones, old.forZones...), append(l.forNodes, old.forNodes...)
		}
		found[l.at] = l
	}
	slicesOf := k.slices[spaceOf(svc.Namespace)+"/"+svc.Name]
	for _, slice := range slicesOf {
		k.listedIn(slice, port, v4, add)
	}
	if len(slicesOf) == 0 && len(svc.Spec.Selector) > 0 {
		k.selected(svc, port, v4, add)
	}
	all := make([]listed, 0, len(found))
	for _, l := range found {
		all = append(all, l)
	}
	return all
}

func (k *knowledge) listedIn(slice *discoveryv1.EndpointSlice, port corev1.ServicePort, v4 bool, add func(listed)) {
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
		// By the API's documentation, what is not said of readiness and of
		// serving is true, and of terminating false.
		conditions := endpoint.Conditions
		ready := conditions.Ready == nil || *conditions.Ready
		serving := conditions.Serving == nil || *conditions.Serving
		terminating := conditions.Terminating != nil && *conditions.Terminating
		l := listed{
			at: netip.AddrPortFrom(addr, number), ready: ready, lingers: serving && terminating,
			here: k.saidHere(slice, &endpoint, addr),
		}
		if endpoint.Hints != nil {
			for _, zone := range endpoint.Hints.ForZones {
				l.forZones = append(l.forZones, zone.Name)
			}
			for _, node := range endpoint.Hints.ForNodes {
				l.forNodes = append(l.forNodes, node.Name)
			}
		}
		add(l)
	}
}

// saidHere is whether an endpoint is on this node. Where nodes have no names,
// there is only one.
func (k *knowledge) saidHere(slice *discoveryv1.EndpointSlice, endpoint *discoveryv1.Endpoint, addr netip.Addr) bool {
	if endpoint.NodeName != nil {
		return *endpoint.NodeName == k.node
	}
	pod := k.pods[addr]
	if ref := endpoint.TargetRef; ref != nil && ref.Kind == "Pod" {
		space := ref.Namespace
		if space == "" {
			space = spaceOf(slice.Namespace)
		}
		pod = k.objs.Pods[space+"/"+ref.Name]
	}
	return pod != nil && pod.Spec.NodeName == "" && k.isHere(pod)
}

func (k *knowledge) selected(svc *corev1.Service, port corev1.ServicePort, v4 bool, add func(listed)) {
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
		terminating, serving := pod.DeletionTimestamp != nil, saysReady(pod)
		forZones, forNodes := k.hintsOf(svc, pod)
		for _, addr := range k.addresses[pod] {
			if addr.Is4() == v4 {
				add(listed{
					at:      netip.AddrPortFrom(addr, number),
					ready:   serving && !terminating || svc.Spec.PublishNotReadyAddresses,
					lingers: serving && terminating,
					here:    k.isHere(pod),

					forZones: forZones, forNodes: forNodes,
				})
			}
		}
	}
}

// hintsOf are those that the API's controllers give a pod of a service that
// wants its clients served nearby: by its zone, and by its node.
func (k *knowledge) hintsOf(svc *corev1.Service, pod *corev1.Pod) (zones, nodes []string) {
	if svc.Spec.TrafficDistribution == nil {
		return nil, nil
	}
	if zone := k.zoneOf(pod.Spec.NodeName); zone != "" {
		zones = []string{zone}
	}
	if *svc.Spec.TrafficDistribution == "PreferSameNode" && pod.Spec.NodeName != "" {
		nodes = []string{pod.Spec.NodeName}
	}
	return zones, nodes
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

func namedOn(pod *corev1.Pod, name string, protocol model.Protocol) uint16 {
	for _, container := range containersOf(pod) {
		for _, p := range container.Ports {
			if p.Name == name && numberOf(p.Protocol) == protocol {
				return uint16(p.ContainerPort)
			}
		}
	}
	return 0
}

// containersOf are those that run side by side: the containers, and the init
// containers that go on running.
func containersOf(pod *corev1.Pod) []corev1.Container {
	containers := slices.Clone(pod.Spec.Containers)
	for _, container := range pod.Spec.InitContainers {
		if container.RestartPolicy != nil && *container.RestartPolicy == "Always" {
			containers = append(containers, container)
		}
	}
	return containers
}
