// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// A NetworkPolicy's blocks and a ClusterNetworkPolicy's networks match addresses,
// whoever has them, and other rules are about some of the nodes. Pods have
// identities by their labels, and all other nodes have one: where such groups hold
// some addresses of an identity, most of its addresses keep its number, and the
// others have one for each set of groups. A rule about the identity then names
// all its numbers, and a rule about a group those of its members. Only this node
// knows these numbers.

// block is addresses that a policy names.
type block struct {
	cidr    netip.Prefix
	excepts []netip.Prefix
}

func (b *block) name() string {
	texts := []string{b.cidr.String()}
	for _, except := range b.excepts {
		texts = append(texts, except.String())
	}
	return strings.Join(texts, "-")
}

// whole is whether a block is all addresses of its family.
func (b *block) whole() bool { return b.cidr.Bits() == 0 && len(b.excepts) == 0 }

func (b *block) contains(addr netip.Addr) bool {
	return b.cidr.Contains(addr) && !slices.ContainsFunc(b.excepts, func(except netip.Prefix) bool { return except.Contains(addr) })
}

// blockOf reads a NetworkPolicy's block.
func blockOf(peer *networkingv1.IPBlock) (*block, bool) {
	cidr, err := manifest.ParseLegacyBlock(peer.CIDR)
	if err != nil {
		return nil, false // Validate has complained
	}
	b := &block{cidr: cidr}
	for _, text := range peer.Except {
		if except, err := manifest.ParseLegacyBlock(text); err == nil {
			b.excepts = append(b.excepts, except)
		}
	}
	slices.SortFunc(b.excepts, netip.Prefix.Compare)
	b.excepts = slices.Compact(b.excepts)
	return b, true
}

// familySet says something of IPv4, and of IPv6.
type familySet [2]bool

func (f *familySet) add(addr netip.Addr) {
	f[0], f[1] = f[0] || addr.Is4(), f[1] || addr.Is6()
}

// in is whether whatever f says is said by g too.
func (f familySet) in(g familySet) bool { return (!f[0] || g[0]) && (!f[1] || g[1]) }

// memberBlocks are the blocks that hold pods and nodes too, by name. Blocks of
// whole families are left out where all rules that have one have those of all
// families that pods have: such a rule is one for any peer.
func memberBlocks(objs *manifest.Objects, ofPods familySet) map[string]*block {
	found := map[string]*block{}
	rule := func(blocks []*block) {
		var whole familySet
		for _, b := range blocks {
			if b.whole() {
				whole.add(b.cidr.Addr())
			}
		}
		for _, b := range blocks {
			if !b.whole() || !ofPods.in(whole) {
				found[b.name()] = b
			}
		}
	}
	peers := func(list []networkingv1.NetworkPolicyPeer) {
		var blocks []*block
		for _, peer := range list {
			if peer.IPBlock == nil {
				continue
			}
			if b, ok := blockOf(peer.IPBlock); ok {
				blocks = append(blocks, b)
			}
		}
		rule(blocks)
	}
	for _, policy := range objs.NetworkPolicies {
		for _, ingress := range policy.Spec.Ingress {
			peers(ingress.From)
		}
		for _, egress := range policy.Spec.Egress {
			peers(egress.To)
		}
	}
	for _, policy := range objs.ClusterNetworkPolicies {
		for _, egress := range policy.Spec.Egress {
			var blocks []*block
			for _, cidr := range networksOf(egress.To) {
				blocks = append(blocks, &block{cidr: cidr})
			}
			rule(blocks)
		}
	}
	return found
}

// prefixesOf are the prefixes that blocks are made of.
func prefixesOf(blocks map[string]*block) []string {
	var texts []string
	for _, b := range blocks {
		texts = append(texts, b.cidr.String())
		for _, except := range b.excepts {
			texts = append(texts, except.String())
		}
	}
	return texts
}

// nodeGroup is some nodes that a policy tells from others.
type nodeGroup struct {
	name  string
	holds func(*corev1.Node) bool
}

// serversGroup is the nodes at which the cluster's API is served.
const serversGroup = "kube-apiserver"

