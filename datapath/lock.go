// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ownerLock keeps a directory of pins to one loader. It is a lock on the
// directory, so the kernel lets go of it when the process dies; a symlink
// says who has it, since a bpffs holds no files.
type ownerLock struct {
	dir  *os.File
	name string
}

const ownerLink = "owner"

func takeLock(path string) (*ownerLock, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory %s: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, fmt.Errorf("look at pin directory %s: %w", path, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return nil, fmt.Errorf("pin directory %s is not on a bpffs: mount one with 'mount -t bpf bpf DIR' and name a directory in it", path)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open pin directory %s: %w", path, err)
	}
	name := filepath.Join(path, ownerLink)
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			owner, _ := os.Readlink(name)
			return nil, fmt.Errorf("lock %s: %w: %s", path, ErrLocked, owner)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	l := &ownerLock{dir: dir, name: name}
	if err := l.sign(); err != nil {
		return nil, errors.Join(err, l.release())
	}
	return l, nil
}

func (l *ownerLock) sign() error {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return fmt.Errorf("read own name: %w", err)
	}
	if err := os.Remove(l.name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove mark of the last owner: %w", err)
	}
	owner := fmt.Sprintf("pid-%d-%s", os.Getpid(), strings.TrimSpace(string(comm)))
	if err := os.Symlink(owner, l.name); err != nil {
		return fmt.Errorf("mark owner of the pins: %w", err)
	}
	return nil
}

func (l *ownerLock) release() error {
	err := os.Remove(l.name)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.dir.Close())
}
