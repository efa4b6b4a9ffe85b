// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
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
	service   model.Key // a Pod for a host port
	kind      model.ServiceKind
	port      uint16
	of        uint16 // the service's own port, whatever the frontend's is
	servers   []server
	local     bool // only this node's serve, and another may have somebody: without one here, packets are not refused
	affinity  time.Duration
	algorithm string   // that the service asks for
	sources   []string // who may come, as it is written, of the address's family; none: everybody
	since     int      // epoch of the objects in which the frontend came
	stays     int      // and since when its service's port keeps clients
}

func (s *served) String() string {
	if s.kind == model.KindHostPort {
		return "the host port of Pod " + s.service.String()
	}
	return "Service " + s.service.String() + " (" + string(s.kind) + ")"
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
	for _, source := range s.sources {
		if inLooseBlock(source, client) {
			return true
		}
	}
	return len(s.sources) == 0
}

// learnService bids for all the places where a service is reached.
func (k *knowledge) learnService(svc *corev1.Service) {
	if svc.Spec.ClusterIP == "None" || string(svc.Spec.Type) == "ExternalName" {
		return
	}
	turn := 0
	ask := func(order int, who string, addr netip.Addr, port uint16, protocol model.Protocol, won func()) {
		if won == nil || !isOurs(svc) {
			won = func() {}
		}
		turn++
		k.bids = append(k.bids, bid{
			order: order, made: svc.CreationTimestamp.Time, space: spaceOf(svc.Namespace), name: svc.Name, kind: "Service", turn: turn,
			who: nameOfService(svc) + who, addr: addr, port: port, protocol: protocol, won: won,
		})
	}
	for i, port := range svc.Spec.Ports {
		protocol, who := numberOf(port.Protocol), " "+strconv.Itoa(i)
		everybody := map[bool][]listed{}
		for _, v4 := range []bool{true, false} {
			everybody[v4] = k.listedFor(svc, port, v4)
		}
		for _, f := range k.facesOf(svc, port) {
			won := func() { k.learnFace(svc, f, port, everybody[f.addr.Is4()]) }
			switch f.kind {
			case model.KindClusterIP:
				if k.clusterAt[f.addr] == svc {
					ask(orderClusterIP, who, f.addr, f.port, protocol, won)
				}
			case model.KindLoadBalancer:
				if !k.isAnothers(f.addr, svc, false) {
					ask(orderLoadBalancer, who, f.addr, f.port, protocol, won)
				}
			case model.KindExternalIP:
				if !k.isAnothers(f.addr, svc, true) && k.mayBeExternal(f.addr) {
					ask(orderExternalIP, who, f.addr, f.port, protocol, won)
				}
			}
		}
		if port.NodePort != 0 && (string(svc.Spec.Type) == "LoadBalancer" || string(svc.Spec.Type) == "NodePort") {
			ask(orderNodePort, who, netip.Addr{}, uint16(port.NodePort), protocol, func() {
				k.learnAnyNode(svc, port)
				faces := k.facesOf(svc, port)
				for _, f := range faces {
					// What the service's load balancer restricts stays so.
					twice := face{model.KindLoadBalancer, f.addr, f.port}
					if f.kind == model.KindNodePort && !slices.Contains(faces, twice) && !k.isNodesSocket(f.addr, f.port, protocol) {
						k.held[place{f.addr, f.port, protocol}] = nameOfService(svc) + who
						k.learnFace(svc, f, port, everybody[f.addr.Is4()])
					}
				}
			})
		}
	}
	if svc.Spec.HealthCheckNodePort != 0 {
		ask(orderNodePort, " health", netip.Addr{}, uint16(svc.Spec.HealthCheckNodePort), model.ProtocolTCP, nil)
	}
}

func nameOfService(svc *corev1.Service) string {
	return "Service " + spaceOf(svc.Namespace) + "/" + svc.Name
}

// isOurs is whether nobody else is asked to serve a service, and somebody is.
func isOurs(svc *corev1.Service) bool {
	for _, label := range []string{"service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"} {
		if _, found := svc.Labels[label]; found {
			return false
		}
	}
	return true
}

// isNodesSocket is whether a node itself listens at a place of its own.
func (k *knowledge) isNodesSocket(addr netip.Addr, port uint16, protocol model.Protocol) bool {
	if protocol != model.ProtocolTCP {
		return false
	}
	node := k.objs.Nodes[k.nodeOf[addr]]
	return node != nil && node.Status.DaemonEndpoints.KubeletEndpoint.Port == int32(port) || k.apiSockets()[netip.AddrPortFrom(addr, port)]
}

