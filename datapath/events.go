// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
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
	// After is the tuple with which the packet leaves, or would have: Tuple where nothing
	// was to be translated, or was not known yet.
	After    model.Tuple
	Reply    bool  // of the reply direction of its flow
	TCPFlags uint8 // as in the header's octet
	Length   int   // bytes, from the Ethernet header on
	// SrcIdentity asked for DstIdentity, where policy was asked.
	SrcIdentity, DstIdentity model.Identity
}

// ErrEventVersion is an event that programs of another version have written. It is left
// out.
var ErrEventVersion = errors.New("an event of another version")

// Direction is how an event's packet passes its hook, seen from the endpoint there: the
// pod, or the node.
func (e *Event) Direction() model.Direction {
	switch e.Hook {
	case model.ToContainer, model.FromDevice:
		return model.Ingress
	}
	return model.Egress
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

// eachEvent reads what is in the ring, all of it: an event of another version is left
// out, and makes an error.
func (d *Datapath) eachEvent(do func(*bpf.ContainerEvent)) error {
	d.reading.Lock()
	defer d.reading.Unlock()
	return d.readEvents(do)
}

// readEvents is called with reading held.
func (d *Datapath) readEvents(do func(*bpf.ContainerEvent)) error {
	var record ringbuf.Record
	var problem error
	for d.events.AvailableBytes() > 0 {
		d.events.SetDeadline(time.Now())
		err := d.events.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		raw, err := rawEvent(record.RawSample)
		if err != nil {
			problem = fmt.Errorf("read events: %w", err)
			continue
		}
		do(&raw)
	}
	return problem
}

// rawEvent reads a record of the ring. Its first four octets are of every version.
func rawEvent(record []byte) (raw bpf.ContainerEvent, err error) {
	const version = uint8(bpf.ContainerEventVersionEVENT_VERSION)
	size := int(unsafe.Sizeof(raw))
	switch {
	case len(record) < 4:
		return raw, fmt.Errorf("a record has %d bytes, and an event more", len(record))
	case record[0] > version:
		return raw, fmt.Errorf("%w: %d, newer than %d: read it with the weir that runs the datapath", ErrEventVersion, record[0], version)
	case record[0] < version:
		return raw, fmt.Errorf("%w: %d, older than %d: programs of before have written it", ErrEventVersion, record[0], version)
	case len(record) != size || int(binary.NativeEndian.Uint16(record[2:])) != size:
		return raw, fmt.Errorf("a record has %d bytes and says %d, and an event of version %d has %d",
			len(record), binary.NativeEndian.Uint16(record[2:]), version, size)
	}
	// Both sides of the ring are this machine: the bytes are the struct's.
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&raw)), size), record)
	return raw, nil
}

func (d *Datapath) event(raw *bpf.ContainerEvent, l *labels) Event {
	e := Event{
		Time: time.Duration(raw.Time), Hook: hooks[raw.Key.Hook],
		Endpoint: l.at(hooks[raw.Key.Hook], raw.Key.Ifindex),
		Tuple:    decodeTuple(&raw.Key), Length: int(raw.Len),
		SrcIdentity: model.Identity(raw.SrcIdentity), DstIdentity: model.Identity(raw.DstIdentity),
		Decision: Decision{
			Action: actions[raw.Verdict], Out: outs[raw.Out], Ifindex: int(raw.OutIfindex),
			Reason: d.names.reasons[uint8(raw.Reason)], Flow: lookups[raw.Lookup],
			Tables: d.names.reads(raw.Tables), Origin: l.origin(raw.Origin),
		},
	}
	e.Decision.File, e.Decision.Line = d.names.place(raw.Where)
	after := raw.Key
	after.Src, after.Dst, after.Sport, after.Dport = raw.Src, raw.Dst, raw.Sport, raw.Dport
	e.After = decodeTuple(&after)
	e.Reply = raw.Flags&uint8(bpf.ContainerEventFlagsEVENT_REPLY) != 0
	e.TCPFlags = raw.TcpFlags
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

// counted is how many counters there are of reasons that programs have. The table
// has room for as many again, and to read it all takes twice as long.
func (d *Datapath) counted() int {
	last := slices.Max(slices.Collect(maps.Keys(d.names.reasons)))
	return min((int(last)+1)*int(bpf.ContainerHookHOOK_MAX), int(d.maps[bpf.ContainerMapCounters].MaxEntries()))
}

// rawCounters sums the counters of all CPUs, by index.
func (d *Datapath) rawCounters() ([]bpf.ContainerCounter, error) {
	m := d.maps[bpf.ContainerMapCounters]
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	n := d.counted()
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
