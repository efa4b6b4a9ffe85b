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
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// ErrChanged is an object that was edited before under the same name, and had
// other blocks.
var ErrChanged = errors.New("an object of this name had other blocks: count each revision by counters of its own")

// Counters are the counters of objects. All that is loaded of an object that
// they edited counts together. They may be used by several goroutines.
type Counters struct {
	lives *Lives // nil: nobody asks

	mu      sync.Mutex
	objects []*object // by name
}

type object struct {
	*Shape
	plain   []asm.Instructions // of programs, before
	counted []asm.Instructions // and after; nil before the first
	array   *ebpf.Map
	memory  []byte
	numbers []uint64 // memory, as what it holds
	live    []uint64 // what was not told yet of what the verifier left; nil: nothing
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
	o, err := c.objectOf(spec)
	if err != nil {
		return err
	}
	for i, p := range o.Programs {
		if o.counted[i] == nil {
			if o.counted[i], err = instrument(p, o.layouts[i], o.array); err != nil {
				return fmt.Errorf("count the blocks of %s: program %s: %w", o.Name, p.Name, err)
			}
		}
		spec.Programs[p.Name].Instructions = slices.Clone(o.counted[i])
	}
	if c.lives == nil {
		return nil
	}
	live, err := c.lives.of(o, spec)
	if err != nil {
		return err
	}
	o.live = add(o.live, live)
	return nil
}

// objectOf gives the counters of an object, new ones when it is first seen.
func (c *Counters) objectOf(spec *ebpf.CollectionSpec) (*object, error) {
	for _, o := range c.objects {
		if o.is(spec) {
			return o, nil
		}
	}
	shape, err := ShapeOf(spec)
	if err != nil {
		return nil, err
	}
	at, found := slices.BinarySearchFunc(c.objects, shape.Name, func(o *object, name string) int { return cmp.Compare(o.Name, name) })
	if found {
		return nil, fmt.Errorf("count the blocks of %s: %w", shape.Name, ErrChanged)
	}
	o, err := newObject(shape)
	if err != nil {
		return nil, fmt.Errorf("count the blocks of %s: %w", shape.Name, err)
	}
	c.objects = slices.Insert(c.objects, at, o)
	return o, nil
}

// is says whether a specification has the programs that the counters are for.
func (o *object) is(spec *ebpf.CollectionSpec) bool {
	if len(spec.Programs) != len(o.Programs) {
		return false
	}
	for i, p := range o.Programs {
		if s := spec.Programs[p.Name]; s == nil || !slices.EqualFunc(o.plain[i], s.Instructions, sameInstruction) {
			return false
		}
	}
	return true
}

func sameInstruction(a, b asm.Instruction) bool {
	return a.OpCode == b.OpCode && a.Dst == b.Dst && a.Src == b.Src && a.Offset == b.Offset && a.Constant == b.Constant &&
		a.Reference() == b.Reference()
}

func newObject(shape *Shape) (*object, error) {
	o := &object{Shape: shape, counted: make([]asm.Instructions, len(shape.Programs))}
	for _, p := range shape.Programs {
		o.plain = append(o.plain, p.Instructions)
	}
	size := max(shape.Counters, 1) * 8
	// A map that user space has mapped may be read without a system call (since
	// 5.5, fc9702273e2e).
	array, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "cover", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(size), MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, fmt.Errorf("make counters: %w", err)
	}
	o.array = array
	o.memory, err = unix.Mmap(array.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map counters: %w", err), array.Close())
	}
	o.numbers = unsafe.Slice((*uint64)(unsafe.Pointer(&o.memory[0])), size/8)
	return o, nil
}

// Snapshot reads the counts.
func (c *Counters) Snapshot() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all Counts
	for _, o := range c.objects {
		all = append(all, o.Counts(o.read()))
	}
	return all
}

func (o *object) read() []uint64 {
	numbers := make([]uint64, len(o.numbers))
	for i := range numbers {
		numbers[i] = atomic.LoadUint64(&o.numbers[i])
	}
	return numbers
}

// Reset sets all counts to zero.
func (c *Counters) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.objects {
		o.reset()
	}
}

func (o *object) reset() {
	for i := range o.numbers {
		// Most are zero, and to read them leaves their pages clean.
		if atomic.LoadUint64(&o.numbers[i]) != 0 {
			atomic.StoreUint64(&o.numbers[i], 0)
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
		errs = append(errs, unix.Munmap(o.memory), o.array.Close())
	}
	c.objects = nil
	return errors.Join(errs...)
}
