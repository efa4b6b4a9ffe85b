// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// keptBlocks is what policies' blocks of addresses were made into: how many
// policies name each, and the entries that they have, and networks that are not
// masqueraded, in the table of addresses.
type keptBlocks struct {
	of       map[model.Ref]*namedBlocks
	held     map[string]int             // policies, by the blocks that hold pods and nodes too
	naming   map[string]map[string]bool // NetworkPolicies that name a block
	prefixes map[netip.Prefix]int       // how often they are named
	index    *blockIndex

	entries map[netip.Prefix]model.Address
	cidrs   int // of entries, those that are no single addresses
	native  []netip.Prefix
	natives map[netip.Prefix]int // how often each is
	nodes   bool                 // native are those of nodes' pods
}

// namedBlocks are the blocks that one policy names.
type namedBlocks struct {
	held   map[string]*block
	all    map[string]bool // of a NetworkPolicy, by name
	cilium []netip.Prefix
}

func (c *compiler) keepBlocks() *keptBlocks {
	k := &keptBlocks{
		of: map[model.Ref]*namedBlocks{}, held: map[string]int{}, naming: map[string]map[string]bool{}, prefixes: map[netip.Prefix]int{}, index: indexBlocks(c.held),
		entries: map[netip.Prefix]model.Address{}, native: c.nativePrefixes(), natives: map[netip.Prefix]int{},
		nodes: c.self.Masquerade != nil && c.local.Options.Masquerade,
	}
	for _, policy := range c.policyObjects() {
		if named := c.namedIn(policy); named != nil {
			k.name(manifest.RefOf(policy), named, 1)
		}
	}
	if c.hasCilium() {
		for _, prefix := range c.blocksOfServers() {
			k.prefixes[prefix]++
		}
	}
	for _, block := range k.native {
		k.natives[block] = 1
	}
	if k.nodes {
		clear(k.natives)
		for node, blocks := range c.podBlocksOf {
			for _, block := range blocks {
				k.natives[block] += boolToInt(node.Name != c.node)
			}
		}
		for _, block := range c.local.Options.MasqueradeExcluded {
			k.natives[block]++
		}
	}
	entries := c.blockAddresses()
	if holdsMapped(entries) {
		entries = append(entries, worldEntry())
	}
	for _, entry := range entries {
		k.putEntry(entry)
	}
	return k
}

// hasCilium is whether there are policies of Cilium's.
func (c *compiler) hasCilium() bool {
	return len(c.objs.CiliumNetworkPolicies)+len(c.objs.CiliumClusterwideNetworkPolicies) > 0
}

// namedIn reads the blocks of one policy; nil: it names none.
func (c *compiler) namedIn(policy metav1.Object) *namedBlocks {
	one := alone(policy)
	named := &namedBlocks{held: memberBlocks(one, c.families), all: map[string]bool{}}
	for _, policy := range one.NetworkPolicies {
		eachPeer(policy, func(_ model.Direction, peer *networkingv1.NetworkPolicyPeer) {
			if peer.IPBlock != nil {
				if b, ok := blockOf(peer.IPBlock); ok {
					named.all[b.name()] = true
				}
			}
		})
	}
	for _, text := range c.namedByCilium(one) {
		if prefix, err := parseBlock(text); err == nil {
			named.cilium = append(named.cilium, prefix)
		}
	}
	if len(named.held)+len(named.all)+len(named.cilium) == 0 {
		return nil
	}
	return named
}

// name counts what a policy names once more, or once less, and gives the blocks of
// which that is the first or the last time.
func (k *keptBlocks) name(ref model.Ref, named *namedBlocks, times int) (turned map[string]*block) {
	if k.of[ref] = named; times < 0 {
		delete(k.of, ref)
	}
	turned = map[string]*block{}
	for name, b := range named.held {
		if !count(k.held, name, times) {
			continue
		}
		turned[name] = b
		count(k.prefixes, b.cidr, times)
		for _, except := range b.excepts {
			count(k.prefixes, except, times)
		}
	}
	for _, prefix := range named.cilium {
		count(k.prefixes, prefix, times)
	}
	for name := range named.all {
		if enlist(k.naming, name, ref.Key()); times < 0 {
			strike(k.naming, name, ref.Key())
		}
	}
	return turned
}

