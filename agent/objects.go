// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/endpoints"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// A pod's status says its address only after it was connected, and may say it
// still when another pod has it: of this node's pods the records know better.

// pods gives the pods of the cluster the addresses that they can have: this
// node's those that they are recorded with, and each address to one pod, to whom
// it is recorded for, else to the one that is newest and not going. A pod is made
// again when it, its record, or who else wants its addresses changes.
type pods struct {
	node string
	said map[string]*corev1.Pod // as the API has them, by namespace/name
	here map[string]bool        // of them, those of the node
	made map[string]*corev1.Pod // with their addresses

	ours     map[model.Key]api.Endpoint // the records of the node's endpoints, which are pods; never changed
	recorded map[netip.Addr]string      // pods by the addresses that they are recorded with
	wanted   map[netip.Addr][]string    // pods by the addresses that they have by the API alone

	again   map[string]bool     // to be made again
	touched map[netip.Addr]bool // all who want them are to be made again
	moved   bool                // a pod of the node may be another since record
	records uint64              // revision of the records then
}

func newPods(node string, made map[string]*corev1.Pod) pods {
	return pods{
		node: node, said: map[string]*corev1.Pod{}, here: map[string]bool{}, made: made,
		ours: map[model.Key]api.Endpoint{}, recorded: map[netip.Addr]string{}, wanted: map[netip.Addr][]string{},
		again: map[string]bool{}, touched: map[netip.Addr]bool{}, moved: true,
	}
}

// put takes in what the API says of a pod.
func (p *pods) put(name string, pod *corev1.Pod, gone bool) {
	p.unwant(name)
	if gone {
		delete(p.said, name)
	} else {
		p.said[name] = pod
	}
	isHere := !gone && pod.Spec.NodeName == p.node
	p.moved = p.moved || p.here[name] || isHere
	if p.here[name] = isHere; !isHere {
		delete(p.here, name)
	}
	p.want(name)
	p.again[name] = true
}

// wants are the addresses that a pod has by the API, unless a record says more.
func (p *pods) wants(name string) []netip.Addr {
	pod := p.said[name]
	if pod == nil || !mayHave(pod) {
		return nil
	}
	if _, known := p.ours[manifest.KeyOf(pod)]; known {
		return nil
	}
	return addressesOf(pod)
}

