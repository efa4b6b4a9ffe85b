// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// A table of another layout, of an earlier or a later version, is moved: a new
// one is made, and the entries are copied field by field, by the names that
// the old table's BTF and the new objects' BTF have in common. Fields that the
// old layout did not have are 0, those that the new one lacks are lost.
//
// The copy is made before the new programs run, and once more behind them, for
// what the old programs wrote meanwhile.

// A table that had another name is found by the pin of that name. Where its layout is the
// same it is kept: its pin is renamed.

// move is one table's.
type move struct {
	name     string
	path     string
	former   string // the path of the pin, where it has a former name
	kept     bool   // `to` is `from`
	from, to *ebpf.Map
	key      []span
	value    []span
	// convert copies entries in the place of a copy by field, where several become one.
	convert func(from, to *ebpf.Map) error
}

// span is a run of bytes that both layouts have.
type span struct{ from, to, len uint32 }

type moves []*move

// planMoves makes the new tables, and copies. Tables that need not move are
// left alone; pins that are no tables of ours are refused.
func planMoves(spec *ebpf.CollectionSpec, pinPath string) (moves, error) {
	if pinPath == "" {
		return nil, nil
	}
	var all moves
	for _, name := range sharedMaps {
		path := filepath.Join(pinPath, name)
		m, err := planMove(spec.Maps[name], path)
		if err != nil {
			return nil, errors.Join(err, all.close())
		}
		if m == nil {
			continue
		}
		all = append(all, m)
		if err := m.copyOver(m.to, ebpf.UpdateAny); err != nil {
			return nil, errors.Join(err, all.close())
		}
	}
	return all, nil
}

func planMove(spec *ebpf.MapSpec, path string) (*move, error) {
	m := &move{name: spec.Name, path: path}
	var err error
	if m.from, err = ebpf.LoadPinnedMap(path, nil); errors.Is(err, fs.ErrNotExist) && formerPin(path) != "" {
		path = formerPin(path)
		m.former = path
		m.from, err = ebpf.LoadPinnedMap(path, nil)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pin %s: %w: %w: move it away", path, ErrForeignPin, err)
	}
	old := m.from
	same := spec.Compatible(old) == nil
	if same && m.former == "" {
		return nil, old.Close()
	}
	if err := m.plan(spec); err != nil {
		return nil, errors.Join(err, old.Close())
	}
	if same {
		m.kept = true
		if m.to, err = old.Clone(); err != nil {
			return nil, errors.Join(fmt.Errorf("keep table %s: %w", spec.Name, err), old.Close())
		}
		return m, nil
	}
	fresh := spec.Copy()
	fresh.Pinning = ebpf.PinNone
	if m.to, err = ebpf.NewMap(fresh); err != nil {
		return nil, errors.Join(fmt.Errorf("make table %s of the new layout: %w", spec.Name, err), old.Close())
	}
	return m, nil
}

// plan finds what the two layouts have in common.
func (m *move) plan(spec *ebpf.MapSpec) error {
	info, err := m.from.Info()
	if err != nil {
		return fmt.Errorf("look at pin %s: %w", m.path, err)
	}
	if info.Name != spec.Name && info.Name != formerName(spec.Name) || m.from.Type() != spec.Type {
		return fmt.Errorf("pin %s is a %s named %q: %w: move it away", cmp.Or(m.former, m.path), m.from.Type(), info.Name, ErrForeignPin)
	}
	if spec.Key == nil || spec.Value == nil { // a ring: nothing is copied
		return nil
	}
	if convert := conversions[spec.Name]; convert != nil && m.former != "" {
		m.convert = convert
		return nil
	}
	types, err := btfOf(info)
	if err != nil {
		return fmt.Errorf("pin %s: %w: %w: move it away", m.path, ErrForeignPin, err)
	}
	if m.key, err = spans(types, spec.Key, m.from.KeySize()); err != nil {
		return fmt.Errorf("move table %s, key: %w", m.name, err)
	}
	if m.value, err = spans(types, spec.Value, m.from.ValueSize()); err != nil {
		return fmt.Errorf("move table %s, value: %w", m.name, err)
	}
	return nil
}

