// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
)

// ErrNoCounters is a CPU, or a machine that it is lent by, without counters of its own.
var ErrNoCounters = errors.New("this CPU offers no counters of cycles and instructions")

// hardware are the thread's counters, the kernel's part in them.
type hardware struct{ cycles, instructions int }

func openHardware() (*hardware, error) {
	var h hardware
	var err error
	if h.cycles, err = openCounter(unix.PERF_COUNT_HW_CPU_CYCLES); err != nil {
		return nil, err
	}
	if h.instructions, err = openCounter(unix.PERF_COUNT_HW_INSTRUCTIONS); err != nil {
		return nil, errors.Join(err, unix.Close(h.cycles))
	}
	return &h, nil
}

func openCounter(what uint64) (int, error) {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_HARDWARE, Config: what, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoCounters, err)
	}
	return fd, nil
}

func (h *hardware) close() error {
	return errors.Join(unix.Close(h.cycles), unix.Close(h.instructions))
}

func readCounter(fd int) (float64, error) {
	var value [8]byte
	if _, err := unix.Read(fd, value[:]); err != nil {
		return 0, fmt.Errorf("read a counter of the CPU: %w", err)
	}
	return float64(binary.NativeEndian.Uint64(value[:])), nil
}

// Hardware is what the CPU has counted of a packet over BASE; nil in a Result: nothing.
type Hardware struct {
	Cycles       float64 `json:"cycles"`
	Instructions float64 `json:"instructions"` // of the machine
}

// of counts packets of a kind: the fewest of some runs.
func (h *hardware) of(r *running, kind datapath.Measured) (least Hardware, err error) {
	for i := range runs {
		var before, after [2]float64
		if before, err = h.read(); err != nil {
			return least, err
		}
		if _, err := r.bench.Round(kind, i*packets, packets); err != nil {
			return least, err
		}
		if after, err = h.read(); err != nil {
			return least, err
		}
		one := Hardware{(after[0] - before[0]) / packets, (after[1] - before[1]) / packets}
		if i == 0 || one.Cycles < least.Cycles {
			least = one
		}
	}
	return least, nil
}

func (h *hardware) read() (both [2]float64, err error) {
	var errs [2]error
	both[0], errs[0] = readCounter(h.cycles)
	both[1], errs[1] = readCounter(h.instructions)
	return both, errors.Join(errs[0], errs[1])
}

// count counts a path, where frames take no system calls of their own.
func (h *hardware) count(r *running) error {
	if h == nil || r.bench.Apart() || r.bench.Opens {
		return nil
	}
	base, err := h.of(r, datapath.MeasuredBase)
	if err != nil {
		return err
	}
	full, err := h.of(r, datapath.MeasuredPath)
	if err != nil {
		return err
	}
	r.Hardware = &Hardware{full.Cycles - base.Cycles, full.Instructions - base.Instructions}
	return nil
}
