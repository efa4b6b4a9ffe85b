// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// command is one that runs.
type command struct {
	id       uint32
	pid      int
	stdin    *inbox
	terminal *os.File // its master side, or nil
}

// start begins a command, and answers with Exit when it is over, whatever came
// of it.
func (s *server) start(f wire.Frame) error {
	var m wire.StartMessage
	if err := f.Decode(&m); err != nil {
		return err
	}
	c := &command{id: f.ID, stdin: newInbox()}
	if err := s.launch(c, m); err != nil {
		return s.out.SendJSON(wire.Exit, f.ID, wire.ExitMessage{
			Error:    err.Error(),
			NotFound: errors.Is(err, os.ErrNotExist),
		})
	}
	return nil
}

func (s *server) launch(c *command, m wire.StartMessage) error {
	path, err := lookPath(m.Path, m.Env)
	if err != nil {
		return err
	}
	if m.Dir != "" {
		if err := os.MkdirAll(m.Dir, 0o755); err != nil {
			return err
		}
	}
	streams, err := s.connect(c, m)
	if err != nil {
		return err
	}
	attr := &syscall.ProcAttr{
		Dir:   m.Dir,
		Env:   m.Env,
		Files: streams.theirs(),
		Sys:   &syscall.SysProcAttr{Setpgid: !m.Terminal, Setsid: m.Terminal, Setctty: m.Terminal},
	}
	ended, err := s.spawner.spawn(path, append([]string{m.Path}, m.Args...), attr, &c.pid)
	streams.closeTheirs()
	if err != nil {
		streams.closeOurs()
		return &os.PathError{Op: "run", Path: path, Err: err}
	}
	s.mu.Lock()
	s.commands[c.id] = c
	s.mu.Unlock()
	go c.feed(s, streams.stdin)
	go s.finish(c, streams, ended)
	return nil
}

// lookPath finds a program as a shell does.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := searchPath
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			path = value
		}
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", &os.PathError{Op: "find", Path: name, Err: os.ErrNotExist}
}

// streams are the ends of a command's input and output.
type streams struct {
	stdin          *os.File // ours
	stdout, stderr *os.File // ours; stderr is nil with a terminal
	child          [3]*os.File
	readers        sync.WaitGroup
}

func (s *streams) theirs() []uintptr {
	return []uintptr{s.child[0].Fd(), s.child[1].Fd(), s.child[2].Fd()}
}

func (s *streams) closeTheirs() {
	for _, f := range s.child {
		f.Close() // with a terminal they are one file, and closing twice is harmless
	}
}

func (s *streams) closeOurs() {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

func (s *server) connect(c *command, m wire.StartMessage) (*streams, error) {
	if m.Terminal {
		return connectTerminal(c, m.Size)
	}
	st := &streams{}
	var err error
	open := func(do func() error) {
		if err == nil {
			err = do()
		}
	}
	if m.NoStdin {
		open(func() (err error) { st.child[0], err = os.Open(os.DevNull); return })
	} else {
		open(func() (err error) { st.child[0], st.stdin, err = os.Pipe(); return })
	}
	open(func() (err error) { st.stdout, st.child[1], err = os.Pipe(); return })
	open(func() (err error) { st.stderr, st.child[2], err = os.Pipe(); return })
	if err != nil {
		return nil, fmt.Errorf("connect command: %w", err)
	}
	return st, nil
}

func connectTerminal(c *command, size wire.Size) (*streams, error) {
	master, err := os.OpenFile("/dev/pts/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	var number, unlocked int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), syscall.TIOCGPTN, uintptr(unsafe.Pointer(&number))); errno != 0 {
		return nil, fmt.Errorf("number terminal: %w", errno)
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), syscall.TIOCSPTLCK, uintptr(unsafe.Pointer(&unlocked))); errno != 0 {
		return nil, fmt.Errorf("unlock terminal: %w", errno)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	c.terminal = master
	c.resize(size)
	return &streams{stdin: master, stdout: master, child: [3]*os.File{slave, slave, slave}}, nil
}

func (c *command) resize(size wire.Size) {
	if c.terminal == nil || size.Rows == 0 {
		return
	}
	winsize := [4]uint16{size.Rows, size.Columns}
	syscall.Syscall(syscall.SYS_IOCTL, c.terminal.Fd(), syscall.TIOCSWINSZ, uintptr(unsafe.Pointer(&winsize)))
}

// signal reaches the whole process group, as a terminal's would.
func (c *command) signal(number syscall.Signal) {
	syscall.Kill(-c.pid, number)
}

// feed carries standard input to the command, and tells how much of it was
// taken, for the host to send more.
func (c *command) feed(s *server, to *os.File) {
	for {
		chunk, ok := c.stdin.take()
		if !ok {
			if to != nil && c.terminal == nil {
				to.Close()
			}
			return
		}
		if to != nil {
			to.Write(chunk) // a command that has closed its input still gets its credit, and ignores it
		}
		var credit [4]byte
		binary.LittleEndian.PutUint32(credit[:], uint32(len(chunk)))
		if err := s.out.Send(wire.Credit, c.id, credit[:]); err != nil {
			giveUp(err)
		}
	}
}

// lingering is how long output is awaited after a command has ended: what it
// left running may hold its output open for ever.
const lingering = 300 * time.Millisecond

func (s *server) finish(c *command, st *streams, ended <-chan ending) {
	s.drain(c, st, st.stdout, wire.Stdout)
	if st.stderr != nil {
		s.drain(c, st, st.stderr, wire.Stderr)
	}
	end := <-ended
	drained := make(chan struct{})
	go func() {
		st.readers.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(lingering):
		deadline := time.Now()
		for _, f := range []*os.File{st.stdout, st.stderr} {
			if f != nil {
				f.SetReadDeadline(deadline)
			}
		}
		<-drained
	}
	c.stdin.close()
	st.closeOurs()
	s.mu.Lock()
	delete(s.commands, c.id)
	s.mu.Unlock()
	if err := s.out.SendJSON(wire.Exit, c.id, end.message()); err != nil {
		giveUp(err)
	}
}

func (s *server) drain(c *command, st *streams, from *os.File, kind wire.Kind) {
	st.readers.Add(1)
	go func() {
		defer st.readers.Done()
		chunk := make([]byte, wire.ChunkSize)
		for {
			n, err := from.Read(chunk)
			if n > 0 {
				if err := s.out.Send(kind, c.id, chunk[:n]); err != nil {
					giveUp(err)
				}
			}
			if err != nil { // the end; a terminal says EIO
				return
			}
		}
	}()
}

// inbox holds standard input until the command takes it. The host sends no
// more than wire.StdinWindow ahead, so that it stays small.
type inbox struct {
	mu     sync.Mutex
	filled sync.Cond
	chunks [][]byte
	closed bool
}

func newInbox() *inbox {
	b := &inbox{}
	b.filled.L = &b.mu
	return b
}

// add appends a chunk; an empty one is the end.
func (b *inbox) add(chunk []byte) {
	if len(chunk) == 0 {
		b.close()
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.chunks = append(b.chunks, chunk)
		b.filled.Signal()
	}
}

func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.filled.Signal()
}

func (b *inbox) take() (chunk []byte, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.chunks) == 0 && !b.closed {
		b.filled.Wait()
	}
	if len(b.chunks) == 0 {
		return nil, false
	}
	chunk, b.chunks = b.chunks[0], b.chunks[1:]
	return chunk, true
}
