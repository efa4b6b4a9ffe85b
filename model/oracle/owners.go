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

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Several objects may say that one address is theirs. It is that of whose word
// is the best, which words says in its order.
type word int

const (
	wordGateway     word = iota // of the pods
	wordConnected               // a pod with a device on this node
	wordOfPodCIDR               // a pod, in a block that its node has for pods
	wordService                 // a ClusterIP
	wordThisNode                // by its Node
	wordKernel                  // this node, by its kernel
	wordOtherNode               // by its Node
	wordNoPodCIDR               // a pod of a node that has no such block of the family
	wordElsewhere               // a pod, outside of its node's blocks
	wordWorkload                // a workload
	wordOfPodsBlock             // a Node, in a block for pods: never believed
)

// claimant says that an address is its own.
type claimant struct {
	word    word
	leaving bool
	made    time.Time
	young   bool // of two, the younger is believed
	live    int  // of Nodes, how live it looks: the least is believed
	space   string
	name    string
	cluster uint8
	kind    model.OwnerKind

	pod  *corev1.Pod
	node *corev1.Node
	svc  *corev1.Service

	workload *manifest.Workload
}

// before is whether a is to be believed before b.
func (a *claimant) before(b *claimant) bool {
	switch {
	case a.word != b.word:
		return a.word < b.word
	case a.cluster != b.cluster:
		return a.cluster < b.cluster
	case a.live != b.live:
		return a.live < b.live
	case a.leaving != b.leaving:
		return b.leaving
	case !a.made.Equal(b.made) && a.young:
		return madeLater(a.made, b.made)
	case !a.made.Equal(b.made):
		return madeLater(b.made, a.made)
	case a.space != b.space:
		return a.space < b.space
	case a.name != b.name:
		return a.name < b.name
	}
	return a.kind < b.kind
}

// madeLater: what says no time was made last.
func madeLater(a, b time.Time) bool {
	if a.IsZero() || b.IsZero() {
		return a.IsZero()
	}
	return a.After(b)
}

// learnOwners finds whose all addresses are, and who has which.
func (k *knowledge) learnOwners() {
	all := map[netip.Addr]claimant{}
	claim := func(addr netip.Addr, c claimant) {
		if held, found := all[addr]; !found || c.before(&held) {
			all[addr] = c
		}
	}
	for _, gateway := range k.local.Gateways {
		claim(gateway, claimant{word: wordGateway})
	}
	for _, device := range k.local.Devices {
		for _, gateway := range device.Gateways {
			node := k.objs.Nodes[k.node]
			if node == nil || !slices.Contains(saidOfNode(node), gateway) {
				claim(gateway, claimant{word: wordGateway})
			}
		}
	}
	for _, svc := range k.objs.Services {
		for _, addr := range clusterAddresses(svc) {
			claim(addr, claimant{word: wordService, made: svc.CreationTimestamp.Time, space: spaceOf(svc.Namespace), name: svc.Name, svc: svc})
		}
	}
	for name := range k.local.Devices {
		if pod := k.objs.Pods[name.String()]; pod != nil && k.connected(pod) && k.hasOwn(pod) {
			for _, addr := range addressesIn(pod) {
				claim(addr, k.claimOf(pod, addr))
			}
		}
	}
	self := k.objs.Nodes[k.node]
	k.learnPodBlocks(all)
	for _, addr := range k.local.Addresses {
		claim(addr, claimant{word: wordKernel, node: self})
	}
	for _, node := range k.objs.Nodes {
		c := claimant{word: wordOtherNode, live: k.liveness(node), made: node.CreationTimestamp.Time, young: true, name: node.Name, node: node}
		if node == self {
			c.word = wordThisNode
		}
		for _, addr := range saidOfNode(node) {
			said := c
			if _, block := k.blockOf(addr); block && node != self {
				said.word = wordOfPodsBlock
			}
			claim(addr, said)
		}
	}
	for _, pod := range k.objs.Pods {
		k.addresses[pod] = addressesIn(pod)
		k.said[pod] = k.addresses[pod]
		if !k.hasOwn(pod) {
			continue
		}
		k.addresses[pod] = nil
		for _, addr := range k.said[pod] {
			claim(addr, k.claimOf(pod, addr))
		}
	}
	for _, w := range k.objs.Workloads {
		for _, addr := range w.Addresses {
			claim(addr, claimant{
				word: wordWorkload, cluster: w.Cluster, kind: w.Kind, made: w.CreationTimestamp.Time,
				space: spaceOf(w.Namespace), name: w.Name, workload: w,
			})
		}
	}
	k.keepOwners(all)
}