func (c *compiler) nodeGroups() []nodeGroup {
	var groups []nodeGroup
	if namesServers(c.objs) {
		servers := c.apiServers()
		groups = append(groups, nodeGroup{serversGroup, func(node *corev1.Node) bool {
			return slices.ContainsFunc(c.vouchedBy(node), func(v vouched) bool {
				return servers[v.addr] && (c.nodeAt[v.addr] == node || node.Name == c.node && slices.Contains(c.self.Addresses, v.addr))
			})
		}})
	}
	for _, policy := range manifest.InOrder(c.objs.ClusterNetworkPolicies) {
		for _, rule := range policy.Spec.Egress {
			for _, peer := range rule.To {
				if peer.Nodes == nil {
					continue
				}
				if selector, err := metav1.LabelSelectorAsSelector(peer.Nodes); err == nil {
					groups = append(groups, nodeGroup{nameOfNodes(peer.Nodes), func(node *corev1.Node) bool { return selector.Matches(labels.Set(node.Labels)) }})
				}
			}
		}
	}
	return groups
}

// namesServers is whether a policy says something of the API's servers.
func namesServers(objs *manifest.Objects) bool {
	found := false
	see := func(text string) { found = found || strings.Contains(text, serversGroup) }
	eachText(reflect.ValueOf(objs.CiliumNetworkPolicies), see)
	eachText(reflect.ValueOf(objs.CiliumClusterwideNetworkPolicies), see)
	return found
}

func nameOfNodes(selector *metav1.LabelSelector) string {
	return "nodes " + metav1.FormatLabelSelector(selector)
}

// member is a number of addresses that some group holds.
type member struct {
	number model.Identity
	base   model.Identity // of whom the addresses are
	pod    *identity      // the same; nil for nodes
}

// blockIndex finds the blocks that hold an address.
type blockIndex struct {
	blocks  map[netip.Prefix][]string // names, by CIDR
	byName  map[string]*block
	lengths map[int][]int // of the CIDRs, by the address's bits
}

func indexBlocks(blocks map[string]*block) *blockIndex {
	x := &blockIndex{blocks: map[netip.Prefix][]string{}, byName: blocks, lengths: map[int][]int{}}
	for name, b := range blocks {
		x.add(name, b)
	}
	return x
}

func (x *blockIndex) add(name string, b *block) {
	x.byName[name] = b
	x.blocks[b.cidr] = append(x.blocks[b.cidr], name)
	family := b.cidr.Addr().BitLen()
	if !slices.Contains(x.lengths[family], b.cidr.Bits()) {
		x.lengths[family] = append(x.lengths[family], b.cidr.Bits())
	}
}

// remove takes out a block. That its length is asked for then is only slower.
func (x *blockIndex) remove(name string) {
	cidr := x.byName[name].cidr
	delete(x.byName, name)
	x.blocks[cidr] = slices.DeleteFunc(x.blocks[cidr], func(other string) bool { return other == name })
	if len(x.blocks[cidr]) == 0 {
		delete(x.blocks, cidr)
	}
}

func (x *blockIndex) at(addr netip.Addr) []string {
	var names []string
	for _, bits := range x.lengths[addr.BitLen()] {
		for _, name := range x.blocks[netip.PrefixFrom(addr, bits).Masked()] {
			if x.byName[name].contains(addr) {
				names = append(names, name)
			}
		}
	}
	return names
}

// holder is an address of a pod's or node's.
type holder struct {
	addr   netip.Addr
	of     member   // its number is still to be found
	groups []string // that hold it, sorted
	key    string   // the same for the same groups and the same identity
}

// readMembers numbers the addresses of pods and nodes.
func (c *compiler) readMembers() {
	c.members, c.numbers, c.variants = map[string][]member{}, map[netip.Addr]model.Identity{}, map[model.Identity][]model.Identity{}
	index := indexBlocks(c.held)
	var pods []*holder
	for _, pod := range c.parties {
		for _, addr := range pod.addresses {
			pods = append(pods, holderOf(member{base: pod.identity.number, pod: pod.identity}, addr, index.at(addr)))
		}
	}
	c.numberMembers(pods, c.local.Identities.AllocateMembers)
	c.numberMembers(c.nodeHolders(index), c.local.Identities.AllocateNodes)
}

func holderOf(of member, addr netip.Addr, groups []string) *holder {
	h := &holder{addr: addr, of: of, groups: groups}
	slices.Sort(h.groups)
	h.groups = slices.Compact(h.groups)
	h.key = memberKey(of.base, strings.Join(h.groups, ";"))
	return h
}

