// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/model"
)

// sourceTable holds the lists of those who may use services. A list is never
// changed: a changed one is a new list, and equal ones are shared.
type sourceTable struct {
	m     *ebpf.Map
	have  map[uint32][]sourceKey // by list
	lists map[string]uint32      // by content
	next  uint32
	used  int // entries
}

func newSourceTable(m *ebpf.Map) (*sourceTable, error) {
	t := &sourceTable{m: m, have: map[uint32][]sourceKey{}, lists: map[string]uint32{}, next: 1}
	var key sourceKey
	var value uint32
	iter := m.Iterate()
	for iter.Next(&key, &value) {
		t.have[key.List] = append(t.have[key.List], key)
		t.next = max(t.next, key.List+1)
		t.used++
	}
	if err := iter.Err(); err != nil {
		return nil, fmt.Errorf("read table sources: %w", err)
	}
	for list, keys := range t.have {
		slices.SortFunc(keys, compareSources)
		t.lists[sourcesContent(keys)] = list
	}
	return t, nil
}

// encodeSources gives the prefixes of the frontend's family, sorted, for no
// list yet. Those of the other family would answer for its own: both lie in
// one tree.
func encodeSources(s *model.Service) []sourceKey {
	var keys []sourceKey
	for _, p := range s.Sources {
		if p.Addr().Is4() != s.Address.Is4() {
			continue
		}
		encoded := encodePrefix(p.Masked())
		keys = append(keys, sourceKey{Bits: listBits + encoded.Bits, Addr: encoded.Addr})
	}
	slices.SortFunc(keys, compareSources)
	return slices.Compact(keys)
}

// listBits are those of the list's number, which a prefix always has whole.
const listBits = 32

func compareSources(a, b sourceKey) int {
	aBytes, bBytes := toBytes(a.Addr), toBytes(b.Addr)
	return cmp.Or(slices.Compare(aBytes[:], bBytes[:]), cmp.Compare(a.Bits, b.Bits))
}

// sourcesContent is a key for lists that are equal.
func sourcesContent(keys []sourceKey) string {
	var b strings.Builder
	for i := range keys {
		addr := toBytes(keys[i].Addr)
		b.Write(addr[:])
		b.WriteByte(byte(keys[i].Bits))
	}
	return b.String()
}

// plan gives each list its number, and the lists that are to be written. An
// empty list is number 0, which never has an entry.
func (t *sourceTable) plan(lists [][]sourceKey) (numbers []uint32, missing map[uint32][]sourceKey, err error) {
	missing = map[uint32][]sourceKey{}
	planned := map[string]uint32{}
	next, total := t.next, t.used
	for _, keys := range lists {
		if len(keys) == 0 {
			numbers = append(numbers, 0)
			continue
		}
		content := sourcesContent(keys)
		list, ok := t.lists[content]
		if !ok {
			list, ok = planned[content]
		}
		if !ok {
			list = next
			next++
			planned[content] = list
			missing[list] = numbered(keys, list)
			total += len(keys)
		}
		numbers = append(numbers, list)
	}
	if limit := int(t.m.MaxEntries()); total > limit {
		return nil, nil, &FullError{Table: mapName(t.m), Want: total, Room: limit}
	}
	return numbers, missing, nil
}

func numbered(keys []sourceKey, list uint32) []sourceKey {
	keys = slices.Clone(keys)
	for i := range keys {
		keys[i].List = list
	}
	return keys
}

// add writes lists under the numbers that plan gave them.
func (t *sourceTable) add(missing map[uint32][]sourceKey) error {
	var all []sourceKey
	for list, keys := range missing {
		all = append(all, keys...)
		t.have[list] = keys
		t.lists[sourcesContent(keys)] = list
		t.next = max(t.next, list+1)
		t.used += len(keys)
	}
	allowed := make([]uint32, len(all))
	for i := range allowed {
		allowed[i] = 1
	}
	if err := update(t.m, all, allowed); err != nil {
		for list := range missing {
			err = errors.Join(err, t.remove(list))
		}
		return err
	}
	return nil
}

func (t *sourceTable) sweep(used map[uint32]bool) error {
	for list := range t.have {
		if used[list] {
			continue
		}
		if err := t.remove(list); err != nil {
			return err
		}
	}
	return nil
}

func (t *sourceTable) remove(list uint32) error {
	keys := t.have[list]
	delete(t.lists, sourcesContent(keys))
	for i := range keys {
		if err := t.m.Delete(&keys[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete list of sources %d: %w", list, err)
		}
		t.used--
	}
	delete(t.have, list)
	return nil
}

func (t *sourceTable) clear() error {
	err := t.sweep(nil)
	t.next, t.used = 1, 0
	return err
}