func btfOf(info *ebpf.MapInfo) (*btf.Spec, error) {
	id, ok := info.BTFID()
	if !ok || id == 0 {
		return nil, errors.New("it has no BTF")
	}
	handle, err := btf.NewHandleFromID(id)
	if err != nil {
		return nil, fmt.Errorf("read its BTF: %w", err)
	}
	defer handle.Close()
	return handle.Spec(nil)
}

// spans gives the bytes that type t and the type of its name in the old BTF
// have in common.
func spans(old *btf.Spec, t btf.Type, oldSize uint32) ([]span, error) {
	t = btf.UnderlyingType(t)
	s, ok := t.(*btf.Struct)
	if !ok {
		size, err := btf.Sizeof(t)
		if err != nil {
			return nil, err
		}
		return []span{{len: min(uint32(size), oldSize)}}, nil
	}
	var was *btf.Struct
	err := old.TypeByName(s.Name, &was)
	if err != nil && formerStructs[s.Name] != "" {
		err = old.TypeByName(formerStructs[s.Name], &was)
	}
	if err != nil {
		return nil, fmt.Errorf("find struct %s in the old layout: %w", s.Name, err)
	}
	if was.Size != oldSize {
		return nil, fmt.Errorf("struct %s has %d bytes, and the table's elements %d", s.Name, was.Size, oldSize)
	}
	return common(was, s, 0, 0), nil
}

func common(old, new btf.Type, from, to uint32) []span {
	old, new = btf.UnderlyingType(old), btf.UnderlyingType(new)
	switch n := new.(type) {
	case *btf.Struct:
		if o, ok := old.(*btf.Struct); ok {
			return commonMembers(o, n, from, to)
		}
		return nil
	case *btf.Array:
		o, ok := old.(*btf.Array)
		if !ok {
			return nil
		}
		return commonElements(o, n, from, to)
	}
	if _, ok := old.(*btf.Struct); ok {
		return nil
	}
	oldSize, errOld := btf.Sizeof(old)
	newSize, errNew := btf.Sizeof(new)
	if errOld != nil || errNew != nil {
		return nil
	}
	// Integers are little-endian: a wider one has the narrower's bytes first.
	return []span{{from, to, uint32(min(oldSize, newSize))}}
}

func commonMembers(old, new *btf.Struct, from, to uint32) []span {
	var all []span
	for _, member := range new.Members {
		for _, was := range old.Members {
			if was.Name == member.Name {
				all = append(all, common(was.Type, member.Type, from+was.Offset.Bytes(), to+member.Offset.Bytes())...)
			}
		}
	}
	return all
}

func commonElements(old, new *btf.Array, from, to uint32) []span {
	oldSize, errOld := btf.Sizeof(old.Type)
	newSize, errNew := btf.Sizeof(new.Type)
	if errOld != nil || errNew != nil {
		return nil
	}
	var all []span
	for i := range min(old.Nelems, new.Nelems) {
		all = append(all, common(old.Type, new.Type, from+i*uint32(oldSize), to+i*uint32(newSize))...)
	}
	return all
}

func apply(spans []span, from []byte, size uint32) []byte {
	to := make([]byte, size)
	for _, s := range spans {
		copy(to[s.to:s.to+s.len], from[s.from:s.from+s.len])
	}
	return to
}

// perCPU tables hold counts only, and begin anew in another layout.
func perCPU(t ebpf.MapType) bool {
	return t == ebpf.PerCPUArray || t == ebpf.PerCPUHash || t == ebpf.LRUCPUHash
}

// copyOver copies the old table's entries.
func (m *move) copyOver(to *ebpf.Map, flag ebpf.MapUpdateFlags) error {
	if m.convert != nil {
		return m.convertInto(to, flag)
	}
	if m.kept || m.key == nil || perCPU(m.from.Type()) {
		return nil
	}
	if whole, err := m.copyMemory(to); whole || err != nil {
		return err
	}
	var last any
	for {
		key, err := m.from.NextKeyBytes(last)
		if err != nil {
			return fmt.Errorf("move table %s: %w", m.name, err)
		}
		if key == nil {
			return nil
		}
		last = key
		value, err := m.from.LookupBytes(key)
		if err != nil {
			return fmt.Errorf("move table %s: %w", m.name, err)
		}
		if value == nil { // gone meanwhile
			continue
		}
		err = to.Update(apply(m.key, key, to.KeySize()), apply(m.value, value, to.ValueSize()), flag)
		if errors.Is(err, ebpf.ErrKeyExist) {
			continue
		}
		if err != nil {
			return m.noRoom(to, err)
		}
	}
}

