// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// kept is what services and their slices were made into, object by object, so
// that one of them can be made again alone. All that there is together is what
// compiler.services makes.
type kept struct {
	c        *compiler
	pods     manifest.PodIndex
	people   *keptPods                  // nil: not counted yet
	slicesOf map[string]map[string]bool // keys of the slices that name a service, which may not be there
	bids     map[string][]bid           // of services, by key
	places   map[frontendKey]*place
	sockets  map[frontendKey]map[frontendKey]claim // in places
	quarrels map[frontendKey]bool                  // places that were not settled in silence

	hosts map[string][]bid // of pods that want ports of this node, by key

	socketsOf map[netip.Addr][]frontendKey // places, by the sockets' addresses

	claims *keptClaims    // with people
	blocks *keptBlocks    // with people
	nodes  []*corev1.Node // in the order in which they are believed; with people

	// told before services are made: by objects, by Nodes' names, by pods' keys
	ofAnnotations map[model.Ref][]Warning
	ofNodeNames   map[string]toldOf
	ofLabels      map[string][]Warning

	// by key, where there are any
	ofSlices, ofServices, ofSelectors, ofHostPorts, ofHostSockets map[string][]Warning

	toldLast *servicesTold // nil: it is another than was told last

	keptPolicies
}

// servicesTold is what is told of services, and frontends of sockets alone.
type servicesTold struct {
	warnings []Warning
	loopback []model.Service
}

// toldOnce is told, which is gathered only where something is another.
func (k *kept) toldOnce() ([]Warning, []model.Service) {
	if k.toldLast == nil {
		warnings, loopback := k.told()
		k.toldLast = &servicesTold{warnings, loopback}
	}
	return k.toldLast.warnings, k.toldLast.loopback
}

// place is where claims may meet: an address and port, or a port of all of the
// nodes' addresses. Claims of different places have nothing to do with each
// other, so each place is settled alone.
type place struct {
	bids      []bid
	frontends []model.Service
	outcomes  []outcome
}

// outcome is what came of a bid beside frontends of packets.
type outcome struct {
	bid      bid
	warnings []Warning
	losses   []loss // of those warnings that are lost, in their order
	loopback []model.Service
}

// socket is a claim that is there before all bids.
type socket struct {
	at    frontendKey
	claim claim
}

// around is the place in which a frontend meets others.
func (k *kept) around(at frontendKey) frontendKey {
	if at.at.Addr().IsValid() && !k.c.isOfNode(at.at.Addr()) {
		return at
	}
	return frontendKey{netip.AddrPortFrom(netip.Addr{}, at.at.Port()), at.protocol}
}

// services makes all frontends, and keeps what they are made of.
func (k *kept) services() []model.Service {
	c := k.c
	before := c.warnings
	k.pods = manifest.IndexByLabel(manifest.InOrder(c.objs.Pods))
	k.slicesOf, k.bids, k.places = map[string]map[string]bool{}, map[string][]bid{}, map[frontendKey]*place{}
	k.sockets, k.socketsOf, k.quarrels = map[frontendKey]map[frontendKey]claim{}, map[netip.Addr][]frontendKey{}, map[frontendKey]bool{}
	k.ofSlices, k.ofServices, k.ofSelectors = map[string][]Warning{}, map[string][]Warning{}, map[string][]Warning{}
	for key, slice := range c.objs.EndpointSlices {
		k.nameSlice(key, slice)
		k.slice(key)
	}
	for _, key := range slices.Sorted(maps.Keys(c.objs.Services)) { // errors are in their order
		k.service(key)
		for i := range k.bids[key] {
			k.place(&k.bids[key][i])
		}
	}
	k.hosts, k.ofHostPorts, k.ofHostSockets = map[string][]bid{}, map[string][]Warning{}, map[string][]Warning{}
	for _, pod := range c.locals {
		if pod.pod != nil {
			k.hostPorts(pod.key, pod)
		}
	}
	for key, object := range c.objs.Pods {
		k.hostSockets(key, object)
	}
	for key := range k.hosts {
		for i := range k.hosts[key] {
			k.place(&k.hosts[key][i])
		}
	}
	c.claims = map[frontendKey]claim{}
	c.claimSockets()
	for at, claim := range c.claims {
		k.holdSocket(socket{at, claim})
	}
	var frontends []model.Service
	for at := range k.places {
		k.settle(at)
		frontends = append(frontends, k.places[at].frontends...)
	}
	slices.SortFunc(frontends, compareFrontends)
	c.frontends = frontends
	warnings, loopback := k.told()
	c.warnings, c.loopback = append(before, warnings...), loopback
	return frontends
}

// place puts a bid where it meets others.
func (k *kept) place(b *bid) {
	b.where = k.around(frontendKey{b.at, b.protocol})
	p := k.placed(b.where)
	p.bids = append(p.bids, *b)
}

func (k *kept) placed(at frontendKey) *place {
	if k.places[at] == nil {
		k.places[at] = &place{}
	}
	return k.places[at]
}

func (k *kept) nameSlice(key string, slice *discoveryv1.EndpointSlice) {
	name := manifest.ServiceOf(slice)
	if k.slicesOf[name] == nil {
		k.slicesOf[name] = map[string]bool{}
	}
	k.slicesOf[name][key] = true
}