// hasOwn is whether a pod may have addresses of its own.
func (k *knowledge) hasOwn(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Status.Phase != "Succeeded" && pod.Status.Phase != "Failed"
}

func (k *knowledge) claimOf(pod *corev1.Pod, addr netip.Addr) claimant {
	return claimant{
		word: k.wordOf(pod, addr), leaving: pod.DeletionTimestamp != nil && !k.connected(pod),
		made: pod.CreationTimestamp.Time, young: true, space: spaceOf(pod.Namespace), name: pod.Name, pod: pod,
	}
}

// keepOwners gives everybody what is theirs.
func (k *knowledge) keepOwners(all map[netip.Addr]claimant) {
	for addr, c := range all {
		switch {
		case c.word == wordOfPodsBlock:
		case c.svc != nil:
			k.clusterAt[addr] = c.svc
		case c.pod != nil:
			k.pods[addr] = c.pod
			k.doubted[addr] = c.word == wordElsewhere
		case c.workload != nil:
			k.workloads[addr] = c.workload
		case c.node != nil:
			k.nodeOf[addr] = c.node.Name
			k.vouched[addr] = c.word != wordKernel
		case c.word == wordKernel:
			k.nodeOf[addr] = k.node
		}
	}
	for pod, said := range k.said {
		for _, addr := range said {
			if k.pods[addr] == pod && !slices.Contains(k.addresses[pod], addr) {
				k.addresses[pod] = append(k.addresses[pod], addr)
			}
		}
	}
	var own []netip.Addr
	if self := k.objs.Nodes[k.node]; self != nil {
		own = saidOfNode(self)
	}
	for _, addr := range append(own, k.local.Addresses...) {
		if k.nodeOf[addr] == k.node && !slices.Contains(k.own, addr) {
			k.own = append(k.own, addr)
		}
	}
}

func clusterAddresses(svc *corev1.Service) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
		if addr, ok := looseAddr(text); ok && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// looseAddr reads an address whose numbers may begin with zeros, and IPv4 that
// stands behind ::ffff:.
func looseAddr(text string) (netip.Addr, bool) {
	head, octets := "", text
	if i := strings.LastIndex(text, ":"); i >= 0 {
		head, octets = text[:i+1], text[i+1:]
	}
	if strings.Contains(octets, ".") {
		var numbers []string
		for _, octet := range strings.Split(octets, ".") {
			n, err := strconv.ParseUint(octet, 10, 8)
			if err != nil {
				return netip.Addr{}, false
			}
			numbers = append(numbers, strconv.FormatUint(n, 10))
		}
		octets = strings.Join(numbers, ".")
	}
	addr, err := netip.ParseAddr(head + octets)
	return addr.Unmap(), err == nil && addr.Zone() == ""
}

// saidOfNode are the addresses of hosts that a Node lists.
func saidOfNode(node *corev1.Node) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range node.Status.Addresses {
		addr, ok := looseAddr(a.Address)
		if !ok || a.Type != "InternalIP" && a.Type != "ExternalIP" || !isHostAddress(addr) {
			continue
		}
		addrs = append(addrs, addr)
	}
	return addrs
}

// isHostAddress is whether others may reach a host by an address.
func isHostAddress(addr netip.Addr) bool {
	return !addr.IsLoopback() && !addr.IsMulticast() && !addr.IsUnspecified() && !addr.IsLinkLocalUnicast()
}

