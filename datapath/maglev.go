// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
)

// maglevArray holds Maglev tables, one behind the other in one array. A table is
// never changed in its place: a changed one is written where none is that
// packets read, and equal ones are shared. Which tables there are is known
// from the services, so that nothing else has to outlive a loader.
type maglevArray struct {
	memory  *ebpf.Memory
	entries uint32
	name    string
	have    map[maglevRange]digest
	tables  map[digest]maglevRange
	recipes map[string]digest // of what has been computed, by backends and size
}

// maglevRange is where a table lies, in entries.
type maglevRange struct{ first, size uint32 }

type digest [sha256.Size]byte

// maglevTable is one that is to be written.
type maglevTable struct {
	at      maglevRange
	content []byte
	digest  digest
	recipe  string
}

// maglevStride is what an element takes of the array's memory: the kernel
// rounds up to 8 bytes (kernel/bpf/arraymap.c, array_map_alloc).
const maglevStride = 8

func newMaglevArray(m *ebpf.Map, used map[maglevRange]bool) (*maglevArray, error) {
	memory, err := m.Memory()
	if err != nil {
		return nil, fmt.Errorf("map table %s into memory: %w", mapName(m), err)
	}
	a := &maglevArray{memory: memory, entries: m.MaxEntries(), name: mapName(m)}
	a.clear()
	for at := range used {
		content := make([]byte, int(at.size)*maglevStride)
		if _, err := memory.ReadAt(content, int64(at.first)*maglevStride); err != nil {
			return nil, fmt.Errorf("read table %s: %w", a.name, err)
		}
		a.note(at, sha256.Sum256(content))
	}
	return a, nil
}

func (a *maglevArray) note(at maglevRange, d digest) {
	a.have[at] = d
	a.tables[d] = at
}

// maglevRecipe is a key for tables that are computed from equals.
func maglevRecipe(eligible []model.Backend, size int) string {
	var b strings.Builder
	var number [8]byte
	binary.NativeEndian.PutUint64(number[:], uint64(size))
	b.Write(number[:])
	for i := range eligible {
		backend := &eligible[i]
		addr := backend.Address.As16()
		b.Write(addr[:])
		binary.NativeEndian.PutUint32(number[:4], uint32(backend.Port)<<16|uint32(weightOf(backend)))
		b.Write(number[:4])
	}
	return b.String()
}

// computeMaglev gives a table as the array's memory holds it.
func computeMaglev(eligible []model.Backend, size int) []byte {
	content := make([]byte, size*maglevStride)
	for i, index := range compile.MaglevTable(eligible, size) {
		binary.NativeEndian.PutUint32(content[i*maglevStride:], index)
	}
	return content
}

// plan gives each service its table, and the tables that are to be written. A
// service that has none has the zero range.
func (a *maglevArray) plan(services []model.Service, frontends []frontend) ([]maglevRange, []maglevTable, error) {
	ranges := make([]maglevRange, len(services))
	var missing []maglevTable
	var free freeRanges
	var total int
	planned, written := map[string]maglevRange{}, map[digest]maglevRange{}
	for i := range services {
		size := services[i].MaglevSize
		if size <= 0 || len(frontends[i].eligible) == 0 {
			continue
		}
		recipe := maglevRecipe(frontends[i].eligible, size)
		at, ok := planned[recipe]
		if !ok {
			table, known := a.table(recipe, frontends[i].eligible, size)
			at = table.at
			if !known {
				at, known = written[table.digest]
			}
			if !known {
				if free == nil {
					free, total = a.free(), a.taken()
				}
				total += size
				if at, ok = free.take(uint32(size)); !ok {
					ranges[i] = maglevRange{size: uint32(size)}
					return ranges, nil, &FullError{Table: a.name, Want: total, Room: int(a.entries)}
				}
				table.at = at
				written[table.digest] = at
				missing = append(missing, table)
			}
			planned[recipe] = at
		}
		ranges[i] = at
	}
	return ranges, missing, nil
}

// table is the one of a recipe, and whether the array has it.
func (a *maglevArray) table(recipe string, eligible []model.Backend, size int) (maglevTable, bool) {
	if d, ok := a.recipes[recipe]; ok {
		if at, ok := a.tables[d]; ok {
			return maglevTable{at: at}, true
		}
	}
	content := computeMaglev(eligible, size)
	t := maglevTable{content: content, digest: sha256.Sum256(content), recipe: recipe}
	at, ok := a.tables[t.digest]
	if ok {
		a.recipes[recipe] = t.digest
		t.at = at
	}
	return t, ok
}

// add writes tables where plan has put them.
func (a *maglevArray) add(missing []maglevTable) error {
	for i := range missing {
		t := &missing[i]
		if _, err := a.memory.WriteAt(t.content, int64(t.at.first)*maglevStride); err != nil {
			return fmt.Errorf("write table %s: %w", a.name, err)
		}
		a.note(t.at, t.digest)
		a.recipes[t.recipe] = t.digest
	}
	return nil
}