// blockChange is what policies that have changed name otherwise.
type blockChange struct {
	turned     map[string]*block // named by nobody before, or now
	gone, came []netip.Prefix
	named      map[netip.Prefix]bool // that those policies name, or named
}

// renameBlocks counts what policies name that have changed, given as before and
// now.
func renameBlocks[T object](i *Incremental, ch *blockChange, before, now T) {
	var none T
	c, k := i.c, i.c.kept.blocks
	see := func(policy metav1.Object, named *namedBlocks, times int) {
		if named == nil {
			return
		}
		for _, b := range named.held {
			ch.named[b.cidr] = true
			for _, except := range b.excepts {
				ch.named[except] = true
			}
		}
		for _, prefix := range named.cilium {
			ch.named[prefix] = true
		}
		for name, b := range k.name(manifest.RefOf(policy), named, times) {
			ch.turned[name] = b
		}
	}
	if before != none {
		see(before, k.of[manifest.RefOf(before)], -1)
	}
	if now != none {
		see(now, c.namedIn(now), 1)
	}
}

// takeBlocks numbers the blocks that have come, forgets those that are gone, and
// finds whom blocks hold that turned. It is not ok where there is no room for them.
func (i *Incremental) takeBlocks(ch *blockChange, m *moves) bool {
	c, k := i.c, i.c.kept.blocks
	var came []string
	for prefix := range ch.named {
		switch _, known := c.blocks[prefix]; {
		case known && k.prefixes[prefix] == 0:
			ch.gone = append(ch.gone, prefix)
		case !known && k.prefixes[prefix] > 0:
			ch.came = append(ch.came, prefix)
			came = append(came, prefix.String())
		}
	}
	if len(came) > 0 && !i.hasRoomForBlocks() {
		return i.no("a budget is exceeded")
	}
	numbers, ok := c.local.Identities.AddBlocks(came)
	if !ok {
		return i.no("no number is left that was never given")
	}
	for _, prefix := range ch.gone {
		delete(c.blocks, prefix)
		at, _ := slices.BinarySearchFunc(c.blocksInOrder, prefix, netip.Prefix.Compare)
		c.blocksInOrder = slices.Delete(c.blocksInOrder, at, at+1)
	}
	for _, prefix := range ch.came {
		c.blocks[prefix] = numbers[prefix.String()]
		at, _ := slices.BinarySearchFunc(c.blocksInOrder, prefix, netip.Prefix.Compare)
		c.blocksInOrder = slices.Insert(c.blocksInOrder, at, prefix)
	}
	for name, b := range ch.turned {
		_, was := c.held[name]
		if is := k.held[name] > 0; is == was {
			delete(ch.turned, name)
		} else if is {
			k.index.add(name, b)
		} else {
			k.index.remove(name)
		}
	}
	for _, prefix := range slices.Concat(ch.gone, ch.came) {
		m.blocks = true
		m.prefixes[prefix] = true
		for _, native := range within(k.native, prefix) {
			m.prefixes[native] = true
		}
		i.nameAgain(prefix, m)
	}
	for name, b := range ch.turned {
		i.met("a block of addresses comes or goes")
		m.groups[name] = true
		i.regroup(b, m)
	}
	return true
}

// hasRoomForBlocks is whether no policy has to be refused for its blocks.
func (i *Incremental) hasRoomForBlocks() bool {
	budgets := i.local.Budgets
	if len(budgets) == 0 {
		return true
	}
	single, wide := 0, 0
	for prefix := range i.c.kept.blocks.prefixes {
		single += boolToInt(prefix.IsSingleIP())
		wide += boolToInt(!prefix.IsSingleIP())
	}
	fits := func(table model.Table, entries int) bool {
		budget, bounded := budgets[table]
		return !bounded || entries <= budget
	}
	return fits(model.TableCIDRs, wide) && fits(model.TableIPCache, single)
}

// nameAgain has policies made again whose blocks hold a prefix that came or went:
// their rules name it.
func (i *Incremental) nameAgain(prefix netip.Prefix, m *moves) {
	k := i.c.kept.blocks
	for bits := prefix.Bits(); bits >= 0; bits-- {
		for _, name := range k.index.blocks[netip.PrefixFrom(prefix.Addr(), bits).Masked()] {
			m.groups[name] = true
		}
	}
}

