// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Whose an address is depends on those alone who claim it. So when one of them
// comes, goes or says something else, the claims to that address are settled
// again, as readOwners does for all, and whoever has won or lost it is made again.

// phase orders what is told of addresses.
type phase int

const (
	ofServices phase = iota
	ofNodes
	ofPods
	ofWorkloads
)

// turn is when something is told of an address.
type turn struct {
	phase  phase
	object metav1.Object
	sure   certainty // of a pod
	index  int       // of the address in the object
}

// toldOf is what was told of an address.
type toldOf struct {
	turn
	warnings []Warning
}

// noteLosses keeps what was told of an address since there were so many warnings.
func (c *compiler) noteLosses(addr netip.Addr, before int, at turn) {
	if c.kept != nil && len(c.warnings) > before {
		c.losses[addr] = append(c.losses[addr], toldOf{at, slices.Clone(c.warnings[before:])})
	}
}

func (c *compiler) compareTold(a, b toldOf) int {
	if order := cmp.Compare(a.phase, b.phase); order != 0 {
		return order
	}
	order := 0
	switch x := a.object.(type) {
	case *corev1.Service:
		order = compareClaims(x, b.object)
	case *corev1.Node:
		order = c.compareNodes(x, b.object.(*corev1.Node))
	case *corev1.Pod:
		order = cmp.Or(cmp.Compare(a.sure, b.sure), c.compareClaiming(x, b.object.(*corev1.Pod)))
	case *manifest.Workload:
		order = compareWorkloads(x, b.object.(*manifest.Workload))
	}
	return cmp.Or(order, cmp.Compare(a.index, b.index))
}

// keptClaims is who claims addresses, beside those who have them.
type keptClaims struct {
	rivals  map[netip.Addr][]metav1.Object // who claim an address that another has
	leading map[netip.Addr]map[string]bool // services that lead what comes to an address, which is none of theirs
	listed  map[netip.Addr]int             // how often slices list an address
	own     map[netip.Addr]bool            // this node's
	behind  map[backendKey]map[string]bool // slices by whom they list; nil: nobody asked yet
}

// backendKey is a pod by name, or an address, that a slice lists.
type backendKey struct {
	pod  string
	addr netip.Addr
}

func keepClaims(c *compiler) *keptClaims {
	k := &keptClaims{rivals: map[netip.Addr][]metav1.Object{}, leading: map[netip.Addr]map[string]bool{}, listed: map[netip.Addr]int{}, own: map[netip.Addr]bool{}}
	for _, addr := range slices.Concat(c.local.Gateways, c.local.Addresses, c.self.Addresses, c.self.Gateways) {
		k.own[addr] = true
	}
	for name, node := range c.objs.Nodes {
		for _, v := range c.vouchedBy(node) {
			if name == c.node {
				k.own[v.addr] = true
			} else if c.nodeAt[v.addr] != node {
				k.rival(v.addr, node)
			}
		}
	}
	for _, pod := range c.objs.Pods {
		for _, addr := range claimsOf(pod) {
			if c.podAt[addr] != pod {
				k.rival(addr, pod)
			}
		}
	}
	for _, w := range c.objs.Workloads {
		for _, addr := range w.Addresses {
			if c.workloadAt[addr] != w {
				k.rival(addr, w)
			}
		}
	}
	for key, svc := range c.objs.Services {
		for _, addr := range clusterIPs(svc) {
			if c.clusterAt[addr] != svc {
				k.rival(addr, svc)
			}
		}
		k.leads(key, svc, true)
	}
	for _, slice := range c.objs.EndpointSlices {
		k.list(slice, 1)
	}
	return k
}

func (k *keptClaims) rival(addr netip.Addr, object metav1.Object) {
	if !slices.Contains(k.rivals[addr], object) {
		k.rivals[addr] = append(k.rivals[addr], object)
	}
}

// leads notes, or forgets, the addresses to which a service would lead what comes
// from outside.
func (k *keptClaims) leads(key string, svc *corev1.Service, is bool) {
	if svc == nil {
		return
	}
	for _, text := range ledBy(svc) {
		addr, err := manifest.ParseLegacyAddr(text)
		if err != nil {
			continue
		}
		if enlist(k.leading, addr, key); !is {
			strike(k.leading, addr, key)
		}
	}
}

