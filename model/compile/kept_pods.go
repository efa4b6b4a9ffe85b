// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// keptPods is what pods and workloads were made into: addresses, and the identity
// of these. Policies hear of one only if its identity comes or goes with it, or
// another number of that.
type keptPods struct {
	made   map[model.Key]*party // that have addresses
	crowds map[string]*crowd    // by the identity's key
	wanted map[string]model.WantedIdentity
	all    [2]int                // addresses by family
	groups map[netip.Addr]string // of blocks, that hold addresses
	// services by one label of their selector, since they are told if it
	// matches nobody.
	selecting map[selected]map[string]bool
	spaces    map[string]map[string]bool    // keys of all pods, by namespace
	on        map[string]map[string]bool    // and by node
	lodging   map[string]map[model.Key]bool // workloads by the namespaces of this cluster
}

// selected is a label that a service asks of its namespace's pods.
type selected struct{ namespace, key, value string }

// crowd is all who are known by one set of labels.
type crowd struct {
	identity *identity // nil: none has an address
	labels   model.LabelSet
	parties  []*party                  // that have addresses
	here     int                       // of those with and without, this node's
	expected int                       // pods that have none yet
	byFamily [2]int                    // addresses
	shares   map[string]int            // addresses, by the groups of blocks that hold them
	numbers  map[string]model.Identity // of those of the last compile
}

func (w *crowd) wanted() model.WantedIdentity {
	want := model.WantedIdentity{Labels: w.labels, Here: w.here > 0}
	if w.identity != nil {
		want.Number = w.identity.number
	}
	return want
}

func familyOf(addr netip.Addr) int { return boolToInt(addr.Is6()) }

// keepPods reads what a compiler has made.
func keepPods(c *compiler, index *blockIndex) *keptPods {
	k := &keptPods{
		made: map[model.Key]*party{}, crowds: map[string]*crowd{}, groups: map[netip.Addr]string{},
		selecting: map[selected]map[string]bool{}, spaces: map[string]map[string]bool{}, on: map[string]map[string]bool{}, lodging: map[string]map[model.Key]bool{},
	}
	for _, who := range c.parties {
		k.made[who.name] = who
		w := k.crowd(who.identity.set, who.identity.labelSet)
		w.identity = who.identity
		w.here += boolToInt(who.local)
		w.join(who)
		for _, addr := range who.addresses {
			groups := index.groupsAt(addr)
			k.hold(w, addr, groups)
			w.numbers[groups] = c.numbers[addr]
		}
	}
	for key, pod := range c.objs.Pods {
		k.settleIn(key, pod)
		if isExpected(pod) {
			id := c.identityOfPod(pod, c.ignored)
			w := k.crowd(id.key(), id.labelSet)
			w.expected++
			w.here += boolToInt(pod.Spec.NodeName == c.node)
		}
	}
	for key, w := range c.objs.Workloads {
		k.lodge(key, w, true)
	}
	k.wanted = c.local.Identities.Wanted()
	for key, svc := range c.objs.Services {
		k.ask(key, svc, true)
	}
	c.parties = nil // they are others from now on
	return k
}

func (k *keptPods) crowd(set string, labels func() model.LabelSet) *crowd {
	if k.crowds[set] == nil {
		k.crowds[set] = &crowd{labels: labels(), shares: map[string]int{}, numbers: map[string]model.Identity{}}
	}
	return k.crowds[set]
}

func (w *crowd) join(who *party) {
	who.turn = len(w.parties)
	w.parties = append(w.parties, who)
}

func (w *crowd) leave(who *party) {
	last := w.parties[len(w.parties)-1]
	w.parties[who.turn], last.turn = last, who.turn
	w.parties = slices.Delete(w.parties, len(w.parties)-1, len(w.parties))
}

// hold counts an address that some groups hold, and release no more.
func (k *keptPods) hold(w *crowd, addr netip.Addr, groups string) {
	if groups != "" {
		k.groups[addr] = groups
	}
	w.shares[groups]++
	w.byFamily[familyOf(addr)]++
	k.all[familyOf(addr)]++
}

