// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
)

// slotTable holds the lists of backends from which services choose. A list is
// never changed: a changed one is a new list, and equal ones are shared.
type slotTable struct {
	m    *ebpf.Map
	have map[uint32][]slotValue // by set
	sets map[string]uint32      // by content
	next uint32
	used int // entries
}

func newSlotTable(m *ebpf.Map) (*slotTable, error) {
	t := &slotTable{m: m, have: map[uint32][]slotValue{}, sets: map[string]uint32{}, next: 1}
	var key slotKey
	var value slotValue
	iter := m.Iterate()
	for iter.Next(&key, &value) {
		list := t.have[key.Set]
		for len(list) <= int(key.Index) {
			list = append(list, slotValue{})
		}
		list[key.Index] = value
		t.have[key.Set] = list
		t.next = max(t.next, key.Set+1)
		t.used++
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read table slots: %w", err)
	}
	for set, list := range t.have {
		t.sets[slotsContent(list)] = set
	}
	return t, nil
}

// slotsContent is a key for lists that are equal.
func slotsContent(list []slotValue) string {
	var b strings.Builder
	for i := range list {
		addr := toBytes(list[i].Addr)
		b.Write(addr[:])
		b.WriteByte(byte(list[i].Port))
		b.WriteByte(byte(list[i].Port >> 8))
	}
	return b.String()
}

// plan gives each list its set, and the lists that are to be written.
func (t *slotTable) plan(lists [][]slotValue) (sets []uint32, missing map[uint32][]slotValue, err error) {
	missing = map[uint32][]slotValue{}
	planned := map[string]uint32{}
	next, total := t.next, t.used
	for _, list := range lists {
		if len(list) == 0 {
			sets = append(sets, 0)
			continue
		}
		content := slotsContent(list)
		set, ok := t.sets[content]
		if !ok {
			set, ok = planned[content]
		}
		if !ok {
			set = next
			next++
			planned[content] = set
			missing[set] = list
			total += len(list)
		}
		sets = append(sets, set)
	}
	if limit := int(t.m.MaxEntries()); total > limit {
		return nil, nil, &FullError{Table: mapName(t.m), Want: total, Room: limit}
	}
	return sets, missing, nil
}

// add writes lists under the sets that plan gave them.
func (t *slotTable) add(missing map[uint32][]slotValue) error {
	var keys []slotKey
	var values []slotValue
	for set, list := range missing {
		for i := range list {
			keys = append(keys, slotKey{Set: set, Index: uint32(i)})
			values = append(values, list[i])
		}
		t.have[set] = list
		t.sets[slotsContent(list)] = set
		t.next = max(t.next, set+1)
		t.used += len(list)
	}
	if err := update(t.m, keys, values); err != nil {
		for set := range missing {
			err = errors.Join(err, t.remove(set))
		}
		return err
	}
	return nil
}

func (t *slotTable) sweep(used map[uint32]bool) error {
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

func (t *slotTable) remove(set uint32) error {
	list := t.have[set]
	delete(t.sets, slotsContent(list))
	for i := range list {
		key := slotKey{Set: set, Index: uint32(i)}
		if err := t.m.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete slots of set %d: %w", set, err)
		}
		t.used--
	}
	delete(t.have, set)
	return nil
}

func (t *slotTable) clear() error {
	err := t.sweep(nil)
	t.next, t.used = 1, 0
	return err
}
