// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

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
	shares uint64              // how often they became others
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
	if numbers == nil {
		numbers = map[string]Identity{}
	}
	if a.shared != nil && reflect.ValueOf(a.shared).UnsafePointer() == reflect.ValueOf(numbers).UnsafePointer() {
		return // it is the same map
	}
	if a.shared == nil || !maps.Equal(a.shared, numbers) {
		a.shares++
	}
	a.shared = numbers
}

// Revision changes when the shared numbers do.
func (a *Allocator) Revision() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.shares
}

// Wanted gives what the last compile that came so far found pods to be known
// by, by LabelSet.Key. It must not be changed.
func (a *Allocator) Wanted() map[string]WantedIdentity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.wanted
}

// Want notes the sets of labels that should have shared numbers, in place of those
// before.
func (a *Allocator) Want(wanted map[string]WantedIdentity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wanted = wanted
}

// AllocateLabels numbers sets of labels by their keys, with the shared numbers that
// there are. It fails with ErrIdentitiesExhausted.
func (a *Allocator) AllocateLabels(keys []string) (map[string]Identity, error) {
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

// AddLabels numbers sets of labels as AllocateLabels does, beside those that it
// has been asked for. It is not ok where these would have to take the numbers of
// others, which only AllocateLabels knows to be unused.
func (a *Allocator) AddLabels(keys []string) (numbers map[string]Identity, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	numbers = map[string]Identity{}
	from := &a.labels
	if a.shared != nil {
		from = &a.local
	}
	for _, key := range slices.Sorted(slices.Values(keys)) {
		if number, found := a.shared[key]; found {
			numbers[key] = number
		} else if numbers[key], ok = from.add(key); !ok {
			return nil, false
		}
	}
	return numbers, true
}

// AllocateBlocks numbers address blocks by their names. It fails with
// ErrIdentitiesExhausted.
func (a *Allocator) AllocateBlocks(keys []string) (map[string]Identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocks.allocate(keys)
}

// AddBlocks numbers blocks beside those that it has been asked for, as AddLabels
// does sets of labels.
func (a *Allocator) AddBlocks(keys []string) (map[string]Identity, bool) {
	return a.add(&a.blocks, keys)
}

// AddMembers numbers addresses of pods so.
func (a *Allocator) AddMembers(keys []string) (map[string]Identity, bool) {
	return a.add(&a.pods, keys)
}

// AddNodes numbers addresses of nodes so.
func (a *Allocator) AddNodes(keys []string) (map[string]Identity, bool) { return a.add(&a.nodes, keys) }

func (a *Allocator) add(to *pool, keys []string) (map[string]Identity, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	numbers := make(map[string]Identity, len(keys))
	for _, key := range slices.Sorted(slices.Values(keys)) {
		number, ok := to.add(key)
		if !ok {
			return nil, false
		}
		numbers[key] = number
	}
	return numbers, true
}

// Keeps is whether a set of labels that has a number would be given the same again,
// whatever was shared meanwhile.
func (a *Allocator) Keeps(key string, number Identity) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shared == nil {
		return true
	}
	if shared, found := a.shared[key]; found {
		return shared == number
	}
	return !number.IsShared()
}

// AllocateMembers numbers addresses of pods that blocks hold. It fails with
// ErrIdentitiesExhausted.
func (a *Allocator) AllocateMembers(keys []string) (map[string]Identity, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods.allocate(keys)
}

// AllocateNodes numbers addresses of nodes that policies select. It fails with
// ErrIdentitiesExhausted.
func (a *Allocator) AllocateNodes(keys []string) (map[string]Identity, error) {
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

// add numbers one more key of those that are in use now, if a number is left.
func (p *pool) add(key string) (Identity, bool) {
	if old, found := p.known[key]; found {
		old.used = p.round
		return old.number, true
	}
	if p.next > p.last {
		return IdentityUnknown, false
	}
	p.known[key] = &allocation{number: p.next, used: p.round}
	p.next++
	return p.known[key].number, true
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

// LabelSet is all that policies can tell of a pod, or of who is like one, but its
// address. It shares
// its parts with the objects that it comes from.
type LabelSet struct {
	Namespace       string
	NamespaceLabels map[string]string
	PodLabels       map[string]string
	Ports           []NamedPort // in any order
	Account         string      // the service account
	Cluster         uint8       // its number; 0: this one
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
	if s.Account != DefaultAccount {
		parts = append(parts, "account="+s.Account)
	}
	if s.Cluster != 0 {
		parts = append(parts, fmt.Sprintf("cluster=%d", s.Cluster))
	}
	return strings.Join(parts, "|")
}

// FirstMemberIdentity and the 64k from there on are addresses of pods that
// blocks of policies hold, FirstNodeMemberIdentity and as many those of nodes.
const (
	FirstMemberIdentity     Identity = 254 << 16
	FirstNodeMemberIdentity Identity = 1 << 25

	lastMemberIdentity     = FirstLocalIdentity - 1
	lastNodeMemberIdentity = FirstNodeMemberIdentity + 1<<16 - 1
)

// DefaultAccount is the service account of a pod that names none.
const DefaultAccount = "default"
