// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// Command is a program to be run in a guest.
type Command struct {
	Path string   // in the guest; without a slash it is looked for in PATH
	Args []string // without the name of the program
	Env  []string // "NAME=value"; nil: DefaultEnv
	Dir  string   // made if need be; empty: /

	Stdin          io.Reader // nil: /dev/null
	Stdout, Stderr io.Writer // nil: thrown away

	Files     []File   // put into the guest first
	Collect   []string // patterns of files that are brought back
	CollectTo string   // directory for them, see Machine.Fetch

	// Timeout is right for this machine; the guest gets Machine.Slowdown
	// times as much. 0 is none.
	Timeout time.Duration

	// Signals are passed on to the command.
	Signals <-chan syscall.Signal

	// Terminal gives the command a terminal of the first size that comes
	// from Sizes. Stderr is not used then.
	Terminal bool
	Sizes    <-chan TerminalSize

	// Splats that are expected do not fail the command.
	AllowSplats []SplatKind
}

// TerminalSize is in characters.
type TerminalSize = wire.Size

// DefaultEnv is the environment of a command that has none.
var defaultEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "USER=root", "LANG=C.UTF-8", "TMPDIR=/tmp",
}

// DefaultEnv returns the environment of a command that has none.
func DefaultEnv() []string { return append([]string(nil), defaultEnv...) }

// Result is how a command ended.
type Result struct {
	ExitCode int            // 128 + Signal, if it was ended by one
	Signal   syscall.Signal // 0 if none ended it
	Splats   []Splat        // of the kernel, meanwhile
	Console  string         // what the kernel said meanwhile

	Elapsed           time.Duration // here
	UserTime, SysTime time.Duration // in the guest
	MaxRSS            int64         // bytes
	Collected         []string      // paths of the files here
}

// ErrTimeout means that a command was ended because it took too long.
var ErrTimeout = errors.New("timed out")

// SplatError means that the kernel complained while a command ran. It fails
// the command whatever its exit code is.
type SplatError struct{ Splats []Splat }