// memberKey names the addresses of an identity that the same groups hold.
func memberKey(base model.Identity, groups string) string {
	return fmt.Sprintf("%d in %s", base, groups)
}

// nodeHolders are the addresses of this node and of the others.
func (c *compiler) nodeHolders(index *blockIndex) (all []*holder) {
	groups, self := c.nodeGroups(), c.objs.Nodes[c.node]
	hold := func(base model.Identity, addr, at netip.Addr, node *corev1.Node) {
		names := index.at(at)
		for _, group := range groups {
			if node != nil && group.holds(node) {
				names = append(names, group.name)
			}
		}
		all = append(all, holderOf(member{base: base}, addr, names))
	}
	for _, addr := range c.self.Addresses {
		hold(model.IdentityHost, addr, addr, self)
	}
	for _, addr := range c.self.Gateways {
		hold(model.IdentityHost, addr, c.ownAddress(addr), self)
	}
	for addr, node := range c.nodeAt {
		hold(model.IdentityRemoteNode, addr, addr, node)
	}
	return all
}

// numberMembers leaves most of an identity's addresses its own number, and gives
// the others one for each set of groups that hold them.
func (c *compiler) numberMembers(all []*holder, allocate func([]string) (map[string]model.Identity, error)) {
	counts := map[string]int{}
	for _, h := range all {
		counts[h.key]++
	}
	most := map[model.Identity]string{}
	for _, h := range all {
		now, found := most[h.of.base]
		if !found || isMore(counts[h.key], h.key, counts[now], now) {
			most[h.of.base] = h.key
		}
	}
	var keys []string
	for _, h := range all {
		if most[h.of.base] != h.key {
			keys = append(keys, h.key)
		}
	}
	numbers, err := allocate(keys)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("compile node %s: %w", c.node, err))
		return
	}
	for _, h := range all {
		if h.of.number = numbers[h.key]; most[h.of.base] == h.key {
			h.of.number = h.of.base
		}
		if !c.numberAs(h.addr, h.of.base, h.of.number) {
			continue
		}
		for _, group := range h.groups {
			c.members[group] = append(c.members[group], h.of)
		}
	}
}

// isMore is whether the addresses of a key keep the number of their identity rather
// than those of another key.
func isMore(count int, key string, others int, other string) bool {
	return cmp.Or(cmp.Compare(others, count), strings.Compare(key, other)) < 0
}

// numberAs gives an address a number of an identity's, and says whether nobody
// had it before.
func (c *compiler) numberAs(addr netip.Addr, base, number model.Identity) bool {
	c.numbers[addr] = number
	if slices.Contains(c.variants[base], number) {
		return false
	}
	c.variants[base] = append(c.variants[base], number)
	return true
}

// numbersOf are all numbers that addresses of an identity have.
func (c *compiler) numbersOf(base model.Identity) []model.Identity {
	if numbers := c.variants[base]; len(numbers) > 0 {
		return numbers
	}
	return []model.Identity{base}
}

// ownAddress is where the node is whose gateway somebody asks for: at an
// address of the gateway's family if it has one, else at any.
func (c *compiler) ownAddress(gateway netip.Addr) netip.Addr {
	var other netip.Addr
	for _, own := range c.self.Addresses {
		if own.Is4() == gateway.Is4() {
			return own
		}
		other = own
	}
	return other
}

// addBlock adds to a rule whoever has an address in a block.
func (c *compiler) addBlock(object metav1.Object, rule *compiledRule, b *block) {
	if !c.writable(object, compiledRule{numbers: rule.numbers}) {
		return
	}
	if b.whole() {
		rule.whole.add(b.cidr.Addr())
		_, ofNamespace := object.(*networkingv1.NetworkPolicy)
		if _, held := c.held[b.name()]; ofNamespace && !held {
			return // all rules that have it are for anybody
		}
	}
	rule.numbers = append(rule.numbers, c.blocksIn(b.cidr, b.excepts)...)
	rule.members = append(rule.members, c.members[b.name()]...)
}

// networksOf are the networks of a rule's peers, all together.
func networksOf(peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer) []netip.Prefix {
	var all []netip.Prefix
	for _, peer := range peers {
		for _, text := range peer.Networks {
			if prefix, err := parseBlock(string(text)); err == nil {
				all = append(all, prefix)
			}
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}
