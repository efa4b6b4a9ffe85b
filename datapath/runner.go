// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/model"
)

// MaxRunBytes is the longest frame that BPF_PROG_TEST_RUN takes for a tc
// program: what a page leaves beside struct skb_shared_info and the headroom
// (net/bpf/test_run.c, bpf_test_init).
const MaxRunBytes = 3712

// Runner passes one frame after the other through the program of a hook, with
// buffers of its own, so that a frame costs a system call and no allocation.
// It belongs to one goroutine, on a thread in the namespace that has the
// devices. What it gives is good until the next call.
type Runner struct {
	d        *Datapath
	hook     model.Hook
	attr     testRun // its program is 0 before the first frame
	in, out  skbContext
	data     [MaxRunBytes + growth]byte
	known    map[notes]Decision
	ledBy    int  // the device that frames came in by, if the node has not made them
	unsummed bool // the kernel takes no frames with a device's sum
	whole    bool // the kernel takes no frames in pieces
}

// notes are what a program leaves in skb->cb but the last word, which stands
// for an origin and is looked up each time.
type notes [4]uint32

// testRun is the part of union bpf_attr for BPF_PROG_TEST_RUN (linux/bpf.h).
type testRun struct {
	ProgFD, Retval            uint32
	DataSizeIn, DataSizeOut   uint32
	DataIn, DataOut           uint64
	Repeat, Duration          uint32
	CtxSizeIn, CtxSizeOut     uint32
	CtxIn, CtxOut             uint64
	Flags, CPU, BatchSize, to uint32
}

// maxKnown bounds the decisions that a Runner keeps resolved.
const maxKnown = 1 << 16

// Runner makes a Runner for a hook.
func (d *Datapath) Runner(hook model.Hook) *Runner {
	return &Runner{d: d, hook: hook, known: map[notes]Decision{}}
}

// Run passes a frame through the program, once. ErrNotDeliverable when the
// kernel refuses to carry such a frame; a *Contradiction, with the rest of Ran,
// when the program did something else than it noted. The Decision's Tables are shared with
// later calls: they are not to be changed.
func (r *Runner) Run(frame []byte, ifindex int, mark uint32) (Ran, error) {
	if len(frame) == 0 || len(frame) > MaxRunBytes {
		return Ran{}, r.refused(frame)
	}
	if r.attr.ProgFD == 0 {
		prog, err := r.d.programs.get(hookPrograms[r.hook])
		if err != nil {
			return Ran{}, fmt.Errorf("run %s: %w", r.hook, err)
		}
		r.attr.ProgFD = uint32(prog.FD())
	}
	r.in.Ifindex, r.in.IngressIfindex, r.in.Mark = uint32(ifindex), uint32(r.ledBy), mark
	if err := r.callSummed(frame); errors.Is(err, unix.EINVAL) {
		return Ran{}, r.refused(frame)
	} else if errors.Is(err, unix.EBADMSG) {
		return Ran{}, fmt.Errorf("run %s: %w", r.hook, ErrSum)
	} else if err != nil {
		return Ran{}, fmt.Errorf("run %s on device with ifindex %d: %w", r.hook, ifindex, err)
	}
	ran := Ran{Data: r.data[:r.attr.DataSizeOut], Mark: r.out.Mark, Returned: Return{KindTC, int32(r.attr.Retval)}}
	var err error
	if ran.Decision, err = r.decision(); err != nil {
		return ran, err
	}
	return ran, ran.contradiction(r.hook, &r.out, mark)
}

func (r *Runner) refused(frame []byte) error {
	return fmt.Errorf("run %s on %d bytes: %w: the kernel takes 14 to %d bytes, IPv4 from 34 and IPv6 from 54", r.hook, len(frame), ErrNotDeliverable, MaxRunBytes)
}

func (r *Runner) call(frame []byte) error {
	r.attr.DataIn, r.attr.DataSizeIn = address(&frame[0]), uint32(len(frame))
	r.attr.DataOut, r.attr.DataSizeOut = address(&r.data[0]), uint32(len(r.data))
	r.attr.CtxIn, r.attr.CtxSizeIn = address(&r.in), uint32(unsafe.Sizeof(r.in))
	r.attr.CtxOut, r.attr.CtxSizeOut = address(&r.out), uint32(unsafe.Sizeof(r.out))
	err := r.attr.call(r)
	runtime.KeepAlive(frame)
	return err
}

// call runs the program. What the attributes lead to is the owner's.
func (a *testRun) call(owner any) error {
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	for errno == unix.EINTR { // kernels before 5.12 give up for any signal
		_, _, errno = unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	}
	runtime.KeepAlive(owner)
	if errno != 0 {
		return errno
	}
	return nil
}

// address is where a value on the heap lies; it stays there.
func address[T any](v *T) uint64 { return uint64(uintptr(unsafe.Pointer(v))) }

func (r *Runner) decision() (Decision, error) {
	if r.out.CB[0] == 0 {
		return unnoted(r.hook, int(r.in.Ifindex)), nil
	}
	key := notes(r.out.CB[:4])
	dec, ok := r.known[key]
	if !ok {
		var err error
		if dec, err = r.d.decision(r.hook, int(r.in.Ifindex), &r.out.CB); err != nil {
			return dec, err
		}
		if len(r.known) >= maxKnown {
			clear(r.known)
		}
		r.known[key] = dec
	}
	dec.Origin = r.d.labels.origin(r.out.CB[4])
	return dec, nil
}

// Super says of the frames that Run passes from now on that they stand for so many
// segments, each with so many bytes of payload, as the stack hands them to a device
// that segments (skb_shinfo's gso_size and gso_segs, to 65,535). 0 and 0: they are
// single packets.
func (r *Runner) Super(size, segments int) {
	r.in.GSOSize, r.in.GSOSegs = uint32(size), uint32(segments)
}
