// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// repairBatch is how many entries are compared while an Apply waits.
const repairBatch = 512

// compareTable repairs one table: first what it has, then what it lacks.
func compareTable[K, V comparable](r *repair, of *mirror[K, V]) error {
	known := map[K]struct{}{} // of those that it is to have, those that it has
	r.d.opts.Step("repair " + of.table)
	began := time.Now()
	err := walk(of.m, func(keys []K, values []V) error {
		if err := compareBatch(r, of, keys, values, known); err != nil {
			return err
		}
		r.done.Compared += len(keys)
		err := r.rest(began)
		began = time.Now()
		return err
	})
	if err != nil {
		return err
	}
	missing := lacking(r, of, known)
	for len(missing) > 0 {
		n := min(repairBatch, len(missing))
		if err := restore(r, of, missing[:n]); err != nil {
			return err
		}
		missing = missing[n:]
	}
	return nil
}

// compareBatch puts right what a batch has otherwise, or has and ought not to have. An
// entry that seems wrong is looked at again: it may have been changed since.
func compareBatch[K, V comparable](r *repair, of *mirror[K, V], keys []K, values []V, known map[K]struct{}) error {
	r.lock()
	defer r.unlock()
	for i, key := range keys {
		if of.skip != nil && of.skip(key) {
			continue
		}
		want, wanted := of.want(key)
		if wanted {
			known[key] = struct{}{}
		}
		if wanted && values[i] == want {
			continue
		}
		if err := putRight(r, of, key, want, wanted); err != nil {
			return err
		}
	}
	return nil
}

// lacking lists what a table does not have. It looks through what it is to have only
// where their numbers differ.
func lacking[K, V comparable](r *repair, of *mirror[K, V], known map[K]struct{}) (keys []K) {
	r.lock()
	defer r.unlock()
	if len(known) == of.count() {
		return nil
	}
	of.each(func(key K, _ V) {
		if _, ok := known[key]; !ok {
			keys = append(keys, key)
		}
	})
	return keys
}

func restore[K, V comparable](r *repair, of *mirror[K, V], keys []K) error {
	r.lock()
	defer r.unlock()
	for _, key := range keys {
		if want, wanted := of.want(key); wanted {
			if err := putRight(r, of, key, want, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// putRight makes one entry what it is to be, by one write.
func putRight[K, V comparable](r *repair, of *mirror[K, V], key K, want V, wanted bool) error {
	is, there, err := find[K, V](of.m, key)
	if err != nil {
		return fmt.Errorf("read table %s: %w", of.table, err)
	}
	what := ""
	switch {
	case there && wanted && is != want:
		what = "wrong"
	case !there && wanted:
		what = "missing"
	case there && !wanted:
		what = "surplus"
	default:
		return nil
	}
	r.d.opts.Step("repair an entry of " + of.table)
	r.note(of.table, what, of.text(key))
	if !wanted {
		if err := of.m.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from table %s: %w", of.table, err)
		}
		return nil
	}
	if err := of.m.Put(&key, &want); err != nil {
		return fmt.Errorf("write table %s: %w", of.table, err)
	}
	return nil
}

// find looks up the entry of exactly this key.
func find[K comparable, V any](m *ebpf.Map, key K) (is V, there bool, err error) {
	if m.Type() == ebpf.LPMTrie {
		if there, err = inTrie(m, key); err != nil || !there {
			return is, false, err
		}
	}
	err = m.Lookup(&key, &is)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return is, false, nil
	}
	return is, err == nil, err
}

// inTrie says whether a trie has a key itself: a look-up finds a shorter one too. From
// a key that it does not have the kernel goes on with the first one, which follows no
// other (kernel/bpf/lpm_trie.c, trie_get_next_key).
func inTrie[K comparable](m *ebpf.Map, key K) (bool, error) {
	var first, next K
	err := m.NextKey(nil, &first)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err == nil {
		err = m.NextKey(&key, &next)
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return true, nil // it is the last one
	}
	return next != first, err
}

func (r *repair) lock() {
	r.d.applying.Lock()
	r.d.mu.Lock()
}

func (r *repair) unlock() {
	r.d.mu.Unlock()
	r.d.applying.Unlock()
}

// walkAttempts is how often a walk begins again that lost its place.
const walkAttempts = 10

// walk gives the entries of a table in batches, while others may change it. Some that
// come or go meanwhile are given twice or not at all.
func walk[K, V any](m *ebpf.Map, do func([]K, []V) error) error {
	// Hashes give whole buckets. Tries have no batches before 5.16 (f56387c534bd).
	if m.Type() == ebpf.Hash {
		return walkBatches(m, do)
	}
	var err error
	for range walkAttempts {
		if err = walkEach(m, do); !errors.Is(err, ebpf.ErrIterationAborted) {
			return err
		}
	}
	return err
}

func walkBatches[K, V any](m *ebpf.Map, do func([]K, []V) error) error {
	keys, values := make([]K, repairBatch), make([]V, repairBatch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read table %s: %w", mapName(m), err)
		}
		if failed := do(keys[:n], values[:n]); failed != nil {
			return failed
		}
		if err != nil {
			return nil
		}
	}
}

// walkEach goes from key to key. Where the key that it is at is deleted, the kernel
// begins anew, and the library gives up when it has seen more keys than fit.
func walkEach[K, V any](m *ebpf.Map, do func([]K, []V) error) error {
	var keys []K
	var values []V
	var key K
	var value V
	iter := m.Iterate()
	for iter.Next(&key, &value) {
		keys, values = append(keys, key), append(values, value)
		if len(keys) < repairBatch {
			continue
		}
		if err := do(keys, values); err != nil {
			return err
		}
		keys, values = keys[:0], values[:0]
	}
	if err := do(keys, values); err != nil {
		return err
	}
	if err := iter.Err(); err != nil {
		return fmt.Errorf("read table %s: %w", mapName(m), err)
	}
	return nil
}