// convertInto copies once: what is converted is written by a loader alone, and that of
// before has ended.
func (m *move) convertInto(to *ebpf.Map, flag ebpf.MapUpdateFlags) error {
	if flag != ebpf.UpdateAny {
		return nil
	}
	if err := m.convert(m.from, to); err != nil {
		return m.noRoom(to, err)
	}
	return nil
}

// noRoom says what was in the way of an entry. A table that is given less room than
// it has entries is left as it is: what is in force is not for the loader to cut.
func (m *move) noRoom(to *ebpf.Map, err error) error {
	// Hashes say E2BIG, tries ENOSPC (kernel/bpf/hashtab.c, lpm_trie.c).
	if !errors.Is(err, unix.E2BIG) && !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("move table %s: %w", m.name, err)
	}
	return fmt.Errorf("move table %s: %w: it has more than the %d entries that it is to have room for: give it the room of before (%d), and less when fewer are in it",
		m.name, ErrNoRoom, to.MaxEntries(), m.from.MaxEntries())
}

// copyMemory copies a table whose values lie in memory as they did, and says
// whether it is one: one by one, millions of them take seconds.
func (m *move) copyMemory(to *ebpf.Map) (whole bool, err error) {
	if m.from.Flags()&to.Flags()&unix.BPF_F_MMAPABLE == 0 || m.from.ValueSize() != to.ValueSize() {
		return false, nil
	}
	from, err := m.from.Memory()
	if err != nil {
		return false, fmt.Errorf("move table %s: map the old one into memory: %w", m.name, err)
	}
	into, err := to.Memory()
	if err != nil {
		return false, fmt.Errorf("move table %s: map the new one into memory: %w", m.name, err)
	}
	if _, err := io.Copy(io.NewOffsetWriter(into, 0), io.NewSectionReader(from, 0, int64(min(from.Size(), into.Size())))); err != nil {
		return false, fmt.Errorf("move table %s: %w", m.name, err)
	}
	return true, nil
}

func (all moves) replacements() map[string]*ebpf.Map {
	if len(all) == 0 {
		return nil
	}
	maps := map[string]*ebpf.Map{}
	for _, m := range all {
		maps[m.name] = m.to
	}
	return maps
}

// pin puts the new table in the old one's place, by one rename.
func (m *move) pin(table *ebpf.Map) error {
	if m.kept {
		if err := os.Rename(m.former, m.path); err != nil {
			return fmt.Errorf("rename the pin of table %s: %w", m.name, err)
		}
		return nil
	}
	fresh := m.path + "-new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what a loader left: %w", err)
	}
	clone, err := table.Clone()
	if err != nil {
		return fmt.Errorf("pin table %s: %w", m.name, err)
	}
	defer clone.Close()
	if err := clone.Pin(fresh); err != nil {
		return fmt.Errorf("pin table %s: %w", m.name, err)
	}
	if err := os.Rename(fresh, m.path); err != nil {
		return fmt.Errorf("put table %s in the place of the old one: %w", m.name, err)
	}
	return nil
}

// finish copies what the old programs wrote after the first copy, and lets go
// of the old tables.
func (all moves) finish(maps map[string]*ebpf.Map) error {
	for _, m := range all {
		if err := m.copyOver(maps[m.name], ebpf.UpdateNoExist); err != nil {
			return err
		}
	}
	return all.close()
}

func (all moves) close() error {
	var errs []error
	for _, m := range all {
		errs = append(errs, m.from.Close())
		if m.to != nil {
			errs = append(errs, m.to.Close())
		}
		m.from, m.to = nil, nil
	}
	return errors.Join(errs...)
}
