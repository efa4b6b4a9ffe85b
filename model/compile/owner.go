// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// An address that an object names is a claim, and of two who claim one address
// the better claim holds, on all nodes and in every compile alike: the pods'
// gateways; pods whose devices are here; this node; addresses of Services,
// which the API server gives each to one; other nodes, outside of what is given
// to pods; other pods; workloads. The object that loses is kept, without that
// address.

// lose leaves out one field of an object, since what it claims is another's, or
// nobody's to claim.
func (c *compiler) lose(obj metav1.Object, field, format string, args ...any) {
	c.warnings = append(c.warnings, Warning{Object: manifest.RefOf(obj), Field: field, Problem: fmt.Sprintf(format, args...), Lost: true})
}

// loss is what is told of a field that is left out, whatever address it is about.
type loss struct {
	object       model.Ref
	field, about string
}

// owner is whose an address or a socket is: an object's, or what belongs to
// it, or what is no object's.
type owner struct {
	what   string // empty: the object itself
	object model.Ref
}

func (o owner) String() string {
	return strings.TrimSpace(o.what + " " + o.object.String())
}

// ownerOf is an object itself.
func ownerOf(obj metav1.Object) owner { return owner{object: manifest.RefOf(obj)} }

// ignore leaves out one field of an object that says nothing here.
func (c *compiler) ignore(obj metav1.Object, field, format string, args ...any) {
	c.lose(obj, field, format, args...)
	last := &c.warnings[len(c.warnings)-1]
	last.Lost, last.Ignored = false, true
}

// loseOnce says the same of a field once: every address of the node would.
func (c *compiler) loseOnce(obj metav1.Object, field, format string, args ...any) {
	key := loss{manifest.RefOf(obj), field, format + fmt.Sprint(args[1:]...)}
	if !c.told[key] {
		c.lose(obj, field, format, args...)
		c.tellings = append(c.tellings, key)
	}
	if c.told == nil {
		c.told = map[loss]bool{}
	}
	c.told[key] = true
}

// compareAge orders the older first. What has no time yet was made just now.
func compareAge(a, b metav1.Object) int {
	x, y := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	switch {
	case x.IsZero() && y.IsZero():
		return 0
	case x.IsZero():
		return 1
	case y.IsZero():
		return -1
	}
	return x.Compare(y.Time)
}

// compareClaims orders objects of one rank: the older first, then by name.
func compareClaims(a, b metav1.Object) int {
	return cmp.Or(compareAge(a, b), cmp.Compare(manifest.NamespaceOr(a.GetNamespace()), manifest.NamespaceOr(b.GetNamespace())), cmp.Compare(a.GetName(), b.GetName()))
}

// sortedClaims gives objects that are in the order of their names.
func sortedClaims[T metav1.Object](inOrder []T) []T {
	all := slices.Clone(inOrder)
	slices.SortStableFunc(all, func(a, b T) int { return compareClaims(a, b) })
	return all
}

// readOwners finds whose all addresses are.
func (c *compiler) readOwners() {
	c.readGateways()
	c.readPlugged()
	c.readClusterIPs()
	c.readNodes()
	c.readPods()
	c.readWorkloads()
}

func (c *compiler) readGateways() {
	c.self = model.Node{Name: c.node, Gateways: slices.Clone(c.local.Gateways), Uplinks: slices.Clone(c.local.Uplinks)}
	for _, gateway := range c.local.Gateways {
		c.owners[gateway] = owner{what: "the pods' gateway"}
	}
	for _, name := range slices.SortedFunc(maps.Keys(c.local.Devices), model.Key.Compare) {
		for _, gateway := range c.local.Devices[name].Gateways {
			if slices.Contains(c.self.Gateways, gateway) {
				continue
			}
			if node := c.objs.Nodes[c.node]; node != nil && slices.ContainsFunc(c.vouchedBy(node), func(v vouched) bool { return v.addr == gateway }) {
				continue // another plugin's gateway may be an address of the node
			}
			c.self.Gateways = append(c.self.Gateways, gateway)
			c.owners[gateway] = owner{what: "the gateway of " + name.Ref().String()}
		}
	}
}

