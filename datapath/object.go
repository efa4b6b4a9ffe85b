// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
)

// ErrObject is an object file that is not a datapath that this loader can fill.
var ErrObject = errors.New("not an object file of the datapath, or of another layout")

// objects are the programs of all hooks, by where they are attached: to pods'
// devices, the node's, and the node's sockets. They share their tables.
type objects struct{ container, host, socket *ebpf.CollectionSpec }

// sharedMaps are the tables that all programs have together. They outlive the
// process where they are pinned; the others hold nothing that is missed.
var sharedMaps = []string{
	bpf.ContainerMapControl, bpf.ContainerMapChanged, bpf.ContainerMapNodes, bpf.ContainerMapEndpoints,
	bpf.ContainerMapIpcache, bpf.ContainerMapIpcacheCidrs, bpf.ContainerMapTunnelEndpoints, bpf.ContainerMapServices,
	bpf.ContainerMapSlotRows, bpf.ContainerMapMaglev, bpf.ContainerMapSources,
	bpf.ContainerMapAffinities, bpf.ContainerMapBackends, bpf.ContainerMapRules,
	bpf.ContainerMapCtAnswered, bpf.ContainerMapCtUnanswered, bpf.ContainerMapCounters,
	bpf.ContainerMapEvents, bpf.ContainerMapMeters, bpf.ContainerMapFragments,
	bpf.ContainerMapPeers, bpf.ContainerMapShares, bpf.ContainerMapCtAnsweredBy,
}

// readObjects reads the programs that are to be loaded: the embedded ones, or
// those of ELF files whose tables this loader knows how to fill.
func readObjects(opts *Options) (*objects, error) {
	container, err := readObject(opts.Object, bpf.LoadContainer)
	if err != nil {
		return nil, err
	}
	host, err := readObject(opts.HostObject, bpf.LoadHost)
	if err != nil {
		return nil, err
	}
	socket, err := readObject(opts.SocketObject, bpf.LoadSocket)
	if err != nil {
		return nil, err
	}
	return &objects{container, host, socket}, nil
}

// CheckObjects says whether this loader could fill the tables of the object files of
// options: ErrObject, if not.
func CheckObjects(opts Options) error {
	_, err := readObjects(&opts)
	return err
}

func readObject(object []byte, load func() (*ebpf.CollectionSpec, error)) (*ebpf.CollectionSpec, error) {
	embedded, err := load()
	if err != nil {
		return nil, fmt.Errorf("read the embedded objects: %w", err)
	}
	if object == nil {
		return embedded, nil
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("read object file: %w: %w", ErrObject, err)
	}
	return spec, sameLayout(embedded, spec)
}

// sameLayout refuses what the loader would fill wrongly.
func sameLayout(embedded, spec *ebpf.CollectionSpec) error {
	if spec.Types == nil {
		return fmt.Errorf("read object file: %w: it has no BTF: build it with -g", ErrObject)
	}
	for name := range embedded.Programs {
		if spec.Programs[name] == nil {
			return fmt.Errorf("read object file: %w: it lacks program %s", ErrObject, name)
		}
	}
	for name := range embedded.Variables {
		if spec.Variables[name] == nil {
			return fmt.Errorf("read object file: %w: it lacks constant %s", ErrObject, name)
		}
	}
	for _, name := range sharedMaps { // the others are the programs' own
		want, got := embedded.Maps[name], spec.Maps[name]
		if got == nil {
			return fmt.Errorf("read object file: %w: it lacks table %s", ErrObject, name)
		}
		if got.Type != want.Type || got.KeySize != want.KeySize || got.ValueSize != want.ValueSize {
			return fmt.Errorf("read object file: %w: table %s is a %s of %d and %d bytes, this loader fills a %s of %d and %d",
				ErrObject, name, got.Type, got.KeySize, got.ValueSize, want.Type, want.KeySize, want.ValueSize)
		}
	}
	return nil
}

// configure sets constants and sizes before the programs are loaded.
func (o *objects) configure(opts *Options) error {
	found, err := probe()
	if err != nil {
		return err
	}
	constants := map[string]bool{
		bpf.ContainerVarCoarseClock: found.coarseClock && !slices.Contains(opts.Without, FeatureCoarseClock),
		bpf.ContainerVarCsumIpv6:    found.csumIPv6 && !slices.Contains(opts.Without, FeatureCsumIPv6),
		bpf.SocketVarSetRetval:      found.setRetval && !slices.Contains(opts.Without, FeatureSetRetval),
	}
	values := lifetimesOfPrograms(opts.Lifetimes)
	values[bpf.ContainerVarRefusalTakes] = refusalTakes(opts.Refusals)
	for name, on := range constants {
		values[name] = 0
		if on {
			values[name] = 1
		}
	}
	for _, spec := range o.all() {
		if err := resize(spec, opts); err != nil {
			return err
		}
		if err := setShares(spec); err != nil {
			return err
		}
		for name, value := range values {
			if spec.Variables[name] == nil {
				continue
			}
			if err := spec.Variables[name].Set(value); err != nil {
				return fmt.Errorf("set constant %s: %w", name, err)
			}
		}
		if opts.StopClock {
			stopClocks(spec)
		}
		if opts.Edit != nil {
			if err := opts.Edit(spec); err != nil {
				return fmt.Errorf("edit the programs: %w", err)
			}
		}
	}
	return nil
}

func (o *objects) all() []*ebpf.CollectionSpec {
	return []*ebpf.CollectionSpec{o.container, o.host, o.socket}
}

func (o *objects) program(name string) *ebpf.ProgramSpec {
	for _, spec := range o.all() {
		if prog := spec.Programs[name]; prog != nil {
			return prog
		}
	}
	return nil
}

// shared are those of the maps that programs have together. What a program keeps
// of the packet that it is at is one of them, so that one hand can reach it: no
// program is run while another is at a packet of that CPU.
func shared(all map[string]*ebpf.Map) map[string]*ebpf.Map {
	some := map[string]*ebpf.Map{bpf.ContainerMapScratch: all[bpf.ContainerMapScratch]}
	for _, name := range sharedMaps {
		some[name] = all[name]
	}
	return some
}

func closeAll[C io.Closer](all map[string]C) error {
	var errs []error
	for _, c := range all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
