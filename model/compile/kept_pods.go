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

// keptPods is what pods of other nodes were made into: addresses, and the
// identity of these. A pod whose addresses nobody else names comes and goes
// without a dispute; policies hear of it only if its identity does so with it.
type keptPods struct {
	made   map[string]*compiledPod // that have addresses, by name
	crowds map[string]*crowd       // by the identity's key
	wanted map[string]model.WantedIdentity
	all    [2]int      // addresses by family
	blocks *blockIndex // of policies, that hold pods
	// services by one label of their selector, since they are told if it
	// matches nobody.
	selecting map[selected]map[string]bool
	spaces    map[string]map[string]bool // keys of all pods, by namespace
}

// selected is a label that a service asks of its namespace's pods.
type selected struct{ namespace, key, value string }

// crowd is all pods that are known by one set of labels.
type crowd struct {
	identity       *identity // nil: none has an address
	labels         model.LabelSet
	pods           int // that have addresses
	here           int // of those with and without, this node's
	expected       int
	byFamily       [2]int // addresses
	groups         string // of blocks, that hold its addresses
	before         string // groups of those of the last compile
	severalAreHeld bool   // by different groups
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
func keepPods(c *compiler) *keptPods {
	k := &keptPods{made: map[string]*compiledPod{}, crowds: map[string]*crowd{}, blocks: indexBlocks(c.held), selecting: map[selected]map[string]bool{}, spaces: map[string]map[string]bool{}}
	for _, pod := range c.pods {
		k.made[pod.name] = pod
		w := k.crowd(pod.identity.set, pod.identity.labelSet)
		w.identity = pod.identity
		w.here += boolToInt(pod.local)
		k.count(w, pod.addresses, 1)
	}
	for key, pod := range c.objs.Pods {
		k.settleIn(key, pod)
		if isExpected(pod) {
			id := c.identityOf(pod, c.ignored)
			w := k.crowd(id.key(), id.labelSet)
			w.expected++
			w.here += boolToInt(pod.Spec.NodeName == c.node)
		}
	}
	k.wanted = c.local.Identities.Wanted()
	for key, svc := range c.objs.Services {
		k.ask(key, svc, true)
	}
	for _, w := range k.crowds {
		w.before = w.groups
	}
	c.pods = nil // they are others from now on
	return k
}

func (k *keptPods) crowd(set string, labels func() model.LabelSet) *crowd {
	if k.crowds[set] == nil {
		k.crowds[set] = &crowd{labels: labels()}
	}
	return k.crowds[set]
}

// count counts a pod's addresses.
func (k *keptPods) count(w *crowd, addrs []netip.Addr, times int) {
	for _, addr := range addrs {
		groups := k.groupsAt(addr)
		if w.byFamily == [2]int{} {
			w.groups = groups
		}
		w.severalAreHeld = w.severalAreHeld || w.groups != groups
		w.byFamily[familyOf(addr)] += times
		k.all[familyOf(addr)] += times
	}
	w.pods += times
}

// groupsAt names the blocks that hold an address.
func (k *keptPods) groupsAt(addr netip.Addr) string {
	if len(k.blocks.byName) == 0 {
		return ""
	}
	names := k.blocks.at(addr)
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
	switch {
	case !is:
		delete(k.selecting[at], key)
	case k.selecting[at] == nil:
		k.selecting[at] = map[string]bool{key: true}
	default:
		k.selecting[at][key] = true
	}
}

// moves is what pods' changes come to.
type moves struct {
	removed, added []model.Address
	people         []*identity // that came or went
	selectors      map[string]bool
	own            bool                    // one is, or was, this node's
	hosts          map[string]*compiledPod // of those, by key; nil: it has no address
}

// isPlain is whether a pod has a node, and says nothing by itself that others have to
// do with: a weight is one of services' backends.
func (i *Incremental) isPlain(pod *corev1.Pod) bool {
	c := i.c
	if pod == nil {
		return true
	}
	_, known := c.namespaces[manifest.NamespaceOr(pod.Namespace)]
	weight, _ := manifest.WeightOf(pod)
	if !known || weight != 0 || pod.Spec.NodeName == "" {
		return false
	}
	c.warnings = nil
	c.ignoreReservedLabels(pod)
	return len(c.warnings) == 0
}

// readPeople counts pods if they are not counted yet.
func (i *Incremental) readPeople() {
	if i.c.kept.people == nil {
		i.c.kept.people = keepPods(i.c)
	}
}

// settleIn notes of which namespace a pod is.
func (k *keptPods) settleIn(key string, pod *corev1.Pod) {
	space := manifest.NamespaceOr(pod.Namespace)
	if k.spaces[space] == nil {
		k.spaces[space] = map[string]bool{}
	}
	k.spaces[space][key] = true
}

// claimsOf are the addresses that a pod wants for itself.
func claimsOf(pod *corev1.Pod) []netip.Addr {
	if pod == nil || manifest.IsFinished(pod) || pod.Spec.HostNetwork {
		return nil
	}
	return manifest.PodAddresses(pod)
}

// takePods makes pods again that are others. It is not ok where anybody else has
// to do with that.
func (i *Incremental) takePods(change *change) (m moves, ok bool) {
	changed := change.pods
	if len(changed) == 0 {
		i.c.relabel(change.namespaces)
		return m, true
	}
	c, k := i.c, i.c.kept
	if i.mentions == nil {
		i.mentions = countMentions(c)
	}
	i.readPeople()
	for key, pod := range changed {
		if !i.isPlain(c.objs.Pods[key]) || !i.isPlain(pod) || !isDistinct(claimsOf(pod)) {
			return m, i.no("a pod has no node, a weight or reserved labels")
		}
	}
	m.selectors, m.hosts = map[string]bool{}, map[string]*compiledPod{}
	touched := map[string]bool{} // sets of labels
	families := k.people.all
	for key, pod := range changed {
		if !i.leavePod(key, c.objs.Pods[key], pod, &m, touched) {
			return m, false
		}
	}
	c.relabel(change.namespaces)
	for key, pod := range changed {
		put(c.objs.Pods, key, pod)
		if pod != nil {
			k.people.settleIn(key, pod)
		}
	}
	if !i.enterPods(changed, &m, touched) || !i.settleCrowds(touched, &m) {
		return m, false
	}
	if familiesOf(families) != familiesOf(k.people.all) {
		return m, i.no("pods have addresses of another family now") // blocks of whole families mean others then
	}
	return m, true
}

func familiesOf(counts [2]int) familySet { return familySet{counts[0] > 0, counts[1] > 0} }

// leavePod takes out what there was of a pod.
func (i *Incremental) leavePod(key string, before, after *corev1.Pod, m *moves, touched map[string]bool) bool {
	c, k := i.c, i.c.kept
	k.people.selects(c.objs.Services, before, after, m.selectors)
	if before == nil {
		return true
	}
	k.pods.Remove(before)
	delete(k.people.spaces[manifest.NamespaceOr(before.Namespace)], key)
	here := before.Spec.NodeName == c.node
	if here {
		m.own, m.hosts[key] = true, nil
	}
	for _, addr := range claimsOf(before) {
		if i.mentions[addr].others != 1 || c.podAt[addr] != before {
			return i.no("another object names a pod's address") // it was told of a dispute, or that one was
		}
		i.mentions.add(addr, -1)
	}
	if isExpected(before) {
		id := c.identityOf(before, c.ignored)
		set := id.key()
		k.people.crowds[set].expected--
		k.people.crowds[set].here -= boolToInt(here)
		touched[set] = true
		return true
	}
	made := k.people.made[key]
	if made == nil {
		return true
	}
	for _, addr := range made.addresses {
		m.removed = append(m.removed, c.addressOf(addr, made.identity.number))
		if c.plugged[addr] == before {
			delete(c.plugged, addr)
		}
		delete(c.podAt, addr)
		delete(c.owners, addr)
		delete(c.doubted, addr)
		delete(c.numbers, addr)
	}
	if here {
		at, _ := slices.BinarySearchFunc(c.locals, key, compareName)
		c.locals = slices.Delete(c.locals, at, at+1)
	}
	k.people.crowds[made.identity.set].here -= boolToInt(here)
	k.people.count(k.people.crowds[made.identity.set], made.addresses, -1)
	touched[made.identity.set] = true
	delete(k.people.made, key)
	return true
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
				if svc := services[key]; matches(before, svc) != matches(after, svc) {
					found[key] = true
				}
			}
		}
	}
}

