// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
)

// forgetClients deletes what was remembered of clients of groups that are gone. The
// collector does it, since it walks a table: a group's number is not given again, so
// that nobody has to wait for it.
func (d *Datapath) forgetClients() error {
	groups, below, lost := d.lostGroups()
	if !lost {
		return nil
	}
	var gone []affinityKey
	m := d.maps[bpf.ContainerMapAffinities]
	err := readBatches(m, func(key affinityKey, _ affinity) {
		if key.Group < below && !groups[key.Group] {
			gone = append(gone, key)
		}
	})
	for i := range gone {
		if failed := m.Delete(&gone[i]); failed != nil && !errors.Is(failed, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, fmt.Errorf("delete from table %s: %w", mapName(m), failed))
		}
	}
	d.forgetting = err != nil // the next run looks again
	return err
}

// lostGroups gives the groups in force, the number from which on there are none yet,
// and whether one was lost since it was asked last. While a state is being applied,
// or none is known, nobody is forgotten.
func (d *Datapath) lostGroups() (groups map[uint32]bool, below uint32, lost bool) {
	if !d.applying.TryLock() {
		return nil, 0, false
	}
	defer d.applying.Unlock()
	if d.last == nil || !d.last.lost && !d.forgetting {
		return nil, 0, false
	}
	groups = map[uint32]bool{}
	for _, m := range d.last.groups {
		groups[m.number] = true
	}
	d.last.lost = false
	d.oldest = max(d.oldest, d.last.nextGroup)
	return groups, d.oldest, true
}
