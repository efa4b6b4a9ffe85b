// SPDX-License-Identifier: Apache-2.0

package inputs

import (
	"slices"
	"sync"
)

// Table is rows by key. It counts its changes: a reader that remembers the
// revision that it has read is told what changed since, at the cost of that. Its
// methods may be called by several goroutines.
type Table[K comparable, V any] struct {
	mu       sync.Mutex
	revision uint64
	rows     map[K]row[V]
	gone     int        // rows of deleted keys
	log      []entry[K] // every key at its last change, in order, among entries of earlier ones
	dropped  uint64     // deletions up to this revision are forgotten
}

type row[V any] struct {
	value    V
	revision uint64 // of the last change
	gone     bool
}

type entry[K comparable] struct {
	revision uint64
	key      K
}

// Change is a row as it is now.
type Change[K comparable, V any] struct {
	Key   K
	Value V    // the zero value of one that is gone
	Gone  bool // it was deleted
}

// NewTable gives an empty table, of revision 0.
func NewTable[K comparable, V any]() *Table[K, V] { return &Table[K, V]{rows: map[K]row[V]{}} }

// Put writes a row. What is put in must not change any more.
func (t *Table[K, V]) Put(key K, value V) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows[key].gone {
		t.gone--
	}
	t.note(key, row[V]{value: value})
}

// Delete deletes a row, and says whether it was there.
func (t *Table[K, V]) Delete(key K) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, found := t.rows[key]; !found || old.gone {
		return false
	}
	t.gone++
	t.note(key, row[V]{gone: true})
	return true
}

// note is called with mu held.
func (t *Table[K, V]) note(key K, r row[V]) {
	t.revision++
	r.revision = t.revision
	t.rows[key] = r
	t.log = append(t.log, entry[K]{t.revision, key})
	if len(t.log) > 2*(len(t.rows)-t.gone)+slack {
		t.compact()
	}
}

// slack is how many entries a log may have that say nothing, or only that
// something is gone, beside as many as there are rows that are not.
const slack = 1024

// compact forgets entries of changes that others followed, and deletions where
// they are many.
func (t *Table[K, V]) compact() {
	forget := t.gone > (len(t.rows)-t.gone+slack)/2
	t.log = slices.DeleteFunc(t.log, func(e entry[K]) bool {
		r := t.rows[e.key]
		switch {
		case r.revision != e.revision:
			return true
		case forget && r.gone:
			t.dropped = e.revision
			delete(t.rows, e.key)
			t.gone--
			return true
		}
		return false
	})
}

// Since gives the rows that changed after a revision, each once, those first that
// changed first, and the revision that the table has now. whole is whether they
// are all rows that there are: what else was there then is gone. It is so after
// revision 0, and after one that is too long ago.
func (t *Table[K, V]) Since(revision uint64) (changes []Change[K, V], now uint64, whole bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if whole = revision == 0 || revision < t.dropped; whole {
		revision = 0
	}
	from, _ := slices.BinarySearchFunc(t.log, revision+1, func(e entry[K], revision uint64) int {
		return int(int64(e.revision) - int64(revision))
	})
	for _, e := range t.log[from:] {
		r := t.rows[e.key]
		if r.revision != e.revision || whole && r.gone {
			continue
		}
		changes = append(changes, Change[K, V]{e.key, r.value, r.gone})
	}
	return changes, t.revision, whole
}

// Get gives a row.
func (t *Table[K, V]) Get(key K) (value V, found bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, found := t.rows[key]
	return r.value, found && !r.gone
}

// Len is the number of rows.
func (t *Table[K, V]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.rows) - t.gone
}