func ledBy(svc *corev1.Service) []string {
	texts := slices.Clone(svc.Spec.ExternalIPs)
	for i := range svc.Status.LoadBalancer.Ingress {
		texts = append(texts, svc.Status.LoadBalancer.Ingress[i].IP)
	}
	return texts
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	if svc == nil {
		return nil
	}
	return manifest.ClusterIPsOf(svc)
}

// claimsOf are the addresses that a pod wants for itself.
func claimsOf(pod *corev1.Pod) []netip.Addr {
	if pod == nil || manifest.IsFinished(pod) || pod.Spec.HostNetwork {
		return nil
	}
	return manifest.PodAddresses(pod)
}

// claims are addresses whose claims are settled again, and who claims them now.
type claims map[netip.Addr][]metav1.Object

// tenure is who has an address.
type tenure struct {
	pod      *corev1.Pod
	svc      *corev1.Service
	node     *corev1.Node
	workload *manifest.Workload
	doubted  bool
}

func (c *compiler) tenureOf(addr netip.Addr) tenure {
	return tenure{c.podAt[addr], c.clusterAt[addr], c.nodeAt[addr], c.workloadAt[addr], c.doubted[addr]}
}

// like is whether the same objects have it, be they other versions.
func (t tenure) like(other tenure) bool {
	return t.doubted == other.doubted && sameName(t.pod, other.pod) && sameName(t.svc, other.svc) && sameName(t.node, other.node) && sameName(t.workload, other.workload)
}

func sameName[T object](a, b T) bool {
	var none T
	if a == none || b == none {
		return a == b
	}
	return manifest.RefOf(a) == manifest.RefOf(b)
}

// lift has the claims to an address settled again.
func (i *Incremental) lift(cl claims, addr netip.Addr) {
	if _, lifted := cl[addr]; lifted {
		return
	}
	has, all := i.c.tenureOf(addr), slices.Clone(i.c.kept.claims.rivals[addr])
	if has.pod != nil {
		all = append(all, has.pod)
	}
	if has.svc != nil {
		all = append(all, has.svc)
	}
	if has.node != nil {
		all = append(all, has.node)
	}
	if has.workload != nil {
		all = append(all, has.workload)
	}
	cl[addr] = all
}

// drop takes an object's claims back, and enter makes them.
func (i *Incremental) drop(cl claims, addrs []netip.Addr, object metav1.Object) {
	for _, addr := range addrs {
		i.lift(cl, addr)
		cl[addr] = slices.DeleteFunc(cl[addr], func(other metav1.Object) bool { return other == object })
	}
}

func (i *Incremental) enter(cl claims, addrs []netip.Addr, object metav1.Object) {
	for _, addr := range addrs {
		i.lift(cl, addr)
		if !slices.Contains(cl[addr], object) {
			cl[addr] = append(cl[addr], object)
		}
	}
}

// resolve settles the claims to one address, in the order of readOwners, and keeps
// who has lost.
func (c *compiler) resolve(addr netip.Addr, all []metav1.Object) {
	var pods []*corev1.Pod
	var services []*corev1.Service
	var nodes []*corev1.Node
	var workloads []*manifest.Workload
	for _, object := range all {
		switch o := object.(type) {
		case *corev1.Pod:
			pods = append(pods, o)
		case *corev1.Service:
			services = append(services, o)
		case *corev1.Node:
			nodes = append(nodes, o)
		case *manifest.Workload:
			workloads = append(workloads, o)
		}
	}
	slices.SortFunc(pods, c.compareClaiming)
	slices.SortFunc(services, func(a, b *corev1.Service) int { return compareClaims(a, b) })
	slices.SortFunc(nodes, c.compareNodes)
	slices.SortFunc(workloads, compareWorkloads)
	delete(c.owners, addr)
	delete(c.podAt, addr)
	delete(c.clusterAt, addr)
	delete(c.nodeAt, addr)
	delete(c.workloadAt, addr)
	delete(c.plugged, addr)
	delete(c.doubted, addr)
	delete(c.losses, addr)
	c.warnings = nil
	if len(pods) > 0 && c.isPlugged(pods[0]) {
		c.plugged[addr] = pods[0]
	}
	for _, svc := range services {
		for i, own := range manifest.ClusterIPsOf(svc) {
			if own == addr {
				c.readClusterIP(svc, i, addr)
			}
		}
	}
	for _, node := range nodes {
		for i, v := range c.vouchedBy(node) {
			if v.addr == addr {
				before := len(c.warnings)
				c.readVouched(node, v)
				c.noteLosses(addr, before, turn{phase: ofNodes, object: node, index: i})
			}
		}
	}
	c.resolvePods(addr, pods)
	for _, w := range workloads {
		for i, own := range w.Addresses {
			if own == addr {
				c.readWorkload(w, i, addr)
			}
		}
	}
	rivals := c.kept.claims.rivals
	has := c.tenureOf(addr)
	won := func(o metav1.Object) bool { return o == has.pod || o == has.svc || o == has.node || o == has.workload }
	if rivals[addr] = slices.DeleteFunc(all, won); len(rivals[addr]) == 0 {
		delete(rivals, addr)
	}
}