func (k *keptPods) release(w *crowd, addr netip.Addr) {
	count(w.shares, k.groups[addr], -1)
	delete(k.groups, addr)
	w.byFamily[familyOf(addr)]--
	k.all[familyOf(addr)]--
}

// groupsAt names the blocks that hold an address.
func (x *blockIndex) groupsAt(addr netip.Addr) string {
	if len(x.byName) == 0 {
		return ""
	}
	names := x.at(addr)
	slices.Sort(names)
	return strings.Join(names, ";")
}

// ask notes, or forgets, what a service asks of pods.
func (k *keptPods) ask(key string, svc *corev1.Service, is bool) {
	if svc == nil || len(svc.Spec.Selector) == 0 {
		return
	}
	label := slices.Min(slices.Collect(maps.Keys(svc.Spec.Selector)))
	at := selected{manifest.NamespaceOr(svc.Namespace), label, svc.Spec.Selector[label]}
	if enlist(k.selecting, at, key); !is {
		strike(k.selecting, at, key)
	}
}

// enlist puts a name into one of several lists, and strike takes it out.
func enlist[K, N comparable](lists map[K]map[N]bool, at K, name N) {
	if lists[at] == nil {
		lists[at] = map[N]bool{}
	}
	lists[at][name] = true
}

func strike[K, N comparable](lists map[K]map[N]bool, at K, name N) {
	if delete(lists[at], name); len(lists[at]) == 0 {
		delete(lists, at)
	}
}

// settleIn notes of which namespace a pod is, and on which node.
func (k *keptPods) settleIn(key string, pod *corev1.Pod) {
	enlist(k.spaces, manifest.NamespaceOr(pod.Namespace), key)
	if pod.Spec.NodeName != "" {
		enlist(k.on, pod.Spec.NodeName, key)
	}
}

func (k *keptPods) moveOut(key string, pod *corev1.Pod) {
	strike(k.spaces, manifest.NamespaceOr(pod.Namespace), key)
	strike(k.on, pod.Spec.NodeName, key)
}

// lodge notes, or forgets, of which namespace of this cluster a workload is.
func (k *keptPods) lodge(key model.Key, w *manifest.Workload, is bool) {
	if w == nil || w.Cluster != 0 {
		return
	}
	if enlist(k.lodging, key.Namespace, key); !is {
		strike(k.lodging, key.Namespace, key)
	}
}

// arePlain is whether nothing is refused of pods that have changed.
func (i *Incremental) arePlain(change *change) bool {
	c := i.c
	for _, pod := range change.pods {
		if pod == nil {
			continue
		}
		space := manifest.NamespaceOr(pod.Namespace)
		_, known := c.namespaces[space]
		if ns, changed := change.namespaces[space]; changed {
			known = ns != nil || slices.Contains(manifest.BornNamespaces(), space)
		}
		if !known {
			return i.no("a pod is of a namespace that is not there")
		}
		if pod.Spec.NodeName == "" && len(c.objs.Nodes) > 1 && len(claimsOf(pod)) > 0 {
			return i.no("a pod has an address and no node")
		}
	}
	return true
}

// takePods makes pods and workloads again that are others, or have other addresses.
// It is not ok where anybody else has to do with that.
func (i *Incremental) takePods(change *change, m *moves) bool {
	c, k := i.c, i.c.kept
	families := k.people.all
	for key, pod := range m.pods {
		i.leavePod(key, c.objs.Pods[key], pod, m)
	}
	for key := range m.workloads {
		i.leaveParty(key, m)
	}
	c.relabel(change.namespaces)
	for key, pod := range m.pods {
		put(c.objs.Pods, key, pod)
	}
	for key, w := range m.workloads {
		k.people.lodge(key, c.objs.Workloads[key], false)
		k.people.lodge(key, w, true)
		put(c.objs.Workloads, key, w)
	}
	i.enterPods(m)
	i.enterWorkloads(m)
	if !i.numberFresh(m) {
		return false
	}
	if familiesOf(families) != familiesOf(i.familiesWith(m)) {
		return i.no("pods have addresses of another family now") // blocks of whole families mean others then
	}
	return true
}

