// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
)

// slotTable holds the lists of backends from which services choose. A list is
// never changed: a changed one is a new list, and equal ones are shared.
type slotTable struct {
	m    *ebpf.Map
	have map[uint32]slotList // by set
	sets map[string]uint32   // by content
	next uint32
	used int // rows
}

// slotList is a list as the table has it, in rows.
type slotList []slotRow

// slotsARow is how many slots a row has.
const slotsARow = len(slotRow{}.Slot)

// slotRows is how many rows so many slots take.
func slotRows(slots int) int { return (slots + slotsARow - 1) / slotsARow }

// newSlotList packs slots into rows.
func newSlotList(slots []slotValue) slotList {
	rows := make(slotList, slotRows(len(slots)))
	for i := range rows {
		copy(rows[i].Slot[:], slots[i*slotsARow:])
	}
	return rows
}

// content is a key for lists that are equal. It is the list's own memory.
func (l slotList) content() string {
	return unsafe.String((*byte)(unsafe.Pointer(unsafe.SliceData(l))), len(l)*int(unsafe.Sizeof(slotRow{})))
}

// newList is one that is to be written.
type newList struct {
	set  uint32
	list slotList
}

func newSlotTable(m *ebpf.Map) (*slotTable, error) {
	t := &slotTable{m: m, have: map[uint32]slotList{}, sets: map[string]uint32{}, next: 1}
	var key slotRowKey
	var row slotRow
	iter := m.Iterate()
	for iter.Next(&key, &row) {
		list := t.have[key.Set]
		for len(list) <= int(key.Row) {
			list = append(list, slotRow{})
		}
		list[key.Row] = row
		t.have[key.Set] = list
		t.next = max(t.next, key.Set+1)
		t.used++
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read table %s: %w", mapName(m), err)
	}
	for set, list := range t.have {
		t.sets[list.content()] = set
	}
	return t, nil
}

// plan gives each list its set, and the lists that are to be written.
func (t *slotTable) plan(lists [][]slotValue) (sets []uint32, missing []newList, err error) {
	planned := map[string]uint32{}
	if len(t.have) == 0 {
		missing, planned = make([]newList, 0, len(lists)), make(map[string]uint32, len(lists))
	}
	sets = make([]uint32, 0, len(lists))
	next, total := t.next, t.used
	for _, slots := range lists {
		if len(slots) == 0 {
			sets = append(sets, 0)
			continue
		}
		list := newSlotList(slots)
		content := list.content()
		set, ok := t.sets[content]
		if !ok {
			set, ok = planned[content]
		}
		if !ok {
			set = next
			next++
			planned[content] = set
			missing = append(missing, newList{set, list})
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
func (t *slotTable) add(missing []newList) error {
	all := 0
	for _, l := range missing {
		all += len(l.list)
	}
	if len(t.have) == 0 {
		t.have, t.sets = make(map[uint32]slotList, len(missing)), make(map[string]uint32, len(missing))
	}
	keys, rows := make([]slotRowKey, 0, all), make([]slotRow, 0, all)
	for _, l := range missing {
		for i := range l.list {
			keys = append(keys, slotRowKey{Set: l.set, Row: uint32(i)})
		}
		rows = append(rows, l.list...)
		t.have[l.set], t.sets[l.list.content()] = l.list, l.set
		t.next = max(t.next, l.set+1)
	}
	t.used += all
	if err := update(t.m, keys, rows); err != nil {
		for _, l := range missing {
			err = errors.Join(err, t.remove(l.set))
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
	delete(t.sets, list.content())
	for i := range list {
		key := slotRowKey{Set: set, Row: uint32(i)}
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

// formerSlotKey is that of a table of an earlier version, with a slot an entry.
type formerSlotKey struct{ Set, Index uint32 }

// packSlots copies such a table into one of rows.
func packSlots(from, to *ebpf.Map) error {
	sets := map[uint32]slotList{}
	err := readBatches(from, func(key formerSlotKey, slot slotValue) {
		row, list := int(key.Index)/slotsARow, sets[key.Set]
		for len(list) <= row {
			list = append(list, slotRow{})
		}
		list[row].Slot[int(key.Index)%slotsARow] = slot
		sets[key.Set] = list
	})
	if err != nil {
		return err
	}
	for set, list := range sets {
		for i := range list {
			if err := to.Put(slotRowKey{Set: set, Row: uint32(i)}, &list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