// liveness is how a Node looks: this one lives, one that is ready does, and of
// others one that has been given blocks for pods was a node once.
func (k *knowledge) liveness(node *corev1.Node) int {
	looks := 4
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" && condition.Status == "True" {
			looks = 2
		}
	}
	if node.Name == k.node {
		looks = 0
	}
	if len(saidBlocks(node)) == 0 {
		looks++
	}
	return looks
}

func saidBlocks(node *corev1.Node) []netip.Prefix {
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 {
		texts = []string{node.Spec.PodCIDR}
	}
	var blocks []netip.Prefix
	for _, text := range texts {
		first, length, _ := strings.Cut(text, "/")
		bits, err := strconv.Atoi(length)
		addr, ok := looseAddr(first)
		if !ok || err != nil {
			continue
		}
		if addr.Is4() && strings.Contains(first, ":") {
			bits -= 96
		}
		if block, err := addr.Prefix(bits); err == nil {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// blockFor is a block that a node has for pods.
type blockFor struct {
	netip.Prefix
	node *corev1.Node
}

// learnPodBlocks goes from the Node that looks the most alive on. Blocks do not
// overlap, and hold no address of their own node, of this one, or of one that
// looks more alive.
func (k *knowledge) learnPodBlocks(sofar map[netip.Addr]claimant) {
	var nodes []*corev1.Node
	for _, node := range k.objs.Nodes {
		nodes = append(nodes, node)
	}
	sort.Slice(nodes, func(i, j int) bool {
		at := func(n *corev1.Node) *claimant {
			return &claimant{live: k.liveness(n), made: n.CreationTimestamp.Time, young: true, name: n.Name}
		}
		return at(nodes[i]).before(at(nodes[j]))
	})
	var fixed []netip.Addr
	for _, addr := range k.local.Addresses {
		if _, taken := sofar[addr]; !taken {
			fixed = append(fixed, addr)
		}
	}
	for _, node := range nodes {
		for _, addr := range saidOfNode(node) {
			held, taken := sofar[addr]
			if lost := node.Name == k.node && taken && held.word < wordThisNode; !lost {
				fixed = append(fixed, addr)
			}
		}
		for _, block := range saidBlocks(node) {
			good := true
			for _, other := range k.blocks {
				good = good && (other.node == node || !other.Overlaps(block))
			}
			for _, addr := range fixed {
				good = good && (node.Name == k.node || !block.Contains(addr))
			}
			if good {
				k.blocks = append(k.blocks, blockFor{block, node})
				k.blocksOf[node] = append(k.blocksOf[node], block)
			}
		}
	}
}

func (k *knowledge) blockOf(addr netip.Addr) (blockFor, bool) {
	for _, block := range k.blocks {
		if block.Contains(addr) {
			return block, true
		}
	}
	return blockFor{}, false
}

// connected is whether a pod has a device on this node.
func (k *knowledge) connected(pod *corev1.Pod) bool {
	_, found := k.local.Devices[keyOf(pod)]
	return found && k.isHere(pod)
}

// wordOf is what a pod's word about an address is worth.
func (k *knowledge) wordOf(pod *corev1.Pod, addr netip.Addr) word {
	node := k.objs.Nodes[pod.Spec.NodeName]
	if k.connected(pod) {
		return wordConnected
	}
	if pod.Spec.NodeName != "" && node == nil {
		return wordElsewhere
	}
	worth := wordNoPodCIDR
	for _, block := range k.blocksOf[node] {
		if block.Addr().Is4() != addr.Is4() {
			continue
		}
		if block.Contains(addr) && !slices.Contains(saidOfNode(node), addr) && !(node.Name == k.node && slices.Contains(k.local.Addresses, addr)) {
			return wordOfPodCIDR
		}
		worth = wordElsewhere
	}
	return worth
}

// isAnothers is whether an address is wholly another service's, a pod's or the
// gateway's, so that no frontend of svc may be there. A pod that is doubted keeps
// off external addresses alone, and so does a workload.
func (k *knowledge) isAnothers(addr netip.Addr, svc *corev1.Service, external bool) bool {
	other := k.clusterAt[addr]
	return k.pods[addr] != nil && (external || !k.doubted[addr]) || k.workloads[addr] != nil && external || k.isGateway(addr) || other != nil && other != svc
}

// mayBeExternal is whether the operator lets services have an external address.
func (k *knowledge) mayBeExternal(addr netip.Addr) bool {
	allowed := k.local.Options.ExternalIPs
	if allowed.Only == nil {
		return !allowed.Off && !k.vouched[addr]
	}
	return !allowed.Off && isIn(allowed.Only, addr)
}

func isIn(blocks []netip.Prefix, addr netip.Addr) bool {
	for _, block := range blocks {
		if block.Contains(addr) {
			return true
		}
	}
	return false
}

// bid asks for a place where packets arrive.
type bid struct {
	order    int // of the kinds
	made     time.Time
	space    string
	name     string
	kind     string // of the object
	turn     int    // within the object
	who      string
	addr     netip.Addr // invalid: at all addresses of nodes
	port     uint16
	protocol model.Protocol
	won      func()
}

// Orders of bids: who is asked first has the place.
const (
	orderClusterIP = iota
	orderNodePort
	orderLoadBalancer
	orderHostPort
	orderExternalIP
)

type place struct {
	addr     netip.Addr
	port     uint16
	protocol model.Protocol
}

// grant gives places to bids, the best first.
func (k *knowledge) grant() {
	sort.SliceStable(k.bids, func(i, j int) bool {
		a, b := &k.bids[i], &k.bids[j]
		switch {
		case a.order != b.order:
			return a.order < b.order
		case !a.made.Equal(b.made):
			return madeLater(b.made, a.made)
		case a.space != b.space:
			return a.space < b.space
		case a.name != b.name:
			return a.name < b.name
		case a.kind != b.kind:
			return a.kind < b.kind
		}
		return a.turn < b.turn
	})
	held := k.held
	for _, port := range k.reserved() {
		held[place{netip.Addr{}, port, model.ProtocolTCP}] = "a node"
	}
	for addr, name := range k.nodeOf {
		if node := k.objs.Nodes[name]; node != nil {
			held[place{addr, uint16(node.Status.DaemonEndpoints.KubeletEndpoint.Port), model.ProtocolTCP}] = "a kubelet"
		}
	}
	for at := range k.apiSockets() {
		held[place{at.Addr(), at.Port(), model.ProtocolTCP}] = "an API server"
	}
	for _, b := range k.bids {
		exact := place{b.addr, b.port, b.protocol}
		by := held[exact]
		if _, ofNode := k.nodeOf[b.addr]; by == "" && (ofNode || b.addr.IsLoopback()) {
			if by = held[place{netip.Addr{}, b.port, b.protocol}]; by == b.who {
				by = ""
			}
		}
		switch {
		case by == "":
			held[exact] = b.who
			b.won()
		case by == b.who && !b.addr.IsValid(): // its own number, in the other family
			b.won()
		}
	}
}

// reserved are the ports that are the nodes' own.
func (k *knowledge) reserved() []uint16 {
	if k.local.Options.ReservedPorts != nil {
		return k.local.Options.ReservedPorts
	}
	return []uint16{2379, 2380, 2381, 9879, 10248, 10250, 10256, 10257, 10259}
}

// apiSockets are where the API server says that it is.
func (k *knowledge) apiSockets() map[netip.AddrPort]bool {
	sockets := map[netip.AddrPort]bool{}
	if slice := k.objs.EndpointSlices["default/kubernetes"]; slice != nil {
		for _, endpoint := range slice.Endpoints {
			for _, text := range endpoint.Addresses {
				addr, ok := looseAddr(text)
				for _, port := range slice.Ports {
					if ok && port.Port != nil && k.pods[addr] == nil {
						sockets[netip.AddrPortFrom(addr, uint16(*port.Port))] = true
					}
				}
			}
		}
	}
	return sockets
}