// readPlugged finds the pods that have their network here already: whatever
// others say of their addresses, they keep them.
func (c *compiler) readPlugged() {
	c.plugged = map[netip.Addr]*corev1.Pod{}
	for _, pod := range c.claimingPods() {
		if !c.isPlugged(pod) {
			break // as all that follow
		}
		for _, addr := range manifest.PodAddresses(pod) {
			if c.plugged[addr] == nil {
				c.plugged[addr] = pod
			}
		}
	}
}

// readClusterIPs gives each address of a Service to one. The API server does so
// too, and takes them from a range of their own.
func (c *compiler) readClusterIPs() {
	c.clusterAt = make(map[netip.Addr]*corev1.Service, len(c.objs.Services))
	for _, svc := range sortedClaims(c.servicesInOrder) {
		for i, addr := range manifest.ClusterIPsOf(svc) {
			c.readClusterIP(svc, i, addr)
		}
	}
}

func (c *compiler) readClusterIP(svc *corev1.Service, i int, addr netip.Addr) {
	before := len(c.warnings)
	if owner, taken := c.owners[addr]; taken {
		c.lose(svc, fmt.Sprintf("spec.clusterIPs[%d]", i), "%s is the address of %s, whose claim comes first: give the service another", addr, owner)
	} else if pod := c.plugged[addr]; pod != nil {
		c.losePodAddress(svc, i, addr, pod)
	} else {
		c.clusterAt[addr], c.owners[addr] = svc, ownerOf(svc)
		c.clusterIPs.widen(addr)
	}
	c.noteLosses(addr, before, turn{phase: ofServices, object: svc, index: i})
}

func (c *compiler) losePodAddress(svc *corev1.Service, i int, addr netip.Addr, pod *corev1.Pod) {
	c.lose(svc, fmt.Sprintf("spec.clusterIPs[%d]", i), "%s is the address of %s, whose claim comes first: give the service another", addr, manifest.RefOf(pod))
}

// span is the least and the greatest address of each family.
type span [2]struct{ first, last netip.Addr }

func (s *span) widen(addr netip.Addr) {
	of := &s[familyOf(addr)]
	if !of.first.IsValid() || addr.Less(of.first) {
		of.first = addr
	}
	if !of.last.IsValid() || of.last.Less(addr) {
		of.last = addr
	}
}

// serviceAt gives the service whose own address it is; nil: none's, as is so of most
// that are asked about, which lie elsewhere.
func (c *compiler) serviceAt(addr netip.Addr) *corev1.Service {
	of := &c.clusterIPs[familyOf(addr)]
	if addr.Less(of.first) || of.last.Less(addr) {
		return nil
	}
	return c.clusterAt[addr]
}

// vouched is an address of which a Node says that it is its own.
type vouched struct {
	addr     netip.Addr
	internal bool
	field    string
}

// vouchedBy are those addresses of a Node that can be a host's.
func (c *compiler) vouchedBy(node *corev1.Node) []vouched {
	all, read := c.vouchers[node]
	if read {
		return all
	}
	for i, a := range node.Status.Addresses {
		if addr := hostAddress(a); addr.IsValid() {
			all = append(all, vouched{addr, a.Type == corev1.NodeInternalIP, fmt.Sprintf("status.addresses[%d]", i)})
		}
	}
	c.vouchers[node] = all
	return all
}

// hostAddress reads an address of a Node; the zero Addr where it is a name, or
// no address of a host.
func hostAddress(a corev1.NodeAddress) netip.Addr {
	addr, err := manifest.ParseLegacyAddr(a.Address)
	if err != nil || a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP || !manifest.ReachesHost(addr) {
		return netip.Addr{}
	}
	return addr
}

// isReady is whether the kubelet has told lately that the node lives.
func isReadyNode(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(condition corev1.NodeCondition) bool {
		return condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue
	})
}

