// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/pcap"
)

// maxCaptured bounds how many frames of captures are kept: those at the
// beginnings of the files.
const maxCaptured = 20000

// ErrNoCapture is a directory in which no capture could be read.
var ErrNoCapture = errors.New("no frame of a capture")

// ReadCaptures reads the frames of all captures below a directory, in the
// order of their names. Files that are none, and what damaged ones have behind
// the damage, are left out.
func ReadCaptures(dir string) ([][]byte, error) {
	var frames [][]byte
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || len(frames) >= maxCaptured || !strings.Contains(d.Name(), ".pcap") && !strings.Contains(d.Name(), ".cap") {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		frames = append(frames, framesOf(f)...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read captures: %w", err)
	}
	if len(frames) == 0 {
		return nil, fmt.Errorf("read captures: %w is in %s: give a directory with files named *.pcap, *.pcapng or *.cap", ErrNoCapture, dir)
	}
	return frames[:min(len(frames), maxCaptured)], nil
}

func framesOf(file io.Reader) [][]byte {
	r, err := pcap.NewReader(file)
	if err != nil {
		return nil
	}
	var frames [][]byte
	var packet pcap.Packet
	for len(frames) < maxCaptured && r.Next(&packet) == nil {
		data, _, err := r.Interface(packet.Interface).Link.Frame(nil, packet.Data)
		if err == nil && len(data) >= 14 && len(data) <= datapath.MaxRunBytes {
			frames = append(frames, bytes.Clone(data))
		}
	}
	return frames
}
