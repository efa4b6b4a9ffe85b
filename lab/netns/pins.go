// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// bpffs is a file system for pins that is mounted nowhere: it is reached
// through its descriptor alone, by every thread of this process and by nobody
// else, and is gone when the descriptor is, even after a kill.
type bpffs struct{ fd int }

// newBPFFS makes one.
func newBPFFS() (*bpffs, error) {
	fd, err := detachedMount("bpf")
	if err != nil {
		return nil, fmt.Errorf("%w (the kernel needs CONFIG_BPF_SYSCALL)", err)
	}
	return &bpffs{fd: fd}, nil
}

// detachedMount mounts a file system nowhere. fsopen and fsmount are of Linux
// 5.2.
func detachedMount(kind string) (int, error) {
	context, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open a file system of kind %s: %w", kind, err)
	}
	defer unix.Close(context)

	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fmt.Errorf("create a file system of kind %s: %w", kind, err)
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("mount a file system of kind %s: %w", kind, err)
	}
	return fd, nil
}

// path leads into the file system from this process.
func (b *bpffs) path() string { return fmt.Sprintf("/proc/self/fd/%d", b.fd) }

func (b *bpffs) close() error { return unix.Close(b.fd) }
