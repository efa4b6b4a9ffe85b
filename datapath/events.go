// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// Event is one record of the event ring.
type Event struct {
	Time     time.Duration // of the datapath's clock
	Hook     model.Hook
	Endpoint string
	Decision Decision
	Tuple    model.Tuple
	Length   int // bytes, from the Ethernet header on
	// SrcIdentity asked for DstIdentity, where policy was asked.
	SrcIdentity, DstIdentity model.Identity
}

// Events gives the events that are there now, without waiting.
func (d *Datapath) Events() ([]Event, error) {
	var read []bpf.ContainerEvent
	err := d.eachEvent(func(raw *bpf.ContainerEvent) { read = append(read, *raw) })
	l := d.shown() // the names of later than the events
	events := make([]Event, 0, len(read))
	for i := range read {
		events = append(events, d.event(&read[i], &l))
	}
	return events, err
}

// eachEvent reads what is in the ring.
func (d *Datapath) eachEvent(do func(*bpf.ContainerEvent)) error {
	d.reading.Lock()
	defer d.reading.Unlock()
	return d.readEvents(do)
}

// readEvents is called with reading held.
func (d *Datapath) readEvents(do func(*bpf.ContainerEvent)) error {
	var record ringbuf.Record
	for d.events.AvailableBytes() > 0 {
		d.events.SetDeadline(time.Now())
		err := d.events.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if len(record.RawSample) != int(unsafe.Sizeof(bpf.ContainerEvent{})) {
			return fmt.Errorf("read events: a record has %d bytes, and an event %d", len(record.RawSample), unsafe.Sizeof(bpf.ContainerEvent{}))
		}
		// Both sides of the ring are this machine: the bytes are the struct's.
		var raw bpf.ContainerEvent
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&raw)), unsafe.Sizeof(raw)), record.RawSample)
		do(&raw)
	}
	return nil
}

func (d *Datapath) event(raw *bpf.ContainerEvent, l *labels) Event {
	e := Event{
		Time: time.Duration(raw.Time), Hook: hooks[raw.Key.Hook],
		Endpoint: l.at(hooks[raw.Key.Hook], raw.Key.Ifindex),
		Tuple:    decodeTuple(&raw.Key), Length: int(raw.Len),
		SrcIdentity: model.Identity(raw.SrcIdentity), DstIdentity: model.Identity(raw.DstIdentity),
		Decision: Decision{
			Action: actions[raw.Verdict], Out: outs[raw.Out], Ifindex: int(raw.OutIfindex),
			Reason: d.names.reasons[raw.Reason], Flow: lookups[raw.Lookup],
			Tables: d.names.reads(raw.Tables), Origin: l.origin(raw.Origin),
		},
	}
	e.Decision.File, e.Decision.Line = d.names.place(raw.Where)
	return e
}

// Counters reads the counters that are not 0.
func (d *Datapath) Counters() ([]Counter, error) {
	raw, err := d.rawCounters()
	if err != nil {
		return nil, err
	}
	var counters []Counter
	for index, sum := range raw {
		if sum.Packets != 0 {
			counters = append(counters, Counter{
				Reason:  d.names.reasons[uint8(index/int(bpf.ContainerHookHOOK_MAX))],
				Hook:    hooks[uint8(index%int(bpf.ContainerHookHOOK_MAX))],
				Packets: sum.Packets, Bytes: sum.Bytes,
			})
		}
	}
	return counters, nil
}

// rawCounters sums the counters of all CPUs, by index.
func (d *Datapath) rawCounters() ([]bpf.ContainerCounter, error) {
	m := d.maps[bpf.ContainerMapCounters]
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	n := int(m.MaxEntries())
	keys, values := make([]uint32, n), make([]bpf.ContainerCounter, n*cpus)
	var cursor ebpf.MapBatchCursor
	_, err = m.BatchLookup(&cursor, keys, values, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		// Kernels before 5.13 read tables of counters one by one.
		return d.rawCountersEach(n)
	}
	sums := make([]bpf.ContainerCounter, n)
	for i, key := range keys {
		for _, cpu := range values[i*cpus : (i+1)*cpus] {
			sums[key].Packets += cpu.Packets
			sums[key].Bytes += cpu.Bytes
		}
	}
	return sums, nil
}

func (d *Datapath) rawCountersEach(n int) ([]bpf.ContainerCounter, error) {
	sums := make([]bpf.ContainerCounter, n)
	var err error
	for index := range sums {
		if sums[index], err = d.rawCounter(index); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// rawCounter sums one counter of all CPUs.
func (d *Datapath) rawCounter(index int) (sum bpf.ContainerCounter, err error) {
	key := uint32(index)
	var cpus []bpf.ContainerCounter
	if err := d.maps[bpf.ContainerMapCounters].Lookup(&key, &cpus); err != nil {
		return sum, fmt.Errorf("read counters: %w", err)
	}
	for _, cpu := range cpus {
		sum.Packets += cpu.Packets
		sum.Bytes += cpu.Bytes
	}
	return sum, nil
}

func (d *Datapath) clearCounters() error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("clear counters: %w", err)
	}
	counters, err := d.rawCounters()
	if err != nil {
		return err
	}
	zero := make([]bpf.ContainerCounter, cpus)
	for index, sum := range counters {
		if sum == (bpf.ContainerCounter{}) {
			continue
		}
		key := uint32(index)
		if err := d.maps[bpf.ContainerMapCounters].Put(&key, zero); err != nil {
			return fmt.Errorf("clear counters: %w", err)
		}
	}
	return nil
}
