// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// modprobeSocket is where the kernel's modprobe finds init.
const modprobeSocket = "/run/weir-modprobe.sock"

const sysInitModule = 175 // x86-64

// loadModule gives a module to the kernel. One that is there already is fine.
func loadModule(image []byte, params string) error {
	if len(image) == 0 {
		return syscall.ENOEXEC
	}
	text, err := syscall.BytePtrFromString(params)
	if err != nil {
		return err
	}
	_, _, errno := syscall.Syscall(sysInitModule, uintptr(unsafe.Pointer(&image[0])), uintptr(len(image)), uintptr(unsafe.Pointer(text)))
	if errno != 0 && errno != syscall.EEXIST {
		return errno
	}
	return nil
}

// askForModule is what the kernel runs as /sbin/modprobe. The last argument is
// what it wants; the answer is whether that is loaded now.
func askForModule(args []string) int {
	if len(args) == 0 {
		return 2
	}
	conn, err := net.Dial("unix", modprobeSocket)
	if err != nil {
		return 1
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, args[len(args)-1]); err != nil {
		return 1
	}
	answer, err := io.ReadAll(conn)
	if err != nil || string(answer) != "yes" {
		return 1
	}
	return 0
}

// serveModprobe passes on what the kernel asks for.
func (s *server) serveModprobe() error {
	os.Remove(modprobeSocket)
	listener, err := net.Listen("unix", modprobeSocket)
	if err != nil {
		return fmt.Errorf("listen for modprobe: %w", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				giveUp(fmt.Errorf("listen for modprobe: %w", err))
			}
			go s.forwardModprobe(conn)
		}
	}()
	return nil
}

// moduleDeadline is how long the kernel waits for a module. The host has only
// to read a file, so that this is met but when it is gone.
const moduleDeadline = time.Minute

func (s *server) forwardModprobe(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	answer := make(chan bool, 1)
	s.mu.Lock()
	s.lastWanted++
	id := s.lastWanted
	s.wanted[id] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.wanted, id)
		s.mu.Unlock()
	}()
	if err := s.out.Send(wire.ModuleWanted, id, []byte(strings.TrimSpace(line))); err != nil {
		return
	}
	select {
	case found := <-answer:
		if found {
			io.WriteString(conn, "yes")
		}
	case <-time.After(moduleDeadline):
	}
}

func (s *server) answerModprobe(f wire.Frame) error {
	var m wire.ModuleAnswerMessage
	if err := f.Decode(&m); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer := s.wanted[f.ID]; answer != nil {
		answer <- m.Found
	}
	return nil
}

// incomingModule is one whose bytes are still on their way.
type incomingModule struct {
	wire.ModuleMessage
	image []byte
}

func (s *server) beginModule(f wire.Frame) error {
	var m wire.ModuleMessage
	if err := f.Decode(&m); err != nil {
		return err
	}
	s.modules[f.ID] = &incomingModule{ModuleMessage: m, image: make([]byte, 0, m.Size)}
	return nil
}

// endModule loads in the background: the module's own start may ask for others.
func (s *server) endModule(f wire.Frame) {
	m := s.modules[f.ID]
	delete(s.modules, f.ID)
	go func() {
		err := fmt.Errorf("module was never begun")
		if m != nil {
			err = loadModule(m.image, m.Params)
		}
		s.done(f.ID, err)
	}()
}
