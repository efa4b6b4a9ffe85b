// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Clean removes from the cache what can be made again without a network:
// snapshots, the guest's init, own kernels; and kernels that the lock does not
// name any more. With everything, the kernels of the lock go too. What is in
// use stays. It returns the paths of what it removed.
func Clean(ctx context.Context, everything bool) (removed []string, err error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	keep, err := lockedDirs(everything)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct{ dir, lock string }{
		{"snapshots", "snapshot-"}, {"init", "init"}, {"kernels", "kernel-"}, {"downloads", "kernel-"},
	} {
		entries, err := os.ReadDir(filepath.Join(cache, part.dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		for _, e := range entries {
			dir := filepath.Join(cache, part.dir, e.Name())
			lock := part.lock
			if strings.HasSuffix(lock, "-") {
				lock += e.Name()
			}
			if keep[dir] || strings.HasPrefix(e.Name(), halfMade) || !removeUnused(ctx, dir, lock) {
				continue
			}
			removed = append(removed, dir)
		}
		removeLeftovers(filepath.Join(cache, part.dir))
	}
	return removed, ctx.Err()
}

// lockedDirs are the kernels that stay.
func lockedDirs(everything bool) (map[string]bool, error) {
	keep := make(map[string]bool)
	if everything {
		return keep, nil
	}
	lock, err := DefaultLock()
	if err != nil {
		return nil, err
	}
	for i := range lock.Kernels {
		dir, err := kernelDir(&lock.Kernels[i])
		if err != nil {
			return nil, err
		}
		keep[dir] = true
	}
	return keep, nil
}

// removeUnused removes an entry unless somebody makes or opens it now. A
// machine that runs already has its files open, and does not need their names.
func removeUnused(ctx context.Context, dir, lock string) bool {
	moment, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	unlock, err := lockCache(moment, lock)
	if err != nil {
		return false
	}
	defer unlock()
	return os.RemoveAll(dir) == nil
}
