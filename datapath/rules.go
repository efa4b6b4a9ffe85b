// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// ruleTable holds rule sets. A set is never changed: a changed policy is a
// new set, and endpoints are moved to it.
//
// mu guards the mirror. It is not held for writes of the table: a set is written
// before anybody knows of it, and deleted when nobody does any more.
type ruleTable struct {
	m    *ebpf.Map
	mu   *sync.Mutex
	have map[uint32]ruleList // by set
	sets map[string]uint32   // by model.RuleSet.Key
	next uint32
	used int // entries
	// unused is whether there may be sets that nobody uses.
	unused bool
	// coming are sets that somebody writes beside an Apply, and does not know yet.
	coming map[uint32]bool
}

// ruleList are the rules of a set.
type ruleList struct {
	keys   []ruleKey
	values []ruleValue
}

func newRuleTable(m *ebpf.Map, mu *sync.Mutex) (*ruleTable, error) {
	t := &ruleTable{m: m, mu: mu, have: map[uint32]ruleList{}, sets: map[string]uint32{}, next: 1, unused: true, coming: map[uint32]bool{}}
	var key ruleKey
	var value ruleValue
	iter := m.Iterate()
	for iter.Next(&key, &value) {
		list := t.have[key.Set]
		t.have[key.Set] = ruleList{append(list.keys, key), append(list.values, value)}
		t.next = max(t.next, key.Set+1)
		t.used++
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read table rules: %w", err)
	}
	return t, nil
}

// reserve keeps numbers of sets in use from being given again. A set without
// rules has no entry by which the table would know it.
func (t *ruleTable) reserve(sets ...uint32) {
	for _, set := range sets {
		t.next = max(t.next, set+1)
	}
}

// encoded are the entries of a set that is not there yet.
type encoded struct {
	set uint32
	key string
	ruleList
}

// missing encodes the sets that are not there yet, under numbers that nobody else
// is given. numbers are those of all sets that there are then. ErrNoProxy if a set
// redirects.
func (t *ruleTable) missing(sets []model.RuleSet, number func(model.Origin) uint32) (all []encoded, numbers map[string]uint32, err error) {
	t.mu.Lock()
	numbers = maps.Clone(t.sets)
	total := t.used
	var fresh []int
	for i := range sets {
		if _, ok := numbers[sets[i].Key]; !ok {
			fresh = append(fresh, i)
			numbers[sets[i].Key] = t.next
			t.next++
		}
	}
	t.mu.Unlock()
	for _, i := range fresh {
		if err := checkActions(&sets[i]); err != nil {
			return nil, nil, err
		}
		e := encodeSet(numbers[sets[i].Key], &sets[i], number)
		total += len(e.keys)
		all = append(all, e)
	}
	if limit := int(t.m.MaxEntries()); total > limit {
		return nil, nil, &FullError{Table: "rules", Want: total, Room: limit}
	}
	return all, numbers, nil
}

// add writes new sets. On failure none of them is there. instead are the numbers of
// those that somebody has written beside it meanwhile.
func (t *ruleTable) add(all []encoded) (added Delta, instead map[uint32]uint32, err error) {
	for i := range all {
		if err := update(t.m, all[i].keys, all[i].values); err != nil {
			for j := range all[:i+1] {
				err = errors.Join(err, t.delete(all[j].set, all[j].keys))
			}
			return Delta{}, nil, err
		}
	}
	instead = map[uint32]uint32{}
	for i := range all {
		e := &all[i]
		t.mu.Lock()
		other, twice := t.know(e)
		t.mu.Unlock()
		if !twice {
			added.Added++
			continue
		}
		instead[e.set] = other
		err = errors.Join(err, t.delete(e.set, e.keys))
	}
	return added, instead, err
}

// addBeside writes a new set while others change the table. On failure it is not
// there. errSwept if somebody else has written it meanwhile, under another number.
func (t *ruleTable) addBeside(e *encoded) error {
	t.mu.Lock()
	t.coming[e.set] = true
	t.mu.Unlock()
	err := update(t.m, e.keys, e.values)
	if err != nil {
		err = errors.Join(err, t.delete(e.set, e.keys))
	}
	t.mu.Lock()
	twice := false
	if err == nil {
		_, twice = t.know(e)
	}
	t.mu.Unlock()
	if twice {
		err = errors.Join(errSwept, t.delete(e.set, e.keys))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.coming, e.set)
	return err
}

// know notes a set that is written, unless its key has another number. It is called
// with mu held.
func (t *ruleTable) know(e *encoded) (other uint32, twice bool) {
	if other, twice = t.sets[e.key]; twice {
		return other, true
	}
	t.have[e.set], t.sets[e.key] = e.ruleList, e.set
	t.used += len(e.keys)
	t.unused = true // until somebody uses it
	return 0, false
}

