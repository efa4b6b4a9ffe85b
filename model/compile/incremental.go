// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// Incremental gives what All gives, to whom asks again and again about almost
// the same objects. Services, EndpointSlices, pods and their devices, namespaces'
// labels and policies that are others than the last time are made again alone, with
// what they contend for with others and the rules that they are in.
//
// All of it is made where somebody disputes an address, an object is warned of by
// itself or refused for the sake of others, a node comes, goes or says something
// else, a namespace goes, the API's servers or the node's own addresses, uplinks and
// options change, and where policies' blocks of addresses have to do with it: what
// they hold is numbered together. Why tells which.
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
	fill         *fill
	mentions     mentions // nil: not counted yet
	whole        uint64
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
	case i.shares != revisionOf(local):
		return i.no("numbers are shared anew")
	}
	return true
}

// no notes why all of it is to be made.
func (i *Incremental) no(why string) bool {
	i.why = why
	return false
}

// full makes all of it, and keeps it if nothing is to be refused. Of objects that
// are valid it is not asked whether they are.
func (i *Incremental) full(objs *manifest.Objects, node string, local model.Local, valid bool) (*model.State, []Warning, error) {
	*i = Incremental{whole: i.whole + 1, why: i.why, standing: i.standing}
	c := newCompiler(objs.Clone(), node, local)
	c.kept, c.valid = &kept{c: c}, valid
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

func sameDevice(a, b *model.Device) bool {
	return a.Name == b.Name && a.Ifindex == b.Ifindex && bytes.Equal(a.MAC, b.MAC) && bytes.Equal(a.PodMAC, b.PodMAC) && slices.Equal(a.Gateways, b.Gateways)
}

// plug finds the pods whose devices are others than before, and has them made
// again. It is not ok where one brings a gateway, or takes it away.
func (i *Incremental) plug(change *change, local *model.Local) bool {
	was, is := i.local.Devices, local.Devices
	var others []string
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
	for _, name := range others {
		if len(was[name].Gateways)+len(is[name].Gateways) > 0 {
			return i.no("a pod's device with a gateway of its own came, went or changed")
		}
		if pod := i.c.objs.Pods[name]; pod != nil {
			change.touch(name, pod)
		}
	}
	if len(others) > 0 {
		i.local.Devices, i.c.local.Devices = maps.Clone(is), is
	}
	return true
}

// patch makes again what has changed. It is not ok where more has to be made
// than that; what is kept is of no use any more then.
func (i *Incremental) patch(change *change, local *model.Local) (*model.State, []Warning, bool) {
	if !i.isSmall(change) || !i.plug(change, local) || !i.takeNodes(change.nodes) || !i.takeNamespaces(change) {
		return nil, nil, false
	}
	moved, ok := i.takePods(change)
	if !ok {
		return nil, nil, false
	}
	next := *i.state
	if next.Addresses, ok = spliced(next.Addresses, moved.removed, moved.added, compareAddresses); !ok {
		return nil, nil, i.no("an address is there already")
	}
	i.c.listed = next.Addresses
	judged, ok := i.takePolicies(change, &moved)
	if !ok {
		return nil, nil, false
	}
	removed, added, ok := i.patchServices(change, &moved, &next)
	if !ok {
		return nil, nil, false
	}
	k := i.c.kept
	if judged || len(change.namespaces) > 0 || moved.own {
		i.later = k.telling(func() { next.Endpoints, next.RuleSets, next.Node.RuleSet = i.c.endpoints(k.policiesInOrder()) })
	}
	told, loopback := k.told()
	// Else it is as it was, and stays the same slice.
	if len(change.services)+len(change.slices)+len(moved.hosts) > 0 {
		next.Loopback = loopback
	}
	if len(i.c.errs) > 0 {
		return nil, nil, i.no("an object is refused")
	}
	if !i.fits(&next, removed, added, len(moved.added)-len(moved.removed)) {
		return nil, nil, false
	}
	i.state = &next
	return i.state, slices.Concat(i.prior, told, k.toldOfPolicies(), i.later), true
}

// isSmall is whether nothing has changed that is never made again alone.
func (i *Incremental) isSmall(change *change) bool {
	switch {
	case i.readsServices(change):
		return i.no("a policy of Cilium's reads services")
	case i.complains(change):
		return i.no("an object that has changed is warned of or refused by itself")
	}
	return true
}

// patchServices makes services again that are others, or whose slices are, and
// asks selectors again.
func (i *Incremental) patchServices(change *change, moved *moves, next *model.State) (removed, added []model.Service, ok bool) {
	c, k := i.c, i.c.kept
	for key := range moved.selectors {
		k.selector(key)
	}
	if len(change.services)+len(change.slices)+len(moved.hosts) == 0 {
		return nil, nil, true
	}
	addressed := i.takeIn(change)
	if addressed == nil {
		return nil, nil, false
	}
	again := map[string]bool{}
	for key := range change.services {
		again[key] = true
	}
	for key, slice := range change.slices {
		before := c.objs.EndpointSlices[key]
		if before != nil {
			again[manifest.ServiceOf(before)] = true
			delete(k.slicesOf[manifest.ServiceOf(before)], key)
		}
		if slice != nil {
			again[manifest.ServiceOf(slice)] = true
			k.nameSlice(key, slice)
		}
		put(c.objs.EndpointSlices, key, slice)
	}
	for key, svc := range change.services {
		if k.people != nil {
			k.people.ask(key, c.objs.Services[key], false)
			k.people.ask(key, svc, true)
		}
		put(c.objs.Services, key, svc)
	}
	for key := range change.slices {
		k.slice(key)
	}
	for key := range change.services {
		for name := range k.slicesOf[key] { // whose service may be there now, or gone
			k.slice(name)
		}
	}
	removed, added = k.again(again, moved.hosts)
	if len(c.errs) > 0 {
		return nil, nil, i.no("a service is refused")
	}
	if next.Services, ok = spliced(next.Services, removed, added, compareFrontends); !ok {
		return nil, nil, i.no("a frontend is there already")
	}
	for _, frontend := range slices.Concat(removed, added) {
		addressed[frontend.Address] = true
	}
	next.ServiceAddresses = c.addressed(next.ServiceAddresses, next.Services, addressed)
	return removed, added, true
}

func put[T comparable](objects map[string]T, key string, object T) {
	var gone T
	if object == gone {
		delete(objects, key)
		return
	}
	objects[key] = object
}

// again makes services again, and pods that want ports of this node, and gives the
// frontends that are in the place of others.
func (k *kept) again(services map[string]bool, pods map[string]*compiledPod) (removed, added []model.Service) {
	places := map[frontendKey]bool{}
	withdraw := func(bids []bid) {
		for n := range bids {
			at := k.placeOf(&bids[n])
			places[at] = true
			p := k.placed(at)
			p.bids = slices.DeleteFunc(p.bids, func(other bid) bool { return other.object == bids[n].object })
		}
	}
	bid := func(bids []bid) {
		for n := range bids {
			places[k.placeOf(&bids[n])] = true
			k.place(&bids[n])
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
