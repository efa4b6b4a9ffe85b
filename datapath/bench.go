// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"time"
	"unsafe"

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

// maxBench is how long a frame of a wrapper may be: SAVED_BYTES of bpf/bench.bpf.c.
// maxFrames is how many take turns.
const (
	maxBench  = len(bpf.BenchSavedFrame{}.Frame)
	maxFrames = 1 << 20
)

// newWrapper makes one of frames. keys are those of their flows in a table like that
// of answered flows; nil: their numbers, in a table of the wrapper's own.
func newWrapper(frames [][]byte, keys []flowKey, flows *ebpf.Map) (w *wrapper, err error) {
	if len(frames) == 0 || len(frames) > maxFrames {
		return nil, fmt.Errorf("wrap %d frames: give 1 to %d", len(frames), maxFrames)
	}
	for _, frame := range frames {
		if len(frame) > maxBench {
			return nil, fmt.Errorf("wrap a frame of %d bytes: give %d at most", len(frame), maxBench)
		}
	}
	w = &wrapper{first: frames[0]}
	if err := w.load(len(frames), flows); err != nil {
		return nil, fmt.Errorf("load the wrapper: %w", err)
	}
	if err := errors.Join(w.save(frames, keys), w.objs.Frames.Set(uint32(len(frames)))); err != nil {
		return nil, errors.Join(fmt.Errorf("save frames: %w", err), w.objs.Close())
	}
	return w, nil
}

// load loads the programs with room for so many frames; nil: a table of their own in
// place of that of flows.
func (w *wrapper) load(frames int, flows *ebpf.Map) error {
	spec, err := bpf.LoadBench()
	if err != nil {
		return err
	}
	spec.Maps[bpf.BenchMapSaved].MaxEntries = uint32(frames)
	bare := spec.Maps[bpf.BenchMapBare]
	bare.MaxEntries = 2 * uint32(frames)
	opts := &ebpf.CollectionOptions{}
	if flows != nil {
		bare.MaxEntries, bare.Flags = flows.MaxEntries(), flows.Flags()
		opts.MapReplacements = map[string]*ebpf.Map{bpf.BenchMapBare: flows}
	}
	return spec.LoadAndAssign(&w.objs, opts)
}

// save writes frames where `again` takes them from.
func (w *wrapper) save(frames [][]byte, keys []flowKey) error {
	const chunk = 1 << 14
	for from := 0; from < len(frames); from += chunk {
		some := frames[from:min(from+chunk, len(frames))]
		at, saved := make([]uint32, len(some)), make([]bpf.BenchSavedFrame, len(some))
		for i, frame := range some {
			at[i], saved[i].Len = uint32(from+i), uint32(len(frame))
			copy(saved[i].Frame[:], frame)
			saved[i].Key.Words[0] = at[i]
			if keys != nil {
				saved[i].Key = *(*bpf.BenchBareKey)(unsafe.Pointer(&keys[from+i]))
			}
		}
		if err := update(w.objs.Saved, at, saved); err != nil {
			return err
		}
	}
	return nil
}

// run gives a program repeat frames, beginning with one, and tells the time of all.
// out, which may be nil, is filled with the last one as it came out.
func (w *wrapper) run(prog *ebpf.Program, ifindex, from, repeat int, out *[]byte) (time.Duration, error) {
	return w.timed(prog, ifindex, from, func(call *testCall) error {
		call.attr.Repeat = uint32(repeat)
		err := call.do()
		if out != nil {
			*out = call.out[:call.attr.DataSizeOut]
		}
		return err
	})
}

// apart is run with a system call for each frame.
func (w *wrapper) apart(prog *ebpf.Program, ifindex, from, repeat int) (time.Duration, error) {
	return w.timed(prog, ifindex, from, func(call *testCall) error {
		call.attr.Repeat = 1
		for range repeat {
			if err := call.do(); err != nil {
				return err
			}
		}
		return nil
	})
}

// timed gives the CPU time of calls, which begin with a frame.
func (w *wrapper) timed(prog *ebpf.Program, ifindex, from int, calls func(*testCall) error) (time.Duration, error) {
	if err := errors.Join(w.objs.Turn.Set(uint32(from)), w.objs.Target.Put(uint32(0), uint32(prog.FD()))); err != nil {
		return 0, fmt.Errorf("set up a round: %w", err)
	}
	call := &testCall{in: skbContext{Ifindex: uint32(ifindex)}, frame: w.first}
	call.attr.ProgFD = uint32(w.objs.Again.FD())
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A signal, as Go sends them to its threads, ends a run in its middle.
	var signals unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, allSignals(), &signals); err != nil {
		return 0, fmt.Errorf("hold signals off: %w", err)
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &signals, nil)
	began, err := threadTime()
	if err != nil {
		return 0, err
	}
	if err := calls(call); err != nil {
		return 0, fmt.Errorf("run a round: %w", err)
	}
	ended, err := threadTime()
	return ended - began, err
}