// enterPods puts in what there is now.
func (i *Incremental) enterPods(changed map[string]*corev1.Pod, m *moves, touched map[string]bool) bool {
	c, k := i.c, i.c.kept
	var servers []netip.Addr
	if api := c.apiSlice(); api != nil {
		servers = addressesOf(api)
	}
	ids := map[string]*identity{} // of pods, by name
	var fresh []string
	for key, pod := range changed {
		if pod == nil {
			continue
		}
		k.pods.Add(pod)
		addrs := claimsOf(pod)
		here := pod.Spec.NodeName == c.node
		if here {
			m.own, m.hosts[key] = true, nil
		}
		if len(addrs) == 0 && !isExpected(pod) {
			continue
		}
		id := c.identityOf(pod, c.ignored)
		id.set = id.key()
		touched[id.set] = true
		w := k.people.crowd(id.set, id.labelSet)
		w.here += boolToInt(here)
		if len(addrs) == 0 {
			w.expected++
			continue
		}
		ids[key] = id
		if c.known[id.set] == nil {
			c.known[id.set] = id
			fresh = append(fresh, id.set)
		}
		for _, addr := range addrs {
			if _, taken := c.owners[addr]; taken || i.mentions[addr].others != 0 || slices.Contains(servers, addr) {
				return i.no("another object names a pod's address")
			}
			i.mentions.add(addr, 1)
			c.podAt[addr], c.owners[addr] = pod, ownerOf(pod)
			switch c.certainty(pod, addr) {
			case pluggedHere:
				c.plugged[addr] = pod
			case doubtful:
				c.doubted[addr] = true
			}
		}
	}
	numbers, ok := c.local.Identities.AddLabels(fresh)
	if !ok {
		return i.no("no number is left that was never given")
	}
	for set, number := range numbers {
		c.known[set].number = number
	}
	for key, id := range ids {
		made := &compiledPod{name: key, object: changed[key], addresses: claimsOf(changed[key]), identity: c.known[id.set], local: c.isLocal(changed[key])}
		k.people.made[key] = made
		if made.local {
			at, _ := slices.BinarySearchFunc(c.locals, key, compareName)
			c.locals = slices.Insert(c.locals, at, made)
			m.hosts[key] = made
		}
		w := k.people.crowds[id.set]
		k.people.count(w, made.addresses, 1)
		for _, addr := range made.addresses {
			c.numbers[addr] = made.identity.number
			m.added = append(m.added, c.addressOf(addr, made.identity.number))
		}
	}
	return true
}

