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
	lastBlockIdentity Identity = 1<<25 - 1
)

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
	blocks pool
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
		blocks: pool{next: FirstBlockIdentity, last: lastBlockIdentity, known: map[string]*allocation{}},
	}
}

func (a *Allocator) allocateLabels(keys []string) (map[string]Identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.labels.allocate(keys)
}

func (a *Allocator) allocateBlocks(keys []string) (map[string]Identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocks.allocate(keys)
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
	for _, key := range fresh {
		number, ok := p.take()
		if !ok {
			return nil, fmt.Errorf("number %d identities: all up to %d are in use: use fewer distinct labels and blocks: %w", len(numbers), p.last, ErrIdentitiesExhausted)
		}
		p.known[key] = &allocation{number: number, used: p.round}
		numbers[key] = number
	}
	return numbers, nil
}

// take gives a number that nobody has.
func (p *pool) take() (Identity, bool) {
	if p.next <= p.last {
		p.next++
		return p.next - 1, true
	}
	var oldest string
	var best *allocation
	for key, old := range p.known {
		if old.used == p.round || best != nil && cmp.Or(cmp.Compare(best.used, old.used), cmp.Compare(best.number, old.number)) < 0 {
			continue
		}
		oldest, best = key, old
	}
	if best == nil {
		return 0, false
	}
	delete(p.known, oldest)
	return best.number, true
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
	account         string          // the pods' service account
	networks        map[string]bool // of cluster policies that hold the pods' addresses
	sourced         sourcedLabels   // see ciliumLabels
}

type namedPort struct {
	name     string
	protocol Protocol
}

func (c *compiler) allocateIdentities() {
	byKey := map[string]*identity{}
	keys := make([]string, len(c.pods))
	named := allNetworks(c.objs)
	for i, pod := range c.pods {
		id := c.identityOf(pod.object)
		id.networks = networksAt(named, pod.addresses)
		keys[i] = id.key()
		if byKey[keys[i]] == nil {
			byKey[keys[i]] = id
		}
		pod.identity = byKey[keys[i]]
	}
	numbers, err := c.local.Identities.allocateLabels(keys)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("compile node %s: %w", c.node, err))
		return
	}
	for key, id := range byKey {
		id.number = numbers[key]
		c.identities = append(c.identities, id)
	}
	slices.SortFunc(c.identities, func(a, b *identity) int { return cmp.Compare(a.number, b.number) })
}

func (c *compiler) identityOf(pod *corev1.Pod) *identity {
	ns := namespaceOr(pod.Namespace)
	id := &identity{namespace: ns, namespaceLabels: c.namespaces[ns], podLabels: pod.Labels, ports: map[namedPort]uint16{}, account: cmp.Or(pod.Spec.ServiceAccountName, defaultAccount)}
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

// key writes the identity in one way only: no part of it can hold the
// separators.
func (id *identity) key() string {
	var ports []string
	for port, number := range id.ports {
		ports = append(ports, fmt.Sprintf("%s/%s=%d", port.name, port.protocol, number))
	}
	slices.Sort(ports)
	parts := []string{id.namespace, id.namespaceLabels.String(), id.podLabels.String(), strings.Join(ports, ",")}
	if id.account != defaultAccount {
		parts = append(parts, "account="+id.account)
	}
	if len(id.networks) > 0 {
		parts = append(parts, "networks="+strings.Join(slices.Sorted(maps.Keys(id.networks)), ";"))
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