// look has the next sweep look for sets that nobody uses any more.
func (t *ruleTable) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unused = true
}

// sweep deletes the sets that no endpoint uses, if there may be any. used is called
// with mu held.
func (t *ruleTable) sweep(used func() map[uint32]bool) error {
	gone := map[uint32]ruleList{}
	t.mu.Lock()
	if !t.unused {
		t.mu.Unlock()
		return nil
	}
	t.unused = false
	inUse := used()
	for key, set := range t.sets {
		if !inUse[set] {
			delete(t.sets, key)
		}
	}
	for set, list := range t.have {
		if !inUse[set] {
			gone[set] = list
			delete(t.have, set)
		}
	}
	t.mu.Unlock()
	var errs []error
	for set, list := range gone {
		err := t.delete(set, list.keys)
		t.mu.Lock()
		if err != nil {
			t.have[set], t.unused = list, true // the next sweep goes on
		} else {
			t.used -= len(list.keys)
		}
		t.mu.Unlock()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// delete deletes the rules of a set that nobody uses.
func (t *ruleTable) delete(set uint32, keys []ruleKey) error {
	for i := range keys {
		if err := t.m.Delete(&keys[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete rule set %d: %w", set, err)
		}
	}
	return nil
}

func (t *ruleTable) clear() error {
	t.look()
	err := t.sweep(func() map[uint32]bool { return nil })
	t.next, t.used = 1, 0
	return err
}

// actionNumbers are what the table has for actions.
var actionNumbers = map[model.RuleAction]uint16{
	model.RuleAllow:    uint16(bpf.ContainerRuleActionRULE_ALLOW),
	model.RuleDeny:     uint16(bpf.ContainerRuleActionRULE_DENY),
	model.RuleAudit:    uint16(bpf.ContainerRuleActionRULE_AUDIT),
	model.RuleRefuse:   uint16(bpf.ContainerRuleActionRULE_REFUSE),
	model.RuleRedirect: uint16(bpf.ContainerRuleActionRULE_REDIRECT),
}

// ErrNoProxy is a state with a rule that redirects to a proxy. Nothing of it was applied.
var ErrNoProxy = errors.New("this datapath has no proxy")

// checkActions refuses a set whose rules ask for what the programs cannot do.
func checkActions(rs *model.RuleSet) error {
	for i := range rs.Rules {
		r := &rs.Rules[i]
		named := fmt.Sprintf("rule set %q, %s rule of %s (Rules[%d].Action)", rs.Key, r.Direction, r.Origin, i)
		switch _, known := actionNumbers[r.Action]; {
		case r.Action == model.RuleRedirect:
			return fmt.Errorf("%s redirects to proxy port %d: %w: allow or deny there, or take the rule out", named, r.ProxyPort, ErrNoProxy)
		case !known:
			return fmt.Errorf("%s is %s, which is no action: use allow, deny, audit or refuse", named, r.Action)
		}
	}
	return nil
}

// encodeSet writes into each rule's entry what decides there: of the rules of
// its peer that cover it, the one of highest precedence, a denial where they
// are equal. The table gives the longest match, and all rules that match a
// packet for one peer cover that entry.
func encodeSet(set uint32, rs *model.RuleSet, number func(model.Origin) uint32) encoded {
	best := map[ruleKey]*model.Rule{}
	for i := range rs.Rules {
		r := &rs.Rules[i]
		key := encodeRuleKey(set, r)
		if old, ok := best[key]; !ok || outranks(r, old) {
			best[key] = r
		}
	}
	e := encoded{set: set, key: rs.Key}
	for key, own := range best {
		decides := own
		for _, cover := range covers(set, own) {
			if r, ok := best[cover]; ok && outranks(r, decides) {
				decides = r
			}
		}
		value := ruleValue{
			Precedence: decides.Precedence, Origin: number(decides.Origin),
			Action: actionNumbers[decides.Action], ProxyPort: encodePort(decides.ProxyPort),
		}
		e.keys, e.values = append(e.keys, key), append(e.values, value)
	}
	return e
}

func outranks(a, b *model.Rule) bool {
	if a.Precedence != b.Precedence {
		return a.Precedence > b.Precedence
	}
	return a.Action.Denies() && !b.Action.Denies()
}

// covers lists the keys of all shorter rules that match whatever r matches.
func covers(set uint32, r *model.Rule) []ruleKey {
	if r.Protocol == model.ProtocolAny {
		return nil
	}
	shorter := *r
	var keys []ruleKey
	for bits := int(r.PortBits) - 1; bits >= 0; bits-- {
		shorter.PortBits = uint8(bits)
		keys = append(keys, encodeRuleKey(set, &shorter))
	}
	shorter.Protocol = model.ProtocolAny
	return append(keys, encodeRuleKey(set, &shorter))
}
