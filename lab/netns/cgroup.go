// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf/soil"
	"github.com/weirnet/weir/datapath"
)

// cgroup is a control group of the lab's own, where the sockets of one node are
// made. It is a child of the root of cgroup2, which stays as it is, and nothing
// runs in it for longer than it takes to make a socket: the kernel asks the
// programs of the cgroup that a socket was made in (sk_cgrp_data), whoever uses
// it later.
//
// It is locked while it is in use. What a killed process has left behind is not
// locked, and goes when the next one is made.
type cgroup struct {
	mount int      // of cgroup2, mounted nowhere: see bpffs
	dir   *os.File // locked
	name  string
	soil  *soil.Soil
}

// cgroupPrefix begins the names of all that the lab makes.
const cgroupPrefix = "weir-lab-"

var cgroups atomic.Uint32 // that this process has made, for their names

// newCgroup makes one. The caller closes it, after the programs are detached
// from it.
func newCgroup() (c *cgroup, err error) {
	mount, err := detachedMount("cgroup2")
	if err != nil {
		return nil, fmt.Errorf("%w (the kernel needs CONFIG_CGROUPS)", err)
	}
	c = &cgroup{mount: mount}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Close(mount))
		}
	}()
	c.sweep()
	for {
		c.name = fmt.Sprintf("%s%d-%d", cgroupPrefix, os.Getpid(), cgroups.Add(1))
		err := os.Mkdir(c.path(), 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue // of a process with our number in another namespace
		}
		if err != nil {
			return nil, fmt.Errorf("make a cgroup: %w", err)
		}
		if c.dir = lockedCgroup(c.path()); c.dir != nil {
			break
		}
		// Another process took it for one that was left behind.
	}
	if c.soil, err = soil.Attach(c.path()); err != nil {
		return nil, errors.Join(err, os.Remove(c.path()), c.dir.Close())
	}
	return c, nil
}

// lockedCgroup opens and locks a cgroup that is there and that nobody uses; else
// nil.
func lockedCgroup(path string) *os.File {
	dir, err := os.Open(path)
	if err != nil {
		return nil
	}
	var opened, there unix.Stat_t
	if unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil ||
		unix.Fstat(int(dir.Fd()), &opened) != nil || unix.Stat(path, &there) != nil || opened.Ino != there.Ino {
		dir.Close()
		return nil
	}
	return dir
}

// sweep removes what killed processes have left behind. It may fail at one that
// another process is just removing.
func (c *cgroup) sweep() {
	left, _ := filepath.Glob(c.root() + "/" + cgroupPrefix + "*")
	for _, path := range left {
		if dir := lockedCgroup(path); dir != nil {
			os.Remove(path)
			dir.Close()
		}
	}
}

// root and path lead into the hierarchy from this process.
func (c *cgroup) root() string { return fmt.Sprintf("/proc/self/fd/%d", c.mount) }
func (c *cgroup) path() string { return c.root() + "/" + c.name }

// lead has a datapath lead what is sent by the cgroup's sockets.
func (c *cgroup) lead(o *datapath.Options) {
	o.Cgroup, o.CgroupSocket, o.LoopbackNodePorts = c.path(), c.socket, true
}

// longestExit is how long a process may take to leave its cgroup.
const longestExit = 10 * time.Second

// close removes the cgroup. A process that has ended is counted until the
// kernel has switched away from it, which may be after it was waited for.
func (c *cgroup) close() error {
	unsoiled := c.soil.Close()
	var err error
	for deadline := time.Now().Add(longestExit); ; {
		err = os.Remove(c.path())
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			break
		}
		if err := c.awaitChange(deadline); err != nil {
			return fmt.Errorf("wait for processes to leave cgroup %s: %w", c.name, err)
		}
	}
	if err != nil {
		err = fmt.Errorf("remove cgroup: %w", err)
	}
	return errors.Join(unsoiled, err, c.dir.Close(), unix.Close(c.mount))
}

// awaitChange waits until the cgroup is empty.
func (c *cgroup) awaitChange(deadline time.Time) error {
	events, err := os.Open(c.path() + "/cgroup.events")
	if err != nil {
		return err
	}
	defer events.Close()
	state := make([]byte, 128)
	n, err := events.Read(state) // what changes behind it wakes the poll
	if err != nil || strings.Contains(string(state[:n]), "populated 0") {
		return err
	}
	wait := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
	_, err = unix.Poll(wait, int(time.Until(deadline).Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

// Cgroups counts the cgroups that this process has made and that are there, for
// who looks for what was left behind.
func Cgroups() int {
	mount, err := detachedMount("cgroup2")
	if err != nil {
		return 0 // then none could be made
	}
	defer unix.Close(mount)
	found, _ := filepath.Glob(fmt.Sprintf("/proc/self/fd/%d/%s%d-*", mount, cgroupPrefix, os.Getpid()))
	return len(found)
}

// cloneArguments are the kernel's struct clone_args.
type cloneArguments struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

const clearSignals = 0x100000000 // CLONE_CLEAR_SIGHAND, of Linux 5.5

// socket makes a socket in the cgroup, in the calling thread's network
// namespace. Threads of one process cannot be in different cgroups of this
// kind, so a child makes it, which is born there (CLONE_INTO_CGROUP is of Linux
// 5.7), has our table of files, and ends at once.
func (c *cgroup) socket(family, kind, protocol int) (fd int, err error) {
	// The child's socket takes this one's place.
	fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	args := cloneArguments{
		flags:      unix.CLONE_FILES | unix.CLONE_INTO_CGROUP | clearSignals,
		exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(c.dir.Fd()),
	}
	child, errno := bearSocket(&args, uintptr(family), uintptr(kind|unix.SOCK_CLOEXEC), uintptr(protocol), uintptr(fd))
	if errno != 0 {
		return -1, errors.Join(fmt.Errorf("start a process in cgroup %s: %w", c.name, errno), unix.Close(fd))
	}
	var status unix.WaitStatus
	for {
		if _, err = unix.Wait4(int(child), &status, unix.WALL, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case err != nil:
	case status.Signaled():
		err = fmt.Errorf("the process was ended by a signal (%s)", status.Signal())
	case status.ExitStatus() != 0:
		err = syscall.Errno(status.ExitStatus())
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("make a socket in cgroup %s: %w", c.name, err), unix.Close(fd))
	}
	return fd, nil
}

// bearSocket forks. The child has a copy of one thread of the runtime and so
// may not enter it: no allocation, no growth of the stack, system calls alone.
//
//go:nosplit
//go:norace
//go:noinline
func bearSocket(args *cloneArguments, family, kind, protocol, place uintptr) (child uintptr, errno syscall.Errno) {
	child, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || child != 0 {
		return child, errno
	}
	fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, family, kind, protocol)
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_DUP3, fd, place, unix.O_CLOEXEC)
		syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}
