// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

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
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readEvents()
}

func (d *Datapath) readEvents() ([]Event, error) {
	var events []Event
	var record ringbuf.Record
	for d.events.AvailableBytes() > 0 {
		d.events.SetDeadline(time.Now())
		err := d.events.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return events, fmt.Errorf("read events: %w", err)
		}
		if len(record.RawSample) < int(unsafe.Sizeof(bpf.ContainerEvent{})) {
			return events, fmt.Errorf("read events: a record of %d bytes is too short", len(record.RawSample))
		}
		var raw bpf.ContainerEvent
		if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &raw); err != nil {
			return events, fmt.Errorf("read events: %w", err)
		}
		events = append(events, d.event(&raw))
	}
	return events, nil
}

func (d *Datapath) event(raw *bpf.ContainerEvent) Event {
	e := Event{
		Time: time.Duration(raw.Time), Hook: hooks[raw.Key.Hook],
		Endpoint: d.endpointName(raw.Key.Ifindex),
		Tuple:    decodeTuple(&raw.Key), Length: int(raw.Len),
		SrcIdentity: model.Identity(raw.SrcIdentity), DstIdentity: model.Identity(raw.DstIdentity),
		Decision: Decision{
			Action: actions[raw.Verdict], Out: outs[raw.Out], Ifindex: int(raw.OutIfindex),
			Reason: d.names.reasons[raw.Reason], Flow: lookups[raw.Lookup],
			Tables: d.names.reads(raw.Tables), Origin: d.labels.origin(raw.Origin),
		},
	}
	e.Decision.File, e.Decision.Line = d.names.place(raw.Where)
	return e
}

func (d *Datapath) endpointName(ifindex uint32) string {
	if name, ok := d.labels.endpoints[ifindex]; ok {
		return name
	}
	return fmt.Sprintf("ifindex %d", ifindex)
}

// Counters reads the counters that are not 0.
func (d *Datapath) Counters() ([]Counter, error) {
	var counters []Counter
	m := d.maps[bpf.ContainerMapCounters]
	for index := uint32(0); index < m.MaxEntries(); index++ {
		var cpus []bpf.ContainerCounter
		if err := m.Lookup(&index, &cpus); err != nil {
			return nil, fmt.Errorf("read counters: %w", err)
		}
		c := Counter{
			Reason: d.names.reasons[uint8(index/uint32(bpf.ContainerHookHOOK_MAX))],
			Hook:   hooks[uint8(index%uint32(bpf.ContainerHookHOOK_MAX))],
		}
		for _, cpu := range cpus {
			c.Packets += cpu.Packets
			c.Bytes += cpu.Bytes
		}
		if c.Packets != 0 {
			counters = append(counters, c)
		}
	}
	return counters, nil
}

func (d *Datapath) clearCounters() error {
	m := d.maps[bpf.ContainerMapCounters]
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("clear counters: %w", err)
	}
	counters, err := d.Counters()
	if err != nil {
		return err
	}
	if len(counters) == 0 {
		return nil
	}
	for index := uint32(0); index < m.MaxEntries(); index++ {
		if err := m.Put(&index, make([]bpf.ContainerCounter, cpus)); err != nil {
			return fmt.Errorf("clear counters: %w", err)
		}
	}
	return nil
}

// now is the datapath's clock.
func (d *Datapath) now() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return uint64(ts.Nano()) + d.settings.ClockOffset, nil
}
