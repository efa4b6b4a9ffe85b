// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
)

// clock is what the settings' offset is added to: the kernel's monotonic
// clock, or one that stands still.
type clock struct{ stopped bool }

// stoppedAt is what a clock that stands still shows, in ns. It is not 0, which
// means never in a flow's entry, and it is an immediate of an instruction.
const stoppedAt = int32(time.Second)

func (d *Datapath) clock() clock { return clock{d.opts.StopClock} }

// now is the datapath's clock.
func (d *Datapath) now() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clock().read(&d.settings)
}

func (c clock) read(s *settings) (uint64, error) {
	if c.stopped {
		return uint64(stoppedAt) + s.ClockOffset, nil
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return uint64(ts.Nano()) + s.ClockOffset, nil
}

// Advance moves the datapath's clock forward. It never goes back: programs
// take what was seen later than now for very old.
func (d *Datapath) Advance(by time.Duration) error {
	if by < 0 {
		return fmt.Errorf("advance the clock by %s: it does not go back", by)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settings.ClockOffset += uint64(by)
	return d.writeClock()
}

// writeClock is called with mu held. Where the table is mapped into memory, it costs
// no system call: a replay sets the clock for each packet.
func (d *Datapath) writeClock() error {
	if !d.opts.StopClock {
		return d.writeSettings()
	}
	memory, err := d.maps[bpf.ContainerMapControl].Memory()
	if err != nil {
		return fmt.Errorf("map table control into memory: %w", err)
	}
	var offset [8]byte
	binary.NativeEndian.PutUint64(offset[:], d.settings.ClockOffset)
	if _, err := memory.WriteAt(offset[:], int64(unsafe.Offsetof(d.settings.ClockOffset))); err != nil {
		return fmt.Errorf("write table control: %w", err)
	}
	return nil
}

// Hold takes back time in which nothing happened, so that what is waited for does
// not age what is there. It is for who alone passes packets: by is less than what
// has passed since the datapath last asked for the time, or its clock would go
// back.
func (d *Datapath) Hold(by time.Duration) error {
	if by < 0 {
		return fmt.Errorf("hold the clock for %s: it is Advance that moves it forward", by)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settings.ClockOffset -= uint64(by) // and so below 0, which sums as it should
	return d.writeClock()
}

// errStopped keeps packets of the world from meeting a clock that stands still.
var errStopped = errors.New("a clock that stands still is for frames that are run, not for devices or pins: leave Attach, PinPath and Cgroup empty")

func (o *Options) check() error {
	if o.StopClock && (o.Attach || o.PinPath != "" || o.Cgroup != "") {
		return fmt.Errorf("stop the clock: %w", errStopped)
	}
	return nil
}

// clocks are the helpers that tell the time.
var clocks = map[asm.BuiltinFunc]bool{
	asm.FnKtimeGetNs: true, asm.FnKtimeGetCoarseNs: true, asm.FnKtimeGetBootNs: true,
	asm.FnKtimeGetTaiNs: true, asm.FnJiffies64: true,
}

// stopClocks puts a constant in the place of every call that asks for the
// time. It does so to the instructions, not by a constant of the C source, so
// that programs of any other build stand still too, and those that carry
// packets pay nothing. Its table can be mapped into memory, for writeClock: no packets
// of the world meet it, and no pin keeps it.
func stopClocks(spec *ebpf.CollectionSpec) {
	if control := spec.Maps[bpf.ContainerMapControl]; control != nil {
		control.Flags |= unix.BPF_F_MMAPABLE
	}
	for _, prog := range spec.Programs {
		for i := range prog.Instructions {
			ins := &prog.Instructions[i]
			if ins.IsBuiltinCall() && clocks[asm.BuiltinFunc(ins.Constant)] {
				meta := ins.Metadata
				*ins = asm.Mov.Imm(asm.R0, stoppedAt)
				ins.Metadata = meta
			}
		}
	}
}
