// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// slotTable holds the lists of backends from which services choose. A list is
// never changed: a changed one is a new list, and equal ones are shared.
type slotTable struct {
	m    *ebpf.Map
	have map[uint32]slotList // by set
	sets map[string]uint32   // by content
	next uint32
	used int // entries
}

// slotList is a list, and what makes it equal to others.
type slotList struct {
	slots   []slotValue
	content string
}

func newSlotTable(m *ebpf.Map) (*slotTable, error) {
	t := &slotTable{m: m, have: map[uint32]slotList{}, sets: map[string]uint32{}, next: 1}
	var key slotKey
	var value slotValue
	iter := m.Iterate()
	for iter.Next(&key, &value) {
		list := t.have[key.Set].slots
		for len(list) <= int(key.Index) {
			list = append(list, slotValue{})
		}
		list[key.Index] = value
		t.have[key.Set] = slotList{slots: list}
		t.next = max(t.next, key.Set+1)
		t.used++
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read table slots: %w", err)
	}
	for set, list := range t.have {
		list.content = slotsContent(list.slots)
		t.have[set], t.sets[list.content] = list, set
	}
	return t, nil
}

// slotsContent is a key for lists that are equal.
func slotsContent(list []slotValue) string {
	const each = 18 // bytes
	content := make([]byte, 0, each*len(list))
	for i := range list {
		addr := toBytes(list[i].Addr)
		content = append(content, addr[:]...)
		content = binary.NativeEndian.AppendUint16(content, list[i].Port)
	}
	return string(content)
}

// plan gives each list its set, and the lists that are to be written.
func (t *slotTable) plan(lists [][]slotValue) (sets []uint32, missing map[uint32]slotList, err error) {
	missing = map[uint32]slotList{}
	planned := map[string]uint32{}
	if len(t.have) == 0 {
		missing, planned = make(map[uint32]slotList, len(lists)), make(map[string]uint32, len(lists))
	}
	sets = make([]uint32, 0, len(lists))
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
			missing[set] = slotList{list, content}
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
func (t *slotTable) add(missing map[uint32]slotList) error {
	all := 0
	for _, list := range missing {
		all += len(list.slots)
	}
	if len(t.have) == 0 {
		t.have, t.sets = make(map[uint32]slotList, len(missing)), make(map[string]uint32, len(missing))
	}
	keys, values := make([]slotKey, 0, all), make([]slotValue, 0, all)
	for set, list := range missing {
		for i := range list.slots {
			keys = append(keys, slotKey{Set: set, Index: uint32(i)})
		}
		values = append(values, list.slots...)
		t.have[set], t.sets[list.content] = list, set
		t.next = max(t.next, set+1)
	}
	t.used += all
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
	delete(t.sets, list.content)
	for i := range list.slots {
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