// mayHave is whether a pod has addresses of its own.
func mayHave(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

func (p *pods) want(name string) {
	for _, addr := range p.wants(name) {
		p.wanted[addr] = append(p.wanted[addr], name)
		p.touched[addr] = true
	}
}

func (p *pods) unwant(name string) {
	for _, addr := range p.wants(name) {
		p.touched[addr] = true
		left := slices.DeleteFunc(p.wanted[addr], func(other string) bool { return other == name })
		if p.wanted[addr] = left; len(left) == 0 {
			delete(p.wanted, addr)
		}
	}
}

// hasNews is whether a pod of the node, or a record, may be another since record.
func (p *pods) hasNews(store *endpoints.Store) bool {
	return p.moved || p.records != store.Revision()
}

// record takes in the node's records.
func (p *pods) record(store *endpoints.Store) {
	if !p.hasNews(store) {
		return
	}
	p.moved, p.records = false, store.Revision() // what is recorded meanwhile is news again
	ours := map[model.Key]api.Endpoint{}
	for _, e := range store.List() { // the newest last: a pod whose sandbox was made anew has two
		key := model.Key{Namespace: e.PodNamespace, Name: e.PodName}
		name := key.String()
		if pod := p.said[name]; p.here[name] && !pod.Spec.HostNetwork && isOf(&e, pod) {
			ours[key] = e
		}
	}
	before := p.ours
	p.ours = maps.Clone(before)
	for key, old := range before {
		if now, found := ours[key]; !found || !slices.Equal(now.Addresses, old.Addresses) {
			p.forget(key, old.Addresses)
		}
	}
	for key, now := range ours {
		if _, known := p.ours[key]; !known {
			name := key.String()
			p.unwant(name)
			p.again[name] = true
			for _, addr := range now.Addresses {
				p.recorded[addr], p.touched[addr] = name, true
			}
		}
		p.ours[key] = now
	}
}

// forget takes a record away. It is for record alone.
func (p *pods) forget(key model.Key, addrs []netip.Addr) {
	delete(p.ours, key)
	name := key.String()
	for _, addr := range addrs {
		if p.touched[addr] = true; p.recorded[addr] == name {
			delete(p.recorded, addr)
		}
	}
	p.want(name)
	p.again[name] = true
}

// settle makes pods again, and names those that are others.
func (p *pods) settle() (changed []model.Ref) {
	for addr := range p.touched {
		for _, name := range p.wanted[addr] {
			p.again[name] = true
		}
	}
	for name := range p.again {
		before, now := p.made[name], p.make(name)
		switch {
		case now == nil && before == nil, now == before:
			continue
		case now == nil:
			delete(p.made, name)
			changed = append(changed, manifest.RefOf(before))
			continue
		case before != nil && now != p.said[name] && reflect.DeepEqual(before, now):
			continue // it was given the same addresses
		}
		p.made[name] = now
		changed = append(changed, manifest.RefOf(now))
	}
	p.again, p.touched = map[string]bool{}, map[netip.Addr]bool{} // those that were large are slow to walk
	return changed
}

// make gives a pod with its addresses; nil: there is none.
func (p *pods) make(name string) *corev1.Pod {
	pod := p.said[name]
	if pod == nil {
		return nil
	}
	// A pod that is finished has its device until it is taken away, and nothing
	// to say any more: the model knows.
	if e, known := p.ours[manifest.KeyOf(pod)]; known {
		return withAddresses(pod, e.Addresses)
	}
	if !mayHave(pod) {
		return pod
	}
	var keep []netip.Addr
	stale := false
	for _, addr := range addressesOf(pod) { // of others the model names the field
		if p.ownerOf(addr) == name {
			keep = append(keep, addr)
		} else {
			stale = true
		}
	}
	if !stale {
		return pod
	}
	return withAddresses(pod, keep)
}

// ownerOf is the pod that has an address which pods want.
func (p *pods) ownerOf(addr netip.Addr) string {
	if name, found := p.recorded[addr]; found {
		return name
	}
	return slices.MinFunc(p.wanted[addr], func(a, b string) int {
		return cmp.Or(newer(p.said[a], p.said[b]), cmp.Compare(a, b))
	})
}

// isOf says whether an endpoint is a pod's, and not of one that had its name
// before. The runtime knows a static pod by the hash of its file.
func isOf(e *api.Endpoint, pod *corev1.Pod) bool {
	uid := types.UID(e.PodUID)
	return uid == "" || uid == pod.UID || string(uid) == pod.Annotations[staticPodHash]
}

const staticPodHash = "kubernetes.io/config.hash"

func withAddresses(pod *corev1.Pod, addrs []netip.Addr) *corev1.Pod {
	changed := *pod
	changed.Status.PodIPs = nil
	changed.Status.PodIP = ""
	for _, addr := range addrs {
		changed.Status.PodIPs = append(changed.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	if len(addrs) > 0 {
		changed.Status.PodIP = addrs[0].String()
	}
	return &changed
}

// newer orders pods that are not going first, then by age.
func newer(a, b *corev1.Pod) int {
	if going := a.DeletionTimestamp != nil; going != (b.DeletionTimestamp != nil) {
		if going {
			return 1
		}
		return -1
	}
	return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
}

func podCIDRs(node *corev1.Node) []netip.Prefix {
	if node == nil {
		return nil
	}
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 && node.Spec.PodCIDR != "" {
		texts = []string{node.Spec.PodCIDR}
	}
	var prefixes []netip.Prefix
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, prefix.Masked())
		}
	}
	return prefixes
}

func internalAddresses(node *corev1.Node) []netip.Addr {
	if node == nil {
		return nil
	}
	var addrs []netip.Addr
	for _, a := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func (a *Agent) usePrefixes(self *corev1.Node) {
	prefixes := podCIDRs(self)
	if len(prefixes) == 0 {
		return // what was given is kept
	}
	a.report("use the node's podCIDRs", a.store.Pool.SetPrefixes(prefixes))
	a.report("forward packets", a.makeRouter(prefixes))
}
