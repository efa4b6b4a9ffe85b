// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/model"
)

// batchFrom is how many writes make a batch worth its set-up.
const batchFrom = 16

// pairTable is a table whose entries have two halves. Packets read the half
// of the epoch's last bit; stage writes the other. have mirrors the map, so
// that only what differs is written.
//
// mu guards the mirror, and is held for a batch of writes.
type pairTable[K, H comparable] struct {
	m    *ebpf.Map
	mu   *sync.Mutex
	have map[K][2]H
	// uneven are the entries whose halves differ: a half that packets do not read
	// is brought up to date there, and lacks nothing elsewhere.
	uneven keySet[K]
	// kept are entries that were written beside a state: a stage leaves them as
	// they are where it has nothing else for them.
	kept map[K]H
}

func newPairTable[K, H comparable](m *ebpf.Map, mu *sync.Mutex) (*pairTable[K, H], error) {
	t := &pairTable[K, H]{m: m, mu: mu, have: map[K][2]H{}, kept: map[K]H{}}
	var key K
	var pair [2]H
	iter := m.Iterate()
	for iter.Next(&key, &pair) {
		t.put(key, pair)
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read table %s: %w", mapName(m), err)
	}
	return t, nil
}

// put notes what the map has for a key.
func (t *pairTable[K, H]) put(key K, pair [2]H) {
	t.have[key] = pair
	if pair[0] != pair[1] || pair == [2]H{} {
		t.uneven.add(key)
	} else {
		t.uneven.remove(key)
	}
}

// room says whether want fits, counting what has not been swept yet. The zero value
// takes an entry away, and needs none.
func (t *pairTable[K, H]) room(want map[K]H) error { return t.roomFor(len(want), maps.All(want)) }

// roomFor says the same of so many entries.
func (t *pairTable[K, H]) roomFor(entries int, want iter.Seq2[K, H]) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.have)+entries <= int(t.m.MaxEntries()) {
		return nil
	}
	var zero H
	total := len(t.have)
	for key, value := range want {
		if _, ok := t.have[key]; !ok && value != zero {
			total++
		}
	}
	if limit := int(t.m.MaxEntries()); total > limit {
		return &FullError{Table: mapName(t.m), Want: total, Room: limit}
	}
	return nil
}

// staged is what one half of an entry gets.
type staged[K, H comparable] struct {
	key   K
	value H
	level bool // not value, but what the other half has
	fresh bool // the table does not have the key
}

// eachStaged gives keys and values of rows.
func eachStaged[K, H comparable](rows []staged[K, H]) iter.Seq2[K, H] {
	return func(yield func(K, H) bool) {
		for i := range rows {
			if !yield(rows[i].key, rows[i].value) {
				return
			}
		}
	}
}

// stage makes one half of all entries equal to want. Of entries that are not there,
// those that early allows get both halves: for such of which packets do not know yet,
// so that nothing is left to do in the other half.
func (t *pairTable[K, H]) stage(half int, want map[K]H, early func(K) bool) (Delta, error) {
	rows := make([]staged[K, H], 0, len(want))
	t.mu.Lock()
	if len(t.have) == 0 {
		t.have = make(map[K][2]H, len(want))
	}
	for key, value := range want {
		if t.have[key][half] != value {
			rows = append(rows, staged[K, H]{key: key, value: value})
		}
	}
	for key := range t.have {
		if _, ok := want[key]; !ok {
			rows = append(rows, staged[K, H]{key: key})
		}
	}
	t.mu.Unlock()
	return t.change(half, rows, early)
}

// stageAll is stage for a list of rows: into an empty table they are written as they
// come. Of two that have one key the last one counts.
func (t *pairTable[K, H]) stageAll(half int, rows []staged[K, H], early func(K) bool) (Delta, error) {
	t.mu.Lock()
	empty := len(t.have) == 0
	if empty {
		t.have = make(map[K][2]H, len(rows))
	}
	t.mu.Unlock()
	if empty {
		for i := range rows {
			rows[i].fresh = true
		}
		return t.change(half, rows, early)
	}
	want := make(map[K]H, len(rows))
	for i := range rows {
		want[rows[i].key] = rows[i].value
	}
	return t.stage(half, want, early)
}

// stageChanges makes one half equal to the other, but for changes: those entries
// get their values, and the zero value takes one away. early is as for stage.
func (t *pairTable[K, H]) stageChanges(half int, changes map[K]H, early func(K) bool) (Delta, error) {
	t.mu.Lock()
	rows := make([]staged[K, H], 0, len(changes)+t.uneven.len())
	for key, value := range changes {
		rows = append(rows, staged[K, H]{key: key, value: value})
	}
	for key := range t.uneven.all() {
		if _, ok := changes[key]; !ok {
			rows = append(rows, staged[K, H]{key: key, level: true})
		}
	}
	t.mu.Unlock()
	return t.change(half, rows, early)
}

// never has no entry get both halves.
func never[K any](K) bool { return false }

// pairBatch is how many entries are written while others wait.
const pairBatch = 1024

