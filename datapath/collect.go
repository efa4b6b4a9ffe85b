// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// Collected is what a run of the collector did, in flow entries.
type Collected struct {
	Answered, Unanswered int // that it saw
	Marked, Deleted      int
}

// Collect removes expired flows: it marks those whose time is over, and
// deletes those that were marked a second or more ago by the datapath's clock,
// for a packet that had looked one up may still hold it, and the kernel gives
// a deleted element to the next key at once. It also deletes what Apply left,
// unless another Apply runs, which does so itself.
//
// One Collect runs at a time. Nobody waits for it: it walks the tables of flows
// without a lock, and packets write them meanwhile.
//
// Unanswered flows need no collector: their table makes room by itself.
// Those long over are deleted all the same, so that nothing stays for ever.
func (d *Datapath) Collect() (Collected, error) {
	d.collecting.Lock()
	defer d.collecting.Unlock()
	if err := errors.Join(d.tidy(), d.forgetClients()); err != nil {
		return Collected{}, err
	}
	d.opts.Step("collect flows")
	answered, err := readFlows(d.maps[bpf.ContainerMapCtAnswered])
	if err != nil {
		return Collected{}, err
	}
	unanswered, err := readFlows(d.maps[bpf.ContainerMapCtUnanswered])
	if err != nil {
		return Collected{}, err
	}
	now, err := d.now()
	if err != nil {
		return Collected{}, err
	}
	c := Collected{Answered: len(answered), Unanswered: len(unanswered)}
	expired := overdue(d.opts.Lifetimes, answered, unanswered, now)
	if c.Marked, err = d.mark(expired); err != nil {
		return c, err
	}
	for _, e := range expired {
		d.dead[e.key] = now
	}
	if c.Deleted, err = d.bury(answered, now); err != nil {
		return c, err
	}
	n, err := d.forget(unanswered, answered, now)
	c.Deleted += n
	return c, errors.Join(err, d.countAnswered(answered))
}

// tidy looks after pins and devices, and deletes what Apply left.
func (d *Datapath) tidy() error {
	if !d.applying.TryLock() {
		return nil
	}
	if err := d.tend(); err != nil {
		d.applying.Unlock()
		return err
	}
	left := d.unsettled()
	if left > 0 {
		d.applying.Unlock()
		time.Sleep(left)
		if !d.applying.TryLock() {
			return nil
		}
	}
	defer d.applying.Unlock()
	if d.unsettled() > 0 { // of another Apply
		return nil
	}
	return d.sweep()
}

