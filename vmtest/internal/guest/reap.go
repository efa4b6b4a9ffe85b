// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// spawner starts processes and reaps all that end: those it started, and the
// orphans that process 1 inherits. (os/exec cannot be used, since it would
// race with the reaping for the status of its own children.)
type spawner struct {
	mu      sync.Mutex
	waiting map[int]chan<- ending
}

// ending is how a process ended.
type ending struct {
	status syscall.WaitStatus
	usage  syscall.Rusage
}

func (e ending) message() wire.ExitMessage {
	m := wire.ExitMessage{
		Code:     e.status.ExitStatus(),
		UserTime: e.usage.Utime.Nano(),
		SysTime:  e.usage.Stime.Nano(),
		MaxRSS:   e.usage.Maxrss << 10,
	}
	if e.status.Signaled() {
		m.Signal = int(e.status.Signal())
		m.Code = 128 + m.Signal
	}
	return m
}

func newSpawner() *spawner {
	s := &spawner{waiting: make(map[int]chan<- ending)}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			s.reap()
		}
	}()
	return s
}

// spawn starts a process, and stores its id before anyone can learn that it
// ended. The channel gets one value.
func (s *spawner) spawn(path string, argv []string, attr *syscall.ProcAttr, pid *int) (<-chan ending, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	child, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	*pid = child
	// Only init itself is exempt from the out-of-memory killer.
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", child), []byte("0"), 0)
	ended := make(chan ending, 1)
	s.waiting[child] = ended
	return ended, nil
}

func (s *spawner) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var end ending
		pid, err := syscall.Wait4(-1, &end.status, syscall.WNOHANG, &end.usage)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ended := s.waiting[pid]; ended != nil {
			delete(s.waiting, pid)
			ended <- end
		}
	}
}