// familiesWith counts addresses with those of pods that are not counted yet.
func (i *Incremental) familiesWith(m *moves) [2]int {
	all := i.c.kept.people.all
	for who := range m.entered {
		for _, addr := range who.addresses {
			all[familyOf(addr)]++
		}
	}
	return all
}

func familiesOf(counts [2]int) familySet { return familySet{counts[0] > 0, counts[1] > 0} }

// leavePod takes out what there was of a pod.
func (i *Incremental) leavePod(key string, before, after *corev1.Pod, m *moves) {
	c, k := i.c, i.c.kept
	k.people.selects(c.objs.Services, before, after, m.selectors)
	i.weigh(key, before, after, m)
	if before == nil {
		return
	}
	k.pods.Remove(before)
	k.people.moveOut(key, before)
	delete(k.ofLabels, key)
	here := c.isLocal(before)
	if here {
		m.own, m.hosts[key] = true, nil
	}
	if isExpected(before) {
		id := c.identityOfPod(before, c.ignored)
		set := id.key()
		k.people.crowds[set].expected--
		k.people.crowds[set].here -= boolToInt(here)
		m.touched[set] = true
		return
	}
	i.leaveParty(manifest.KeyOf(before), m)
}

// leaveParty takes out who has addresses, if it has.
func (i *Incremental) leaveParty(name model.Key, m *moves) {
	c, k := i.c, i.c.kept
	made := k.people.made[name]
	if made == nil {
		return
	}
	w := k.people.crowds[made.identity.set]
	for _, addr := range made.addresses {
		m.removed = append(m.removed, c.addressOf(addr, made.identity.number))
		delete(c.numbers, addr)
		k.people.release(w, addr)
	}
	if made.local {
		m.own = true
		at, _ := slices.BinarySearchFunc(c.locals, name, compareName)
		c.locals = slices.Delete(c.locals, at, at+1)
	}
	w.here -= boolToInt(made.local)
	w.leave(made)
	m.touched[made.identity.set] = true
	delete(k.people.made, name)
}

// weigh has services made again that list a pod, if what it says of them is another,
// be it at another address.
func (i *Incremental) weigh(key string, before, after *corev1.Pod, m *moves) {
	c := i.c
	read := func(pod *corev1.Pod) (weight uint16, adrift bool) {
		if pod == nil {
			return 0, false
		}
		weight, _ = manifest.WeightOf(pod)
		return weight, pod.Spec.NodeName == "" && len(c.objs.Nodes) <= 1
	}
	was, wasAdrift := read(before)
	is, isAdrift := read(after)
	if was == 0 && is == 0 && !wasAdrift && !isAdrift {
		return
	}
	i.met("a pod with a weight, or on the only node without its name")
	m.listing[backendKey{pod: key}] = true
	for _, addr := range slices.Concat(claimsOf(before), claimsOf(after)) {
		m.listing[backendKey{addr: addr}] = true
	}
}

// selects finds the services that match one of two pods and not the other.
func (k *keptPods) selects(services map[string]*corev1.Service, before, after *corev1.Pod, found map[string]bool) {
	matches := func(pod *corev1.Pod, svc *corev1.Service) bool {
		return pod != nil && manifest.Includes(pod.Labels, svc.Spec.Selector)
	}
	for _, pod := range []*corev1.Pod{before, after} {
		if pod == nil {
			continue
		}
		for label, value := range pod.Labels {
			for key := range k.selecting[selected{manifest.NamespaceOr(pod.Namespace), label, value}] {
				if svc := services[key]; svc != nil && matches(before, svc) != matches(after, svc) {
					found[key] = true
				}
			}
		}
	}
}

