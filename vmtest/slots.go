// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Acquire waits until this machine has room for one more guest of so much
// memory (MiB), counting those of other processes that have asked too: as many
// guests as there are processors, and as fit into three quarters of the memory.
// The room is given back by release, or when the process ends. Who waits is
// served before those that come later and those that come again.
//
// A caller that holds several must not wait for one more while it does: two
// such callers would wait for each other.
func Acquire(ctx context.Context, memory int) (release func(), err error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make room for a guest: %w", err)
	}
	// One at a time looks for room: else a run that takes it anew as soon as it
	// gives it back would leave none to anybody.
	served, err := lockCache(ctx, "slots")
	if err != nil {
		return nil, fmt.Errorf("make room for a guest: %w", err)
	}
	defer served()
	slots := slotCount(memory)
	for {
		for i := range slots {
			f, err := tryLock(filepath.Join(dir, fmt.Sprintf("slot-%d", i)))
			if err != nil {
				return nil, fmt.Errorf("make room for a guest: %w", err)
			}
			if f != nil {
				return func() { f.Close() }, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for room for a guest: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tryLock returns nil if somebody else has the lock.
func tryLock(file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, err
}

// Parallel is how many guests of so much memory (MiB) this machine has room for.
func Parallel(memory int) int { return slotCount(memory) }

func slotCount(memory int) int {
	if memory <= 0 {
		memory = DefaultMemory
	}
	slots := runtime.NumCPU()
	if total := totalMemory(); total > 0 {
		slots = min(slots, total*3/4/memory)
	}
	return max(slots, 1)
}

// totalMemory of this machine in MiB, or 0 if it is not known.
func totalMemory() int {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kilobytes int
	for line := range bytes.Lines(text) {
		if n, _ := fmt.Sscanf(string(line), "MemTotal: %d kB", &kilobytes); n == 1 {
			return kilobytes >> 10
		}
	}
	return 0
}