// learnFace notes who serves at one place, in both scopes.
func (k *knowledge) learnFace(svc *corev1.Service, f face, port corev1.ServicePort, everybody []listed) {
	for _, scope := range []model.Scope{model.ScopeInside, model.ScopeOutside} {
		if f.kind == model.KindClusterIP && scope == model.ScopeOutside {
			continue
		}
		local := k.onlyHere(svc, f.kind, scope)
		s := &served{
			service: keyOf(svc), kind: f.kind, port: f.port, of: uint16(port.Port),
			local: local && k.anybody(everybody), affinity: affinityOf(svc),
			servers: k.serve(svc, everybody, local), algorithm: svc.Annotations["weir.net/algorithm"],
		}
		if f.kind == model.KindLoadBalancer {
			s.sources = sourcesOf(svc, f.addr.Is4())
		}
		k.frontends[frontend{f.addr, f.port, numberOf(port.Protocol), scope}] = s
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
	for _, addr := range clusterAddresses(svc) {
		families[addr.Is4()] = true
		faces = append(faces, face{model.KindClusterIP, addr, uint16(port.Port)})
	}
	for _, text := range svc.Spec.ExternalIPs {
		if addr, ok := looseAddr(text); ok && isHostAddress(addr) && families[addr.Is4()] {
			faces = append(faces, face{model.KindExternalIP, addr, uint16(port.Port)})
		}
	}
	// An address that is named twice is restricted as the balancer's is.
	balanced := string(svc.Spec.Type) == "LoadBalancer"
	if balanced {
		for _, ingress := range svc.Status.LoadBalancer.Ingress {
			proxied := ingress.IPMode != nil && string(*ingress.IPMode) == "Proxy"
			if addr, ok := looseAddr(ingress.IP); ok && isHostAddress(addr) && !proxied && families[addr.Is4()] {
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

// sourcesOf takes blanks from around the blocks, and leaves those of the other
// family out: kube-proxy filters in each family by its own alone.
func sourcesOf(svc *corev1.Service, v4 bool) []string {
	var sources []string
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		block := strings.TrimSpace(text)
		start, _, _ := strings.Cut(block, "/")
		if addr, ok := looseAddr(start); ok && addr.Is4() == v4 {
			sources = append(sources, block)
		}
	}
	return sources
}

// learnHostPorts bids for where the pods of this node are reached by the node's
// address, and keeps the ports of those that are on the host's network.
func (k *knowledge) learnHostPorts(pod *corev1.Pod) {
	over := pod.Status.Phase == "Succeeded" || pod.Status.Phase == "Failed"
	if !k.isHere(pod) || over || !pod.Spec.HostNetwork && k.plugged(podName(pod)) != pod {
		return
	}
	turn := 0
	for _, container := range containersOf(pod) {
		for _, p := range container.Ports {
			turn++
			port := p.HostPort
			if pod.Spec.HostNetwork {
				port = p.ContainerPort
			}
			if port == 0 || !pod.Spec.HostNetwork && p.Protocol == "SCTP" && p.HostPort != p.ContainerPort {
				continue
			}
			for _, at := range k.hostAddresses(pod, p.HostIP) {
				if at.IsLoopback() && p.Protocol == "SCTP" && !pod.Spec.HostNetwork {
					continue
				}
				if pod.Spec.HostNetwork || slices.ContainsFunc(k.addresses[pod], func(addr netip.Addr) bool { return addr.Is4() == at.Is4() }) {
					k.bids = append(k.bids, bid{
						order: orderHostPort, made: pod.CreationTimestamp.Time, space: spaceOf(pod.Namespace), name: pod.Name, kind: "Pod", turn: turn,
						who: "Pod " + podName(pod) + " " + strconv.Itoa(turn), addr: at, port: uint16(port), protocol: numberOf(p.Protocol),
						won: func() { k.learnHostPort(pod, p, at) },
					})
				}
			}
		}
	}
}

func (k *knowledge) learnHostPort(pod *corev1.Pod, p corev1.ContainerPort, at netip.Addr) {
	if pod.Spec.HostNetwork {
		return // the kernel knows
	}
	for _, addr := range k.addresses[pod] {
		if addr.Is4() != at.Is4() {
			continue
		}
		s := &served{
			service: keyOf(pod), kind: model.KindHostPort, port: uint16(p.HostPort),
			servers: []server{{addr, uint16(p.ContainerPort), true}},
		}
		where := frontend{at, uint16(p.HostPort), numberOf(p.Protocol), model.ScopeInside}
		if at.IsLoopback() {
			k.loopback[where] = s
			return
		}
		k.frontends[where] = s
		other := *s
		where.scope = model.ScopeOutside
		k.frontends[where] = &other
		return
	}
}

// hostAddresses are those on which a host port answers: the node's own that it
// names, or, where it names none of a family or none at all, those that the
// operator leaves to such ports, loopback among them.
func (k *knowledge) hostAddresses(pod *corev1.Pod, text string) []netip.Addr {
	wanted, ok := looseAddr(text)
	if text != "" && !ok {
		return nil
	}
	var addrs []netip.Addr
	if ok && wanted.IsLoopback() {
		return []netip.Addr{wanted}
	}
	for _, addr := range append(slices.Clone(k.own), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")) {
		switch allowed := k.local.Options.HostPorts; {
		case text != "" && !wanted.IsUnspecified():
			if addr == wanted {
				addrs = append(addrs, addr)
			}
		case text != "" && addr.Is4() != wanted.Is4():
		case pod.Spec.HostNetwork, !allowed.Off && (allowed.Only == nil || isIn(allowed.Only, addr)):
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

// anybody is whether one of those listed, on whatever node, takes new flows. With
// nobody, packets are refused whatever the policy says.
func (k *knowledge) anybody(everybody []listed) bool {
	return slices.ContainsFunc(everybody, func(l listed) bool {
		_, isService := k.clusterAt[l.at.Addr()]
		return !isService && (l.ready || l.lingers)
	})
}

// serve says who of those listed is eligible: who is ready, else who lingers.
func (k *knowledge) serve(svc *corev1.Service, everybody []listed, local bool) []server {
	var there []listed
	for _, l := range everybody {
		if _, isService := k.clusterAt[l.at.Addr()]; isService {
			continue // who leads on is nobody who serves
		}
		if l.here || !local {
			there = append(there, l)
		}
	}
	there = once(there)
	anyReady := slices.ContainsFunc(there, func(l listed) bool { return l.ready })
	hinted := func(listed) bool { return true }
	if !local {
		hinted = k.hinted(there)
	}
	servers := make([]server, 0, len(there))
	mayServe := map[netip.AddrPort]bool{}
	for _, l := range there {
		mayServe[l.at] = true
		eligible := l.ready && hinted(l) || !anyReady && l.lingers
		servers = append(servers, server{l.at.Addr(), l.at.Port(), eligible})
	}
	// Whoever else is listed begins nothing new, and goes on with what was begun.
	for _, l := range once(everybody) {
		if _, isService := k.clusterAt[l.at.Addr()]; !isService && !mayServe[l.at] {
			servers = append(servers, server{l.at.Addr(), l.at.Port(), false})
		}
	}
	sort.Slice(servers, func(i, j int) bool {
		a, b := servers[i], servers[j]
		return a.addr.Less(b.addr) || a.addr == b.addr && a.port < b.port
	})
	return servers
}

// once tells each address once, by its best entries: one that is ready, else one that
// lingers. Of an address that several entries of a kind tell of, all their words
// hold.
func once(there []listed) []listed {
	kind := func(l listed) string {
		switch {
		case l.ready:
			return "ready"
		case l.lingers:
			return "lingers"
		}
		return "other"
	}
	told := map[netip.AddrPort]bool{}
	var all []listed
	for _, wanted := range []string{"ready", "lingers", "other"} {
		these := map[netip.AddrPort]listed{}
		for _, l := range there {
			if kind(l) != wanted || told[l.at] {
				continue
			}
			first := these[l.at]
			l.here = l.here || first.here
			l.forZones = append(slices.Clone(first.forZones), l.forZones...)
			l.forNodes = append(slices.Clone(first.forNodes), l.forNodes...)
			these[l.at] = l
		}
		for at, l := range these {
			told[at] = true
			all = append(all, l)
		}
	}
	return all
}

// hinted is by whom of those who are ready this node is to be served. Hints
// count when everybody has them and one fits: for the node, else for its zone.
func (k *knowledge) hinted(there []listed) func(listed) bool {
	sets := []struct {
		of   func(listed) []string
		name string
	}{
		{func(l listed) []string { return l.forNodes }, k.node},
		{func(l listed) []string { return l.forZones }, k.zoneOf(k.node)},
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
	var all []listed
	add := func(l listed) { all = append(all, l) }
	slicesOf := k.slices[spaceOf(svc.Namespace)+"/"+svc.Name]
	for _, slice := range slicesOf {
		k.listedIn(slice, port, v4, add)
	}
	if len(slicesOf) == 0 && len(svc.Spec.Selector) > 0 {
		k.selected(svc, port, v4, add)
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
		addr, ok := looseAddr(endpoint.Addresses[0])
		if !ok || addr.Is4() != v4 || !isHostAddress(addr) {
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
		for _, addr := range k.said[pod] {
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
