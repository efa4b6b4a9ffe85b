// SPDX-License-Identifier: Apache-2.0

package cover

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf/blocks"
)

// ErrChanged is an object that was edited before under the same name, and had
// other blocks.
var ErrChanged = errors.New("an object of this name had other blocks: count each revision by counters of its own")

// Counters are the counters of objects. All that is loaded of an object that
// they edited counts together. They may be used by several goroutines.
type Counters struct {
	mu      sync.Mutex
	objects []*object // by name
}

type object struct {
	*blocks.Object
	layouts  []layout // by program
	counters *ebpf.Map
	memory   []byte
	words    []uint64 // memory, as what it holds
}

// New makes counters for no object yet.
func New() *Counters { return &Counters{} }

// Edit puts counters into the programs of an object that is about to be loaded;
// it is made for datapath.Options. blocks.ErrNoLines when the object does not
// tell its source, ErrChanged when it is not what it was.
//
// The instructions hold the counters' file descriptor: Close comes after the
// last load.
func (c *Counters) Edit(spec *ebpf.CollectionSpec) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	read, err := blocks.Of(spec)
	if err != nil {
		return fmt.Errorf("count the blocks of an object: %w", err)
	}
	o, err := c.object(read)
	if err != nil {
		return fmt.Errorf("count the blocks of %s: %w", read.Name, err)
	}
	for i, p := range read.Programs {
		insns, err := instrument(p, &o.layouts[i], o.counters)
		if err != nil {
			return fmt.Errorf("count the blocks of %s: program %s: %w", read.Name, p.Name, err)
		}
		spec.Programs[p.Name].Instructions = insns
	}
	return nil
}

// object gives the counters of an object, new ones when it is first seen.
func (c *Counters) object(read *blocks.Object) (*object, error) {
	at, found := slices.BinarySearchFunc(c.objects, read.Name, func(o *object, name string) int { return cmp.Compare(o.Name, name) })
	if found {
		if !slices.EqualFunc(c.objects[at].Programs, read.Programs, sameBlocks) {
			return nil, ErrChanged
		}
		return c.objects[at], nil
	}
	o, err := newObject(read)
	if err != nil {
		return nil, err
	}
	c.objects = slices.Insert(c.objects, at, o)
	return o, nil
}

func sameBlocks(a, b *blocks.Program) bool {
	return a.Name == b.Name && slices.Equal(a.Blocks, b.Blocks)
}

func newObject(read *blocks.Object) (*object, error) {
	o := &object{Object: read}
	words := 0
	for _, p := range read.Programs {
		l := layOut(p, words)
		o.layouts = append(o.layouts, l)
		words += l.words
	}
	size := max(words, 1) * 8
	// A map that user space has mapped may be read without a system call (since
	// 5.5, fc9702273e2e).
	counters, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "cover", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size), MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, fmt.Errorf("make counters: %w", err)
	}
	o.counters = counters
	o.memory, err = unix.Mmap(counters.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map counters: %w", err), counters.Close())
	}
	o.words = unsafe.Slice((*uint64)(unsafe.Pointer(&o.memory[0])), size/8)
	return o, nil
}

// Reset sets all counts to zero.
func (c *Counters) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.objects {
		for i := range o.words {
			// Most are zero, and to read them leaves their pages clean.
			if atomic.LoadUint64(&o.words[i]) != 0 {
				atomic.StoreUint64(&o.words[i], 0)
			}
		}
	}
}

// Close gives the counters back. Programs that are loaded go on counting, for
// nobody.
func (c *Counters) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, o := range c.objects {
		errs = append(errs, unix.Munmap(o.memory), o.counters.Close())
	}
	c.objects = nil
	return errors.Join(errs...)
}
