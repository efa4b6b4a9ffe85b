// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/soil"
)

// programs are the loaded programs of all hooks, over one set of tables. Those
// of the node's devices are loaded when they are first asked for: the verifier
// takes several times as long for them as for those of pods' devices, and many
// a datapath has no uplink. So are those of sockets.
type programs struct {
	objects *objects
	cgroup  string                           // of sockets
	socket  func(int, int, int) (int, error) // that makes one there, or nil
	tables  map[string]*ebpf.Map
	options ebpf.ProgramOptions

	// loading is the turn of who loads programs, which may take the verifier
	// seconds: who needs those that are loaded does not wait for it.
	loading sync.Mutex

	// mu guards what follows, and is held while an Exchange loads, which tests alone
	// have.
	mu        sync.Mutex
	loaded    map[string]*ebpf.Program
	netns     *ebpf.Variable // of sockets' programs: the cookie of their namespace
	placed    bool           // that is the node's
	exchange  *Exchange      // nil: none
	exchanged exchanged
	soiled    map[string]*soil.Before // those that a Witness runs in place of programs
}

// loadPrograms loads the programs of pods' devices. The maps are the tables, and
// what these programs have for themselves.
func (o *objects) loadPrograms(of *Options, opts ebpf.CollectionOptions) (*programs, map[string]*ebpf.Map, error) {
	if of.Stats {
		opts.Programs.LogLevel = ebpf.LogLevelStats
	}
	container, err := ebpf.NewCollectionWithOptions(o.container, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("load the programs of pods' devices: %w", err)
	}
	p := &programs{objects: o, cgroup: of.Cgroup, socket: of.CgroupSocket, tables: container.Maps, options: opts.Programs, loaded: container.Programs}
	return p, container.Maps, nil
}

// get gives a program, nil when there is none of this name.
func (p *programs) get(name string) (*ebpf.Program, error) {
	if !p.has(name) {
		if err := p.load(name); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if prog, err := p.inPlaceOf(name); prog != nil || err != nil {
		return prog, err
	}
	return p.loaded[name], nil
}

// has says whether a program is loaded and can be attached: one of sockets has to know
// their namespace.
func (p *programs) has(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.loaded[name] != nil && (p.placed || p.objects.socket.Programs[name] == nil)
}

// load loads the programs of an object, unless somebody has.
func (p *programs) load(name string) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	switch {
	case p.has(name):
	case p.objects.host.Programs[name] != nil:
		return p.loadHost()
	case p.objects.socket.Programs[name] != nil:
		return p.loadSockets()
	}
	return nil
}

// need loads the programs of the node's devices where they are not yet.
func (p *programs) need() error {
	_, err := p.get(bpf.HostProgFromDevice)
	return err
}

// LoadAll loads now what is loaded when a device or a socket first needs it.
func (d *Datapath) LoadAll() error {
	if err := d.programs.need(); err != nil {
		return err
	}
	if !d.leadsSockets() {
		return nil
	}
	_, err := d.programs.get(bpf.SocketProgConnect4)
	return err
}

// leadsSockets says whether sockets are led, or are to be while Open has not got so far.
func (d *Datapath) leadsSockets() bool {
	if d.attached == nil {
		return d.opts.Cgroup != ""
	}
	return d.attached.cgroup.path != ""
}

// hasHost says whether the programs of the node's devices are loaded.
func (p *programs) hasHost() bool {
	return p.has(bpf.HostProgFromDevice)
}

func (p *programs) loadHost() error {
	if err := p.add(p.objects.host); err != nil {
		return fmt.Errorf("load the programs of the node's devices: %w", err)
	}
	return nil
}

// add loads programs over the tables that are there.
func (p *programs) add(spec *ebpf.CollectionSpec) error {
	more, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: p.options, MapReplacements: shared(p.tables),
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	maps.Copy(p.loaded, more.Programs)
	if v := more.Variables[bpf.SocketVarNodeNetns]; v != nil {
		p.netns = v
	}
	p.mu.Unlock()
	return closeAll(more.Maps) // clones, or the programs' own: programs hold them
}

func (p *programs) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(closeAll(p.soiled), p.exchanged.close(), closeAll(p.loaded))
}

// attachedTo are the programs of a device or of a cgroup, by its role and where
// they are attached.
var attachedTo = map[role]map[ebpf.AttachType]string{
	rolePod: {
		ebpf.AttachTCXIngress: bpf.ContainerProgFromContainer,
		ebpf.AttachTCXEgress:  bpf.ContainerProgToContainer,
	},
	roleUplink: {
		ebpf.AttachTCXIngress: bpf.HostProgFromDevice,
		ebpf.AttachTCXEgress:  bpf.HostProgToDevice,
	},
	roleSocket: {
		ebpf.AttachCGroupInet4Connect:     bpf.SocketProgConnect4,
		ebpf.AttachCGroupInet6Connect:     bpf.SocketProgConnect6,
		ebpf.AttachCGroupUDP4Sendmsg:      bpf.SocketProgSendmsg4,
		ebpf.AttachCGroupUDP6Sendmsg:      bpf.SocketProgSendmsg6,
		ebpf.AttachCGroupUDP4Recvmsg:      bpf.SocketProgRecvmsg4,
		ebpf.AttachCGroupUDP6Recvmsg:      bpf.SocketProgRecvmsg6,
		ebpf.AttachCgroupInet4GetPeername: bpf.SocketProgGetpeername4,
		ebpf.AttachCgroupInet6GetPeername: bpf.SocketProgGetpeername6,
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
