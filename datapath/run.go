// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

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

const noteMagic = 0x57

// Run passes a frame through the program of a hook with BPF_PROG_TEST_RUN.
// The calling thread's network namespace has the device. ErrNotDeliverable
// when the kernel refuses to carry such a frame.
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
	_, err = prog.Run(&opts)
	// Kernels before 5.12 may end a run by a signal before it began; the
	// library takes that for a run, and the context is empty.
	for err == nil && out.Ifindex == 0 {
		opts.DataOut = opts.DataOut[:cap(opts.DataOut)]
		start = time.Now()
		_, err = prog.Run(&opts)
	}
	if errors.Is(err, unix.EINVAL) {
		return Ran{}, fmt.Errorf("run %s on %d bytes: %w: the kernel takes 14 to 3,712 bytes, IPv4 from 34 and IPv6 from 54", hook, len(frame.Data), ErrNotDeliverable)
	}
	if err != nil {
		return Ran{}, fmt.Errorf("run %s on device with ifindex %d: %w", hook, frame.Ifindex, err)
	}
	ran := Ran{Data: opts.DataOut, Mark: out.Mark, Duration: time.Since(start)}
	ran.Decision, err = d.decision(&out.CB)
	return ran, err
}

// decision reads the notes that a program left.
func (d *Datapath) decision(cb *[5]uint32) (Decision, error) {
	if cb[0] == 0 { // to-container let its own answer pass
		return Decision{Action: model.Forward, Out: model.OutLocal}, nil
	}
	if cb[0]>>24 != noteMagic {
		return Decision{}, fmt.Errorf("read decision: the program left %#x in cb[0]", cb[0])
	}
	dec := Decision{
		Action:  actions[uint8(cb[0]>>8)],
		Out:     outs[uint8(cb[0])],
		Ifindex: int(cb[1]),
		Reason:  d.names.reasons[uint8(cb[2]>>24)],
		Flow:    lookups[uint8(cb[3]>>24)],
		Tables:  d.names.reads(cb[3] & 0xffffff),
		Origin:  d.labels.origin(cb[4]),
	}
	dec.File, dec.Line = d.names.place(cb[2] & 0xffffff)
	return dec, nil
}
