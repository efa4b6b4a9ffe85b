// SPDX-License-Identifier: Apache-2.0

package cover

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Lives finds out what the verifier leaves of programs: it takes out what no
// run can reach, with the constants that they are loaded with, and a counter
// that is gone tells of a block that is. What it found it keeps: Counters of one
// process share it, each told once what they have not loaded before.
type Lives struct {
	mu    sync.Mutex
	found []life
}

// life is what is left of an object with some constants.
type life struct {
	object    string
	constants []byte
	counters  []uint64
}

// Counters makes counters whose records tell what is live, too.
func (l *Lives) Counters() *Counters { return &Counters{lives: l} }

// of loads an object's programs, with counters, over tables of their own that
// are as small as they can be, and looks what the kernel made of them. nil: that
// was told before.
func (l *Lives) of(o *object, spec *ebpf.CollectionSpec) ([]uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	constants := constantsOf(spec)
	if slices.ContainsFunc(l.found, func(f life) bool { return f.object == o.Name && bytes.Equal(f.constants, constants) }) {
		return nil, nil
	}
	live, err := look(o, spec.Copy())
	if err != nil {
		return nil, fmt.Errorf("load %s with counters: %w", o.Name, err)
	}
	l.found = append(l.found, life{o.Name, constants, live})
	return live, nil
}

// constantsOf are what the verifier knows of an object's variables.
func constantsOf(spec *ebpf.CollectionSpec) []byte {
	var all []byte
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		m := spec.Maps[name]
		if m.Flags&bpfReadOnlyProgram == 0 || len(m.Contents) == 0 {
			continue
		}
		if value, ok := m.Contents[0].Value.([]byte); ok {
			all = append(append(all, name...), value...)
		}
	}
	return all
}

// bpfReadOnlyProgram is BPF_F_RDONLY_PROG of linux/bpf.h.
const bpfReadOnlyProgram = 1 << 7

func look(o *object, spec *ebpf.CollectionSpec) (live []uint64, err error) {
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		switch m.Type {
		case ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie, ebpf.PerCPUHash, ebpf.LRUCPUHash:
			m.MaxEntries = min(m.MaxEntries, 64)
		}
	}
	loaded, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	defer loaded.Close()
	info, err := o.array.Info()
	if err != nil {
		return nil, err
	}
	id, _ := info.ID()
	live = make([]uint64, len(o.numbers))
	for i, p := range o.Programs {
		if err := lookAt(loaded.Programs[p.Name], id, live); err != nil {
			return nil, fmt.Errorf("look at program %s: %w", p.Name, err)
		}
		if live[o.layouts[i][0].entered] == 0 {
			return nil, fmt.Errorf("look at program %s: %w", p.Name, errHidden)
		}
	}
	return live, nil
}

var errHidden = errors.New("the kernel does not show its instructions: CAP_BPF and CAP_PERFMON are needed, and no lockdown")

// lookAt notes which counters a program still has. The kernel shows a load of a
// map's value with the map's id and the offset (bpf_insn_prepare_dump).
func lookAt(p *ebpf.Program, id ebpf.MapID, live []uint64) error {
	info, err := p.Info()
	if err != nil {
		return err
	}
	insns, err := info.Instructions()
	if err != nil {
		return err
	}
	for _, ins := range insns {
		if ins.OpCode.IsDWordLoad() && ins.Src == asm.PseudoMapValue && ebpf.MapID(uint32(ins.Constant)) == id {
			if at := int(uint64(ins.Constant)>>32) / 8; at < len(live) {
				live[at] = 1
			}
		}
	}
	return nil
}