// regroup finds whose groups are others since a block came or went.
func (i *Incremental) regroup(b *block, m *moves) {
	c := i.c
	for a := range i.state.Addresses.From(func(a *model.Address) int { return a.Prefix.Addr().Compare(b.cidr.Addr()) }) {
		addr := a.Prefix.Addr()
		if !b.cidr.Contains(addr) {
			break
		}
		if !a.Prefix.IsSingleIP() || !b.contains(addr) {
			continue
		}
		if c.podAt[addr] == nil && c.workloadAt[addr] == nil {
			m.regroupNodes = true
			continue
		}
		if made := c.partyAt(addr); made != nil && !m.entered[made] {
			i.regroupAddress(addr, made, m)
		}
	}
	m.regroupNodes = m.regroupNodes || slices.ContainsFunc(c.self.Addresses, b.contains)
}

// within gives those of sorted prefixes that lie in another.
func within(sorted []netip.Prefix, outer netip.Prefix) []netip.Prefix {
	first, _ := slices.BinarySearchFunc(sorted, outer, netip.Prefix.Compare)
	last := first
	for last < len(sorted) && manifest.Within(sorted[last], outer) {
		last++
	}
	return sorted[first:last]
}

// countNative notes that a node has a network for pods once more, or once less.
func (k *keptBlocks) countNative(block netip.Prefix, times int, m *moves) {
	if !k.nodes || !count(k.natives, block, times) {
		return
	}
	m.natives[block] = true
}

// takeNatives has networks be native that were not, or the other way round.
func (i *Incremental) takeNatives(m *moves) {
	c, k := i.c, i.c.kept.blocks
	for block := range m.natives {
		at, was := slices.BinarySearchFunc(k.native, block, netip.Prefix.Compare)
		switch is := k.natives[block] > 0; {
		case is == was:
			continue
		case is:
			k.native = slices.Insert(k.native, at, block)
		default:
			k.native = slices.Delete(k.native, at, at+1)
		}
		m.prefixes[block] = true
		for _, inner := range within(c.blocksInOrder, block) {
			m.prefixes[inner] = true
		}
	}
}

// entriesAgain makes the entries of prefixes again.
func (i *Incremental) entriesAgain(m *moves) {
	c, k := i.c, i.c.kept.blocks
	if len(m.prefixes) == 0 {
		return
	}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	m.prefixes[all] = true // see holdsMapped
	again := func(prefix netip.Prefix) {
		before, was := k.entries[prefix]
		now, is := c.blockEntry(prefix, k.native)
		if !is && prefix == all && k.holdsMapped() {
			now, is = worldEntry(), true
		}
		if was == is && before == now {
			return
		}
		if was {
			m.removed = append(m.removed, before)
			k.dropEntry(before)
		}
		if is {
			m.added = append(m.added, now)
			k.putEntry(now)
		}
	}
	for prefix := range m.prefixes {
		if prefix != all {
			again(prefix)
		}
	}
	again(all)
}

func (k *keptBlocks) putEntry(entry model.Address) {
	k.entries[entry.Prefix] = entry
	k.cidrs += boolToInt(!entry.Prefix.IsSingleIP())
}

func (k *keptBlocks) dropEntry(entry model.Address) {
	delete(k.entries, entry.Prefix)
	k.cidrs -= boolToInt(!entry.Prefix.IsSingleIP())
}

// holdsMapped is holdsMapped of the entries that there are, but for that of all of
// IPv4.
func (k *keptBlocks) holdsMapped() bool {
	mapped := netip.MustParsePrefix("::ffff:0:0/96")
	for bits := range mapped.Bits() + 1 {
		if _, found := k.entries[netip.PrefixFrom(mapped.Addr(), bits).Masked()]; found {
			return true
		}
	}
	return false
}

// rows is how many rows of the table of blocks the entries take: see eachAddress.
func (k *keptBlocks) rows() int {
	_, all := k.entries[netip.PrefixFrom(netip.IPv4Unspecified(), 0)]
	return k.cidrs + boolToInt(k.cidrs > 0 && !all)
}
