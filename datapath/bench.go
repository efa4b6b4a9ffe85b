// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// wrapper gives a program one frame after the other, each as if it came for the
// first time: BPF_PROG_TEST_RUN alone would give it its own output again.
type wrapper struct {
	objs  bpf.BenchObjects
	first []byte
}

// maxBench is how long a frame of a wrapper may be, and maxFrames how many take
// turns: SAVED_BYTES and MAX_SAVED of bpf/bench.bpf.c.
const (
	maxBench  = len(bpf.BenchSavedFrame{}.Frame)
	maxFrames = 1 << 16
)

func newWrapper(frames [][]byte) (w *wrapper, err error) {
	if len(frames) == 0 || len(frames) > maxFrames {
		return nil, fmt.Errorf("wrap %d frames: give 1 to %d", len(frames), maxFrames)
	}
	w = &wrapper{first: frames[0]}
	if err := bpf.LoadBenchObjects(&w.objs, nil); err != nil {
		return nil, fmt.Errorf("load the wrapper: %w", err)
	}
	keys, saved := make([]uint32, len(frames)), make([]bpf.BenchSavedFrame, len(frames))
	for i, frame := range frames {
		if len(frame) > maxBench {
			return nil, errors.Join(fmt.Errorf("wrap a frame of %d bytes: give %d at most", len(frame), maxBench), w.objs.Close())
		}
		keys[i], saved[i].Len = uint32(i), uint32(len(frame))
		copy(saved[i].Frame[:], frame)
	}
	if err := errors.Join(update(w.objs.Saved, keys, saved), w.objs.Frames.Set(uint32(len(frames)))); err != nil {
		return nil, errors.Join(fmt.Errorf("save frames: %w", err), w.objs.Close())
	}
	return w, nil
}

// run gives a program repeat frames, beginning with one, and tells the time of all. out, which may be nil, is filled with the last one as it came out.
func (w *wrapper) run(prog *ebpf.Program, ifindex, from, repeat int, out *[]byte) (time.Duration, error) {
	if err := errors.Join(w.objs.Turn.Set(uint32(from)), w.objs.Target.Put(uint32(0), uint32(prog.FD()))); err != nil {
		return 0, fmt.Errorf("set up a round: %w", err)
	}
	opts := ebpf.RunOptions{Data: w.first, Context: &skbContext{Ifindex: uint32(ifindex)}, Repeat: uint32(repeat)}
	if out != nil {
		opts.DataOut = make([]byte, maxBench+growth)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, err := threadTime()
	if err != nil {
		return 0, err
	}
	if _, err := w.objs.Again.Run(&opts); err != nil {
		return 0, fmt.Errorf("run a round: %w", err)
	}
	ended, err := threadTime()
	if err != nil {
		return 0, err
	}
	if out != nil {
		*out = opts.DataOut
	}
	return ended - began, nil
}

// threadTime is what the thread has used of a CPU: others that have it meanwhile do
// not count.
func threadTime() (time.Duration, error) {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
		return 0, fmt.Errorf("ask for the thread's time: %w", err)
	}
	return time.Duration(used.Nano()), nil
}

// Bench measures what the program of a hook costs a frame, beside BASE: the same
// wrapper around an empty program. It belongs to one goroutine, whose thread is in the
// network namespace of the devices.
type Bench struct {
	w       *wrapper
	prog    *ebpf.Program
	ifindex int
	frames  int
}

// Measured is what a round of a Bench runs.
type Measured int

// What a round runs.
const (
	MeasuredBase   Measured = iota // the empty program
	MeasuredPath                   // the hook's
	MeasuredLookup                 // one bare lookup in a table of as many flows
)

// ErrWrongPath is that frames come out of rounds other than out of a single run.
var ErrWrongPath = errors.New("another path is measured than that of a single run")

// Bench makes a Bench of frames that take turns, each of up to 128 bytes. It fails
// with ErrWrongPath where the wrapper changes what becomes of them.
func (d *Datapath) Bench(hook model.Hook, ifindex int, frames [][]byte) (*Bench, error) {
	prog, err := d.programs.get(hookPrograms[hook])
	if err != nil || prog == nil {
		return nil, fmt.Errorf("measure %s: the datapath has no such hook: %w", hook, err)
	}
	w, err := newWrapper(frames)
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", hook, err)
	}
	b := &Bench{w: w, prog: prog, ifindex: ifindex, frames: len(frames)}
	if err := errors.Join(b.fillBare(), b.compare(d, hook, frames)); err != nil {
		return nil, errors.Join(fmt.Errorf("measure %s: %w", hook, err), b.Close())
	}
	return b, nil
}

// fillBare writes two entries of a flow's size for each frame, which are asked for in
// an order that memory does not have.
func (b *Bench) fillBare() error {
	keys := make([]bpf.BenchBareKey, 2*b.frames)
	for i, turn := range rand.New(rand.NewPCG(5, 6)).Perm(len(keys)) {
		keys[i].Words[0] = uint32(turn)
	}
	return update(b.w.objs.Bare, keys, make([]bpf.BenchBareValue, len(keys)))
}

// compare runs frames alone and in rounds: a first one, and the last of a round of
// several, which is what a path that met its own output would get wrong.
func (b *Bench) compare(d *Datapath, hook model.Hook, frames [][]byte) error {
	for _, repeat := range []int{1, 2, len(frames), len(frames) + 1} {
		frame := frames[(repeat-1)%len(frames)]
		alone, err := d.Run(hook, Frame{Data: frame, Ifindex: b.ifindex})
		if err != nil {
			return err
		}
		var out []byte
		if _, err := b.w.run(b.prog, b.ifindex, 0, repeat, &out); err != nil {
			return err
		}
		if !bytes.Equal(out, alone.Data) {
			return fmt.Errorf("%w: after %d rounds %x, alone %x", ErrWrongPath, repeat, out, alone.Data)
		}
	}
	return nil
}

// Round runs repeat frames, from one on, and gives the CPU time of all of them.
func (b *Bench) Round(what Measured, from, repeat int) (time.Duration, error) {
	prog := map[Measured]*ebpf.Program{MeasuredBase: b.w.objs.Nothing, MeasuredPath: b.prog, MeasuredLookup: b.w.objs.Lookup}[what]
	return b.w.run(prog, b.ifindex, from%b.frames, repeat, nil)
}

// Verified is how many instructions the verifier has seen of the hook's program; 0 on
// kernels before 5.16, which do not tell.
func (b *Bench) Verified() (uint32, error) {
	info, err := b.prog.Info()
	if err != nil {
		return 0, fmt.Errorf("look at a program: %w", err)
	}
	verified, _ := info.VerifiedInstructions()
	return verified, nil
}

// Close removes the wrapper.
func (b *Bench) Close() error { return b.w.objs.Close() }
