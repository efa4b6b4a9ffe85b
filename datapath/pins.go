// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ErrForeignPin is a pin in the datapath's directory that is not its own.
var ErrForeignPin = errors.New("not Weir's pin")

// ErrNoRoom is a pinned table that has more entries than the options give it room for.
// It is left as it is, and so are the programs.
var ErrNoRoom = errors.New("no room for what it holds")

// pinned is what lies pinned, by path: the inode that a pin is known by. A
// bpffs gives every pin one of its own.
type pinned map[string]uint64

func inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// note remembers a pin that was made or taken over just now.
func (p pinned) note(path string) error {
	ino, err := inode(path)
	if err != nil {
		return fmt.Errorf("look at pin: %w", err)
	}
	p[path] = ino
	return nil
}

// mend makes a pin again that is gone, as when somebody removed it or mounted
// another bpffs over it. ErrForeignPin if something else lies there.
func (p pinned) mend(path string, pin func(string) error) error {
	ino, err := inode(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("make directory of pin %s again: %w", path, err)
		}
		if err := pin(path); err != nil {
			return fmt.Errorf("pin %s again: %w", path, err)
		}
		return p.note(path)
	}
	if err != nil {
		return fmt.Errorf("look at pin: %w", err)
	}
	if ino != p[path] {
		return fmt.Errorf("pin %s was replaced: %w: move it away, and Weir makes its own again", path, ErrForeignPin)
	}
	return nil
}

// stamp is by what it shows that something was put into a directory, or taken away.
type stamp struct {
	dev, inode uint64
	modified   unix.Timespec
}

// stampTick is more than two changes of a directory may have the same time: that of
// the kernel's clock tick.
const stampTick = 50 * time.Millisecond

// stampsOf gives the stamps of the directories of pins; nil where one is not there,
// or has changed just now, and may change again without showing it.
func (d *Datapath) stampsOf(dirs ...string) []stamp {
	var stamps []stamp
	for _, dir := range dirs {
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil || time.Since(time.Unix(st.Mtim.Unix())) < stampTick {
			return nil
		}
		stamps = append(stamps, stamp{uint64(st.Dev), st.Ino, st.Mtim})
	}
	return stamps
}

// mendPins makes the pins of tables and links again that are gone. Where their
// directories are as they were when it looked last, none is.
func (d *Datapath) mendPins() error {
	if d.opts.PinPath == "" {
		return nil
	}
	stamps := d.stampsOf(d.opts.PinPath, d.attached.linkDir)
	if stamps != nil && slices.Equal(stamps, d.stamps) {
		return nil
	}
	d.stamps = nil
	if err := d.mendEachPin(); err != nil {
		return err
	}
	d.stamps = stamps
	return nil
}

func (d *Datapath) mendEachPin() error {
	for _, name := range sharedMaps {
		if err := d.mendTable(name); err != nil {
			return err
		}
	}
	if err := d.pinnedLabels.mend(filepath.Join(d.opts.PinPath, labelsPin)); err != nil {
		return err
	}
	links, _ := d.attached.attachedNow()
	for at, l := range links {
		if err := d.attached.mend(at, l); err != nil {
			return err
		}
	}
	return nil
}

func (d *Datapath) mendTable(name string) error {
	d.attached.mu.Lock()
	defer d.attached.mu.Unlock()
	return d.pins.mend(filepath.Join(d.opts.PinPath, name), func(path string) error { return pinAgain(d.maps[name], path) })
}

func (a *attachments) mend(at attachPoint, l link.Link) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pins.mend(a.pin(at), func(path string) error { return pinAgain(l, path) })
}

// pinner is a map or a link.
type pinner interface{ Pin(path string) error }

// pinAgain pins what believes that it is pinned still: under another name,
// and then under its own.
func pinAgain(object pinner, path string) error {
	if err := object.Pin(path + "-again"); err != nil {
		return err
	}
	return object.Pin(path)
}