func (c *compiler) resolvePods(addr netip.Addr, pods []*corev1.Pod) {
	for _, sure := range []certainty{pluggedHere, ofItsNode, unsaid, doubtful} {
		for _, pod := range pods {
			if c.certainty(pod, addr) != sure {
				continue
			}
			for i, own := range manifest.PodAddresses(pod) {
				if own == addr {
					before := len(c.warnings)
					c.mayHave(pod, i, addr, sure)
					c.noteLosses(addr, before, turn{phase: ofPods, object: pod, sure: sure, index: i})
				}
			}
		}
	}
}

// won are the addresses that a pod has, as readPods lists them.
func (c *compiler) won(pod *corev1.Pod) (addrs []netip.Addr) {
	claimed := claimsOf(pod)
	for _, sure := range []certainty{pluggedHere, ofItsNode, unsaid, doubtful} {
		for _, addr := range claimed {
			if c.podAt[addr] == pod && c.certainty(pod, addr) == sure && !slices.Contains(addrs, addr) {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}

// takeClaims settles the claims of what has changed, and notes who is to be made
// again. It is not ok where that is this node.
func (i *Incremental) takeClaims(change *change, cl claims, m *moves) bool {
	c, k := i.c, i.c.kept
	for key, pod := range change.pods {
		before := c.objs.Pods[key]
		if m.pods[key] = pod; before != nil {
			i.drop(cl, claimsOf(before), before)
		}
		if pod != nil {
			i.enter(cl, claimsOf(pod), pod)
		}
	}
	for key, w := range change.workloads {
		before := c.objs.Workloads[key]
		if m.workloads[key] = w; before != nil {
			i.drop(cl, before.Addresses, before)
		}
		if w != nil {
			i.enter(cl, w.Addresses, w)
		}
	}
	for key, svc := range change.services {
		before := c.objs.Services[key]
		k.claims.leads(key, before, false)
		k.claims.leads(key, svc, true)
		if before != nil {
			i.drop(cl, clusterIPs(before), before)
		}
		if svc != nil {
			i.enter(cl, clusterIPs(svc), svc)
		}
	}
	servers := map[netip.Addr]bool{}
	if slice := c.apiSlice(); slice != nil {
		for _, addr := range addressesOf(slice) {
			servers[addr] = true
		}
	}
	for addr := range cl {
		if k.claims.own[addr] {
			return i.no("an address of this node's is another's too")
		}
	}
	for addr, all := range cl {
		was, told := c.tenureOf(addr), len(c.losses[addr]) > 0
		if was.node != nil {
			m.removed = append(m.removed, c.addressOfNode(addr))
			delete(c.numbers, addr)
		}
		c.resolve(addr, all)
		is := c.tenureOf(addr)
		if len(k.claims.rivals[addr]) > 0 {
			i.met("an address in dispute")
		}
		if servers[addr] && (was.pod == nil) != (is.pod == nil) {
			i.met("a pod at an address of the API's servers")
			m.sockets[addr], m.addressed[addr], m.servers = true, true, true
		}
		m.told = m.told || told || len(c.losses[addr]) > 0
		i.moved(addr, was, is, m)
	}
	return true
}

// moved notes who has to do with it that an address is another's.
func (i *Incremental) moved(addr netip.Addr, was, is tenure, m *moves) {
	c, k := i.c, i.c.kept
	if is.node != nil {
		m.arrived = append(m.arrived, addr)
	}
	if was.node != is.node {
		m.sockets[addr], m.peers = true, true
	}
	single := netip.PrefixFrom(addr, addr.BitLen())
	if _, native := slices.BinarySearchFunc(k.blocks.native, single, netip.Prefix.Compare); native || c.blocks[single] != model.IdentityUnknown {
		m.prefixes[single] = true
	}
	for _, pod := range []*corev1.Pod{was.pod, is.pod} {
		if pod == nil || was.pod == is.pod {
			continue
		}
		key := manifest.NameOf(pod)
		if _, changed := m.pods[key]; !changed {
			m.pods[key] = pod
		}
	}
	for _, w := range []*manifest.Workload{was.workload, is.workload} {
		if w == nil || was.workload == is.workload {
			continue
		}
		if _, changed := m.workloads[w.Key()]; !changed {
			m.workloads[w.Key()] = w
		}
	}
	if was.like(is) {
		return
	}
	for key := range k.claims.leading[addr] {
		m.services[key], m.addressed[addr] = true, true
	}
	for _, svc := range []*corev1.Service{was.svc, is.svc} {
		if svc != nil {
			m.services[manifest.NameOf(svc)], m.addressed[addr] = true, true
		}
	}
	if !sameName(was.svc, is.svc) && k.claims.listed[addr] > 0 {
		m.listing[backendKey{addr: addr}] = true
	}
}

// ownersTold gives what is told before services are made.
func (k *kept) ownersTold() (told []Warning) {
	c := k.c
	for _, at := range k.annotatedInOrder() {
		told = append(told, k.ofAnnotations[at]...)
	}
	var all []toldOf
	for _, losses := range c.losses {
		all = append(all, losses...)
	}
	for _, losses := range k.ofNodeNames {
		all = append(all, losses)
	}
	slices.SortFunc(all, c.compareTold)
	told = append(told, c.toldFrom(all, ofServices)...)
	told = append(told, c.toldOfSelf...)
	told = append(told, c.toldFrom(all, ofNodes)...)
	told = append(told, c.toldOfOptions...)
	told = append(told, c.toldFrom(all, ofPods)...)
	for _, key := range slices.Sorted(maps.Keys(k.ofLabels)) {
		told = append(told, k.ofLabels[key]...)
	}
	return append(told, c.toldFrom(all, ofWorkloads)...)
}

func (c *compiler) toldFrom(all []toldOf, of phase) (told []Warning) {
	for _, t := range all {
		if t.phase == of {
			told = append(told, t.warnings...)
		}
	}
	return told
}

// list counts what a slice lists once more, or once less.
func (k *keptClaims) list(slice *discoveryv1.EndpointSlice, times int) {
	if slice == nil {
		return
	}
	for n := range slice.Endpoints {
		for _, text := range slice.Endpoints[n].Addresses {
			if addr, err := manifest.ParseLegacyAddr(text); err == nil {
				count(k.listed, addr, times)
			}
		}
	}
	if k.behind != nil {
		k.pointBehind(manifest.NameOf(slice), slice, times > 0)
	}
}

// pointBehind notes, or forgets, whom a slice lists.
func (k *keptClaims) pointBehind(key string, slice *discoveryv1.EndpointSlice, is bool) {
	point := func(at backendKey) {
		if enlist(k.behind, at, key); !is {
			strike(k.behind, at, key)
		}
	}
	for n := range slice.Endpoints {
		endpoint := &slice.Endpoints[n]
		if ref := endpoint.TargetRef; ref != nil && ref.Kind == "Pod" {
			point(backendKey{pod: cmp.Or(ref.Namespace, manifest.NamespaceOr(slice.Namespace)) + "/" + ref.Name})
		}
		for _, text := range endpoint.Addresses {
			if addr, err := manifest.ParseLegacyAddr(text); err == nil {
				point(backendKey{addr: addr})
			}
		}
	}
}

// listing gives the slices that list a pod or an address.
func (k *kept) listing(at backendKey) map[string]bool {
	if k.claims.behind == nil {
		k.claims.behind = map[backendKey]map[string]bool{}
		for key, slice := range k.c.objs.EndpointSlices {
			k.claims.pointBehind(key, slice, true)
		}
	}
	return k.claims.behind[at]
}

// isOfServers is whether a slice says where the API's servers are.
func isOfServers(key string, slice *discoveryv1.EndpointSlice) bool {
	return key == apiService || slice != nil && manifest.ServiceOf(slice) == apiService
}