// alone makes one object's part, and gives what it bids and tells.
func (k *kept) alone(part func()) ([]bid, []Warning) {
	c := k.c
	c.bids, c.warnings, c.tellings, c.told = nil, nil, nil, nil
	part()
	for i := range c.bids {
		c.bids[i].turn = i
	}
	return c.bids, c.warnings
}

func keep[K comparable](in map[K][]Warning, key K, warnings []Warning) {
	if len(warnings) == 0 {
		delete(in, key)
		return
	}
	in[key] = warnings
}

func (k *kept) slice(key string) {
	var warnings []Warning
	if slice := k.c.objs.EndpointSlices[key]; slice != nil {
		_, warnings = k.alone(func() { k.c.slice(slice) })
	}
	keep(k.ofSlices, key, warnings)
}

// service makes one service again, or takes out what there was of one that is
// gone. Its places are to be settled then.
func (k *kept) service(key string) {
	svc := k.c.objs.Services[key]
	if svc == nil {
		delete(k.bids, key)
		delete(k.ofServices, key)
		delete(k.ofSelectors, key)
		return
	}
	var listed []*discoveryv1.EndpointSlice
	for _, name := range slices.Sorted(maps.Keys(k.slicesOf[key])) {
		if slice := k.c.objs.EndpointSlices[name]; slice.AddressType != discoveryv1.AddressTypeFQDN {
			listed = append(listed, slice)
		}
	}
	bids, warnings := k.alone(func() { k.c.service(svc, listed) })
	k.bids[key] = bids
	keep(k.ofServices, key, warnings)
	k.selector(key)
}

// selector asks again whether a service's selector matches nobody.
func (k *kept) selector(key string) {
	if svc := k.c.objs.Services[key]; svc != nil {
		keep(k.ofSelectors, key, k.telling(func() { k.c.warnOfSelector(svc, k.pods.Candidates(svc)) }))
	}
}

// hostPorts makes what a pod wants of this node again; nil: it wants nothing more.
func (k *kept) hostPorts(key string, pod *party) {
	bids, warnings := k.alone(func() {
		if pod != nil {
			k.c.hostPortsOf(pod)
		}
	})
	k.hosts[key] = append(k.hosts[key], bids...)
	keep(k.ofHostPorts, key, warnings)
}

// hostSockets does so for a pod that is on the host's network.
func (k *kept) hostSockets(key string, object *corev1.Pod) {
	bids, warnings := k.alone(func() {
		if object != nil && k.c.isOnHost(object) {
			k.c.hostSockets(object)
		}
	})
	keep(k.ofHostSockets, key, warnings)
	if k.hosts[key] = append(k.hosts[key], bids...); len(k.hosts[key]) == 0 {
		delete(k.hosts, key)
	}
}

func compareTurns(a, b bid) int { return cmp.Or(compareBids(a, b), cmp.Compare(a.turn, b.turn)) }

// settle makes the frontends of a place. One without bids is there no more.
func (k *kept) settle(at frontendKey) {
	p, c := k.placed(at), k.c
	slices.SortFunc(p.bids, compareTurns)
	c.claims = make(map[frontendKey]claim, 1)
	maps.Copy(c.claims, k.sockets[at])
	c.frontends, p.outcomes = nil, nil
	for i := range p.bids {
		c.warnings, c.tellings, c.told, c.loopback = nil, nil, nil, nil
		if c.claim(&p.bids[i]) {
			p.bids[i].make()
		}
		if len(c.warnings)+len(c.loopback) > 0 {
			p.outcomes = append(p.outcomes, outcome{p.bids[i], c.warnings, c.tellings, c.loopback})
		}
	}
	p.frontends = c.frontends
	if delete(k.quarrels, at); len(p.outcomes) > 0 {
		k.quarrels[at] = true
	}
	if len(p.bids) == 0 {
		delete(k.places, at)
	}
}

// told gives the warnings in the order in which compiler.services gives them, a
// loss once, and the frontends of sockets alone.
func (k *kept) told() (warnings []Warning, loopback []model.Service) {
	for _, key := range slices.Sorted(maps.Keys(k.ofSlices)) {
		warnings = append(warnings, k.ofSlices[key]...)
	}
	of := map[string]bool{}
	for key := range k.ofServices {
		of[key] = true
	}
	for key := range k.ofSelectors {
		of[key] = true
	}
	for _, key := range slices.Sorted(maps.Keys(of)) {
		warnings = slices.Concat(warnings, k.ofServices[key], k.ofSelectors[key])
	}
	for _, of := range []map[string][]Warning{k.ofHostPorts, k.ofHostSockets} {
		for _, key := range slices.Sorted(maps.Keys(of)) {
			warnings = append(warnings, of[key]...)
		}
	}
	var all []outcome
	for at := range k.quarrels {
		all = append(all, k.places[at].outcomes...)
	}
	slices.SortFunc(all, func(a, b outcome) int { return compareTurns(a.bid, b.bid) })
	once := map[loss]bool{}
	for i := range all {
		losses := all[i].losses
		for _, w := range all[i].warnings {
			if w.Lost {
				loss := losses[0]
				losses = losses[1:]
				if once[loss] {
					continue
				}
				once[loss] = true
			}
			warnings = append(warnings, w)
		}
		loopback = append(loopback, all[i].loopback...)
	}
	return warnings, loopback
}
