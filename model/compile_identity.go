// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// lastLabelIdentity is the last number that labels may have: the wire has 16
// bits for the number, beside 8 for the cluster.
const (
	lastLabelIdentity Identity = 1<<16 - 1
	lastLocalIdentity Identity = 1<<24 - 1
	lastBlockIdentity Identity = 1<<25 - 1
)

// FirstLocalIdentity and the 64k from there on are sets of labels that a node
// has no shared number for: on the wire they would be of cluster 255, which is
// nobody's.
const FirstLocalIdentity Identity = 255 << 16

// IsShared is whether a number may mean the same on all nodes of a cluster.
func (i Identity) IsShared() bool { return i >= FirstLabelIdentity && i <= lastLabelIdentity }

// ErrIdentitiesExhausted is returned when more sets of labels, or address
// blocks, are in use at once than there are numbers.
var ErrIdentitiesExhausted = errors.New("identities exhausted")

// Allocator numbers sets of labels, and address blocks. A number keeps its meaning as long as
// somebody has it and long after: it goes to other labels only when every
// number has been given once, the longest unused first. It may be used by
// several goroutines.
type Allocator struct {
	mu     sync.Mutex
	labels pool
	local  pool // labels that have no shared number
	blocks pool
	pods   pool                // addresses of pods that blocks hold
	nodes  pool                // and of nodes
	shared map[string]Identity // nil: labels are numbered here alone
	wanted map[string]WantedIdentity
}

// WantedIdentity is what pods are known by, or will be.
type WantedIdentity struct {
	Labels LabelSet
	// Number is in force; IdentityUnknown where no such pod has an address yet.
	Number Identity
	// Here is whether the node has such a pod.
	Here bool
}

// pool is a range of numbers.
type pool struct {
	next, last Identity
	round      uint64
	known      map[string]*allocation // by what has the number
}

type allocation struct {
	number Identity
	used   uint64 // the last round that asked for it
}

// NewAllocator gives an Allocator that has given no number yet. Equal
// sequences of calls give equal numbers.
func NewAllocator() *Allocator {
	return &Allocator{
		labels: pool{next: FirstLabelIdentity, last: lastLabelIdentity, known: map[string]*allocation{}},
		local:  pool{next: FirstLocalIdentity, last: lastLocalIdentity, known: map[string]*allocation{}},
		blocks: pool{next: FirstBlockIdentity, last: lastBlockIdentity, known: map[string]*allocation{}},
		pods:   pool{next: FirstMemberIdentity, last: lastMemberIdentity, known: map[string]*allocation{}},
		nodes:  pool{next: FirstNodeMemberIdentity, last: lastNodeMemberIdentity, known: map[string]*allocation{}},
	}
}

// Share gives the numbers that a cluster's nodes have agreed on, by
// LabelSet.Key, each once. Labels that are not among them have local numbers
// from then on. The map is kept: it must not change any more.
func (a *Allocator) Share(numbers map[string]Identity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shared = numbers
	if numbers == nil {
		a.shared = map[string]Identity{}
	}
}

// Wanted gives what the last Compile that came so far found pods to be known
// by, by LabelSet.Key. It must not be changed.
func (a *Allocator) Wanted() map[string]WantedIdentity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wanted
}

func (a *Allocator) want(wanted map[string]WantedIdentity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wanted = wanted
}

func (a *Allocator) allocateLabels(keys []string) (map[string]Identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shared == nil {
		return a.labels.allocate(keys)
	}
	var alone []string
	numbers := map[string]Identity{}
	for _, key := range keys {
		if number, found := a.shared[key]; found {
			numbers[key] = number
		} else {
			alone = append(alone, key)
		}
	}
	local, err := a.local.allocate(alone)
	maps.Copy(numbers, local)
	return numbers, err
}

func (a *Allocator) allocateBlocks(keys []string) (map[string]Identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocks.allocate(keys)
}

func (a *Allocator) allocateMembers(keys []string) (map[string]Identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods.allocate(keys)
}

func (a *Allocator) allocateNodes(keys []string) (map[string]Identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.nodes.allocate(keys)
}

// allocate numbers all keys that are in use now. It fails with
// ErrIdentitiesExhausted.
func (p *pool) allocate(keys []string) (map[string]Identity, error) {
	p.round++
	numbers := make(map[string]Identity, len(keys))
	var fresh []string
	for _, key := range slices.Sorted(slices.Values(keys)) {
		if old, found := p.known[key]; found {
			old.used = p.round
			numbers[key] = old.number
		} else if _, twice := numbers[key]; !twice {
			numbers[key] = IdentityUnknown
			fresh = append(fresh, key)
		}
	}
	unused := p.unused(len(fresh))
	for _, key := range fresh {
		var number Identity
		switch {
		case p.next <= p.last:
			number = p.next
			p.next++
		case len(unused) > 0:
			number = p.known[unused[0]].number
			delete(p.known, unused[0])
			unused = unused[1:]
		default:
			return nil, fmt.Errorf("number %d identities: all up to %d are in use: use fewer distinct labels and blocks: %w", len(numbers), p.last, ErrIdentitiesExhausted)
		}
		p.known[key] = &allocation{number: number, used: p.round}
		numbers[key] = number
	}
	return numbers, nil
}

