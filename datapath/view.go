// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// View reads the tables of a datapath that runs. It changes nothing and takes
// no lock, so there may be any number of them beside the loader.
type View struct {
	maps   map[string]*ebpf.Map
	labels labels
	clock  clock
	own    bool // the maps are to be closed
}

// ErrNoDatapath is a directory without the pins of a datapath.
var ErrNoDatapath = errors.New("no datapath is pinned there")

// viewMaps are the tables that a View reads.
var viewMaps = []string{
	bpf.ContainerMapControl, bpf.ContainerMapNodes, bpf.ContainerMapEndpoints,
	bpf.ContainerMapServices, bpf.ContainerMapSlotRows, bpf.ContainerMapSources,
	bpf.ContainerMapMaglev, bpf.ContainerMapBackends,
	bpf.ContainerMapCtAnswered, bpf.ContainerMapCtUnanswered,
}

// OpenView opens the tables that lie pinned in a directory, as Options.PinPath
// names it. ErrNoDatapath if there are none, ErrPrivilege if they may not be
// opened, ErrForeignPin if what lies there has another layout.
func OpenView(pinPath string) (*View, error) {
	spec, err := bpf.LoadContainer()
	if err != nil {
		return nil, fmt.Errorf("read the embedded objects: %w", err)
	}
	v := &View{maps: map[string]*ebpf.Map{}, own: true}
	for _, name := range viewMaps {
		m, err := openPinned(filepath.Join(pinPath, name), spec.Maps[name])
		if err != nil {
			return nil, errors.Join(err, v.Close())
		}
		v.maps[name] = m
	}
	if v.labels, err = loadLabels(filepath.Join(pinPath, labelsPin)); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	return v, nil
}

func openPinned(path string, want *ebpf.MapSpec) (*ebpf.Map, error) {
	// The kernel maps into memory only what may be written, even for reading:
	// who may not write has a private mapping, which bpf_map_mmap refuses.
	mapped := want.Flags&unix.BPF_F_MMAPABLE != 0
	opts := &ebpf.LoadPinOptions{ReadOnly: !mapped}
	m, err := ebpf.LoadPinnedMap(path, opts)
	if former := formerPin(path); errors.Is(err, fs.ErrNotExist) && former != "" {
		m, err = ebpf.LoadPinnedMap(former, opts)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open table %s: %w", path, ErrNoDatapath)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open table %s: %w: run as root, or with CAP_BPF and CAP_NET_ADMIN", path, ErrPrivilege)
	case err != nil:
		return nil, fmt.Errorf("open table %s: %w: %w", path, ErrForeignPin, err)
	}
	if m.Type() != want.Type || m.KeySize() != want.KeySize || m.ValueSize() != want.ValueSize {
		err := fmt.Errorf("table %s is a %s of %d and %d bytes, and not a %s of %d and %d: %w, or that of another version: look with the weir that runs the datapath",
			path, m.Type(), m.KeySize(), m.ValueSize(), want.Type, want.KeySize, want.ValueSize, ErrForeignPin)
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Close lets go of the tables.
func (v *View) Close() error {
	if !v.own {
		return nil
	}
	return closeAll(v.maps)
}

// view reads the tables of a Datapath itself.
func (d *Datapath) view() *View { return &View{maps: d.maps, labels: d.shown(), clock: d.clock()} }

func (v *View) settings() (settings, error) {
	zero := uint32(0)
	var s settings
	if err := v.maps[bpf.ContainerMapControl].Lookup(&zero, &s); err != nil {
		return s, fmt.Errorf("read table control: %w", err)
	}
	return s, nil
}

// consistent gives read the half that packets read, and repeats it where the
// epoch turned meanwhile: the half may then have been written.
func (v *View) consistent(read func(half int) error) error {
	const attempts = 20
	for range attempts {
		before, err := v.settings()
		if err != nil {
			return err
		}
		// A walk that lost its place may have missed what it stood on.
		err = read(int(before.Epoch & 1))
		if errors.Is(err, ebpf.ErrIterationAborted) {
			continue
		}
		if err != nil {
			return err
		}
		after, err := v.settings()
		if err != nil {
			return err
		}
		if before.Epoch == after.Epoch {
			return nil
		}
	}
	return fmt.Errorf("read the tables: the state changed %d times meanwhile: try again", attempts)
}

// ends names the pods and the node by their addresses.
func (v *View) ends(half int) (map[netip.Addr]model.Key, error) {
	names := map[netip.Addr]model.Key{}
	err := readBatches(v.maps[bpf.ContainerMapEndpoints], func(ifindex uint32, pair [2]endpointHalf) {
		e := &pair[half]
		for _, a := range []tableAddr{e.Addr4, e.Addr6} {
			if addr := decodeAddr(a); addr.IsValid() {
				names[addr] = v.labels.endpoint(ifindex)
			}
		}
		for _, a := range []tableAddr{e.Hairpin4, e.Hairpin6} {
			if addr := decodeAddr(a); addr.IsValid() && v.labels.Node != "" {
				names[addr] = model.Key{Name: v.labels.Node}
			}
		}
	})
	return names, err
}
