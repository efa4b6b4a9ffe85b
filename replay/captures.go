// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/weirnet/weir/pcap"
)

// Captures are files that are read one after the other, as one.
type Captures struct {
	Paths []string
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
	var total int64
	for _, path := range c.Paths {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("read capture: %w", err)
		}
		if info.IsDir() {
			return fmt.Errorf("read capture: %s is a folder: name the files in it", path)
		}
		total += info.Size()
	}
	w := &walk{ctx: ctx, captures: c, do: do, progress: Progress{Total: total}}
	var damaged []error
	for _, path := range c.Paths {
		err := w.file(path)
		var damage *pcap.DamageError
		if errors.As(err, &damage) || errors.Is(err, pcap.ErrFormat) {
			damaged = append(damaged, fmt.Errorf("%s: %w", path, err))
			continue
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(damaged...)
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
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read capture: %w", err)
	}
	defer file.Close()
	r, err := pcap.NewReader(io.TeeReader(file, (*counter)(&w.progress.Read)))
	if err != nil {
		return err
	}
	w.at.capture = path
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
		if err := w.do(&w.at); err != nil {
			return err
		}
	}
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
