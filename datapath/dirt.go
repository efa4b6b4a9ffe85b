// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/soil"
	"github.com/weirnet/weir/model"
)

// Programs have to write all that they read of what lies about from earlier
// packets. So a Witness fills it with what no packet has left there.

const soiled = 0xa5

// soiledWord is what skb->cb has before a run, but for its first word, which says
// whether there is a note. A packet of a device has there what others have left.
const soiledWord = 0xa5a5a5a5

// dirt is what is put into the tables of one element a CPU, and what is read there
// after a run.
type dirt struct {
	runs                 uint32 // that have begun
	scratch, scratchLeft element[bpf.ContainerScratch]
	meters, metersLeft   element[bpf.ContainerMeter]
	// limited: in this second so many events were told that not all may be.
	limited bool
}

const (
	// everyLimited is how often a run finds its second full, and half as far from
	// that one that has room for a single event.
	everyLimited = 16
	// secondOver is a second that is: a new one begins.
	secondOver = 1 << 40
)

// fill has the meters be those of a second in which told events were told.
func (s *dirt) fill(second uint64, told uint32) {
	for i := range s.meters.values {
		s.meters.values[i] = bpf.ContainerMeter{Second: second, Lost: soiledWord, Told: told, Pad: soiledWord}
	}
}

// limit fills the second of some runs.
func (w *Witness) limit() error {
	s := w.dirt
	turn := s.runs % everyLimited
	if s.limited = turn == 0 || turn == everyLimited/2; !s.limited {
		s.fill(secondOver, ^uint32(0))
		return nil
	}
	now, err := w.d.now()
	if err != nil {
		return err
	}
	told := w.d.settings.EventsPerSecond
	if turn != 0 {
		told--
	}
	s.fill(now/uint64(time.Second), told)
	return nil
}

func newDirt(d *Datapath) (*dirt, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("soil tables: %w", err)
	}
	scratch, meters := d.maps[bpf.ContainerMapScratch], d.maps[bpf.ContainerMapMeters]
	s := &dirt{
		scratch: newElement[bpf.ContainerScratch](scratch, cpus), scratchLeft: newElement[bpf.ContainerScratch](scratch, cpus),
		meters: newElement[bpf.ContainerMeter](meters, cpus), metersLeft: newElement[bpf.ContainerMeter](meters, cpus),
	}
	for i := range cpus {
		octets := unsafe.Slice((*byte)(unsafe.Pointer(&s.scratch.values[i])), unsafe.Sizeof(s.scratch.values[i]))
		copy(octets, bytes.Repeat([]byte{soiled}, len(octets)))
	}
	return s, nil
}

// word is what skb->cb has before a run, and, by it, what the stack is soiled with:
// another one each time. What is read of the same dirt twice, as a key's octet that
// was not written, would be found again.
func (s *dirt) word() uint32 {
	return soiledWord ^ (s.runs & 0x3f * 0x01010101)
}

// spread puts it where it belongs.
func (s *dirt) spread() error {
	if err := s.scratch.do(unix.BPF_MAP_UPDATE_ELEM); err != nil {
		return fmt.Errorf("soil table %s: %w", bpf.ContainerMapScratch, err)
	}
	if err := s.meters.do(unix.BPF_MAP_UPDATE_ELEM); err != nil {
		return fmt.Errorf("soil table %s: %w", bpf.ContainerMapMeters, err)
	}
	return nil
}

// soil makes a Runner run its program on a stack that is soiled before.
func (w *Witness) soil(r *Runner) error {
	name := hookPrograms[r.hook]
	prog, err := w.d.programs.get(name)
	if err != nil {
		return fmt.Errorf("run %s: %w", r.hook, err)
	}
	prog, err = w.d.programs.behindSoil(name, prog)
	if err != nil {
		return fmt.Errorf("run %s: %w", r.hook, err)
	}
	r.attr.ProgFD = uint32(prog.FD())
	return nil
}

// behindSoil gives what soils the stack and goes on as a program.
func (p *programs) behindSoil(name string, prog *ebpf.Program) (*ebpf.Program, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.soiled == nil {
		p.soiled = map[string]*soil.Before{}
	}
	if p.soiled[name] == nil {
		before, err := soil.NewBefore()
		if err != nil {
			return nil, err
		}
		p.soiled[name] = before
	}
	return p.soiled[name].Lead(prog)
}