// unused lists what has a number that nobody asks for any more, the longest
// unused first, if fewer numbers are left than wanted.
func (p *pool) unused(wanted int) []string {
	if int64(p.last)-int64(p.next)+1 >= int64(wanted) {
		return nil
	}
	var keys []string
	for key, old := range p.known {
		if old.used != p.round {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		x, y := p.known[a], p.known[b]
		return cmp.Or(cmp.Compare(x.used, y.used), cmp.Compare(x.number, y.number))
	})
	return keys
}

// identity is a set of labels that policy can tell from others, and the ports
// by name that go with it: a rule's port name means another number for a pod
// whose containers number it otherwise, so such pods are told apart too.
type identity struct {
	number          Identity
	namespace       string
	namespaceLabels labels.Set
	podLabels       labels.Set
	ports           map[namedPort]uint16
	account         string        // the pods' service account
	families        familySet     // of the pods' addresses
	sourced         sourcedLabels // see ciliumLabels
}

type namedPort struct {
	name     string
	protocol Protocol
}

func (c *compiler) allocateIdentities() {
	byKey := map[string]*identity{}
	wanted := map[string]WantedIdentity{}
	keys := make([]string, len(c.pods))
	ignored := ignoredLabels(c.objs)
	for i, pod := range c.pods {
		id := c.identityOf(pod.object, ignored)
		keys[i] = id.key()
		if byKey[keys[i]] == nil {
			byKey[keys[i]] = id
			wanted[keys[i]] = WantedIdentity{Labels: id.labelSet()}
		}
		if pod.local && !wanted[keys[i]].Here {
			wanted[keys[i]] = WantedIdentity{Labels: wanted[keys[i]].Labels, Here: true}
		}
		pod.identity = byKey[keys[i]]
		for _, addr := range pod.addresses {
			pod.identity.families.add(addr)
			c.families.add(addr)
		}
	}
	numbers, err := c.local.Identities.allocateLabels(keys)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("compile node %s: %w", c.node, err))
		return
	}
	for key, id := range byKey {
		id.number = numbers[key]
		c.identities = append(c.identities, id)
		wanted[key] = WantedIdentity{Labels: wanted[key].Labels, Number: id.number, Here: wanted[key].Here}
	}
	slices.SortFunc(c.identities, func(a, b *identity) int { return cmp.Compare(a.number, b.number) })
	c.expect(wanted, ignored)
	c.local.Identities.want(wanted)
}

// expect adds pods that have a node, and no address yet: their number can be
// there before they are.
func (c *compiler) expect(wanted map[string]WantedIdentity, ignored []string) {
	for _, pod := range c.objs.Pods {
		if isFinished(pod) || pod.Spec.HostNetwork || pod.Spec.NodeName == "" || len(podAddresses(pod)) > 0 {
			continue
		}
		id := c.identityOf(pod, ignored)
		key := id.key()
		w, found := wanted[key]
		if !found {
			w.Labels = id.labelSet()
		}
		w.Here = w.Here || pod.Spec.NodeName == c.node
		wanted[key] = w
	}
}

// identityOf is what policies can tell of a pod, but for its addresses. Labels of
// ignored keys are none.
func (c *compiler) identityOf(pod *corev1.Pod, ignored []string) *identity {
	ns := namespaceOr(pod.Namespace)
	id := &identity{namespace: ns, namespaceLabels: c.namespaces[ns], podLabels: without(pod.Labels, ignored), ports: map[namedPort]uint16{}, account: cmp.Or(pod.Spec.ServiceAccountName, defaultAccount)}
	for _, container := range runningContainers(pod) {
		for _, port := range container.Ports {
			named := namedPort{port.Name, protocolNumber(port.Protocol)}
			if _, first := id.ports[named]; !first && port.Name != "" {
				id.ports[named] = uint16(port.ContainerPort)
			}
		}
	}
	return id
}

func (id *identity) key() string {
	set := id.labelSet()
	return set.Key()
}

func (id *identity) labelSet() LabelSet {
	set := LabelSet{
		Namespace: id.namespace, NamespaceLabels: id.namespaceLabels, PodLabels: id.podLabels,
		Account: id.account,
	}
	for port, number := range id.ports {
		set.Ports = append(set.Ports, NamedPort{port.name, port.protocol, number})
	}
	return set
}

// LabelSet is all that policies can tell of a pod but its address. It shares
// its parts with the objects that it comes from.
type LabelSet struct {
	Namespace       string
	NamespaceLabels map[string]string
	PodLabels       map[string]string
	Ports           []NamedPort // in any order
	Account         string      // the service account
}

// NamedPort is a container's.
type NamedPort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Key writes the set in one way only: no part of it can hold the separators.
func (s *LabelSet) Key() string {
	ports := make([]string, len(s.Ports))
	for i, port := range s.Ports {
		ports[i] = fmt.Sprintf("%s/%s=%d", port.Name, port.Protocol, port.Port)
	}
	slices.Sort(ports)
	parts := []string{s.Namespace, labels.Set(s.NamespaceLabels).String(), labels.Set(s.PodLabels).String(), strings.Join(ports, ",")}
	if s.Account != defaultAccount {
		parts = append(parts, "account="+s.Account)
	}
	return strings.Join(parts, "|")
}

// defaultAccount is the service account of a pod that names none.
const defaultAccount = "default"

func protocolNumber(protocol corev1.Protocol) Protocol {
	switch protocol {
	case corev1.ProtocolUDP:
		return ProtocolUDP
	case corev1.ProtocolSCTP:
		return ProtocolSCTP
	}
	return ProtocolTCP
}
