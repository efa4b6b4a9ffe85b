// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// incomingFile is one whose bytes are still on their way. After an error the
// rest is read and forgotten, and the error is the answer.
type incomingFile struct {
	wire.FileMessage
	f   *os.File
	err error
}

func (s *server) beginFile(f wire.Frame) error {
	file := &incomingFile{}
	if err := f.Decode(&file.FileMessage); err != nil {
		return err
	}
	file.err = file.create()
	s.files[f.ID] = file
	return nil
}

func (i *incomingFile) create() error {
	if err := os.MkdirAll(filepath.Dir(i.Path), 0o755); err != nil {
		return err
	}
	if i.Dir {
		if err := os.MkdirAll(i.Path, 0o755); err != nil {
			return err
		}
		return os.Chmod(i.Path, fs.FileMode(i.Mode))
	}
	if i.LinkTo != "" {
		err := os.Symlink(i.LinkTo, i.Path)
		if errors.Is(err, fs.ErrExist) {
			if there, readErr := os.Readlink(i.Path); readErr == nil && there == i.LinkTo {
				return nil
			}
		}
		return err
	}
	// A program that runs cannot be written to, but it can be replaced.
	if err := os.Remove(i.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var err error
	i.f, err = os.OpenFile(i.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	return err
}

// fileData belongs to a file or to a module.
func (s *server) fileData(f wire.Frame) {
	if m := s.modules[f.ID]; m != nil {
		m.image = append(m.image, f.Payload...)
		return
	}
	if file := s.files[f.ID]; file != nil && file.err == nil && file.f != nil {
		_, file.err = file.f.Write(f.Payload)
	}
}

func (s *server) endFile(f wire.Frame) {
	file := s.files[f.ID]
	delete(s.files, f.ID)
	if file == nil {
		s.done(f.ID, errors.New("file was never begun"))
		return
	}
	err := file.finish()
	if file.f != nil && err == nil {
		s.remember(file.Path)
	}
	s.done(f.ID, err)
}

func (i *incomingFile) finish() error {
	if i.f == nil {
		return i.err
	}
	if err := i.f.Chmod(fs.FileMode(i.Mode)); i.err == nil {
		i.err = err
	}
	if err := i.f.Close(); i.err == nil {
		i.err = err
	}
	if i.err == nil && i.Modified != 0 {
		when := time.Unix(0, i.Modified)
		i.err = os.Chtimes(i.Path, when, when)
	}
	return i.err
}

// origin is what a file was like when it came from the host.
type origin struct {
	size     int64
	modified int64
}

func originOf(info fs.FileInfo) origin { return origin{info.Size(), info.ModTime().UnixNano()} }

// remember notes a file that came, so that it is sent back only if it changed.
func (s *server) remember(path string) {
	info, err := os.Lstat(path)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.origins[path] = originOf(info)
}

func (s *server) unchanged(path string, info fs.FileInfo) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, came := s.origins[path]
	return came && before == originOf(info)
}

// collect sends files back, in the background.
func (s *server) collect(f wire.Frame) error {
	var m wire.CollectMessage
	if err := f.Decode(&m); err != nil {
		return err
	}
	go func() { s.done(f.ID, s.sendMatches(f.ID, m.Patterns)) }()
	return nil
}

func (s *server) sendMatches(id uint32, patterns []string) error {
	for _, pattern := range patterns {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("find %s: %w", pattern, err)
		}
		sort.Strings(matches)
		for _, match := range matches {
			if err := s.sendTree(id, match); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *server) sendTree(id uint32, root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went away meanwhile
		}
		if err != nil {
			return err
		}
		if path == root && info.Mode()&fs.ModeSymlink != 0 {
			if info, err = os.Stat(path); err != nil {
				return err
			}
		}
		if s.unchanged(path, info) {
			return nil
		}
		return s.sendFile(id, path, info)
	})
}

// sendFile sends regular files and directories; a socket or a device means
// nothing elsewhere.
func (s *server) sendFile(id uint32, path string, info fs.FileInfo) error {
	m := wire.FileMessage{Path: path, Mode: uint32(info.Mode().Perm()), Size: info.Size(), Modified: info.ModTime().UnixNano()}
	var content *os.File
	switch {
	case info.IsDir():
		m.Dir = true
	case info.Mode().IsRegular():
		var err error
		if content, err = os.Open(path); err != nil {
			return err
		}
		defer content.Close()
	default:
		return nil
	}
	if err := s.out.SendJSON(wire.FileBegin, id, m); err != nil {
		return err
	}
	if content != nil {
		if err := s.out.SendStream(wire.FileData, id, content); err != nil {
			return err
		}
	}
	return s.out.Send(wire.FileEnd, id, nil)
}