// element is the only one of a table with a value a CPU, and is read and written by
// one system call without an allocation. It belongs to one goroutine.
type element[T any] struct {
	attr   mapLookup
	key    *uint32
	values []T // whose size is a multiple of 8
}

func newElement[T any](m *ebpf.Map, cpus int) element[T] {
	return element[T]{attr: mapLookup{MapFD: uint32(m.FD())}, key: new(uint32), values: make([]T, cpus)}
}

func (e *element[T]) do(command uintptr) error {
	e.attr.Key, e.attr.Value = address(e.key), address(&e.values[0])
	_, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(unsafe.Pointer(&e.attr)), unsafe.Sizeof(e.attr))
	runtime.KeepAlive(e)
	if errno != 0 {
		return errno
	}
	return nil
}

// kept compares what the programs keep of the packet, and of their events, with
// the note and with the events that were told.
func (w *Witness) kept(frame []byte, cb *[5]uint32) ([]string, error) {
	left, err := w.scratch()
	if err != nil || left == nil {
		return nil, err
	}
	pkt := &left.Pkt
	var faults []string
	compare := func(name string, is, noted uint32) {
		if is != noted {
			faults = append(faults, fmt.Sprintf("it keeps %s %#x, and noted is %#x", name, is, noted))
		}
	}
	compare("way out", uint32(pkt.Out), cb[0]&0xff&^noteAsItIs)
	compare("as it is", uint32(pkt.KernelForwards), cb[0]&noteAsItIs/noteAsItIs)
	compare("device of the way out", pkt.OutIfindex, cb[1])
	compare("place", pkt.Where, cb[2]&0xffffff)
	compare("lookup", uint32(pkt.Lookup), uint32(notedLookup(cb)))
	compare("tables", pkt.Tables, cb[3])
	compare("origin", pkt.Origin, cb[4])
	if n := slices.Index(unsafe.Slice((*uint32)(unsafe.Pointer(pkt)), unsafe.Sizeof(*pkt)/4), soiledWord); n >= 0 {
		faults = append(faults, fmt.Sprintf("of the packet it keeps octets from %d on that it has not written", 4*n))
	}
	untouched := &w.dirt.scratch.values[0]
	r := reading{
		reads: reads(cb[3]), hook: hooks[pkt.Key.Hook], lookup: lookups[notedLookup(cb)],
		action: actions[notedVerdict(cb)], reason: w.d.names.reasons[uint8(cb[2]>>24)], old: pkt.Old != 0, led: pkt.Decapped != 0, sticky: left.AffinityGroup != 0,
		origin: cb[4], open: &left.Open, reply: &left.Reply, now: pkt.Now, straight: left.Open == untouched.Open && left.Reply == untouched.Reply,
		began: pkt.Reused != 0, stored: w.made[pkt.Key],
		srcIdentity: pkt.SrcIdentity, dstIdentity: pkt.DstIdentity,
	}
	if pkt.Decapped == 0 && (r.lookup != FlowNone || r.action == model.Reply) {
		faults = append(faults, parsed(frame, left)...)
	}
	faults = append(faults, wayOut(&r, pkt.Out, pkt.OutIfindex, pkt.KernelForwards)...)
	if err := w.surround(&r, left); err != nil {
		return faults, err
	}
	if r.action == model.Forward && judged(left, untouched) {
		r.judged = true
		faults = append(faults, halves(left)...)
		stored, err := w.stored(left)
		if err != nil {
			return faults, err
		}
		faults = append(faults, stored...)
		w.made[pkt.Key], w.made[left.ReplyKey] = true, true
	}
	faults = append(faults, r.wrong()...)
	met, err := w.meets(&r, left)
	if err != nil {
		return faults, err
	}
	faults = append(faults, met...)
	metered, err := w.metered(pkt.Now)
	if err != nil {
		return faults, err
	}
	faults = append(faults, metered...)
	if len(w.told) == 0 {
		return faults, nil
	}
	last := &w.told[len(w.told)-1]
	if last.Time != pkt.Now || last.SrcIdentity != pkt.SrcIdentity || last.DstIdentity != pkt.DstIdentity || last.Key != pkt.Key || last.TcpFlags != pkt.TcpFlags {
		faults = append(faults, fmt.Sprintf("it tells of a packet at %d from identity %d to %d with flags %#x, %s, and keeps one at %d from %d to %d with %#x, %s",
			last.Time, last.SrcIdentity, last.DstIdentity, last.TcpFlags, decodeTuple(&last.Key), pkt.Now, pkt.SrcIdentity, pkt.DstIdentity, pkt.TcpFlags, decodeTuple(&pkt.Key)))
	}
	return faults, nil
}