// compareNodes orders Nodes by whom to believe: this node itself, then those
// that are ready, those that have pods' networks, and the younger, since the
// Node of a machine that is gone stays for a while and is older than that of
// the machine which has its address now.
func (c *compiler) compareNodes(a, b *corev1.Node) int {
	rank := func(node *corev1.Node) int {
		switch {
		case node.Name == c.node:
			return 0
		case isReadyNode(node):
			return 1
		}
		return 2
	}
	blocks := func(node *corev1.Node) int {
		if len(podBlocksOf(node)) > 0 {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(blocks(a), blocks(b)), -compareAge(a, b), cmp.Compare(a.Name, b.Name))
}

func (c *compiler) nodesInOrder() []*corev1.Node {
	nodes := manifest.InOrder(c.objs.Nodes)
	slices.SortStableFunc(nodes, c.compareNodes)
	return nodes
}

func podBlocksOf(node *corev1.Node) []netip.Prefix {
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 && node.Spec.PodCIDR != "" {
		texts = []string{node.Spec.PodCIDR}
	}
	var blocks []netip.Prefix
	for _, text := range texts {
		if block, err := manifest.ParseLegacyBlock(text); err == nil {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

func (c *compiler) readNodes() {
	nodes := c.nodesInOrder()
	self := c.objs.Nodes[c.node]
	before := len(c.warnings)
	if self != nil {
		c.zone = self.Labels[corev1.LabelTopologyZone]
		c.readSelf(self)
	} else if len(nodes) > 0 {
		c.errs = append(c.errs, fmt.Errorf("compile node %s: it is not among the nodes: add the Node, or name one of them: %w", c.node, manifest.ErrNotFound))
	}
	c.readKernelAddresses()
	c.readPodBlocks(nodes)
	c.toldOfSelf = slices.Clone(c.warnings[before:])
	for _, node := range nodes {
		if node != self {
			c.readNode(node)
		}
	}
	before = len(c.warnings)
	c.nodePortAddresses = c.chooseNodePortAddresses()
	c.self.Masquerade = c.masquerade()
	c.toldOfOptions = slices.Clone(c.warnings[before:])
	if c.self.Masquerade != nil {
		c.self.Tunnel = c.local.Options.TunnelInUse()
	}
}

// readSelf believes this node's Node of itself, but for what is a service's or a
// pod's.
func (c *compiler) readSelf(self *corev1.Node) {
	c.vouched = map[netip.Addr]bool{}
	for _, v := range c.vouchedBy(self) {
		if c.mayVouch(self, v) && !slices.Contains(c.self.Addresses, v.addr) {
			c.self.Addresses = append(c.self.Addresses, v.addr)
			c.vouched[v.addr] = true
		}
	}
	c.ignoreNames(self)
}

// readKernelAddresses adds what the node has and its Node does not list.
func (c *compiler) readKernelAddresses() {
	self := owner{object: model.Ref{Kind: "Node", Name: c.node}}
	for _, addr := range c.local.Addresses {
		if _, taken := c.owners[addr]; !taken && c.plugged[addr] == nil && !slices.Contains(c.self.Addresses, addr) {
			c.self.Addresses, c.owners[addr] = append(c.self.Addresses, addr), self
		}
	}
}

// readNode believes another node of itself, where nobody has a better claim.
func (c *compiler) readNode(node *corev1.Node) {
	for i, v := range c.vouchedBy(node) {
		before := len(c.warnings)
		c.readVouched(node, v)
		c.noteLosses(v.addr, before, turn{phase: ofNodes, object: node, index: i})
	}
	before := len(c.warnings)
	if c.ignoreNames(node); len(c.warnings) > before && c.kept != nil {
		c.kept.ofNodeNames[node.Name] = toldOf{turn{phase: ofNodes, object: node, index: afterAddresses}, slices.Clone(c.warnings[before:])}
	}
}

func (c *compiler) readVouched(node *corev1.Node, v vouched) {
	if c.nodeAt[v.addr] == node || !c.mayVouch(node, v) {
		return // it may have one address as internal and external
	}
	if block, owner := c.podBlocks.overlaps(netip.PrefixFrom(v.addr, v.addr.BitLen()), model.Ref{}); !owner.IsZero() {
		c.lose(node, v.field, "%s lies in %s, which are addresses of pods: a Node vouches for its own alone", v.addr, block)
		delete(c.owners, v.addr)
		c.crossed = true
		return
	}
	c.nodeAt[v.addr] = node
}

// mayVouch records that an address is a node's, unless it is another's.
func (c *compiler) mayVouch(node *corev1.Node, v vouched) bool {
	owner, taken := c.owners[v.addr]
	if pod := c.plugged[v.addr]; pod != nil {
		owner, taken = ownerOf(pod), true
	}
	if taken && owner != ownerOf(node) {
		c.lose(node, v.field, "%s is the address of %s, whose claim comes first: a Node vouches for its own alone", v.addr, owner)
		return false
	}
	c.owners[v.addr] = ownerOf(node)
	return true
}

// ignoreNames leaves out addresses that are none of a host that others reach.
func (c *compiler) ignoreNames(node *corev1.Node) {
	for i, a := range node.Status.Addresses {
		if (a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP) && !hostAddress(a).IsValid() {
			c.ignore(node, fmt.Sprintf("status.addresses[%d]", i), "%q is not the address of a host that others reach: give a unicast address, neither loopback nor link-local", a.Address)
		}
	}
}

// readPodBlocks believes a Node of its podCIDRs where they hold neither its own
// address nor one of a Node that is to be believed before it, and none that is
// given to such a one's pods.
func (c *compiler) readPodBlocks(nodes []*corev1.Node) {
	var all []netip.Prefix
	for _, node := range nodes {
		all = append(all, podBlocksOf(node)...)
	}
	addresses := newCover(all)
	c.podBlocks, c.podBlocksOf = newCover(all), map[*corev1.Node][]netip.Prefix{}
	for _, addr := range c.self.Addresses {
		addresses.add(netip.PrefixFrom(addr, addr.BitLen()), model.Ref{Kind: "Node", Name: c.node})
	}
	for _, node := range nodes {
		for _, v := range c.vouchedBy(node) {
			if node.Name != c.node {
				addresses.add(netip.PrefixFrom(v.addr, v.addr.BitLen()), manifest.RefOf(node))
			}
		}
		for i, block := range podBlocksOf(node) {
			field := fmt.Sprintf("spec.podCIDRs[%d]", i)
			if other, owner := c.podBlocks.overlaps(block, manifest.RefOf(node)); !owner.IsZero() {
				c.lose(node, field, "%s overlaps %s of %s, whose claim comes first: give the node another", block, other, owner)
				c.crossed = true
			} else if held, owner := addresses.overlaps(block, model.Ref{}); !owner.IsZero() && node.Name != c.node {
				c.lose(node, field, "%s holds %s of %s: give the node another", block, held.Addr(), owner)
				c.crossed = true
			} else {
				c.podBlocks.add(block, manifest.RefOf(node))
				c.podBlocksOf[node] = append(c.podBlocksOf[node], block)
			}
		}
	}
}

// certainty is how well it is known that a pod has an address.
type certainty int

const (
	pluggedHere certainty = iota // its device is on this node
	ofItsNode                    // its node's podCIDRs hold it
	unsaid                       // its node has no podCIDR of the family
	doubtful
)

func (c *compiler) certainty(pod *corev1.Pod, addr netip.Addr) certainty {
	node := c.objs.Nodes[pod.Spec.NodeName]
	switch {
	case c.isPlugged(pod):
		return pluggedHere
	case node == nil && pod.Spec.NodeName != "":
		return doubtful // of a node that is gone
	}
	sure := unsaid
	for _, block := range c.podBlocksOf[node] {
		if block.Addr().Is4() != addr.Is4() {
			continue
		}
		if block.Contains(addr) && !c.isSaidOf(node, addr) {
			return ofItsNode
		}
		sure = doubtful
	}
	return sure
}

// isSaidOf is whether an address is a node's by its Node or its kernel: it may
// have one of its podCIDR, for a bridge.
func (c *compiler) isSaidOf(node *corev1.Node, addr netip.Addr) bool {
	return node.Name == c.node && slices.Contains(c.local.Addresses, addr) ||
		slices.ContainsFunc(c.vouchedBy(node), func(v vouched) bool { return v.addr == addr })
}

// isPlugged is whether a pod's device is on this node.
func (c *compiler) isPlugged(pod *corev1.Pod) bool {
	_, found := c.local.Devices[manifest.KeyOf(pod)]
	return found && c.isLocal(pod)
}

func (c *compiler) isLocal(pod *corev1.Pod) bool {
	if pod.Spec.NodeName == "" {
		return len(c.objs.Nodes) <= 1
	}
	return pod.Spec.NodeName == c.node
}

// claimingPods are those that have addresses of their own, in the order in which
// they are believed: those whose devices are here, then those that are not
// being deleted, and the younger, since an address is given anew when its pod is
// gone.
func (c *compiler) claimingPods() []*corev1.Pod {
	if c.claiming != nil {
		return c.claiming
	}
	pods := []*corev1.Pod{}
	turn := map[*corev1.Pod]int{}
	for _, pod := range c.objs.Pods {
		// A finished pod's address may be another's by now; one on the host's
		// network has none of its own.
		if manifest.IsFinished(pod) || pod.Spec.HostNetwork {
			continue
		}
		pods = append(pods, pod)
		turn[pod] = c.turnOf(pod)
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(turn[a], turn[b]), compareYounger(a, b))
	})
	c.claiming = pods
	return pods
}

// compareYounger orders pods that are believed alike: the younger first.
func compareYounger(a, b *corev1.Pod) int {
	return cmp.Or(-compareAge(a, b), cmp.Compare(manifest.NamespaceOr(a.Namespace), manifest.NamespaceOr(b.Namespace)), cmp.Compare(a.Name, b.Name))
}

// turnOf is how early a pod is believed: see claimingPods.
func (c *compiler) turnOf(pod *corev1.Pod) int {
	if c.isPlugged(pod) {
		return 0
	}
	return 1 + boolToInt(pod.DeletionTimestamp != nil)
}

func (c *compiler) compareClaiming(a, b *corev1.Pod) int {
	return cmp.Or(cmp.Compare(c.turnOf(a), c.turnOf(b)), compareYounger(a, b))
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// readPods gives pods the addresses that nobody has a better claim to.
func (c *compiler) readPods() {
	have := map[*corev1.Pod][]netip.Addr{}
	pods := c.claimingPods()
	for _, sure := range []certainty{pluggedHere, ofItsNode, unsaid, doubtful} {
		for _, pod := range pods {
			for i, addr := range manifest.PodAddresses(pod) {
				if c.certainty(pod, addr) != sure {
					continue
				}
				before := len(c.warnings)
				if c.mayHave(pod, i, addr, sure) {
					have[pod] = append(have[pod], addr)
				}
				c.noteLosses(addr, before, turn{phase: ofPods, object: pod, sure: sure, index: i})
			}
		}
	}
	for _, object := range manifest.InOrder(c.objs.Pods) {
		c.requireNamespace(object)
		before := len(c.warnings)
		if c.ignoreReservedLabels(object); len(c.warnings) > before && c.kept != nil {
			c.kept.ofLabels[manifest.NameOf(object)] = slices.Clone(c.warnings[before:])
		}
		if !manifest.IsFinished(object) && !object.Spec.HostNetwork && object.Spec.NodeName == "" && len(c.objs.Nodes) > 1 && len(manifest.PodAddresses(object)) > 0 {
			c.fail(object, "spec.nodeName", "is empty, and there are %d nodes: name the pod's", len(c.objs.Nodes))
		}
		if len(have[object]) > 0 {
			pod := &party{name: manifest.KeyOf(object), object: object, pod: object, addresses: have[object], local: c.isLocal(object)}
			if c.parties = append(c.parties, pod); pod.local {
				pod.key = manifest.NameOf(object)
				c.locals = append(c.locals, pod)
			}
		}
	}
}

// mayHave records that an address is a pod's. One of its node's podCIDR, or at
// a device of this node, is not lost to a Service.
func (c *compiler) mayHave(pod *corev1.Pod, i int, addr netip.Addr, sure certainty) bool {
	owner, taken := c.owners[addr]
	svc := c.clusterAt[addr]
	if svc != nil && sure == ofItsNode {
		delete(c.clusterAt, addr)
		c.losePodAddress(svc, slices.Index(manifest.ClusterIPsOf(svc), addr), addr, pod)
		taken = false
	}
	if taken {
		c.lose(pod, fmt.Sprintf("status.podIPs[%d]", i), "%s is the address of %s, whose claim comes first: give the pod another", addr, owner)
		return false
	}
	c.owners[addr], c.podAt[addr] = ownerOf(pod), pod
	if sure == doubtful {
		c.doubted[addr] = true
	}
	return true
}
