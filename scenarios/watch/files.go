// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weirnet/weir/scenarios/syntax"
)

// settle is how long nothing may have happened to the files before they are looked at:
// an editor writes a file beside, renames it over the other, and sets its times.
const settle = 50 * time.Millisecond

// Files are the files that are watched: those of scenarios, and the source of the
// programs. All methods but Changed are for one goroutine.
type Files struct {
	paths   []string // files and folders of scenarios
	source  string   // bpf/ of a source tree; empty: there is none
	watcher *fsnotify.Watcher
	changed chan struct{}
}

// Snapshot is what the files said at one time.
type Snapshot struct {
	Scenarios map[string]string // by path
	Source    Source            // nil: without a source tree
}

// Open begins to watch files and folders of scenarios, which need to be there, and the
// folder bpf/ of a source tree, if it is not empty. See Look.
func Open(paths []string, source string) (*Files, error) {
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("read scenario: %w", err)
		}
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w%s", err, remedy(err))
	}
	f := &Files{paths, source, watcher, make(chan struct{}, 1)}
	go f.listen()
	return f, nil
}

// remedy says which of the kernel's limits of watches is to be raised.
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.EMFILE):
		return ": raise the sysctl fs.inotify.max_user_instances"
	case errors.Is(err, syscall.ENOSPC):
		return ": raise the sysctl fs.inotify.max_user_watches"
	}
	return ""
}

// Changed tells, once, that files may have changed since Look was last called, when
// nothing happens to them any more.
func (f *Files) Changed() <-chan struct{} { return f.changed }

// Close ends the watch.
func (f *Files) Close() error {
	if err := f.watcher.Close(); err != nil {
		return fmt.Errorf("end the watch of files: %w", err)
	}
	return nil
}

// listen waits for events, and then for their end.
func (f *Files) listen() {
	quiet := time.NewTimer(settle)
	quiet.Stop()
	for {
		select {
		case event, open := <-f.watcher.Events:
			if !open {
				return
			}
			if concerns(event) {
				quiet.Reset(settle)
			}
		case _, open := <-f.watcher.Errors: // events were lost: Look finds out which
			if !open {
				return
			}
			quiet.Reset(settle)
		case <-quiet.C:
			select {
			case f.changed <- struct{}{}:
			default: // it was told before
			}
		}
	}
}

// concerns says whether an event may be of a file that is watched, or of a folder.
func concerns(event fsnotify.Event) bool {
	if event.Op == fsnotify.Chmod || isHidden(event.Name) {
		return false
	}
	return isScenario(event.Name) || isSource(event.Name) || filepath.Ext(event.Name) == "" && !event.Has(fsnotify.Write)
}

// isHidden is of files that editors keep beside those that they edit.
func isHidden(name string) bool { return strings.HasPrefix(filepath.Base(name), ".") }

func isScenario(name string) bool { return strings.HasSuffix(name, syntax.Suffix) && !isHidden(name) }

func isSource(name string) bool {
	return (strings.HasSuffix(name, ".c") || strings.HasSuffix(name, ".h")) && !isHidden(name)
}

// Look reads the files. Folders that are new are watched from now on: what comes into
// them while they are read is told by Changed.
func (f *Files) Look() (*Snapshot, error) {
	s := &Snapshot{Scenarios: map[string]string{}}
	for _, path := range f.paths {
		if err := f.scenarios(path, s.Scenarios); err != nil {
			return nil, err
		}
	}
	if f.source == "" {
		return s, nil
	}
	found := map[string]string{}
	if err := f.walk(f.source, isSource, found); err != nil {
		return nil, err
	}
	s.Source = Source{}
	for path, text := range found {
		name, err := filepath.Rel(f.source, path)
		if err != nil {
			return nil, fmt.Errorf("read the source: %w", err)
		}
		s.Source[filepath.ToSlash(name)] = text
	}
	return s, nil
}

// scenarios reads a file, or those below a folder. Its own folder is watched too: it may
// go, and come again.
func (f *Files) scenarios(path string, found map[string]string) error {
	if err := f.watch(filepath.Dir(path)); err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("read scenario: %w", err)
	case info.IsDir():
		return f.walk(path, isScenario, found)
	}
	return read(path, found)
}

// walk watches a folder and those below, and reads the files that are wanted.
func (f *Files) walk(root string, wanted func(string) bool, found map[string]string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it has just gone
			return nil
		case err != nil:
			return fmt.Errorf("look through %s: %w", root, err)
		case entry.IsDir():
			return f.watch(path)
		case wanted(path):
			return read(path, found)
		}
		return nil
	})
}

// watch watches a folder, before what is in it is read.
func (f *Files) watch(folder string) error {
	err := f.watcher.Add(folder)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("watch folder %s: %w%s", folder, err, remedy(err))
}

// read reads a file, as far as a scenario may go and an octet more, which its parser
// tells.
func read(path string, found map[string]string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, syntax.MostBytes+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	found[path] = string(text)
	return nil
}
