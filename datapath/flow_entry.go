// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// FlowEntry is what a packet meets in the flow table.
type FlowEntry struct {
	Reply  bool        // for packets that answer
	Leaves model.Tuple // how packets that meet it leave
	// Other and OtherIfindex are where packets of the other direction are seen;
	// the device's number is 0 at the node's own.
	Other        model.Hook
	OtherIfindex int
	Dead         bool // over, and not deleted yet: no packet meets it
	Answered     bool // packets of both directions were seen
	Translated   bool // its packets leave under another tuple
	Hairpin      bool // of a pod with itself
	Source       bool // the opener's source is another behind it, or its port is held

	Out        model.Out
	Ifindex    int           // of the device there
	SMAC, DMAC [6]byte       // for a local pod
	Current    bool          // judged under the tables that hold now
	Service    model.PortRef // by whose frontend it was translated
	Origin     model.Origin
	Seen       uint8 // TCP flags of its direction, ever; bits as in the header
	// LastSeen and Routed are on the datapath's clock: when its last packet was
	// seen, to a second, and when its device was last asked for; 0: never.
	LastSeen, Routed time.Duration
	// AddrDiff and PortDiff are what translation adds to a checksum, one's
	// complement sums of words in the host's order.
	AddrDiff, PortDiff uint32
	// Sent is where its direction's last segment of TCP begins, and Acked what that
	// has acknowledged.
	Sent, Acked SequenceNumber
	Here        bool // at a pod: its packets are made by the node itself
}

// SequenceNumber is one of TCP.
type SequenceNumber struct {
	Known bool
	Value uint32
}

// FlowReader reads single entries of the flow table, with buffers of its own, so
// that one costs a system call and no allocation. It belongs to one goroutine.
type FlowReader struct {
	d      *Datapath // whose tables stay open
	tables [2]uint32 // descriptors: of the answered, and of the others
	entry  entry
	attr   mapLookup
	// asked is when the kernel was asked for the time, which was no later than then.
	asked time.Time
	then  time.Duration
}

// mapLookup is the part of union bpf_attr for BPF_MAP_LOOKUP_ELEM (linux/bpf.h).
type mapLookup struct {
	MapFD, pad        uint32
	Key, Value, Flags uint64
}

// FlowReader makes a FlowReader.
func (d *Datapath) FlowReader() *FlowReader {
	r := &FlowReader{d: d}
	for i, table := range []string{bpf.ContainerMapCtAnswered, bpf.ContainerMapCtUnanswered} {
		r.tables[i] = uint32(d.maps[table].FD())
	}
	return r
}

// Entry gives the entry under a tuple at a hook of a device, as a packet would
// look for it: the answered one first. A look from here does not keep an entry
// from making room for others (kernel/bpf/hashtab.c, htab_lru_map_lookup_elem_sys).
func (r *FlowReader) Entry(hook model.Hook, ifindex int, t model.Tuple) (FlowEntry, bool, error) {
	r.entry.key = flowKey{
		Src: encodeAddr(t.Src), Dst: encodeAddr(t.Dst), Sport: encodePort(t.Sport), Dport: encodePort(t.Dport),
		Proto: uint8(t.Protocol), Family: uint8(bpf.ContainerFamilyFAMILY_IPV6), Hook: hookNumbers[hook],
	}
	if t.Src.Is4() {
		r.entry.key.Family = uint8(bpf.ContainerFamilyFAMILY_IPV4)
	}
	if hook != model.FromDevice && hook != model.ToDevice {
		r.entry.key.Ifindex = uint32(ifindex)
	}
	var last FlowEntry
	there := false
	err := r.each(func(bool) bool {
		there, last = true, r.decode()
		return last.Dead
	})
	if err != nil {
		return FlowEntry{}, false, err
	}
	return last, there, nil
}

// each reads the entries under r.entry's key, the answered one first, while more
// are asked for.
func (r *FlowReader) each(do func(answered bool) (more bool)) error {
	for i, table := range r.tables {
		err := r.lookUp(table)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look up flow %s: %w", decodeTuple(&r.entry.key), err)
		}
		if !do(i == 0) {
			return nil
		}
	}
	return nil
}

// decode gives what was looked up.
func (r *FlowReader) decode() FlowEntry {
	e := &r.entry
	has := func(flag bpf.ContainerFlowFlags) bool { return e.value.Flags&uint8(flag) != 0 }
	return FlowEntry{
		Reply: e.reply(), Leaves: translated(e), Dead: e.dead(), Answered: e.answered(),
		Other: hooks[e.value.OtherHook], OtherIfindex: int(e.value.OtherIfindex),
		Translated: has(bpf.ContainerFlowFlagsFLOW_TRANSLATED),
		Hairpin:    has(bpf.ContainerFlowFlagsFLOW_HAIRPIN),
		Source:     has(bpf.ContainerFlowFlagsFLOW_SOURCE),
		Out:        outs[e.value.Out], Ifindex: int(e.value.Ifindex), SMAC: e.value.Smac, DMAC: e.value.Dmac,
		Current: e.value.Epoch == r.d.settings.Epoch,
		Service: r.d.labels.service(e.value.Service), Origin: r.d.labels.origin(e.value.Origin),
		Seen: e.value.Seen, LastSeen: time.Duration(e.value.LastSeen), Routed: time.Duration(e.value.Routed),
		AddrDiff: e.value.AddrDiff, PortDiff: e.value.PortDiff,
		Sent:  sequenceNumber(e.value.Seen&(flowSYN|flowACK), e.value.Sent),
		Acked: sequenceNumber(e.value.Flags&flowAcked, e.value.Acked),
		Here:  has(bpf.ContainerFlowFlagsFLOW_HERE),
	}
}

// sequenceNumber decodes one that is known.
func sequenceNumber(known uint8, n uint32) SequenceNumber {
	if known == 0 {
		return SequenceNumber{}
	}
	return SequenceNumber{true, decodeNumber(n)}
}

// Now gives bounds of what the programs take the time for, on the datapath's
// clock: what the kernel's coarse clock shows, which waits for the timer, and what
// the other one does. The kernel is asked for the latter once, and Go's clock goes
// on from there: it is the same one, and costs no system call.
func (r *FlowReader) Now() (least, most time.Duration, err error) {
	if r.d.opts.StopClock {
		now, err := r.d.now()
		return time.Duration(now), time.Duration(now), err
	}
	if r.asked.IsZero() {
		r.asked = time.Now()
		now, err := clock{}.read(&settings{})
		if err != nil {
			return 0, 0, err
		}
		r.then = time.Duration(now) + time.Since(r.asked)
	}
	var coarse unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &coarse); err != nil {
		return 0, 0, fmt.Errorf("read clock: %w", err)
	}
	offset := time.Duration(r.d.settings.ClockOffset)
	return time.Duration(coarse.Nano()) + offset, r.then + time.Since(r.asked) + offset, nil
}

func (r *FlowReader) lookUp(table uint32) error {
	r.attr = mapLookup{MapFD: table, Key: address(&r.entry.key), Value: address(&r.entry.value)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&r.attr)), unsafe.Sizeof(r.attr))
	runtime.KeepAlive(r)
	if errno != 0 {
		return errno
	}
	return nil
}

// opener is the device of the pod that opened the flow; 0: it came from elsewhere.
func (e *entry) opener() uint32 {
	if e.value.Flags&flowReply != 0 {
		return e.value.OtherIfindex
	}
	return e.key.Ifindex
}
