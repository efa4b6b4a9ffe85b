// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"unsafe"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Incremental gives what All gives, to whom asks again and again about almost
// the same objects. What has changed is made again alone, with what contends with it
// for addresses and ports, and with the rules that it is in.
//
// All of it is made where nearly all would be: when the node's own addresses, uplinks,
// options or Node change, when the first pod of a family of addresses comes or the last
// one goes, when the first policy names a label that tells nobody apart until then, and
// where the networks of Nodes' pods overlap. It is made too where something is to be
// refused that was not before: which object that is depends on all. Why tells which.
//
// Objects are compared as pointers: who changes an object in place is not heard. The
// States that it has given are never changed. The zero Incremental is ready; it
// is for one goroutine at a time.
type Incremental struct {
	c            *compiler // that made all of it; nil: nothing is kept
	local        model.Local
	shares       uint64 // revision of the numbers that were shared
	state        *model.State
	prior, later []Warning // those before the services', and after the policies'
	parts        [][]Warning
	told         []Warning // the parts in one
	fill         *fill     // nil: the bound was within the budgets until now
	whole        uint64
	way          map[string]bool   // kinds of what the last change was made again by
	taken        map[string]uint64 // how often, by kind
	why          string
	standing     *standing // refusals; nil: nobody asked for them
}

// Whole is how often all of it was made.
func (i *Incremental) Whole() uint64 { return i.whole }

// Why is why all of it was made the last time.
func (i *Incremental) Why() string { return i.why }

// All is All. What it gives shares parts with what it gave before.
func (i *Incremental) All(objs *manifest.Objects, node string, local model.Local) (*model.State, []Warning, error) {
	var changed []model.Ref
	if i.c != nil {
		changed = walk(i.c.objs, objs)
	}
	return i.After(objs, changed, node, local)
}

// After is All to whom says what has changed since the last call: changed names
// what is another object now, or is there, or gone, and may name others too. objs
// may be the same as then, with other objects in it; local may not, where it is
// another.
func (i *Incremental) After(objs *manifest.Objects, changed []model.Ref, node string, local model.Local) (*model.State, []Warning, error) {
	i.standing = nil
	if i.keeps(node, &local) {
		var ch change
		for _, ref := range changed {
			ch.set(i.c.objs, ref, objs.Find(ref))
		}
		if state, warnings, ok := i.patch(&ch, &local); ok {
			return state, warnings, nil
		}
	}
	return i.full(objs, node, local, false)
}

// keeps is whether what is kept was made for the same node with the same of its
// own.
func (i *Incremental) keeps(node string, local *model.Local) bool {
	switch {
	case i.c == nil:
		return i.no("nothing is kept")
	case i.c.node != node:
		return i.no("it is another node")
	case !sameLocal(&i.local, local):
		return i.no("the node has other addresses, uplinks, gateways, options or budgets")
	}
	return true
}

// Taken is how often changes of each kind were made again alone, by what they did to
// others.
func (i *Incremental) Taken() map[string]uint64 { return maps.Clone(i.taken) }

// met notes that a change is of a kind.
func (i *Incremental) met(kind string) { i.way[kind] = true }

// no notes why all of it is to be made.
func (i *Incremental) no(why string) bool {
	i.why = why
	return false
}

// full makes all of it, and keeps it if nothing is to be refused. Of objects that
// are valid it is not asked whether they are.
func (i *Incremental) full(objs *manifest.Objects, node string, local model.Local, valid bool) (*model.State, []Warning, error) {
	*i = Incremental{whole: i.whole + 1, why: i.why, standing: i.standing, taken: i.taken}
	if i.taken == nil {
		i.taken = map[string]uint64{}
	}
	c := newCompiler(objs.Clone(), node, local)
	c.kept, c.valid = &kept{c: c, ofAnnotations: map[model.Ref][]Warning{}, ofNodeNames: map[string]toldOf{}, ofLabels: map[string][]Warning{}}, valid
	state, err := c.compile()
	if err != nil {
		return state, c.warnings, err
	}
	i.c, i.local, i.shares, i.state = c, local, revisionOf(&local), state
	i.local.Devices = maps.Clone(local.Devices)
	i.prior, i.later = slices.Clone(c.warnings[:c.before]), slices.Clone(c.warnings[c.after:])
	return state, c.warnings, nil
}

func revisionOf(local *model.Local) uint64 {
	if local.Identities == nil {
		return 0
	}
	return local.Identities.Revision()
}

