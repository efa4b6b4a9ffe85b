// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// File is something that is put into a guest.
type File struct {
	// Path in the guest, absolute.
	Path string
	// Source is a file or a directory here, with everything in it. Symbolic
	// links below a directory stay links.
	Source string
	// Content is used when there is no Source.
	Content []byte
	// Mode is that of a file with Content. 0 means 0644. With fs.ModeDir only
	// a directory is made.
	Mode fs.FileMode
	// LinkTo makes a symbolic link, when there is neither.
	LinkTo string
}

// guestFile is one file, directory or link on its way into a guest.
type guestFile struct {
	wire.FileMessage
	source  string
	content []byte
}

func (f guestFile) open() (io.ReadCloser, error) {
	if f.source == "" {
		return io.NopCloser(bytes.NewReader(f.content)), nil
	}
	return os.Open(f.source)
}

// digest stands for the content.
func (f guestFile) digest() (string, error) {
	switch {
	case f.Dir || f.LinkTo != "":
		return "", nil
	case f.source == "":
		return digestBytes(f.content), nil
	}
	return digestFile(f.source)
}

// resolveFiles finds out what the files are here.
func resolveFiles(files []File) ([]guestFile, error) {
	var all []guestFile
	for _, f := range files {
		if !filepath.IsAbs(f.Path) {
			return nil, fmt.Errorf("put file into the guest: %q is not absolute", f.Path)
		}
		resolved, err := f.resolve()
		if err != nil {
			return nil, fmt.Errorf("put %s into the guest: %w", f.Path, err)
		}
		all = append(all, resolved...)
	}
	return all, nil
}

func (f File) resolve() ([]guestFile, error) {
	if f.Source == "" {
		mode := f.Mode.Perm()
		if mode == 0 {
			mode = 0o644
		}
		return []guestFile{{
			FileMessage: wire.FileMessage{Path: filepath.Clean(f.Path), Mode: uint32(mode), Size: int64(len(f.Content)), LinkTo: f.LinkTo, Dir: f.Mode.IsDir()},
			content:     f.Content,
		}}, nil
	}
	root, err := filepath.EvalSymlinks(f.Source)
	if err != nil {
		return nil, err
	}
	var all []guestFile
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		file, err := describeFile(path, filepath.Join(f.Path, below))
		if err == nil && file != nil {
			all = append(all, *file)
		}
		return err
	})
	return all, err
}

// describeFile returns nil for what means nothing in a guest, like a socket.
func describeFile(source, path string) (*guestFile, error) {
	info, err := os.Lstat(source)
	if err != nil {
		return nil, err
	}
	f := &guestFile{source: source, FileMessage: wire.FileMessage{
		Path: path, Mode: uint32(info.Mode().Perm()), Modified: info.ModTime().UnixNano(),
	}}
	switch {
	case info.Mode().IsRegular():
		f.Size = info.Size()
	case info.IsDir():
		f.Dir = true
	case info.Mode()&fs.ModeSymlink != 0:
		f.LinkTo, err = os.Readlink(source)
	default:
		return nil, nil
	}
	return f, err
}

// Put puts files into the guest. What it already has from here is not sent
// again.
func (m *Machine) Put(ctx context.Context, files ...File) error {
	resolved, err := resolveFiles(files)
	if err != nil {
		return err
	}
	return m.putFiles(ctx, resolved)
}

func (m *Machine) putFiles(ctx context.Context, files []guestFile) error {
	for _, f := range files {
		if err := m.putFile(ctx, f); err != nil {
			return fmt.Errorf("put %s into the guest: %w", f.Path, err)
		}
	}
	return nil
}

func (m *Machine) putFile(ctx context.Context, f guestFile) error {
	stamp := fmt.Sprint(f.source, f.Size, f.Modified)
	m.mu.Lock()
	known := m.sent[f.Path] == stamp
	m.mu.Unlock()
	if known && f.source != "" {
		return nil
	}
	err := m.request(ctx, func(id uint32) error {
		if err := m.out.SendJSON(wire.FileBegin, id, f.FileMessage); err != nil {
			return err
		}
		if !f.Dir && f.LinkTo == "" {
			content, err := f.open()
			if err != nil {
				return err
			}
			defer content.Close()
			if err := m.out.SendStream(wire.FileData, id, content); err != nil {
				return err
			}
		}
		return m.out.Send(wire.FileEnd, id, nil)
	}, nil)
	if err == nil {
		m.mu.Lock()
		m.sent[f.Path] = stamp
		m.mu.Unlock()
	}
	return err
}

// Fetch brings files back: those that match the patterns (as in
// path/filepath.Match), and everything below a directory that does. A file
// /a/b of the guest becomes DIR/a/b; with the directory "/" it gets the same
// path here. What came from here and was not changed does not come back.
func (m *Machine) Fetch(ctx context.Context, dir string, patterns ...string) (paths []string, err error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	incoming := &incoming{dir: dir, patterns: patterns}
	err = m.request(ctx, func(id uint32) error {
		return m.out.SendJSON(wire.Collect, id, wire.CollectMessage{Patterns: patterns})
	}, incoming.take)
	if incoming.file != nil {
		incoming.file.Close()
	}
	if err != nil {
		return incoming.paths, fmt.Errorf("bring files back: %w", err)
	}
	return incoming.paths, nil
}

// incoming writes what a guest sends. A guest is not trusted: it may only
// send what it was asked for.
type incoming struct {
	dir      string
	patterns []string
	paths    []string
	file     *os.File
	message  wire.FileMessage
}

func (i *incoming) take(f wire.Frame) error {
	switch f.Kind {
	case wire.FileBegin:
		i.message = wire.FileMessage{}
		if err := f.Decode(&i.message); err != nil {
			return err
		}
		return i.begin()
	case wire.FileData:
		if i.file == nil {
			return errors.New("the guest sent data of no file")
		}
		_, err := i.file.Write(f.Payload)
		return err
	case wire.FileEnd:
		if i.file == nil {
			return nil
		}
		err := i.file.Close()
		i.file = nil
		return err
	}
	return fmt.Errorf("the guest answered with a frame of kind %d", f.Kind)
}

func (i *incoming) begin() error {
	if !wasAskedFor(i.message.Path, i.patterns) {
		return fmt.Errorf("the guest sent %q, which it was not asked for", i.message.Path)
	}
	to := filepath.Join(i.dir, i.message.Path)
	if i.message.Dir {
		return os.MkdirAll(to, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	var err error
	i.file, err = os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, fs.FileMode(i.message.Mode).Perm())
	i.paths = append(i.paths, to)
	return err
}

func wasAskedFor(path string, patterns []string) bool {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return false
	}
	for ; path != "/"; path = filepath.Dir(path) {
		for _, p := range patterns {
			if ok, err := filepath.Match(p, path); err == nil && ok {
				return true
			}
		}
	}
	return false
}

// Read returns the content of one file of the guest.
func (m *Machine) Read(ctx context.Context, path string) ([]byte, error) {
	var content []byte
	found := false
	err := m.request(ctx, func(id uint32) error {
		return m.out.SendJSON(wire.Collect, id, wire.CollectMessage{Patterns: []string{Literal(path)}})
	}, func(f wire.Frame) error {
		found = true
		if f.Kind == wire.FileData {
			content = append(content, f.Payload...)
		}
		return nil
	})
	if err == nil && !found {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of the guest: %w", path, err)
	}
	return content, nil
}
