// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// DefaultRoom is how many entries each table that programs share has room for,
// by its name in bpf/lib/tables.h, where Options say nothing else.
func DefaultRoom() (map[string]uint32, error) {
	spec, err := bpf.LoadContainer()
	if err != nil {
		return nil, fmt.Errorf("read the embedded objects: %w", err)
	}
	room := map[string]uint32{}
	for _, name := range sharedMaps {
		room[name] = spec.Maps[name].MaxEntries
	}
	return room, nil
}

// TableSize is how large a table is.
type TableSize struct {
	Name  string
	Room  uint32 // entries
	Bytes uint64 // of the kernel's memory, as the kernel counts it
}

// TableSizes are those of all tables that programs share. A table whose entries
// are not allocated before they are written grows: what it takes now counts.
func (d *Datapath) TableSizes() ([]TableSize, error) {
	var sizes []TableSize
	for _, name := range sharedMaps {
		info, err := d.maps[name].Info()
		if err != nil {
			return nil, fmt.Errorf("look at table %s: %w", name, err)
		}
		bytes, _ := info.Memlock() // kernels without it say nothing
		sizes = append(sizes, TableSize{name, info.MaxEntries, bytes})
	}
	return sizes, nil
}

// resize gives tables the room that the options ask for.
func resize(spec *ebpf.CollectionSpec, opts *Options) error {
	for name, room := range opts.Room {
		if spec.Maps[name] == nil {
			return fmt.Errorf("give table %s room for %d entries: there is no such table", name, room)
		}
		spec.Maps[name].MaxEntries = room
	}
	for name, room := range map[string]uint32{
		bpf.ContainerMapCtAnswered:   opts.Flows,
		bpf.ContainerMapCtUnanswered: opts.Unanswered,
		bpf.ContainerMapServices:     opts.Services,
	} {
		if room != 0 {
			spec.Maps[name].MaxEntries = room
		}
	}
	if opts.Cgroup == "" { // nobody writes it, and it is allocated whole
		spec.Maps[bpf.ContainerMapPeers].MaxEntries = 1
	}
	if opts.KeepRoom && opts.PinPath != "" {
		return keepRoom(spec, opts.PinPath)
	}
	return nil
}

// setShares gives each endpoint a quarter of the tables that make room by
// themselves: a flow has two entries.
func setShares(spec *ebpf.CollectionSpec) error {
	for name, share := range map[string]uint32{
		bpf.ContainerVarFlowShare:     spec.Maps[bpf.ContainerMapCtUnanswered].MaxEntries / 8,
		bpf.ContainerVarAnsweredShare: spec.Maps[bpf.ContainerMapCtAnswered].MaxEntries / 4,
		bpf.ContainerVarFragmentShare: spec.Maps[bpf.ContainerMapFragments].MaxEntries / 4,
	} {
		if spec.Variables[name] == nil {
			continue
		}
		if err := spec.Variables[name].Set(max(share, 1)); err != nil {
			return fmt.Errorf("set constant %s: %w", name, err)
		}
	}
	return nil
}

// refusalTakes is how many ms one of so many refusals a second takes.
func refusalTakes(refusals uint32) uint32 {
	if refusals == 0 {
		refusals = model.DefaultRefusals
	}
	return (1000 + refusals - 1) / refusals
}

func keepRoom(spec *ebpf.CollectionSpec, pinPath string) error {
	for _, name := range sharedMaps {
		m, err := ebpf.LoadPinnedMap(filepath.Join(pinPath, name), nil)
		if err != nil {
			continue // whether it is there, and ours, is planMoves' to say
		}
		spec.Maps[name].MaxEntries = m.MaxEntries()
		if err := m.Close(); err != nil {
			return fmt.Errorf("look at table %s: %w", name, err)
		}
	}
	return nil
}
