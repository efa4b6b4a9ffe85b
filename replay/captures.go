// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/weirnet/weir/pcap"
)

// Captures are files that are read one after the other, as one. Stdin is one of
// them; pipes are read as packets come.
type Captures struct {
	Paths []string
	// Idle is called when all that has come of a pipe has been told, before more is
	// waited for. May be nil.
	Idle func()
	// Filter passes over packets that it does not mean, as if they were not there,
	// but for their numbers. May be nil.
	Filter *pcap.Expression
	// Progress is told, now and then, how much has been read. May be nil.
	Progress func(Progress)
}

// Progress is how far the reading is.
type Progress struct {
	Packets     int
	Read, Total int64 // bytes of the files
}

// packet is a packet with its place.
type packet struct {
	pcap.Packet
	number  int // from 1, through all files
	capture string
	link    pcap.LinkType
	about   pcap.Interface
}

// heedEvery is after how many packets it is asked whether to go on.
const heedEvery = 1 << 6

// progressEvery is after how many packets progress is told.
const progressEvery = 1 << 14

// each calls a function with every packet, until it fails. What cannot be
// read of a file is an error, joined with the others', after the rest.
func (c *Captures) each(ctx context.Context, do func(*packet) error) error {
	total, err := c.total()
	if err != nil {
		return err
	}
	w := &walk{ctx: ctx, captures: c, do: do, progress: Progress{Total: total}}
	var damaged []error
	for _, path := range c.Paths {
		err := w.file(path)
		var damage *pcap.DamageError
		if errors.As(err, &damage) || errors.Is(err, pcap.ErrFormat) {
			if ctx.Err() != nil { // it has cut off what was read
				return context.Cause(ctx)
			}
			damaged = append(damaged, fmt.Errorf("%s: %w", called(path), err))
			continue
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(damaged...)
}

// total is how many bytes regular files have.
func (c *Captures) total() (int64, error) {
	var total int64
	for _, path := range c.Paths {
		info, err := statCapture(path)
		switch {
		case err != nil:
			return 0, fmt.Errorf("read capture: %w", err)
		case info.IsDir():
			return 0, fmt.Errorf("read capture: %s is a folder: name the files in it", path)
		case info.Mode().IsRegular():
			total += info.Size()
		}
	}
	return total, nil
}

// called is what people know a capture by.
func called(path string) string {
	if path == Stdin {
		return "standard input"
	}
	return path
}

// walk is one pass over captures.
type walk struct {
	ctx      context.Context
	captures *Captures
	do       func(*packet) error
	progress Progress
	at       packet
}

func (w *walk) file(path string) error {
	file, done, err := w.open(path)
	if err != nil {
		return fmt.Errorf("read capture: %w", err)
	}
	defer done()
	r, err := pcap.NewReader(io.TeeReader(file, (*counter)(&w.progress.Read)))
	if err != nil {
		return err
	}
	w.at.capture = called(path)
	for {
		switch err := r.Next(&w.at.Packet); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		w.at.number++
		w.at.about = r.Interface(w.at.Interface)
		w.at.link = w.at.about.Link
		if w.at.number%heedEvery == 0 && w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if w.at.number%progressEvery == 0 {
			w.progress.Packets = w.at.number
			if w.captures.Progress != nil {
				w.captures.Progress(w.progress)
			}
		}
		if meant, err := w.meant(); err != nil {
			return err
		} else if !meant {
			continue
		}
		if err := w.do(&w.at); err != nil {
			return err
		}
	}
}

// meant is whether the filter means the packet.
func (w *walk) meant() (bool, error) {
	if w.captures.Filter == nil {
		return true, nil
	}
	return w.captures.Filter.Match(w.ctx, w.at.link, w.at.Data, w.at.Length)
}

// open gives a file to read, and what to do afterwards.
func (w *walk) open(path string) (in io.Reader, done func(), err error) {
	info, err := statCapture(path)
	if err != nil {
		return nil, nil, err
	}
	if isStream(info) {
		return newStream(w.ctx, path, w.captures.Idle), func() {}, nil
	}
	file, err := openCapture(path)
	if err != nil {
		return nil, nil, err
	}
	return file, func() { file.Close() }, nil
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
