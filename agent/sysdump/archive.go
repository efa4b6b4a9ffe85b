// SPDX-License-Identifier: Apache-2.0

package sysdump

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// File is one of the zip.
type File struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	Cut   bool   `json:"cut,omitempty"` // there was no room for the rest
}

// Lack is what could not be had.
type Lack struct {
	What string `json:"what"` // the file that would have been
	Node string `json:"node,omitempty"`
	Why  string `json:"why"`
}

func (l Lack) String() string {
	if l.Node == "" {
		return l.What + ": " + l.Why
	}
	return fmt.Sprintf("node %s: %s: %s", l.Node, l.What, l.Why)
}

// archive is the zip while it is written: beside its place, so that there is no half
// one. Its methods may be called by several goroutines.
type archive struct {
	path  string
	began time.Time

	mu    sync.Mutex
	file  *os.File
	zip   *zip.Writer
	room  int64 // octets, of what is in the files
	files []File
	lacks []Lack
	err   error
}

func newArchive(path string, room int64) (*archive, error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".weir-sysdump-*")
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	return &archive{path: path, began: time.Now(), file: file, zip: zip.NewWriter(file), room: room}, nil
}

// add writes a file, or as much of it as there is room for.
func (a *archive) add(name string, data []byte, cut bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if int64(len(data)) > a.room {
		data, cut = data[:a.room], true
	}
	a.room -= int64(len(data))
	a.files = append(a.files, File{name, len(data), cut})
	a.write(name, data)
}

// write is called with mu held.
func (a *archive) write(name string, data []byte) {
	w, err := a.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: a.began})
	if err == nil {
		_, err = w.Write(data)
	}
	a.err = errors.Join(a.err, err)
}

func (a *archive) lack(node, what string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lacks = append(a.lacks, Lack{what, node, redactText(err.Error())})
}

// close adds what is told of the rest, and puts the zip in its place.
func (a *archive) close(index *Index) error {
	index.Files, index.Lacks = a.files, append([]Lack{}, a.lacks...)
	var text bytes.Buffer
	for _, l := range a.lacks {
		fmt.Fprintln(&text, l)
	}
	for _, f := range a.files {
		if f.Cut {
			fmt.Fprintf(&text, "%s: cut after %d bytes: raise --size-limit, or shorten --since\n", f.Name, f.Bytes)
		}
	}
	data, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	a.write("errors.txt", text.Bytes())
	a.write("index.json", append(data, '\n'))
	if err := errors.Join(a.err, a.zip.Close(), a.file.Chmod(0o600), a.file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", a.path, err)
	}
	if err := os.Rename(a.file.Name(), a.path); err != nil {
		return fmt.Errorf("write %s: %w", a.path, err)
	}
	return nil
}

// abandon leaves nothing.
func (a *archive) abandon() {
	a.file.Close()
	os.Remove(a.file.Name())
}

// bounded keeps what is written to it up to a size, and forgets the rest.
type bounded struct {
	kept bytes.Buffer // not embedded: its ReadFrom knows no bound
	room int
	cut  bool
}

func (b *bounded) Len() int       { return b.kept.Len() }
func (b *bounded) Bytes() []byte  { return b.kept.Bytes() }
func (b *bounded) String() string { return b.kept.String() }

var _ io.Writer = (*bounded)(nil)

func (b *bounded) Write(data []byte) (int, error) {
	if fits := b.room - b.Len(); len(data) > fits {
		b.cut = true
		b.kept.Write(data[:fits])
		return len(data), nil
	}
	return b.kept.Write(data)
}
