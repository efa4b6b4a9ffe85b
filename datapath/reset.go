// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
)

// Reset detaches all programs, empties all tables and counters and sets the
// clock's offset to 0, as if just opened. It is for tests: packets that pass
// meanwhile are dropped, or pass where the programs were.
//
// The calling thread is in the namespace of the devices. When Reset is back, no
// packet is in a program any more, and the datapath may be used in another
// namespace.
func (d *Datapath) Reset() error {
	d.stop()
	defer d.goOn()
	// First, so that nothing fills the tables again.
	if err := d.attached.detach(); err != nil {
		return err
	}
	d.programs.leaveNamespace()
	clear(d.dead)
	d.wanted, d.last, d.inForce, d.oldest = nil, nil, nil, 0
	d.maglev.clear()
	err := errors.Join(
		d.nodes.clear(), d.tunnels.clear(), d.endpoints.clear(), d.ipcache.clear(), d.cidrs.clear(),
		d.services.clear(), d.backends.clear(), d.rules.clear(), d.slots.clear(),
		d.sources.clear(),
		empty[affinityKey](d.maps[bpf.ContainerMapAffinities]),
		empty[peerKey](d.maps[bpf.ContainerMapPeers]),
		empty[flowKey](d.maps[bpf.ContainerMapCtAnswered]),
		empty[flowKey](d.maps[bpf.ContainerMapCtUnanswered]),
		empty[fragmentKey](d.maps[bpf.ContainerMapFragments]),
		empty[shareKey](d.maps[bpf.ContainerMapShares]),
		empty[uint32](d.maps[bpf.ContainerMapCtAnsweredBy]),
		d.clearCounters(), d.clearMeters(),
		d.beginAnew(),
	)
	return errors.Join(err, d.readEvents(func(*bpf.ContainerEvent) {}))
}

// beginAnew forgets what several of them share.
func (d *Datapath) beginAnew() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settings.ClockOffset = 0
	d.settings.Epoch = 1
	d.flipped = time.Time{}
	d.labels = newLabels()
	clear(d.ahead)
	return errors.Join(d.changed.clear(), d.writeSettings())
}

// BeginAt sets the epoch of a datapath that is empty, in place of 1. It is for tests:
// packets read one half of a table's entries by its last bit, and who always begins
// at one epoch lets them read the same half mostly.
func (d *Datapath) BeginAt(epoch uint32) error {
	d.applying.Lock()
	defer d.applying.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settings.Epoch = epoch
	return d.writeSettings()
}

// empty deletes all entries of a map. It asks for the next key before it
// deletes one: the kernel looks for the first through all buckets.
func empty[K any](m *ebpf.Map) error {
	var key, next K
	err := m.NextKey(nil, &key)
	for err == nil {
		nextErr := m.NextKey(&key, &next)
		if err = m.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			break
		}
		key, err = next, nextErr
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("empty table %s: %w", mapName(m), err)
	}
	return nil
}

// clearMeters gives every CPU its events of this second back.
func (d *Datapath) clearMeters() error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("clear meters: %w", err)
	}
	zero := uint32(0)
	if err := d.maps[bpf.ContainerMapMeters].Put(&zero, make([]bpf.ContainerMeter, cpus)); err != nil {
		return fmt.Errorf("clear meters: %w", err)
	}
	return nil
}

// detach takes the programs off all devices, and waits until no packet is in
// one of them.
func (a *attachments) detach() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for at, l := range a.links {
		// Close alone would leave a link to whoever has a copy of its
		// descriptor, such as a process that is just being started.
		if err := l.Detach(); err != nil {
			return fmt.Errorf("detach from %s: %w", at, err)
		}
		if err := a.drop(at); err != nil {
			return fmt.Errorf("detach from %s: %w", at, err)
		}
	}
	if len(a.filters) == 0 {
		return nil
	}
	if err := a.removeFilters(); err != nil {
		return err
	}
	awaitPackets()
	return nil
}

// awaitPackets waits until packets that are in a filter now have left it: the
// kernel does that for a link, but takes a filter off at once. membarrier(2)
// is a whole RCU grace period, which kernels with nohz_full refuse.
func awaitPackets() {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		time.Sleep(settle)
	}
}

// Residue lists what a Datapath has that one just opened has not, by looking
// at the kernel's tables rather than at what this process believes of them.
func (d *Datapath) Residue() ([]string, error) {
	var found []string
	for name, m := range d.maps {
		switch m.Type() {
		case ebpf.Hash, ebpf.LRUHash, ebpf.LPMTrie, ebpf.PerCPUHash, ebpf.LRUCPUHash, ebpf.HashOfMaps:
		default:
			continue
		}
		key, err := m.NextKeyBytes(nil)
		if err != nil {
			return nil, fmt.Errorf("look into table %s: %w", name, err)
		}
		if key != nil {
			found = append(found, fmt.Sprintf("table %s has an entry, key %x", name, key))
		}
	}
	more, err := d.residueOfArrays()
	if n := d.attached.count(); n > 0 {
		more = append(more, fmt.Sprintf("%d programs are attached", n))
	}
	found = append(found, more...)
	slices.Sort(found)
	return found, err
}

func (d *Datapath) residueOfArrays() (found []string, err error) {
	counters, err := d.Counters()
	if err != nil {
		return nil, err
	}
	for _, c := range counters {
		found = append(found, fmt.Sprintf("the counter %q of %s is %d", c.Reason, c.Hook, c.Packets))
	}
	zero := uint32(0)
	var meters []bpf.ContainerMeter
	if err := d.maps[bpf.ContainerMapMeters].Lookup(&zero, &meters); err != nil {
		return nil, fmt.Errorf("read meters: %w", err)
	}
	for cpu, m := range meters {
		if m != (bpf.ContainerMeter{}) {
			found = append(found, fmt.Sprintf("the meter of CPU %d tells of %d events and %d lost ones", cpu, m.Told, m.Lost))
		}
	}
	var now settings
	if err := d.maps[bpf.ContainerMapControl].Lookup(&zero, &now); err != nil {
		return nil, fmt.Errorf("read table control: %w", err)
	}
	if now.Epoch != 1 || now.ClockOffset != 0 {
		found = append(found, fmt.Sprintf("the epoch is %d, the clock's offset %s", now.Epoch, time.Duration(now.ClockOffset)))
	}
	places, err := d.changed.residue()
	if err != nil {
		return nil, err
	}
	for _, place := range places {
		found = append(found, fmt.Sprintf("table changed has an entry, place %d", place))
	}
	if n := d.events.AvailableBytes(); n > 0 {
		found = append(found, fmt.Sprintf("the ring has %d bytes of events", n))
	}
	return found, nil
}