func allSignals() *unix.Sigset_t {
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = math.MaxUint64
	}
	return &all
}

// testCall is BPF_PROG_TEST_RUN of a frame, without an allocation for each.
type testCall struct {
	attr  testRun
	in    skbContext
	frame []byte
	out   [maxBench + growth]byte
}

func (c *testCall) do() error {
	c.attr.DataIn, c.attr.DataSizeIn = address(&c.frame[0]), uint32(len(c.frame))
	c.attr.DataOut, c.attr.DataSizeOut = address(&c.out[0]), uint32(len(c.out))
	c.attr.CtxIn, c.attr.CtxSizeIn = address(&c.in), uint32(unsafe.Sizeof(c.in))
	return c.attr.call(c)
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

// Benched is what a Bench measures.
type Benched struct {
	Hook    model.Hook
	Ifindex int      // of the device
	Frames  [][]byte // they take turns; each is of up to 208 bytes
	// Flows are the tuples of the frames' flows, one a frame, each of which is in the
	// table of answered flows. Nil: frames are of no flow.
	Flows []model.Tuple
	// Opens says that each frame opens a flow. A round forgets those of all pods that
	// nobody has answered.
	Opens bool
	// ByChance says that what becomes of a frame is not the same each time: frames
	// are not held against others.
	ByChance bool
}

// Bench measures what the program of a hook costs a frame, beside BASE: the same
// wrapper around an empty program. It belongs to one goroutine, whose thread is in the
// network namespace of the devices.
type Bench struct {
	Benched
	d     *Datapath
	w     *wrapper
	prog  *ebpf.Program
	keys  []flowKey
	grown int // octets by which the program lengthens a frame
}

// Measured is what a round of a Bench runs.
type Measured int

// What a round runs.
const (
	MeasuredBase   Measured = iota // the empty program
	MeasuredPath                   // the hook's
	MeasuredLookup                 // one bare lookup in the table of answered flows
	MeasuredApart                  // the empty program, by a system call for each frame
)

// Errors of a Bench whose figures would be another path's.
var (
	ErrWrongPath = errors.New("another path is measured than that of a single run")
	ErrNoFlow    = errors.New("it is not in the table of answered flows")
)

// Bench makes a Bench. It fails with ErrWrongPath where the wrapper changes what
// becomes of frames, and with ErrNoFlow where their flows are not known.
func (d *Datapath) Bench(what Benched) (*Bench, error) {
	prog, err := d.programs.get(hookPrograms[what.Hook])
	if err != nil || prog == nil {
		return nil, fmt.Errorf("measure %s: the datapath has no such hook: %w", what.Hook, err)
	}
	b := &Bench{Benched: what, d: d, prog: prog}
	for _, t := range what.Flows {
		b.keys = append(b.keys, b.keyOf(t))
	}
	if b.w, err = newWrapper(what.Frames, b.keys, d.maps[bpf.ContainerMapCtAnswered]); err != nil {
		return nil, fmt.Errorf("measure %s: %w", what.Hook, err)
	}
	if err := b.Check(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// keyOf is the key of a flow at the hook. What devices share has no device.
func (b *Bench) keyOf(t model.Tuple) flowKey {
	key := flowKey{
		Src: encodeAddr(t.Src), Dst: encodeAddr(t.Dst), Sport: encodePort(t.Sport), Dport: encodePort(t.Dport),
		Proto: uint8(t.Protocol), Family: uint8(bpf.ContainerFamilyFAMILY_IPV4), Ifindex: uint32(b.Ifindex),
	}
	if t.Src.Is6() {
		key.Family = uint8(bpf.ContainerFamilyFAMILY_IPV6)
	}
	for number, hook := range hooks {
		if hook == b.Hook {
			key.Hook = number
		}
	}
	if b.Hook == model.FromDevice || b.Hook == model.ToDevice {
		key.Ifindex = 0
	}
	return key
}

// checked is how many frames a Check looks at; of more, so many by chance. To forget
// what a frame has opened takes a walk through a table.
const (
	checked       = 1024
	checkedOpened = 64
)

// Check runs frames alone and in rounds, as the second of two, which is what a path
// that met its own output would get wrong; and it looks for their flows. It may be
// called again when all is measured.
func (b *Bench) Check() error {
	order := rand.New(rand.NewPCG(7, 8)).Perm(len(b.Frames))
	most := checked
	if b.Opens {
		most = checkedOpened
	}
	for _, i := range order[:min(most, len(order))] {
		if err := b.checkFlow(i); err != nil {
			return fmt.Errorf("measure %s: frame %d: %w", b.Hook, i, err)
		}
		if err := b.checkFrame(i); err != nil {
			return fmt.Errorf("measure %s: frame %d: %w", b.Hook, i, err)
		}
	}
	return b.forget()
}

func (b *Bench) checkFlow(i int) error {
	if b.keys == nil {
		return nil
	}
	var flow flowValue
	if err := b.d.maps[bpf.ContainerMapCtAnswered].Lookup(&b.keys[i], &flow); err != nil {
		return fmt.Errorf("look for flow %s: %w: %w", b.Flows[i], ErrNoFlow, err)
	}
	return nil
}

func (b *Bench) checkFrame(i int) error {
	if err := b.forget(); err != nil {
		return err
	}
	alone, err := b.d.Run(b.Hook, Frame{Data: b.Frames[i], Ifindex: b.Ifindex})
	if err != nil {
		return err
	}
	if err := b.forget(); err != nil {
		return err
	}
	b.grown = len(alone.Data) - len(b.Frames[i])
	before, several := (i+len(b.Frames)-1)%len(b.Frames), 2
	if b.Apart() {
		before, several = i, 1
	}
	var out []byte
	if _, err := b.w.run(b.prog, b.Ifindex, before, several, &out); err != nil {
		return err
	}
	if !b.ByChance && !bytes.Equal(out, alone.Data) {
		return fmt.Errorf("%w: as the last of %d %x, alone %x", ErrWrongPath, several, out, alone.Data)
	}
	return nil
}

// forget deletes what frames have opened.
func (b *Bench) forget() error {
	if !b.Opens {
		return nil
	}
	return empty[flowKey](b.d.maps[bpf.ContainerMapCtUnanswered])
}

// Round runs repeat frames, from one on, and gives the CPU time of all of them.
func (b *Bench) Round(what Measured, from, repeat int) (time.Duration, error) {
	from %= len(b.Frames)
	switch what {
	case MeasuredBase:
		return b.w.run(b.w.objs.Nothing, b.Ifindex, from, repeat, nil)
	case MeasuredLookup:
		return b.w.run(b.w.objs.Lookup, b.Ifindex, from, repeat, nil)
	case MeasuredApart:
		return b.w.apart(b.w.objs.Nothing, b.Ifindex, from, repeat)
	}
	if err := b.forget(); err != nil {
		return 0, err
	}
	if b.Apart() {
		return b.w.apart(b.prog, b.Ifindex, from, repeat)
	}
	return b.w.run(b.prog, b.Ifindex, from, repeat, nil)
}

// Apart says that each frame of the path takes a system call of its own, since frames
// come out longer or shorter: their time is over MeasuredApart. The kernel remembers
// that there is a tunnel around a frame, and refuses the second (EALREADY); and to take
// it off is not the path's.
func (b *Bench) Apart() bool { return b.grown != 0 }

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

// Pass passes frames through the program of a hook, one after the other, and does not
// look at what becomes of them: a million in a second or two.
func (d *Datapath) Pass(hook model.Hook, ifindex int, frames [][]byte) error {
	prog, err := d.programs.get(hookPrograms[hook])
	if err != nil || prog == nil {
		return fmt.Errorf("pass frames through %s: the datapath has no such hook: %w", hook, err)
	}
	w, err := newWrapper(frames, nil, nil)
	if err != nil {
		return fmt.Errorf("pass frames through %s: %w", hook, err)
	}
	_, err = w.run(prog, ifindex, 0, len(frames), nil)
	return errors.Join(err, w.objs.Close())
}

// Awaited calls each for every answer that somebody waits for: at which hook, and of a
// pod at which device (else 0), it will be seen, and with which addresses and ports.
func (d *Datapath) Awaited(each func(hook model.Hook, ifindex int, answer model.Tuple)) error {
	return readBatches(d.maps[bpf.ContainerMapCtUnanswered], func(key flowKey, value flowValue) {
		e := entry{key, value}
		if e.reply() && !e.answered() {
			each(hooks[key.Hook], int(key.Ifindex), decodeTuple(&key))
		}
	})
}
