// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// server answers the host. Fields above mu belong to the goroutine that reads
// frames.
type server struct {
	in      *wire.Reader
	out     *wire.Writer
	files   map[uint32]*incomingFile
	modules map[uint32]*incomingModule
	spawner *spawner

	mu         sync.Mutex
	commands   map[uint32]*command
	wanted     map[uint32]chan bool
	lastWanted uint32
	stopBeat   chan struct{}
	origins    map[string]origin // by path: files that came from the host
}

func newServer(port int) *server {
	s := &server{
		in:       wire.NewReader(portReader(port)),
		out:      wire.NewWriter(portWriter(port)),
		files:    make(map[uint32]*incomingFile),
		modules:  make(map[uint32]*incomingModule),
		commands: make(map[uint32]*command),
		wanted:   make(map[uint32]chan bool),
		origins:  make(map[string]origin),
		spawner:  newSpawner(),
	}
	return s
}

// portReader reads the virtio-serial port. Without a host at the other end a
// read returns nothing, at once; a snapshot is taken in that state, so that
// this loop is where a restored guest wakes up.
type portReader int

func (p portReader) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(p), b)
		switch {
		case err == syscall.EINTR || err == syscall.EAGAIN:
		case err != nil:
			return 0, fmt.Errorf("read from the host: %w", err)
		case n > 0:
			return n, nil
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

// portWriter writes the port. What is written while there is no host is lost:
// nobody is waiting for it.
type portWriter int

func (p portWriter) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		n, err := syscall.Write(int(p), b[done:])
		switch {
		case err == syscall.EINTR || err == syscall.EAGAIN:
		case err == syscall.EPIPE || err == syscall.ENODEV:
			return len(b), nil
		case err != nil:
			return done, fmt.Errorf("write to the host: %w", err)
		default:
			done += n
		}
	}
	return len(b), nil
}

// serve does what the host asks, frame by frame. Nothing in here may wait for
// a command, or for the kernel to load a module.
func (s *server) serve() error {
	for {
		frame, err := s.in.Next()
		if err != nil {
			return err
		}
		if err := s.handle(frame); err != nil {
			return err
		}
	}
}

func (s *server) handle(f wire.Frame) error {
	switch f.Kind {
	case wire.Hello:
		return s.hello(f)
	case wire.Start:
		return s.start(f)
	case wire.Stdin:
		s.withCommand(f.ID, func(c *command) { c.stdin.add(f.Payload) })
	case wire.Signal:
		var m wire.SignalMessage
		if err := f.Decode(&m); err != nil {
			return err
		}
		s.withCommand(f.ID, func(c *command) { c.signal(syscall.Signal(m.Number)) })
	case wire.Resize:
		var size wire.Size
		if err := f.Decode(&size); err != nil {
			return err
		}
		s.withCommand(f.ID, func(c *command) { c.resize(size) })
	case wire.FileBegin:
		return s.beginFile(f)
	case wire.FileData:
		s.fileData(f)
	case wire.FileEnd:
		s.endFile(f)
	case wire.Collect:
		return s.collect(f)
	case wire.ModuleBegin:
		return s.beginModule(f)
	case wire.ModuleEnd:
		s.endModule(f)
	case wire.ModuleAnswer:
		return s.answerModprobe(f)
	case wire.Mark:
		s.done(f.ID, kernelLog("<6>"+string(f.Payload)+"\n"))
	default:
		return fmt.Errorf("the host sent a frame of unknown kind %d", f.Kind)
	}
	return nil
}

func (s *server) withCommand(id uint32, do func(*command)) {
	s.mu.Lock()
	c := s.commands[id]
	s.mu.Unlock()
	if c != nil { // it may just have ended
		do(c)
	}
}

func (s *server) done(id uint32, err error) {
	var m wire.DoneMessage
	if err != nil {
		m.Error = err.Error()
	}
	if err := s.out.SendJSON(wire.Done, id, m); err != nil {
		giveUp(err)
	}
}

// hello begins a conversation.
func (s *server) hello(f wire.Frame) error {
	var m wire.HelloMessage
	if err := f.Decode(&m); err != nil {
		return err
	}
	now := syscall.NsecToTimeval(m.UnixNano)
	if err := syscall.Settimeofday(&now); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	if err := addEntropy(m.Seed); err != nil {
		return err
	}
	if m.Hostname != "" {
		if err := syscall.Sethostname([]byte(m.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if err := os.WriteFile("/proc/sys/kernel/printk", []byte(strconv.Itoa(m.LogLevel)), 0); err != nil {
		return fmt.Errorf("set the log level: %w", err)
	}
	ready := wire.ReadyMessage{Modules: loadedModules()}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		ready.Release = string(bytes.TrimSpace(release))
	}
	if m.Calibrate {
		ready.Calibration = int64(wire.Calibrate())
	}
	if err := s.out.SendJSON(wire.Ready, 0, ready); err != nil {
		return err
	}
	if s.stopBeat != nil {
		close(s.stopBeat)
		s.stopBeat = nil
	}
	if m.BeatInterval > 0 {
		s.stopBeat = make(chan struct{})
		go s.beat(time.Duration(m.BeatInterval), s.stopBeat)
	}
	return nil
}

func (s *server) beat(interval time.Duration, stop <-chan struct{}) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			if err := s.out.Send(wire.Beat, 0, nil); err != nil {
				giveUp(err)
			}
		}
	}
}

const (
	rndAddEntropy = 0x40085203 // _IOW('R', 3, int[2])
	rndReseedCRNG = 0x5207     // _IO('R', 7)
)

// addEntropy makes the random numbers of a guest its own: all those restored
// from one snapshot would otherwise draw the same ones.
func addEntropy(seed []byte) error {
	if len(seed) == 0 {
		return nil
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("add entropy: %w", err)
	}
	defer f.Close()
	var pool struct { // struct rand_pool_info
		bits, size int32
		bytes      [64]byte
	}
	n := copy(pool.bytes[:], seed)
	pool.bits, pool.size = int32(n*8), int32(n)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&pool))); errno != 0 {
		return fmt.Errorf("add entropy: %w", errno)
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 && !errors.Is(errno, syscall.EINVAL) {
		return fmt.Errorf("reseed random numbers: %w", errno)
	}
	return nil
}
