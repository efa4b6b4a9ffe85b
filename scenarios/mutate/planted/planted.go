// SPDX-License-Identifier: Apache-2.0

// Package planted is the switch of the errors that package source plants in Go
// code: all of them are compiled in, and this says which one acts.
//
// It is not linked into anything but builds with planted errors, and imports
// nothing but the standard library, so that any package can have errors. Its one
// invariant is that at most one error acts at a time.
package planted

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Variable is the environment variable that a process takes its error from: a
// number, or record:FILE, a file with an octet for each error, which is set to 1
// when the error's place is reached.
const Variable = "WEIR_PLANTED"

// memory is what a process with an error may take: a loop that does not end must
// not take the machine's.
const memory = 8 << 30

const (
	none      = -1
	recording = -2
)

var (
	acting  atomic.Int32
	reached []byte // mapped from the file
)

func init() {
	acting.Store(none)
	value := os.Getenv(Variable)
	if value == "" {
		return
	}
	if path, ok := strings.CutPrefix(value, "record:"); ok {
		if err := Record(path); err != nil {
			fail(err)
		}
		return
	}
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < none {
		fail(fmt.Errorf("%s=%s: expected the number of an error, or record:FILE", Variable, value))
	}
	Limit()
	Choose(int(n))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "planted:", err)
	os.Exit(2)
}

// Limit bounds the memory of this process.
func Limit() {
	// Where the limit is lower already, that one holds.
	_ = syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: memory, Max: memory})
}

// Choose lets an error act, and no other; -1: none at all.
func Choose(n int) { acting.Store(int32(n)) }

// Record notes in a file which places are reached from now on.
func Record(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("record what is reached: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("record what is reached: %w", err)
	}
	// Written by the kernel, however the process ends.
	reached, err = syscall.Mmap(int(file.Fd()), 0, int(info.Size()), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("record what is reached in %s: %w", path, err)
	}
	acting.Store(recording)
	return nil
}

// Watch notes in memory which of so many places are reached from now on.
func Watch(count int) {
	if len(reached) != count {
		reached = make([]byte, count)
	}
	clear(reached)
	acting.Store(recording)
}

// Reached are the places that were reached since the last call of Watch.
func Reached() []int {
	var out []int
	for n, b := range reached {
		if b != 0 {
			out = append(out, n)
		}
	}
	return out
}

// On says whether the error acts.
func On(n int) bool {
	switch acting.Load() {
	case int32(n):
		return true
	case recording:
		if reached[n] == 0 {
			reached[n] = 1
		}
	}
	return false
}

// Pick is right, or wrong if the error acts.
func Pick[T any](n int, right, wrong T) T {
	if On(n) {
		return wrong
	}
	return right
}

// More is one more than the number if the error acts.
func More[T interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}](n int, right T) T {
	if On(n) {
		return right + 1
	}
	return right
}

// Less is one less than the number if the error acts.
func Less[T interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}](n int, right T) T {
	if On(n) {
		return right - 1
	}
	return right
}

// Text is another text if the error acts.
func Text[T ~string](n int, right T) T {
	if On(n) {
		return right + "?"
	}
	return right
}
