// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrBroken means that the machine itself failed, not what ran in it.
var ErrBroken = errors.New("the machine is broken")

// ErrClosed means that the machine was closed.
var ErrClosed = errors.New("the machine is closed")

// DeathError tells what ended a machine. It is an ErrBroken.
type DeathError struct {
	Cause   string // one line
	Splat   *Splat // the kernel's complaint, if there was one
	Console string // the last that the kernel said
}

func (e *DeathError) Error() string { return e.Cause }

// Unwrap returns ErrBroken.
func (e *DeathError) Unwrap() error { return ErrBroken }

// Format makes %+v print the kernel's words too.
func (e *DeathError) Format(s fmt.State, verb rune) {
	fmt.Fprint(s, e.Error())
	if verb != 'v' || !s.Flag('+') {
		return
	}
	text := e.Console
	if e.Splat != nil {
		text = e.Splat.Text
	}
	if text != "" {
		fmt.Fprintf(s, "\n%s", strings.TrimRight(text, "\n"))
	}
}

// Death returns what ended the machine, or nil while it lives.
func (m *Machine) Death() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.death
}

// Dead is closed when the machine has ended.
func (m *Machine) Dead() <-chan struct{} { return m.dead }

// die records the first cause, ends QEMU, and wakes whoever waits.
func (m *Machine) die(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.death != nil {
		return
	}
	m.death = cause
	m.q.process.Kill()
	close(m.dead)
}

// lastWords is how much of the console an error carries, in bytes.
const lastWords = 8 << 10

// causeOfDeath blames the kernel, if it has complained, and otherwise says
// what was seen from outside.
func (m *Machine) causeOfDeath(seen string) error {
	text, splats := m.console.since(position{})
	d := &DeathError{Cause: seen, Console: text[max(0, len(text)-lastWords):]}
	for i := range splats {
		if splats[i].Kind.Fatal() {
			d.Splat = &splats[i]
			d.Cause = "the kernel died: " + splats[i].String()
			break
		}
	}
	m.mu.Lock()
	silent := m.silent
	m.mu.Unlock()
	if silent > 0 {
		d.Cause = fmt.Sprintf("the guest hangs: no sign of life for %.1f s", silent.Seconds())
		if where := whereabouts(text); where != "" {
			d.Cause += ", in " + where
		}
	}
	return d
}

// lastBreath is how long a dying kernel may go on explaining.
const lastBreath = 1500 * time.Millisecond

// complained is called at the first line of a complaint.
func (m *Machine) complained(s Splat) {
	switch {
	case s.Kind.Fatal():
		m.kernelDied(s)
	case s.Kind == OutOfMemory:
		m.mu.Lock()
		close(m.killed)
		m.killed = make(chan struct{})
		m.mu.Unlock()
	}
}

// kernelDied ends the machine. A panic ends QEMU by itself; after a lockup, a
// stall or a hung task the kernel may go on for ever.
func (m *Machine) kernelDied(s Splat) {
	m.done.Go(func() {
		select {
		case <-m.q.ended:
			return // whoever waits for that tells the cause
		case <-m.dead:
			return
		case <-time.After(m.stretch(lastBreath)):
		}
		m.die(m.causeOfDeath("the kernel died: " + s.String()))
	})
}

// beatInterval is how often the guest's user space says that it runs.
const beatInterval = 250 * time.Millisecond

// patience is how long a guest may be silent, before it is stretched.
const patience = 4 * time.Second

// stretch makes a duration that is right here right for the guest. It is never
// more than tenfold: a deadline that never comes is none.
func (m *Machine) stretch(d time.Duration) time.Duration {
	return time.Duration(float64(d) * min(max(m.Slowdown, 1), 10))
}

// watch ends a machine that hangs.
func (m *Machine) watch() {
	limit := min(m.stretch(patience), 15*time.Second)
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	last := time.Now()
	var heard time.Time      // the sign of life from which silence is counted
	var waited time.Duration // how long QEMU had waited for a processor by then
	for {
		select {
		case <-m.dead:
			return
		case now := <-ticker.C:
			m.mu.Lock()
			if now.Sub(last) > 4*beatInterval {
				m.heard = now // this process itself was stopped
			}
			last = now
			silent := now.Sub(m.heard)
			if m.busy > 0 {
				silent = 0
			}
			if heard != m.heard {
				heard, waited = m.heard, starvation(m.q.process.Pid)
			}
			m.mu.Unlock()
			// A guest that this machine leaves no processor to does not hang.
			if silent > limit && silent-(starvation(m.q.process.Pid)-waited) > limit {
				m.hang(silent)
				return
			}
		}
	}
}

// starvation is how long the threads of a process have been ready to run and
// found no processor: of each the second field of schedstat, of which the most
// counts. (Documentation/scheduler/sched-stats.rst in the kernel; without it,
// it is 0.)
func starvation(pid int) time.Duration {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	var most time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		var ran, waited int64
		if _, err := fmt.Sscan(string(text), &ran, &waited); err == nil {
			most = max(most, time.Duration(waited))
		}
	}
	return most
}

// hang asks the kernel, by an interrupt that cannot be masked, where it is;
// its answer is a panic with a stack.
func (m *Machine) hang(silent time.Duration) {
	m.mu.Lock()
	m.silent = silent // whoever tells the cause of death knows now what led to it
	m.mu.Unlock()
	m.q.mon.do("inject-nmi", nil, nil)
	select {
	case <-m.dead:
	case <-time.After(m.stretch(lastBreath)):
		m.die(m.causeOfDeath(""))
	}
}

// whereabouts finds the function that the kernel was in.
func whereabouts(text string) string {
	for line := range strings.Lines(text) {
		if _, where, found := strings.Cut(line, "RIP: "); found {
			_, where, _ = strings.Cut(where, ":")
			return strings.TrimSpace(where)
		}
	}
	return ""
}