func (e *SplatError) Error() string {
	text := "the kernel complained: " + e.Splats[0].String()
	if more := len(e.Splats) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

// Format makes %+v print the kernel's words too.
func (e *SplatError) Format(s fmt.State, verb rune) {
	fmt.Fprint(s, e.Error())
	if verb == 'v' && s.Flag('+') {
		for _, splat := range e.Splats {
			fmt.Fprintf(s, "\n%s", strings.TrimRight(splat.Text, "\n"))
		}
	}
}

// Run runs a command to its end. That it ends with another code than 0 is no
// error, as it may be what was wanted. These are errors, and come with a
// result as far as there is one: the command could not be started
// (fs.ErrNotExist if there is none), it took too long (ErrTimeout), the kernel
// complained (*SplatError), the machine died (*DeathError, an ErrBroken), the
// context ended.
func (m *Machine) Run(ctx context.Context, c *Command) (*Result, error) {
	if err := m.Put(ctx, c.Files...); err != nil {
		return nil, err
	}
	return m.toItsEnd(ctx, c, m.execute)
}

// toItsEnd runs a command by a function that gives its exit message.
func (m *Machine) toItsEnd(ctx context.Context, c *Command, execute func(context.Context, *Command) (*wire.ExitMessage, error)) (*Result, error) {
	from := m.console.position()
	start := time.Now()
	exit, err := execute(ctx, c)
	r := &Result{Elapsed: time.Since(start)}
	if exit != nil {
		r.ExitCode, r.Signal = exit.Code, syscall.Signal(exit.Signal)
		r.UserTime, r.SysTime, r.MaxRSS = time.Duration(exit.UserTime), time.Duration(exit.SysTime), exit.MaxRSS
	}
	if err == nil || !errors.Is(err, ErrBroken) {
		// A context that has ended must not keep the words of the kernel away.
		if broken := m.settle(context.WithoutCancel(ctx)); broken != nil {
			err = broken
		}
	}
	r.Console, r.Splats = m.console.since(from)
	if errors.Is(err, ErrBroken) {
		return r, err
	}
	if bad := unexpected(r.Splats, c.AllowSplats); bad != nil && err == nil {
		err = &SplatError{bad}
	}
	if exit == nil || exit.Error != "" {
		return r, err
	}
	collected, collectErr := m.Fetch(context.WithoutCancel(ctx), c.CollectTo, c.Collect...)
	r.Collected = collected
	return r, errors.Join(err, collectErr)
}

func unexpected(splats []Splat, allowed []SplatKind) []Splat {
	var bad []Splat
next:
	for _, s := range splats {
		for _, kind := range allowed {
			if s.Kind == kind {
				continue next
			}
		}
		bad = append(bad, s)
	}
	return bad
}

// settle waits until everything that the kernel has said has arrived, by
// writing a mark behind it. If some of that was fatal it waits for the end.
func (m *Machine) settle(ctx context.Context) error {
	mark := fmt.Sprintf("weir-init: mark %d", m.lastID.Add(1))
	seen := m.console.expect(mark)
	defer m.console.forget(mark)
	ctx, cancel := context.WithTimeout(ctx, m.stretch(3*time.Second))
	defer cancel()
	err := m.request(ctx, func(id uint32) error { return m.out.Send(wire.Mark, id, []byte(mark)) }, nil)
	if err == nil {
		select {
		case <-seen:
		case <-m.dead:
		case <-ctx.Done(): // the log lost the mark: what came until now has to do
		}
	}
	for _, s := range m.Splats() {
		if s.Kind.Fatal() {
			<-m.dead
		}
	}
	return m.Death()
}

// execute runs a command up to its exit message.
func (m *Machine) execute(ctx context.Context, c *Command) (*wire.ExitMessage, error) {
	j := m.newJob(c)
	defer close(j.over)
	var forget func()
	j.id, forget = m.handle(j.take)
	defer forget()

	message := c.startMessage()
	if c.Terminal && c.Sizes != nil {
		select {
		case message.Size = <-c.Sizes:
		default:
		}
	}
	if err := m.out.SendJSON(wire.Start, j.id, message); err != nil {
		return nil, m.orDeath(err)
	}
	if c.Stdin != nil {
		go j.feed()
	}
	return j.wait(ctx)
}

// startMessage asks for the command; nil for none.
func (c *Command) startMessage() *wire.StartMessage {
	if c == nil {
		return nil
	}
	message := &wire.StartMessage{Path: c.Path, Args: c.Args, Env: c.Env, Dir: c.Dir, Terminal: c.Terminal, NoStdin: c.Stdin == nil}
	if message.Env == nil {
		message.Env = defaultEnv
	}
	if message.Dir == "" {
		message.Dir = "/"
	}
	return message
}

// job is a command that runs.
type job struct {
	m      *Machine
	c      *Command
	id     uint32
	exited chan wire.ExitMessage
	credit chan int // how much of its input the command has taken
	over   chan struct{}
	killed <-chan struct{} // closed when the kernel kills for memory

	mu       sync.Mutex
	writeErr error // of the caller's writers
}

func (m *Machine) newJob(c *Command) *job {
	j := &job{m: m, c: c, exited: make(chan wire.ExitMessage, 1), credit: make(chan int, 64), over: make(chan struct{})}
	if !slices.Contains(c.AllowSplats, OutOfMemory) {
		m.mu.Lock()
		j.killed = m.killed
		m.mu.Unlock()
	}
	return j
}

// take gets the frames of this command.
func (j *job) take(f wire.Frame) {
	switch f.Kind {
	case wire.Stdout:
		j.write(j.c.Stdout, f.Payload)
	case wire.Stderr:
		j.write(j.c.Stderr, f.Payload)
	case wire.Credit:
		if len(f.Payload) == 4 {
			select {
			case j.credit <- int(binary.LittleEndian.Uint32(f.Payload)):
			case <-j.over:
			}
		}
	case wire.Exit:
		var e wire.ExitMessage
		if err := f.Decode(&e); err != nil {
			j.m.die(fmt.Errorf("%w: %v", ErrBroken, err))
			return
		}
		select {
		case j.exited <- e:
		default:
		}
	}
}

// write passes output on. After an error, as of a pipe that was closed, the
// command gets what a local one would.
func (j *job) write(w io.Writer, b []byte) {
	if w == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.writeErr != nil {
		return
	}
	if _, err := w.Write(b); err != nil {
		j.writeErr = err
		j.signal(syscall.SIGPIPE)
	}
}

func (j *job) signal(s syscall.Signal) {
	j.m.out.SendJSON(wire.Signal, j.id, wire.SignalMessage{Number: int(s)})
}

// feed sends standard input, no more of it ahead than the window.
func (j *job) feed() {
	chunk := make([]byte, 32<<10)
	ahead := 0
	for {
		for ahead >= wire.StdinWindow {
			select {
			case n := <-j.credit:
				ahead -= n
			case <-j.over:
				return
			}
		}
		n, err := j.c.Stdin.Read(chunk)
		if n > 0 {
			if j.m.out.Send(wire.Stdin, j.id, chunk[:n]) != nil {
				return
			}
			ahead += n
		}
		if err != nil {
			j.m.out.Send(wire.Stdin, j.id, nil)
			ahead = 0
			for { // take what is left, or the reader of frames would wait
				select {
				case <-j.credit:
				case <-j.over:
					return
				}
			}
		}
		for drained := false; !drained; {
			select {
			case n := <-j.credit:
				ahead -= n
			case <-j.over:
				return
			default:
				drained = true
			}
		}
	}
}

// endings are how a command is asked to end, ever more firmly.
var endings = []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL}

