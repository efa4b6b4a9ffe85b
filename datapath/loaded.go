// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
)

// Loaded is what of a datapath is in the kernel, to compare two of them. The
// keys are the C source's names.
type Loaded struct {
	// Programs are the kernel's digests of the instructions. Where a program has
	// the address of a table, the digest has zeros.
	Programs map[string]string
	// Tables are type, sizes of key and value, room and flags, in words.
	Tables map[string]string
	// Constants are those that the loader sets, as far as programs have them.
	Constants map[string]uint64
	// Settings are those of table control that do not change with the objects.
	Settings map[string]uint64
}

// Loaded reads what is in the kernel. It loads the programs that have not been
// needed yet: those of sockets only where there is a cgroup.
func (d *Datapath) Loaded() (*Loaded, error) {
	names := make([]string, 0, len(hookPrograms)+1)
	for _, name := range hookPrograms {
		names = append(names, name)
	}
	if d.leadsSockets() {
		for _, name := range attachedTo[roleSocket] {
			names = append(names, name)
		}
	}
	out := &Loaded{Programs: map[string]string{}, Tables: map[string]string{}, Constants: map[string]uint64{}}
	for _, name := range append(names, bpf.ContainerProgMarkExpired) {
		prog, err := d.programs.get(name)
		if err != nil {
			return nil, fmt.Errorf("read program %s: %w", name, err)
		}
		info, err := prog.Info()
		if err != nil {
			return nil, fmt.Errorf("read program %s: %w", name, err)
		}
		out.Programs[name] = info.Tag
	}
	for name, m := range d.maps {
		out.Tables[name] = fmt.Sprintf("%s key=%d value=%d room=%d flags=%#x", m.Type(), m.KeySize(), m.ValueSize(), m.MaxEntries(), m.Flags())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out.Settings = map[string]uint64{
		"seed": uint64(d.settings.Seed), "trace": uint64(d.settings.Trace), "events-per-second": uint64(d.settings.EventsPerSecond),
	}
	return out, errors.Join(constants(d.programs.objects.container, out.Constants), constants(d.programs.objects.host, out.Constants))
}

// constants adds an object's, each of which has the size of a word or two.
func constants(spec *ebpf.CollectionSpec, to map[string]uint64) error {
	for name, v := range spec.Variables {
		var err error
		var word uint32
		var long uint64
		if v.Size() == 4 {
			err = v.Get(&word)
			long = uint64(word)
		} else {
			err = v.Get(&long)
		}
		if err != nil {
			return fmt.Errorf("read constant %s: %w", name, err)
		}
		to[name] = long
	}
	return nil
}
