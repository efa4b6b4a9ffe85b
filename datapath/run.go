// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// Frame is a packet for Run.
type Frame struct {
	Data    []byte // from the Ethernet header on; 14 to 3,712 bytes
	Ifindex int    // the device at whose hook it is
	Mark    uint32
	Repeat  int // how often; 0 is once
}

// Ran is the outcome of Run.
type Ran struct {
	Decision Decision
	Returned Return
	Data     []byte // the packet as the program left it
	Mark     uint32
	Duration time.Duration // a round
}

// ErrNotDeliverable is a frame that the kernel would not give to a program.
var ErrNotDeliverable = errors.New("not deliverable")

// skbContext is struct __sk_buff of linux/bpf.h, whole: the kernel refuses to
// write less of it.
type skbContext struct {
	Len, PktType, Mark, QueueMapping, Protocol uint32
	VLANPresent, VLANTCI, VLANProto, Priority  uint32
	IngressIfindex, Ifindex, TCIndex           uint32
	CB                                         [5]uint32
	Hash, TCClassID, Data, DataEnd, NAPIID     uint32
	Family, RemoteIP4, LocalIP4                uint32
	RemoteIP6, LocalIP6                        [4]uint32
	RemotePort, LocalPort, DataMeta            uint32
	FlowKeys, Tstamp                           uint64
	WireLen, GSOSegs                           uint32
	SK                                         uint64
	GSOSize, TstampType                        uint32
	HWTstamp                                   uint64
}

// growth is how much a program may lengthen a frame: by an ICMPv6 error's
// headers.
const growth = 128

const (
	noteMagic   = uint32(bpf.ContainerNoteNOTE_MAGIC)
	noteVersion = uint32(bpf.ContainerNoteNOTE_VERSION)
	noteAsItIs  = uint32(bpf.ContainerNoteNOTE_KERNEL_FORWARDS)
)

// Run passes a frame through the program of a hook with BPF_PROG_TEST_RUN.
// The calling thread's network namespace has the device. ErrNotDeliverable
// when the kernel refuses to carry such a frame; a *Contradiction, with the rest
// of Ran, when the program did something else than it noted.
func (d *Datapath) Run(hook model.Hook, frame Frame) (Ran, error) {
	prog, err := d.programs.get(hookPrograms[hook])
	if err != nil {
		return Ran{}, fmt.Errorf("run %s: %w", hook, err)
	}
	if prog == nil {
		return Ran{}, fmt.Errorf("run %s: the datapath has no such hook", hook)
	}
	in := skbContext{Mark: frame.Mark, Ifindex: uint32(frame.Ifindex)}
	var out skbContext
	opts := ebpf.RunOptions{
		Data: frame.Data, DataOut: make([]byte, len(frame.Data)+growth),
		Context: &in, ContextOut: &out, Repeat: uint32(frame.Repeat),
	}
	start := time.Now()
	returned, err := prog.Run(&opts)
	// Kernels before 5.12 may end a run by a signal before it began; the
	// library takes that for a run, and the context is empty.
	for err == nil && out.Ifindex == 0 {
		opts.DataOut = opts.DataOut[:cap(opts.DataOut)]
		start = time.Now()
		returned, err = prog.Run(&opts)
	}
	if errors.Is(err, unix.EINVAL) {
		return Ran{}, fmt.Errorf("run %s on %d bytes: %w: the kernel takes 14 to 3,712 bytes, IPv4 from 34 and IPv6 from 54", hook, len(frame.Data), ErrNotDeliverable)
	}
	if err != nil {
		return Ran{}, fmt.Errorf("run %s on device with ifindex %d: %w", hook, frame.Ifindex, err)
	}
	ran := Ran{
		Data: opts.DataOut, Mark: out.Mark, Duration: time.Since(start),
		Returned: Return{KindTC, int32(returned)},
	}
	if ran.Decision, err = d.decision(hook, frame.Ifindex, &out.CB); err != nil {
		return ran, err
	}
	return ran, ran.contradiction(hook, &out, frame.Mark)
}

// contradiction is an error where the program did something else than it noted.
func (r *Ran) contradiction(hook model.Hook, out *skbContext, mark uint32) error {
	if c := r.Decision.contradiction(hook, out.CB[0] != 0, r.Returned, mark, out.Mark); c != nil {
		return c
	}
	return nil
}

// unnoted is the decision about what a hook lets go on without a word.
func unnoted(hook model.Hook, ifindex int) Decision {
	switch hook {
	case model.ToContainer:
		return Decision{Action: model.Forward, Out: model.OutLocal, Ifindex: ifindex, AsItIs: true}
	case model.ToDevice:
		return Decision{Action: model.Forward, Out: model.OutDevice, Ifindex: ifindex, AsItIs: true}
	}
	return Decision{Action: model.Forward, Out: model.OutHost, AsItIs: true}
}

// ErrNoteVersion is a note of a layout that this loader does not read.
var ErrNoteVersion = errors.New("a note of another version")

// notedVerdict and notedLookup are parts of a note's first word.
func notedVerdict(cb *[5]uint32) uint8 { return uint8(cb[0]>>8) & 0xf }
func notedLookup(cb *[5]uint32) uint8  { return uint8(cb[0]>>12) & 0xf }

// decision reads the notes that a program left.
func (d *Datapath) decision(hook model.Hook, ifindex int, cb *[5]uint32) (Decision, error) {
	if cb[0] == 0 {
		return unnoted(hook, ifindex), nil
	}
	if cb[0]>>24 != noteMagic {
		return Decision{}, fmt.Errorf("read decision: the program left %#x in cb[0]", cb[0])
	}
	if version := cb[0] >> 16 & 0xff; version != noteVersion {
		return Decision{}, fmt.Errorf("read decision: %w: %d, and this loader reads %d: its object is of another version", ErrNoteVersion, version, noteVersion)
	}
	dec := Decision{
		Action:  actions[notedVerdict(cb)],
		Out:     outs[uint8(cb[0]&^noteAsItIs)],
		Ifindex: int(cb[1]),
		AsItIs:  cb[0]&noteAsItIs != 0,
		Reason:  d.names.reasons[uint8(cb[2]>>24)],
		Flow:    lookups[notedLookup(cb)],
		Tables:  d.names.reads(uint64(cb[3])),
		Origin:  d.labels.origin(cb[4]),
	}
	dec.File, dec.Line = d.names.place(cb[2] & 0xffffff)
	return dec, nil
}