// metered says what is wrong with the meter of events behind a run at a time: what
// was told in its second, and what could not be.
func (w *Witness) metered(now uint64) ([]string, error) {
	if err := w.dirt.metersLeft.do(unix.BPF_MAP_LOOKUP_ELEM); err != nil {
		return nil, fmt.Errorf("read table %s: %w", bpf.ContainerMapMeters, err)
	}
	var faults []string
	told, lost := uint32(len(w.told)), uint64(0)
	for cpu := range w.dirt.metersLeft.values {
		meter, want := w.dirt.metersLeft.values[cpu], w.dirt.meters.values[cpu]
		if meter == want {
			continue
		}
		if second := now / uint64(time.Second); second != want.Second {
			want.Second, want.Told = second, 0
		}
		lost = meter.Lost - want.Lost
		room := w.d.opts.EventsPerSecond - want.Told
		want.Told += told
		want.Lost += lost
		if meter != want || told > room || lost > 0 && told != room || lost > 2 {
			faults = append(faults, fmt.Sprintf("the meter of events has %d of second %d and %d lost, and %d were told in second %d, where there was room for %d",
				meter.Told, meter.Second, lost, told, now/uint64(time.Second), room))
		}
	}
	if int(told)+int(lost) < w.due {
		faults = append(faults, fmt.Sprintf("%d events were told and %d lost, and there are %d to tell", told, lost, w.due))
	}
	return faults, nil
}

// meets looks at the entry of a flow that was known.
func (w *Witness) meets(r *reading, left *bpf.ContainerScratch) ([]string, error) {
	key := left.Pkt.Key
	faults, err := w.dueAnew(r.lookup, left)
	if err != nil {
		return nil, err
	}
	if !r.straight || r.lookup != FlowKnown {
		delete(w.met, key)
		delete(w.met, left.ReplyKey)
		return faults, nil
	}
	m, err := w.flows.meet(&key)
	if err != nil || m == nil {
		return faults, err
	}
	faults = append(faults, m.wrong(left, r.reads, w.met[key])...)
	w.met[key] = m
	return faults, nil
}

// surround reads what tables have of a packet: the entry that it has met, and who
// its ends are.
func (w *Witness) surround(r *reading, left *bpf.ContainerScratch) error {
	if w.flows == nil {
		w.flows = w.d.FlowReader()
	}
	if r.straight && (r.lookup == FlowKnown || r.lookup == FlowRejudged) {
		e, err := w.flows.kept(&left.Pkt.Key)
		if err != nil {
			return err
		}
		if e != nil {
			met := e.value
			r.met = &met
		}
		return nil
	}
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	r.own = w.d.endpoints.have[left.Pkt.Key.Ifindex][left.Pkt.Epoch&1].Identity
	to := left.Open.Dst
	if r.straight { // it has got none
		to = left.Pkt.Key.Dst
	}
	r.src, r.dst = w.d.resident(left.Pkt.Key.Src, left.Pkt.Epoch), w.d.resident(to, left.Pkt.Epoch)
	return nil
}

// scratch is what the programs keep of the packet that they have just seen; nil
// where they have kept none.
func (w *Witness) scratch() (*bpf.ContainerScratch, error) {
	if err := w.dirt.scratchLeft.do(unix.BPF_MAP_LOOKUP_ELEM); err != nil {
		return nil, fmt.Errorf("read table %s: %w", bpf.ContainerMapScratch, err)
	}
	for cpu := range w.dirt.scratchLeft.values {
		if left := &w.dirt.scratchLeft.values[cpu]; *left != w.dirt.scratch.values[cpu] {
			return left, nil
		}
	}
	return nil, nil
}