// politeness is how long a command may take to follow each, before it is stretched.
const politeness = 2 * time.Second

// wait waits for the end of the command, and brings it about where it must.
func (j *job) wait(ctx context.Context) (*wire.ExitMessage, error) {
	var timeout <-chan time.Time
	limit := j.m.stretch(j.c.Timeout)
	if j.c.Timeout > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		timeout = timer.C
	}
	var reason error
	var firmer <-chan time.Time
	step := 0
	end := func(why error) {
		if reason == nil {
			reason = why
		}
		if step < len(endings) {
			j.signal(endings[step])
		}
		step++
		firmer = time.After(j.m.stretch(politeness))
	}
	done := ctx.Done()
	var orphaned <-chan time.Time
	for {
		select {
		case e := <-j.exited:
			return j.finished(e, reason)
		case <-j.m.dead:
			return nil, j.m.Death()
		case s := <-j.c.Signals:
			j.signal(s)
		case size := <-j.c.Sizes:
			j.m.out.SendJSON(wire.Resize, j.id, size)
		case <-timeout:
			timeout = nil
			end(fmt.Errorf("%w after %s (%s, stretched %.1f-fold because the guest is that much slower)",
				ErrTimeout, limit.Round(time.Millisecond), j.c.Timeout, min(j.m.Slowdown, 10)))
		case <-done:
			done = nil
			end(context.Cause(ctx))
		case <-j.killed:
			// Either this command was killed, and its end is on its way, or
			// one that it may wait for in vain.
			j.killed = nil
			orphaned = time.After(j.m.stretch(politeness))
		case <-orphaned:
			end(nil) // the complaint is the reason
		case <-firmer:
			if step > len(endings) {
				return nil, errors.Join(reason, fmt.Errorf("%w: a killed process does not end", ErrBroken))
			}
			end(reason)
		}
	}
}

func (j *job) finished(e wire.ExitMessage, reason error) (*wire.ExitMessage, error) {
	switch {
	case e.NotFound:
		return &e, fmt.Errorf("%w: %s", fs.ErrNotExist, e.Error)
	case e.Error != "":
		return &e, errors.New(e.Error)
	}
	return &e, reason
}