// countAnswered counts what each pod has of the table of answered flows: programs
// only add to that. What they add meanwhile is counted the next time.
func (d *Datapath) countAnswered(answered map[flowKey]*entry) error {
	m := d.maps[bpf.ContainerMapCtAnsweredBy]
	counts := map[uint32]uint32{}
	for _, e := range answered {
		if opener := e.opener(); opener != 0 {
			counts[opener]++
		}
	}
	var gone []uint32
	err := readBatches(m, func(opener, _ uint32) {
		if counts[opener] == 0 {
			gone = append(gone, opener)
		}
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, opener := range gone {
		if err := m.Delete(opener); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete from table %s: %w", mapName(m), err))
		}
	}
	for opener, count := range counts {
		if err := m.Put(opener, count); err != nil {
			errs = append(errs, fmt.Errorf("write table %s: %w", mapName(m), err))
		}
	}
	return errors.Join(errs...)
}

// overdue lists entries of the table of answered flows that were idle for too
// long in both directions. A flow that began anew in an answered one's place is
// there too, and packets find it for as long as any that nobody has answered.
func overdue(l model.Lifetimes, answered, unanswered map[flowKey]*entry, now uint64) []*entry {
	var expired []*entry
	for _, e := range answered {
		if e.dead() {
			continue
		}
		half := otherHalf(e, answered, unanswered)
		last, was := e.value.LastSeen, e.answered()
		if half != nil {
			last = max(last, half.value.LastSeen)
			was = was || half.answered()
		}
		timeout := timeoutUnanswered(l, e.key.Proto)
		if was {
			timeout = timeoutOf(l, e.key.Proto, pairState(e, half))
		}
		if now > last && now-last > uint64(timeout) {
			expired = append(expired, e)
		}
	}
	return expired
}

// otherHalf is the entry of a flow's other direction, nil where there is none.
// A dead one may stand beside one that began anew. What has taken its place is
// no half of this flow: it leads elsewhere, and would keep this one for ever.
func otherHalf(e *entry, answered, unanswered map[flowKey]*entry) *entry {
	half := answered[e.other()]
	if half == nil || half.dead() {
		half = unanswered[e.other()]
	}
	if half == nil || half.other() != e.key {
		return nil
	}
	return half
}

// markBatch is EXPIRED_BATCH of bpf/container.bpf.c.
const markBatch = 64

// mark has a program mark entries dead, in place, if nothing has touched them.
func (d *Datapath) mark(expired []*entry) (int, error) {
	marked := 0
	marker, err := d.programs.get(bpf.ContainerProgMarkExpired)
	if err != nil {
		return 0, err
	}
	for len(expired) > 0 {
		n := min(len(expired), markBatch)
		var frame bytes.Buffer
		frame.Write(make([]byte, 12))
		frame.Write([]byte{0x88, 0xb5}) // an ethertype for experiments
		for _, e := range expired[:n] {
			record := bpf.ContainerExpired{Key: e.key, LastSeen: e.value.LastSeen}
			if err := binary.Write(&frame, binary.NativeEndian, &record); err != nil {
				return marked, fmt.Errorf("encode expired flows: %w", err)
			}
		}
		ret, err := marker.Run(&ebpf.RunOptions{Data: frame.Bytes()})
		if err != nil {
			return marked, fmt.Errorf("mark expired flows: %w", err)
		}
		if int(ret) > n {
			return marked, fmt.Errorf("mark expired flows: the program says that it has marked %d of %d", ret, n)
		}
		marked += int(ret)
		expired = expired[n:]
	}
	return marked, nil
}

// bury deletes the entries that have been dead for long enough. Nothing
// revives a dead entry, so nothing alive is deleted.
func (d *Datapath) bury(answered map[flowKey]*entry, now uint64) (int, error) {
	deleted := 0
	for key, e := range answered {
		if !e.dead() {
			continue
		}
		since, ok := d.dead[key]
		if !ok { // marked by a loader before this one
			d.dead[key] = now
			continue
		}
		if now-since < uint64(linger) {
			continue
		}
		if err := d.maps[bpf.ContainerMapCtAnswered].Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return deleted, fmt.Errorf("delete expired flow: %w", err)
		}
		delete(d.dead, key)
		deleted++
	}
	for key := range d.dead {
		if _, ok := answered[key]; !ok {
			delete(d.dead, key)
		}
	}
	return deleted, nil
}

// longOver is after how many timeouts an unanswered flow is deleted: it has
// been taken for none after one.
const longOver = 2

// forget deletes flows that are over from the unanswered ones. The halves of a
// flow may lie in either table, and the opener be silent for as long as it is
// answered: the half that was seen last counts.
func (d *Datapath) forget(unanswered, answered map[flowKey]*entry, now uint64) (int, error) {
	deleted := 0
	for key, e := range unanswered {
		half := otherHalf(e, answered, unanswered)
		last, was := e.value.LastSeen, e.answered()
		if half != nil {
			last = max(last, half.value.LastSeen)
			was = was || half.answered()
		}
		timeout := timeoutOf(d.opts.Lifetimes, key.Proto, pairState(e, half))
		if !was {
			// Packets find it for as long, whatever else was seen.
			timeout = longOver * max(timeout, timeoutUnanswered(d.opts.Lifetimes, key.Proto), time.Minute)
		}
		if now <= last || now-last <= uint64(timeout) {
			continue
		}
		err := d.maps[bpf.ContainerMapCtUnanswered].Delete(&key)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return deleted, fmt.Errorf("delete unanswered flow: %w", err)
		}
		deleted++
	}
	return deleted, nil
}
