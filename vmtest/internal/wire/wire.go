// SPDX-License-Identifier: Apache-2.0

// Package wire is the protocol between the host and the init of a guest, over
// one virtio-serial port. It is not meant for anything else: both ends are
// built from the same source, so that there are no versions to negotiate.
//
// The invariant: a frame is written whole or the connection is dead. Whoever
// reads a frame that it does not understand gives up, and never resynchronizes.
//
// It uses nothing but the standard library, because the guest's half is
// compiled on the machine of whoever runs it, without a network.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// PortName is the name of the virtio-serial port.
const PortName = "weir.vmtest"

// MaxPayload bounds a frame, in bytes, so that a damaged length cannot ask for
// memory without end.
const MaxPayload = 1 << 20

// ChunkSize is what streams and files are cut into, in bytes: large enough to
// make the cost of a frame small, small enough to keep beats coming between.
const ChunkSize = 64 << 10

// StdinWindow is how much standard input, in bytes, may be on its way to a
// command that has not read it. Without such a bound, a command that does not
// read would hold up everything behind it.
const StdinWindow = 256 << 10

// Kind says what a frame carries.
type Kind uint8

// From the host.
const (
	Hello        Kind = iota + 1 // JSON of HelloMessage: a new conversation begins
	Start                        // JSON of StartMessage: begin the command of this id
	Stdin                        // bytes; empty means end of file
	Signal                       // JSON of SignalMessage
	Resize                       // JSON of Size
	FileBegin                    // JSON of FileMessage (both directions)
	FileData                     // bytes (both directions)
	FileEnd                      // empty; the receiver has the whole file (both directions)
	Collect                      // JSON of CollectMessage: send files back, then Done
	ModuleBegin                  // JSON of ModuleMessage: FileData and ModuleEnd follow
	ModuleEnd                    // empty: load it, then Done
	ModuleAnswer                 // JSON of ModuleAnswerMessage, to a ModuleWanted of this id
	Mark                         // bytes: write them into the kernel log, then Done
)

// From the guest.
const (
	Ready        Kind = iota + 64 // JSON of ReadyMessage, the answer to Hello
	Beat                          // empty: the guest's user space still runs
	Stdout                        // bytes
	Stderr                        // bytes
	Credit                        // 4 bytes: so much of standard input was taken
	Exit                          // JSON of ExitMessage
	Done                          // JSON of DoneMessage: the request of this id is finished
	ModuleWanted                  // bytes: an alias or name that the kernel asks for
)

// HelloMessage opens a conversation. A guest restored from a snapshot has
// everything to learn: the time of day, and chance that its siblings do not
// share.
type HelloMessage struct {
	UnixNano     int64
	Seed         []byte
	BeatInterval int64 // nanoseconds
	LogLevel     int   // console log level of the kernel
	Hostname     string
	Calibrate    bool // run Calibrate, for the answer
}

// ReadyMessage is the guest's first answer.
type ReadyMessage struct {
	Release     string
	Calibration int64    // nanoseconds that Calibrate took
	Modules     []string // names of those loaded
}

// StartMessage describes a command.
type StartMessage struct {
	Path     string
	Args     []string // without the name of the program
	Env      []string
	Dir      string
	Terminal bool // give it a terminal of its own; stderr is then stdout
	Size     Size
	NoStdin  bool // standard input is /dev/null
}

// Size is that of a terminal, in characters.
type Size struct{ Rows, Columns uint16 }

// SignalMessage sends a signal to a command's process group.
type SignalMessage struct{ Number int }

// FileMessage begins a file.
type FileMessage struct {
	Path     string
	Mode     uint32 // permission bits
	Size     int64  // bytes
	Dir      bool   // only a directory is made
	LinkTo   string // a symbolic link is made
	Modified int64  // Unix time in nanoseconds; 0 is now
}

// CollectMessage names files by patterns of path/filepath.Match; a directory
// that matches is sent with everything below it.
type CollectMessage struct{ Patterns []string }

// ModuleMessage begins a kernel module.
type ModuleMessage struct {
	Name   string
	Params string
	Size   int64
}

// ModuleAnswerMessage ends what the kernel asked for with ModuleWanted. By
// then the modules are loaded, if there are any.
type ModuleAnswerMessage struct{ Found bool }

// ExitMessage tells how a command ended.
type ExitMessage struct {
	Code     int
	Signal   int    // it was ended by this signal, if not 0
	Error    string // it could not be started
	NotFound bool   // … because there is no such file
	UserTime int64  // nanoseconds
	SysTime  int64
	MaxRSS   int64 // bytes
}

// DoneMessage ends a request.
type DoneMessage struct{ Error string }

// Frame is one message.
type Frame struct {
	Kind    Kind
	ID      uint32
	Payload []byte
}

// Decode reads a JSON payload into v.
func (f Frame) Decode(v any) error {
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("decode frame of kind %d: %w", f.Kind, err)
	}
	return nil
}

const headerSize = 9

// Writer writes frames; it may be used by many goroutines.
type Writer struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Send writes one frame.
func (w *Writer) Send(kind Kind, id uint32, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("send frame of kind %d: %d bytes are more than %d", kind, len(payload), MaxPayload)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], make([]byte, headerSize)...)
	binary.LittleEndian.PutUint32(w.buf, uint32(len(payload)))
	w.buf[4] = byte(kind)
	binary.LittleEndian.PutUint32(w.buf[5:], id)
	w.buf = append(w.buf, payload...)
	if _, err := w.w.Write(w.buf); err != nil {
		return fmt.Errorf("send frame of kind %d: %w", kind, err)
	}
	return nil
}

// SendJSON writes one frame with v as its payload.
func (w *Writer) SendJSON(kind Kind, id uint32, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame of kind %d: %w", kind, err)
	}
	return w.Send(kind, id, payload)
}

// SendStream cuts r into frames of one kind until its end.
func (w *Writer) SendStream(kind Kind, id uint32, r io.Reader) error {
	chunk := make([]byte, ChunkSize)
	for {
		n, err := io.ReadFull(r, chunk)
		if n > 0 {
			if err := w.Send(kind, id, chunk[:n]); err != nil {
				return err
			}
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return fmt.Errorf("read what is to be sent: %w", err)
		}
	}
}

// Reader reads frames, for one goroutine.
type Reader struct{ r *bufio.Reader }

// NewReader returns a Reader from r.
func NewReader(r io.Reader) *Reader { return &Reader{bufio.NewReaderSize(r, ChunkSize+headerSize)} }

// Next returns the next frame, whose payload is the caller's to keep. Between
// two frames the end is io.EOF; within one it is io.ErrUnexpectedEOF.
func (r *Reader) Next() (Frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r.r, header[:]); err != nil {
		return Frame{}, err
	}
	length := binary.LittleEndian.Uint32(header[:])
	if length > MaxPayload {
		return Frame{}, fmt.Errorf("read frame: length %d is more than %d", length, MaxPayload)
	}
	frame := Frame{
		Kind:    Kind(header[4]),
		ID:      binary.LittleEndian.Uint32(header[5:]),
		Payload: make([]byte, length),
	}
	if _, err := io.ReadFull(r.r, frame.Payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return frame, nil
}
