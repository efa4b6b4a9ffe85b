// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
)

// programs are the loaded programs of all hooks, over one set of tables. Those
// of the node's devices are loaded when they are first asked for: the verifier
// takes several times as long for them as for those of pods' devices, and many
// a datapath has no uplink.
type programs struct {
	objects *objects
	tables  map[string]*ebpf.Map

	mu     sync.Mutex
	loaded map[string]*ebpf.Program
}

// loadPrograms loads the programs of pods' devices. The maps are the tables, and
// what these programs have for themselves.
func (o *objects) loadPrograms(opts ebpf.CollectionOptions) (*programs, map[string]*ebpf.Map, error) {
	container, err := ebpf.NewCollectionWithOptions(o.container, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("load the programs of pods' devices: %w", err)
	}
	return &programs{objects: o, tables: container.Maps, loaded: container.Programs}, container.Maps, nil
}

// get gives a program, nil when there is none of this name.
func (p *programs) get(name string) (*ebpf.Program, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if prog := p.loaded[name]; prog != nil || p.objects.host.Programs[name] == nil {
		return prog, nil
	}
	if err := p.loadHost(ebpf.ProgramOptions{}); err != nil {
		return nil, err
	}
	return p.loaded[name], nil
}

// need loads the programs of the node's devices where they are not yet.
func (p *programs) need() error {
	_, err := p.get(bpf.HostProgFromDevice)
	return err
}

// hasHost says whether the programs of the node's devices are loaded.
func (p *programs) hasHost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loaded[bpf.HostProgFromDevice] != nil
}

func (p *programs) loadHost(opts ebpf.ProgramOptions) error {
	host, err := ebpf.NewCollectionWithOptions(p.objects.host, ebpf.CollectionOptions{
		Programs: opts, MapReplacements: shared(p.tables),
	})
	if err != nil {
		return fmt.Errorf("load the programs of the node's devices: %w", err)
	}
	maps.Copy(p.loaded, host.Programs)
	return closeAll(host.Maps) // clones, or the programs' own: programs hold them
}

func (p *programs) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return closeAll(p.loaded)
}

// attachedTo are the programs of a device, by its role and where they are attached.
var attachedTo = map[role]map[ebpf.AttachType]string{
	rolePod: {
		ebpf.AttachTCXIngress: bpf.ContainerProgFromContainer,
		ebpf.AttachTCXEgress:  bpf.ContainerProgToContainer,
	},
	roleUplink: {
		ebpf.AttachTCXIngress: bpf.HostProgFromDevice,
		ebpf.AttachTCXEgress:  bpf.HostProgToDevice,
	},
}

var errNoHook = errors.New("no program belongs there")

func (p *programs) at(at attachPoint) (*ebpf.Program, error) {
	name := attachedTo[at.role][at.attach]
	if name == "" {
		return nil, errNoHook
	}
	return p.get(name)
}