// enterPods puts in what there is of pods now, but for the groups that hold the
// addresses.
func (i *Incremental) enterPods(m *moves) {
	c, k := i.c, i.c.kept
	for set := range m.renumbered {
		delete(c.known, set)
	}
	for key, pod := range m.pods {
		if pod == nil {
			continue
		}
		k.pods.Add(pod)
		k.people.settleIn(key, pod)
		keep(k.ofLabels, key, k.telling(func() { c.ignoreReservedLabels(pod) }))
		m.told = m.told || len(k.ofLabels[key]) > 0
		here := c.isLocal(pod)
		if here {
			m.own, m.hosts[key] = true, nil
		}
		won := c.won(pod)
		if len(won) == 0 && !isExpected(pod) {
			continue
		}
		made := &party{name: manifest.KeyOf(pod), object: pod, pod: pod, key: key, addresses: won, local: here}
		w := i.enterParty(made, m)
		if len(won) == 0 {
			w.expected++
			continue
		}
		if made.local {
			c.house(made)
			m.hosts[key] = made
		}
	}
}

// house puts who is of this node among all that are.
func (c *compiler) house(who *party) {
	at, _ := slices.BinarySearchFunc(c.locals, who.name, compareName)
	c.locals = slices.Insert(c.locals, at, who)
}

func (i *Incremental) enterWorkloads(m *moves) {
	for key, w := range m.workloads {
		if w == nil {
			continue
		}
		i.met("a workload")
		won := i.c.wonByWorkload(w)
		if len(won) == 0 {
			continue
		}
		made := &party{name: key, object: w, addresses: won, local: i.c.isAttached(w)}
		i.enterParty(made, m)
		if made.local {
			i.met("a workload at a device of this node")
			m.own = true
			i.c.house(made)
		}
	}
}

// enterParty puts in who has addresses, or will have, among all that have the same
// labels.
func (i *Incremental) enterParty(who *party, m *moves) *crowd {
	c, k := i.c, i.c.kept
	id := c.identityOf(who.object, c.ignored)
	id.set = id.key()
	m.touched[id.set] = true
	w := k.people.crowd(id.set, id.labelSet)
	w.here += boolToInt(who.local)
	if len(who.addresses) == 0 {
		return w
	}
	if c.known[id.set] == nil {
		c.known[id.set] = id
		m.fresh = append(m.fresh, id.set)
	}
	who.identity = c.known[id.set]
	k.people.made[who.name], m.entered[who] = who, true
	return w
}

// numberFresh gives numbers to sets of labels that have come.
func (i *Incremental) numberFresh(m *moves) bool {
	numbers, ok := i.c.local.Identities.AddLabels(m.fresh)
	if !ok {
		return i.no("no number is left that was never given")
	}
	for set, number := range numbers {
		i.c.known[set].number = number
	}
	return true
}

// placePods counts the addresses of who has come in the groups that hold them.
func (i *Incremental) placePods(m *moves) {
	k := i.c.kept
	for who := range m.entered {
		w := k.people.crowds[who.identity.set]
		w.join(who)
		for _, addr := range who.addresses {
			k.people.hold(w, addr, k.blocks.index.groupsAt(addr))
			m.placed[who.identity.set] = append(m.placed[who.identity.set], addr)
		}
	}
}

// regroupAddress notes which groups hold an address of a pod now.
func (i *Incremental) regroupAddress(addr netip.Addr, made *party, m *moves) {
	people := i.c.kept.people
	groups := i.c.kept.blocks.index.groupsAt(addr)
	if people.groups[addr] == groups {
		return
	}
	w, set := people.crowds[made.identity.set], made.identity.set
	people.release(w, addr)
	people.hold(w, addr, groups)
	m.touched[set], m.placed[set] = true, append(m.placed[set], addr)
}

func compareName(who *party, name model.Key) int { return who.name.Compare(name) }

func compareNumber(id *identity, number model.Identity) int { return cmp.Compare(id.number, number) }

// want tells what pods are known by, where it is something else than before.
func (i *Incremental) want(changed map[string]model.WantedIdentity) {
	k := i.c.kept.people
	var now map[string]model.WantedIdentity
	for set, want := range changed {
		before, was := k.wanted[set]
		is := k.crowds[set] != nil && want.Labels.Cluster == 0
		if was == is && before.Number == want.Number && before.Here == want.Here {
			continue
		}
		if now == nil {
			now = maps.Clone(k.wanted) // others read what they were given
		}
		if delete(now, set); is {
			now[set] = want
		}
	}
	if now != nil {
		k.wanted = now
		i.c.local.Identities.Want(now)
	}
}
