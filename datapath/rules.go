// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// ruleTable holds rule sets. A set is never changed: a changed policy is a
// new set, and endpoints are moved to it.
type ruleTable struct {
	m    *ebpf.Map
	have map[uint32][]ruleKey // by set
	sets map[string]uint32    // by model.RuleSet.Key
	next uint32
	used int // entries
}

func newRuleTable(m *ebpf.Map) (*ruleTable, error) {
	t := &ruleTable{m: m, have: map[uint32][]ruleKey{}, sets: map[string]uint32{}, next: 1}
	var key ruleKey
	var value ruleValue
	iter := m.Iterate()
	for iter.Next(&key, &value) {
		t.have[key.Set] = append(t.have[key.Set], key)
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

// encoded are the entries of the sets that are not there yet.
type encoded struct {
	key    string
	keys   []ruleKey
	values []ruleValue
}

// missing encodes the sets that are not there yet, under numbers from t.next on.
func (t *ruleTable) missing(sets []model.RuleSet, number func(model.Origin) uint32) ([]encoded, error) {
	var all []encoded
	total := t.used
	for i := range sets {
		if _, ok := t.sets[sets[i].Key]; ok {
			continue
		}
		e := encodeSet(t.next+uint32(len(all)), &sets[i], number)
		total += len(e.keys)
		all = append(all, e)
	}
	if limit := int(t.m.MaxEntries()); total > limit {
		return nil, &FullError{Table: "rules", Want: total, Room: limit}
	}
	return all, nil
}

// add writes new sets. On failure none of them is there.
func (t *ruleTable) add(all []encoded) (Delta, error) {
	first := t.next
	for _, e := range all {
		set := t.next
		t.next++
		t.have[set] = e.keys
		t.used += len(e.keys)
		if err := update(t.m, e.keys, e.values); err != nil {
			for set := first; set < t.next; set++ {
				err = errors.Join(err, t.remove(set))
			}
			return Delta{}, err
		}
		t.sets[e.key] = set
	}
	return Delta{Added: len(all)}, nil
}

// sweep deletes the sets that no endpoint uses.
func (t *ruleTable) sweep(used map[uint32]bool) error {
	for key, set := range t.sets {
		if !used[set] {
			delete(t.sets, key)
		}
	}
	for set := range t.have {
		if used[set] {
			continue
		}
		if err := t.remove(set); err != nil {
			return err
		}
	}
	return nil
}

func (t *ruleTable) remove(set uint32) error {
	for _, key := range t.have[set] {
		if err := t.m.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete rule set %d: %w", set, err)
		}
		t.used--
	}
	delete(t.have, set)
	return nil
}

func (t *ruleTable) clear() error {
	clear(t.sets)
	err := t.sweep(nil)
	t.next, t.used = 1, 0
	return err
}

// actionNumbers are what the table has for actions.
var actionNumbers = map[model.RuleAction]uint32{
	model.RuleAllow:  uint32(bpf.ContainerRuleActionRULE_ALLOW),
	model.RuleDeny:   uint32(bpf.ContainerRuleActionRULE_DENY),
	model.RuleAudit:  uint32(bpf.ContainerRuleActionRULE_AUDIT),
	model.RuleRefuse: uint32(bpf.ContainerRuleActionRULE_REFUSE),
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
	e := encoded{key: rs.Key}
	for key, own := range best {
		decides := own
		for _, cover := range covers(set, own) {
			if r, ok := best[cover]; ok && outranks(r, decides) {
				decides = r
			}
		}
		value := ruleValue{Precedence: decides.Precedence, Origin: number(decides.Origin), Action: actionNumbers[decides.Action]}
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
