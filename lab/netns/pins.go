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

// newBPFFS makes one. fsopen and fsmount are of Linux 5.2.
func newBPFFS() (*bpffs, error) {
	context, err := unix.Fsopen("bpf", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open a bpffs: %w (the kernel needs CONFIG_BPF_SYSCALL)", err)
	}
	defer unix.Close(context)

	if err := unix.FsconfigCreate(context); err != nil {
		return nil, fmt.Errorf("create bpffs: %w", err)
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount bpffs: %w", err)
	}
	return &bpffs{fd: fd}, nil
}

// path leads into the file system from this process.
func (b *bpffs) path() string { return fmt.Sprintf("/proc/self/fd/%d", b.fd) }

func (b *bpffs) close() error { return unix.Close(b.fd) }