// sweep forgets the tables that no service uses: their room is free.
func (a *maglevArray) sweep(used map[maglevRange]bool) {
	for at, d := range a.have {
		if !used[at] {
			a.forget(at, d)
		}
	}
	a.sweepRecipes()
}

func (a *maglevArray) forget(at maglevRange, d digest) {
	delete(a.have, at)
	if a.tables[d] == at {
		delete(a.tables, d)
	}
}

func (a *maglevArray) sweepRecipes() {
	for recipe, d := range a.recipes {
		if _, ok := a.tables[d]; !ok {
			delete(a.recipes, recipe)
		}
	}
}

func (a *maglevArray) clear() {
	a.have, a.tables, a.recipes = map[maglevRange]digest{}, map[digest]maglevRange{}, map[string]digest{}
}

func (a *maglevArray) taken() int {
	total := 0
	for at := range a.have {
		total += int(at.size)
	}
	return total
}

// freeRanges are the gaps between tables, by their place.
type freeRanges []maglevRange

func (a *maglevArray) free() freeRanges {
	used := make([]maglevRange, 0, len(a.have))
	for at := range a.have {
		used = append(used, at)
	}
	slices.SortFunc(used, func(x, y maglevRange) int { return cmp.Compare(x.first, y.first) })
	var free freeRanges
	next := uint32(0)
	for _, at := range used {
		if at.first > next {
			free = append(free, maglevRange{next, at.first - next})
		}
		next = max(next, at.first+at.size)
	}
	return append(free, maglevRange{next, a.entries - next})
}

// take cuts a range of a size from the smallest gap that has it.
func (f freeRanges) take(size uint32) (maglevRange, bool) {
	best := -1
	for i := range f {
		if f[i].size >= size && (best < 0 || f[i].size < f[best].size) {
			best = i
		}
	}
	if best < 0 {
		return maglevRange{}, false
	}
	at := maglevRange{f[best].first, size}
	f[best].first += size
	f[best].size -= size
	return at, true
}

// mapMaglev reads which tables the services use.
func (d *Datapath) mapMaglev() (err error) {
	d.maglev, err = newMaglevArray(d.maps[bpf.ContainerMapMaglev], usedRanges(d.services, d.half()))
	return err
}

// maglev repairs what the memory of the array has otherwise, entry by entry: packets may
// read it, and each entry is a backend or another.
func (r *repair) maglev() error {
	d := r.d
	d.opts.Step("repair " + d.maglev.name)
	for _, at := range r.ranges() {
		began := time.Now()
		if err := r.maglevTable(at); err != nil {
			return err
		}
		r.done.Compared += int(at.size)
		if err := r.rest(began); err != nil {
			return err
		}
	}
	return nil
}

// ranges are the tables that packets read.
func (r *repair) ranges() []maglevRange {
	r.d.applying.Lock()
	defer r.d.applying.Unlock()
	if r.d.last == nil {
		return nil
	}
	return slices.Collect(maps.Keys(r.d.last.tables.count))
}

func (r *repair) maglevTable(at maglevRange) error {
	a := r.d.maglev
	r.d.applying.Lock()
	defer r.d.applying.Unlock()
	want, ok := a.have[at]
	if !ok || r.d.last == nil {
		return nil // of a state before
	}
	is := make([]byte, int(at.size)*maglevStride)
	if _, err := a.memory.ReadAt(is, int64(at.first)*maglevStride); err != nil {
		return fmt.Errorf("read table %s: %w", a.name, err)
	}
	if sha256.Sum256(is) == want {
		return nil
	}
	content := r.d.maglevContent(at, want)
	if content == nil {
		return nil // no service of the state has it
	}
	for i := 0; i < len(is); i += maglevStride {
		if bytes.Equal(is[i:i+maglevStride], content[i:i+maglevStride]) {
			continue
		}
		r.note(a.name, "wrong", fmt.Sprintf("entry %d", int(at.first)+i/maglevStride))
		if _, err := a.memory.WriteAt(content[i:i+maglevStride], int64(at.first)*maglevStride+int64(i)); err != nil {
			return fmt.Errorf("write table %s: %w", a.name, err)
		}
	}
	return nil
}

// maglevContent computes a table again, from the first service that has it; nil
// where there is none.
func (d *Datapath) maglevContent(at maglevRange, want digest) []byte {
	half := d.half()
	for s := range d.last.state.Services.All() {
		row := d.services.have[encodeServiceKey(s)][half]
		if (maglevRange{row.Table, row.TableSize}) != at {
			continue
		}
		f := newFrontend(s)
		if content := computeMaglev(f.eligible, s.MaglevSize); sha256.Sum256(content) == want {
			return content
		}
	}
	return nil
}