// settleCrowds finds whose identities came or went, and has it known. It is not
// ok where one is in blocks of policies as others of it are not, or comes or goes
// in one.
func (i *Incremental) settleCrowds(touched map[string]bool, m *moves) bool {
	c, k := i.c, i.c.kept
	wanted := map[string]model.WantedIdentity{}
	for set := range touched {
		w := k.people.crowds[set]
		had, id := w.identity, c.known[set]
		if w.pods == 0 {
			delete(c.known, set)
			id = nil
		}
		held := had != nil && w.before != "" || id != nil && w.groups != ""
		if w.severalAreHeld || len(c.variants[numberOf(had)]) > 1 || held && (had != id || w.before != w.groups) {
			return i.no("blocks of policies hold some of the pods of an identity that comes, goes or moves")
		}
		w.before = w.groups
		switch {
		case had == nil && id == nil:
		case had == nil:
			id.families = familiesOf(w.byFamily)
			c.variants[id.number] = []model.Identity{id.number}
			at, _ := slices.BinarySearchFunc(c.identities, id.number, compareNumber)
			c.identities = slices.Insert(c.identities, at, id)
		case id == nil:
			delete(c.variants, had.number)
			at, _ := slices.BinarySearchFunc(c.identities, had.number, compareNumber)
			c.identities = slices.Delete(c.identities, at, at+1)
		case id.families != familiesOf(w.byFamily):
			return i.no("an identity has addresses of another family now")
		}
		for _, changed := range []*identity{had, id} {
			if changed != nil && had != id {
				m.people = append(m.people, changed)
			}
		}
		w.identity = id
		if wanted[set] = w.wanted(); w.pods+w.expected == 0 {
			delete(k.people.crowds, set)
		}
	}
	i.want(wanted)
	return true
}

func compareName(pod *compiledPod, name string) int { return strings.Compare(pod.name, name) }

func numberOf(id *identity) model.Identity {
	if id == nil {
		return model.IdentityUnknown
	}
	return id.number
}

func compareNumber(id *identity, number model.Identity) int { return cmp.Compare(id.number, number) }

// want tells what pods are known by, where it is something else than before.
func (i *Incremental) want(changed map[string]model.WantedIdentity) {
	k := i.c.kept.people
	var now map[string]model.WantedIdentity
	for set, want := range changed {
		before, was := k.wanted[set]
		is := k.crowds[set] != nil
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