// change gives one half of entries its values, batch by batch.
func (t *pairTable[K, H]) change(half int, rows []staged[K, H], early func(K) bool) (Delta, error) {
	var sum Delta
	keys, pairs := make([]K, 0, min(len(rows), pairBatch)), make([][2]H, 0, min(len(rows), pairBatch))
	for batch := range slices.Chunk(rows, pairBatch) {
		delta, err := t.changeBatch(half, batch, early, keys, pairs)
		if err != nil {
			return Delta{}, err
		}
		sum.Added, sum.Changed, sum.Removed = sum.Added+delta.Added, sum.Changed+delta.Changed, sum.Removed+delta.Removed
	}
	return sum, nil
}

// changeBatch counts what a batch changes for packets. keys and pairs are room for it.
func (t *pairTable[K, H]) changeBatch(half int, batch []staged[K, H], early func(K) bool, keys []K, pairs [][2]H) (Delta, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var zero H
	var delta Delta
	for i := range batch {
		key, to := batch[i].key, batch[i].value
		var pair [2]H
		there := false
		if !batch[i].fresh {
			pair, there = t.have[key]
		}
		was := pair[1-half]
		if batch[i].level {
			to = was
		}
		if kept, ok := t.kept[key]; ok && to == zero {
			to = kept
		}
		if pair[half] == to {
			continue
		}
		pair[half] = to
		if !there && early(key) {
			pair[1-half] = to
		}
		keys, pairs = append(keys, key), append(pairs, pair)
		delta.note(was != zero, to != zero, was != to)
	}
	if err := t.write(keys, pairs); err != nil {
		return Delta{}, err
	}
	return delta, nil
}

// note counts what becomes of one entry.
func (d *Delta) note(was, is, differs bool) {
	switch {
	case !was && !is:
	case !was:
		d.Added++
	case !is:
		d.Removed++
	case differs:
		d.Changed++
	}
}

// keep writes both halves of an entry, which stays whatever is staged meanwhile. It
// is called with mu held.
func (t *pairTable[K, H]) keep(key K, value H) error {
	if err := t.write([]K{key}, [][2]H{{value, value}}); err != nil {
		return err
	}
	t.kept[key] = value
	return nil
}

func (t *pairTable[K, H]) write(keys []K, pairs [][2]H) error {
	if err := update(t.m, keys, pairs); err != nil {
		return err
	}
	for i, key := range keys {
		t.put(key, pairs[i])
	}
	return nil
}

// step is what becomes of an entry by a turn of the epoch.
type step[H any] struct{ was, is H }

// differences are the entries that one half has otherwise than the other. It costs
// what differs.
func (t *pairTable[K, H]) differences(half int) iter.Seq2[K, step[H]] {
	return func(yield func(K, step[H]) bool) {
		for key := range t.uneven.all() {
			row := step[H]{t.have[key][1-half], t.have[key][half]}
			if row.was != row.is && !yield(key, row) {
				return
			}
		}
	}
}

// differs is whether there are any.
func (t *pairTable[K, H]) differs() bool {
	for range t.differences(0) {
		return true
	}
	return false
}

// sweep deletes the entries that the half in use does not have.
func (t *pairTable[K, H]) sweep(half int) error {
	var zero H
	t.mu.Lock()
	uneven := slices.Collect(t.uneven.all())
	t.mu.Unlock()
	for batch := range slices.Chunk(uneven, pairBatch) {
		err := t.removeWhere(batch, func(key K) bool { return t.have[key][half] == zero })
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *pairTable[K, H]) removeWhere(batch []K, gone func(K) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range batch {
		if !gone(key) {
			continue
		}
		if err := t.remove(key); err != nil {
			return err
		}
	}
	return nil
}

func (t *pairTable[K, H]) remove(key K) error {
	if err := t.m.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from table %s: %w", mapName(t.m), err)
	}
	delete(t.have, key)
	t.uneven.remove(key)
	return nil
}

// clear deletes everything.
func (t *pairTable[K, H]) clear() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.kept)
	for key := range t.have {
		if err := t.remove(key); err != nil {
			return err
		}
	}
	return nil
}

// update writes entries, in one call where that pays and the kernel can.
func update[K, V any](m *ebpf.Map, keys []K, values []V) error {
	if len(keys) >= batchFrom {
		_, err := m.BatchUpdate(keys, values, nil)
		if err == nil {
			return nil
		}
		// A batch that failed in the middle is written again, key by key,
		// and fails there with the key's own error.
	}
	for i := range keys {
		if err := m.Put(&keys[i], &values[i]); err != nil {
			return fmt.Errorf("write table %s: %w", mapName(m), err)
		}
	}
	return nil
}

// mapName is the table's name in the C source.
func mapName(m *ebpf.Map) string {
	info, err := m.Info()
	if err != nil {
		return m.String()
	}
	return info.Name
}

// FullError says that a state does not fit a table. Nothing of it was applied.
type FullError struct {
	Table      string
	Want, Room int           // entries
	Service    model.PortRef // the one that needs most of the table, where services fill it
	Share      int           // entries that it needs
}

func (e *FullError) Error() string {
	most := ""
	if !e.Service.IsZero() {
		most = fmt.Sprintf(", %d of them for service %s", e.Share, e.Service)
	}
	return fmt.Sprintf("table %s has room for %d entries, and the new state needs %d%s: "+
		"the old state stays; apply less, or open the datapath with a larger table", e.Table, e.Room, e.Want, most)
}