// sameLocal is whether a node has nothing else than before. Who numbers is the
// same, and numbers alike while nothing is shared anew.
func sameLocal(a, b *model.Local) bool {
	x, y := *a, *b
	same := x.Identities == y.Identities
	x.Identities, y.Identities = nil, nil
	x.Devices, y.Devices = nil, nil
	return same && reflect.DeepEqual(x, y)
}

// isOne is whether two maps are one, which nobody has changed.
func isOne[K comparable, V any](a, b map[K]V) bool {
	return a != nil && reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

func sameDevice(a, b *model.Device) bool {
	return a.Name == b.Name && a.Ifindex == b.Ifindex && bytes.Equal(a.MAC, b.MAC) && bytes.Equal(a.PodMAC, b.PodMAC) && slices.Equal(a.Gateways, b.Gateways)
}

// plug finds who has other devices than before, and has them made
// again. It is not ok where the gateways that they bring are others then.
func (i *Incremental) plug(change *change, local *model.Local) bool {
	was, is := i.local.Devices, local.Devices
	if isOne(i.c.local.Devices, is) {
		return true
	}
	var others []model.Key
	for name, device := range is {
		if before, there := was[name]; !there || !sameDevice(&before, &device) {
			others = append(others, name)
		}
	}
	for name := range was {
		if _, there := is[name]; !there {
			others = append(others, name)
		}
	}
	brought := false
	for _, name := range others {
		brought = brought || len(was[name].Gateways)+len(is[name].Gateways) > 0
		if pod := i.c.objs.Pods[name.String()]; pod != nil {
			change.touch(name.String(), pod)
		}
		if w := i.c.objs.Workloads[name]; w != nil {
			touch(&change.workloads, name, w)
		}
	}
	if i.c.local.Devices = is; len(others) > 0 {
		i.local.Devices = maps.Clone(is)
	}
	return !brought || i.sameGateways()
}

// sameGateways is whether pods bring the gateways that they brought before, be it
// others of them, which nobody else claims.
func (i *Incremental) sameGateways() bool {
	c, self, owners := i.c, i.c.self, i.c.owners
	before := map[netip.Addr]owner{}
	for _, addr := range self.Gateways {
		before[addr] = owners[addr]
	}
	c.owners = map[netip.Addr]owner{}
	c.readGateways()
	gateways, after := c.self.Gateways, c.owners
	c.self, c.owners = self, owners
	if !slices.Equal(self.Gateways, gateways) {
		return i.no("pods bring other gateways")
	}
	for addr, owner := range after {
		if before[addr] != owner && i.isClaimed(addr) {
			return i.no("pods bring other gateways")
		}
		owners[addr] = owner
	}
	i.met("a pod with a gateway")
	return true
}

// isClaimed is whether an object was told that it has lost an address.
func (i *Incremental) isClaimed(addr netip.Addr) bool { return len(i.c.losses[addr]) > 0 }

// renumber has pods made again whose identities have other numbers since they were
// shared.
func (i *Incremental) renumber(change *change, local *model.Local, m *moves) {
	revision := revisionOf(local)
	if i.shares == revision {
		return
	}
	i.shares = revision
	c := i.c
	for set, id := range c.known {
		if c.local.Identities.Keeps(set, id.number) {
			continue
		}
		i.met("an identity is shared")
		m.renumbered[set] = true
		for _, who := range c.kept.people.crowds[set].parties {
			change.touchParty(who)
		}
	}
}

// read counts what there is, if it is not counted yet.
func (k *kept) read() {
	if k.people != nil {
		return
	}
	c := k.c
	k.blocks = c.keepBlocks()
	k.people, k.claims, k.nodes = keepPods(c, k.blocks.index), keepClaims(c), c.nodesInOrder()
}

// patch makes again what has changed. It is not ok where more has to be made
// than that; what is kept is of no use any more then.
func (i *Incremental) patch(change *change, local *model.Local) (*model.State, []Warning, bool) {
	i.way = map[string]bool{}
	m, cl, k := newMoves(), claims{}, i.c.kept
	k.read()
	if i.complains(change, m) {
		return nil, nil, i.no("an object that has changed is refused by itself")
	}
	if !i.plug(change, local) || !i.takeNamespaces(change) {
		return nil, nil, false
	}
	i.renumber(change, local, m)
	if !i.takeNodes(change, cl, m) || !i.arePlain(change) || !i.takeClaims(change, cl, m) {
		return nil, nil, false
	}
	if i.concernsAside(change, cl, m) {
		return nil, nil, i.no("a change may have to do with what is refused for the sake of others")
	}
	again := newAgain()
	i.takeServers(change, again, m)
	i.takeServices(change, m)
	ok := i.takePolicies(change, again, m)
	if !ok || !i.takePods(change, m) || !i.takeBlocks(&again.blocks, m) {
		return nil, nil, false
	}
	i.placePods(m)
	if !i.settleCrowds(m) || !i.numberNodes(m) {
		return nil, nil, false
	}
	i.takeNatives(m)
	i.entriesAgain(m)
	next := *i.state
	if next.Addresses, ok = spliced(next.Addresses, m.removed, m.added, compareAddresses); !ok {
		return nil, nil, i.no("an address is there already")
	}
	i.c.listed = next.Addresses
	judged, ok := i.judge(again, m)
	if !ok {
		return nil, nil, false
	}
	removed, added, ok := i.patchServices(m, &next)
	if !ok {
		return nil, nil, false
	}
	if m.peers {
		if peers := i.c.peersOf(k.nodes); !reflect.DeepEqual(peers, next.Peers) {
			next.Peers = peers
		}
	}
	return i.finish(change, m, &next, judged, removed, added)
}

// finish makes endpoints again and gathers what is told.
func (i *Incremental) finish(change *change, m *moves, next *model.State, judged bool, removed, added []model.Service) (*model.State, []Warning, bool) {
	k := i.c.kept
	if i.concernsRulesAside(change, judged, m) {
		return nil, nil, i.no("a change may have to do with policies whose rules are refused for the sake of others")
	}
	if judged || len(change.namespaces) > 0 || m.own {
		i.later = k.telling(func() { next.Endpoints, next.RuleSets, next.Node.RuleSet = i.c.endpoints(k.policiesInOrder()) })
	}
	told, loopback := k.toldOnce()
	if !slices.EqualFunc(loopback, next.Loopback, func(a, b model.Service) bool { return reflect.DeepEqual(a, b) }) {
		next.Loopback = loopback
	}
	if judged {
		k.ofPolicies = k.toldOfPolicies()
	}
	if len(i.c.errs) > 0 {
		return nil, nil, i.no("an object is refused")
	}
	if !i.fits(next, removed, added, singles(m.added)-singles(m.removed)) {
		return nil, nil, false
	}
	if m.told {
		i.prior = k.ownersTold()
	}
	i.state = next
	if i.standing != nil && len(i.standing.after) > 0 {
		i.met("objects are refused for the sake of others")
	}
	for kind := range i.way {
		i.taken[kind]++
	}
	return i.state, i.tell(i.prior, told, k.ofPolicies, i.later), true
}

// tell gives all warnings, in the list of before where nothing else is told.
func (i *Incremental) tell(parts ...[]Warning) []Warning {
	isSame := func(a, b []Warning) bool { return len(a) == len(b) && unsafe.SliceData(a) == unsafe.SliceData(b) }
	if i.told == nil || !slices.EqualFunc(i.parts, parts, isSame) {
		i.parts, i.told = parts, slices.Clip(slices.Concat(parts...))
	}
	return i.told
}

// singles counts the addresses among entries.
func singles(entries []model.Address) (n int) {
	for _, entry := range entries {
		n += boolToInt(entry.Prefix.IsSingleIP())
	}
	return n
}

// takeServices makes the compiler know services and slices that have changed, and
// notes who has to do with them.
func (i *Incremental) takeServices(change *change, m *moves) {
	c, k := i.c, i.c.kept
	for key, slice := range change.slices {
		before := c.objs.EndpointSlices[key]
		k.claims.list(before, -1)
		k.claims.list(slice, 1)
		if before != nil {
			m.services[manifest.ServiceOf(before)] = true
			strike(k.slicesOf, manifest.ServiceOf(before), key)
		}
		if slice != nil {
			m.services[manifest.ServiceOf(slice)] = true
			k.nameSlice(key, slice)
		}
		put(c.objs.EndpointSlices, key, slice)
		m.asked[key] = true
	}
	for key, svc := range change.services {
		k.people.ask(key, c.objs.Services[key], false)
		k.people.ask(key, svc, true)
		for _, addr := range slices.Concat(clusterIPs(c.objs.Services[key]), clusterIPs(svc)) {
			m.addressed[addr] = true
		}
		m.services[key] = true
		put(c.objs.Services, key, svc)
		for name := range k.slicesOf[key] { // whose service may be there now, or gone
			m.asked[name] = true
		}
	}
}

// patchServices makes services again that are others, or whose slices are, or whom
// they lead to, and asks selectors again.
func (i *Incremental) patchServices(m *moves, next *model.State) (removed, added []model.Service, ok bool) {
	c, k := i.c, i.c.kept
	for at := range m.listing {
		for name := range k.listing(at) {
			m.asked[name], m.services[manifest.ServiceOf(c.objs.EndpointSlices[name])] = true, true
		}
	}
	if len(m.selectors)+len(m.asked)+len(m.services)+len(m.hosts)+len(m.sockets)+len(m.addressed) == 0 {
		return nil, nil, true
	}
	k.toldLast = nil
	for key := range m.selectors {
		k.selector(key)
	}
	for name := range m.asked {
		k.slice(name)
	}
	places := map[frontendKey]bool{}
	for addr := range m.sockets {
		for _, at := range k.socketsAgain(addr) {
			places[at] = true
		}
	}
	removed, added = k.again(m.services, m.hosts, places)
	if len(c.errs) > 0 {
		return nil, nil, i.no("a service is refused")
	}
	if next.Services, ok = spliced(next.Services, removed, added, compareFrontends); !ok {
		return nil, nil, i.no("a frontend is there already")
	}
	for _, frontend := range slices.Concat(removed, added) {
		m.addressed[frontend.Address] = true
	}
	next.ServiceAddresses = c.addressed(next.ServiceAddresses, next.Services, m.addressed)
	return removed, added, true
}

func put[K, T comparable](objects map[K]T, key K, object T) {
	var gone T
	if object == gone {
		delete(objects, key)
		return
	}
	objects[key] = object
}

// again makes services again, and pods that want ports of this node, settles their
// places and others, and gives the frontends that are in the place of others.
func (k *kept) again(services map[string]bool, pods map[string]*party, places map[frontendKey]bool) (removed, added []model.Service) {
	withdraw := func(bids []bid) {
		for n := range bids {
			places[bids[n].where] = true
			p := k.placed(bids[n].where)
			p.bids = slices.DeleteFunc(p.bids, func(other bid) bool { return other.object == bids[n].object })
		}
	}
	bid := func(bids []bid) {
		for n := range bids {
			k.place(&bids[n])
			places[bids[n].where] = true
		}
	}
	for key := range services {
		withdraw(k.bids[key])
		k.service(key)
		bid(k.bids[key])
	}
	for key, pod := range pods {
		withdraw(k.hosts[key])
		delete(k.hosts, key)
		k.hostPorts(key, pod)
		k.hostSockets(key, k.c.objs.Pods[key])
		bid(k.hosts[key])
	}
	for at := range places {
		p := k.placed(at)
		removed = append(removed, p.frontends...)
		k.settle(at)
		added = append(added, p.frontends...)
	}
	return removed, added
}

// spliced gives entries in their order with others in place of some; it is not
// ok if those are not there. Where nothing is another, it is the same list.
func spliced[E model.Entry](all model.List[E], removed, added []E, compare func(a, b E) int) (model.List[E], bool) {
	slices.SortFunc(removed, compare)
	slices.SortFunc(added, compare)
	if len(removed)+len(added) == 0 || reflect.DeepEqual(removed, added) {
		return all, true
	}
	return all.Spliced(removed, added, compare)
}

// addressed is what services have for themselves, made again for some addresses.
func (c *compiler) addressed(addrs []netip.Addr, frontends model.List[model.Service], again map[netip.Addr]bool) []netip.Addr {
	var changed []netip.Addr // which are there and should not be, or the other way round
	for addr := range again {
		if _, is := slices.BinarySearchFunc(addrs, addr, netip.Addr.Compare); is != c.isAddressed(addr, frontends) {
			changed = append(changed, addr)
		}
	}
	if len(changed) == 0 {
		return addrs
	}
	out := slices.Clone(addrs)
	for _, addr := range changed {
		n, is := slices.BinarySearchFunc(out, addr, netip.Addr.Compare)
		if is {
			out = slices.Delete(out, n, n+1)
		} else {
			out = slices.Insert(out, n, addr)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (c *compiler) isAddressed(addr netip.Addr, frontends model.List[model.Service]) bool {
	svc := c.clusterAt[addr]
	is := svc != nil && isServed(svc) && !manifest.IsHeadless(svc)
	for f := range frontends.From(func(f *model.Service) int { return f.Address.Compare(addr) }) {
		if f.Address != addr {
			break
		}
		is = is || f.Kind == model.KindLoadBalancer || f.Kind == model.KindExternalIP
	}
	return is && !c.isAnothers(addr, c.apiAddresses())
}
