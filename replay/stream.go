// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Stdin is the path of what the process is given to read.
const Stdin = "-"

// ErrTerminal is a standard input that nobody writes a capture to.
var ErrTerminal = errors.New("the standard input is a terminal")

// statCapture looks at what a path leads to.
func statCapture(path string) (os.FileInfo, error) {
	if path == Stdin {
		return os.Stdin.Stat()
	}
	return os.Stat(path)
}

// isStream is whether a file is read once, as it comes.
func isStream(info os.FileInfo) bool { return !info.Mode().IsRegular() && !info.IsDir() }

// Streams is whether one of the captures is read as it comes, and once: a pipe,
// and what is no regular file. What cannot be looked at is none.
func (c *Captures) Streams() bool {
	for _, path := range c.Paths {
		if info, err := statCapture(path); err == nil && isStream(info) {
			return true
		}
	}
	return false
}

// openCapture opens a file for one more pass. A regular file that is the
// standard input is read from its beginning each time.
func openCapture(path string) (*os.File, error) {
	if path != Stdin {
		return os.Open(path)
	}
	if info, err := os.Stdin.Stat(); err == nil && isStream(info) {
		return os.Stdin, nil
	}
	return os.Open("/dev/stdin")
}

const (
	chunkSize = 1 << 16
	maxChunks = 4
)

// stream reads what comes, while who waits for it can be told to stop. What it is
// read by stays behind when it is stopped: nothing ends a read of a pipe.
type stream struct {
	ctx   context.Context
	idle  func() // called before waiting; may be nil
	full  chan chunk
	empty chan []byte
	last  []byte
	rest  []byte
	err   error
}

type chunk struct {
	data []byte
	err  error
}

// newStream begins to read. Opening a FIFO waits for who writes to it.
func newStream(ctx context.Context, path string, idle func()) *stream {
	s := &stream{ctx: ctx, idle: idle, full: make(chan chunk, maxChunks), empty: make(chan []byte, maxChunks)}
	for range maxChunks {
		s.empty <- make([]byte, chunkSize)
	}
	go s.pump(path)
	return s
}

func (s *stream) pump(path string) {
	file, err := openCapture(path)
	if err != nil {
		s.full <- chunk{err: fmt.Errorf("read capture: %w", err)}
		return
	}
	defer file.Close()
	for {
		select {
		case <-s.ctx.Done():
			return
		case buf := <-s.empty:
			n, err := file.Read(buf)
			s.full <- chunk{buf[:n], err}
			if err != nil {
				return
			}
		}
	}
}

// Read fails with what has ended the context, too.
func (s *stream) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if s.last != nil {
			s.empty <- s.last[:chunkSize]
			s.last = nil
		}
		s.wait()
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *stream) wait() {
	select {
	case c := <-s.full:
		s.take(c)
		return
	default:
	}
	if s.idle != nil {
		s.idle()
	}
	select {
	case c := <-s.full:
		s.take(c)
	case <-s.ctx.Done():
		s.err = context.Cause(s.ctx)
	}
}

func (s *stream) take(c chunk) {
	if cap(c.data) == chunkSize {
		s.last = c.data
	}
	s.rest, s.err = c.data, c.err
}

var _ io.Reader = (*stream)(nil)
