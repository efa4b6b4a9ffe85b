// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
)

// attachments are the programs on the endpoints' devices: by tcx links, or by
// clsact filters on kernels before 6.6. A device that is no endpoint's any
// more keeps its programs, which drop, until it is gone.
type attachments struct {
	programs map[ebpf.AttachType]*ebpf.Program
	pins     pinned
	step     func(string)
	linkDir  string // where links are pinned, or ""
	tcx      bool
	keep     bool // clsact filters outlive close
	links    map[attachPoint]link.Link
	filters  map[uint32]bool // devices with clsact filters, by ifindex
}

type attachPoint struct {
	ifindex uint32
	attach  ebpf.AttachType
}

// What clsact filters of ours are known by.
const (
	filterPriority = 1
	filterHandle   = 0x57
)

func openAttachments(opts *Options, programs map[string]*ebpf.Program, pins pinned) (*attachments, error) {
	a := &attachments{
		programs: byAttachType(programs),
		pins:     pins,
		step:     opts.Step,
		keep:     opts.PinPath != "",
		links:    map[attachPoint]link.Link{},
		filters:  map[uint32]bool{},
	}
	if !opts.Attach {
		return a, nil
	}
	tcx, err := haveTCX()
	if err != nil {
		return nil, err
	}
	a.tcx = tcx && !opts.ForceClsact && !slices.Contains(opts.Without, FeatureTCX)
	if a.keep {
		a.linkDir = filepath.Join(opts.PinPath, "links")
		if err := os.MkdirAll(a.linkDir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory for links: %w", err)
		}
	}
	if a.tcx {
		return a, a.takeOver()
	}
	return a, a.takeOverFilters()
}

func byAttachType(programs map[string]*ebpf.Program) map[ebpf.AttachType]*ebpf.Program {
	return map[ebpf.AttachType]*ebpf.Program{
		ebpf.AttachTCXIngress: programs[bpf.ContainerProgFromContainer],
		ebpf.AttachTCXEgress:  programs[bpf.ContainerProgToContainer],
	}
}

// replace puts other programs in the place of those that are attached.
func (a *attachments) replace(programs map[string]*ebpf.Program) error {
	a.programs = byAttachType(programs)
	for at, l := range a.links {
		if err := l.Update(a.programs[at.attach]); err != nil && !errors.Is(err, unix.ENOLINK) {
			return fmt.Errorf("replace the program of ifindex %d: %w", at.ifindex, err)
		}
	}
	for ifindex := range a.filters {
		if err := a.replaceFilters(ifindex); err != nil {
			return fmt.Errorf("replace the filters of ifindex %d: %w", ifindex, err)
		}
	}
	return nil
}

// Attachment is how programs are attached.
func (d *Datapath) Attachment() string {
	switch {
	case !d.opts.Attach:
		return "none"
	case d.attached.tcx:
		return "tcx"
	}
	return "clsact"
}

// takeOver replaces the programs of pinned links: each by one atomic update.
func (a *attachments) takeOver() error {
	if a.linkDir == "" {
		return nil
	}
	entries, err := os.ReadDir(a.linkDir)
	if err != nil {
		return fmt.Errorf("read pinned links: %w", err)
	}
	for _, entry := range entries {
		var at attachPoint
		if _, err := fmt.Sscanf(entry.Name(), linkName, &at.attach, &at.ifindex); err != nil || a.programs[at.attach] == nil {
			return fmt.Errorf("take over %s: %w: remove it", filepath.Join(a.linkDir, entry.Name()), ErrForeignPin)
		}
		l, err := link.LoadPinnedLink(filepath.Join(a.linkDir, entry.Name()), nil)
		if err != nil {
			return fmt.Errorf("open pinned link %s: %w", entry.Name(), err)
		}
		a.links[at] = l
		if err := a.pins.note(a.pin(at)); err != nil {
			return err
		}
		a.step("replace the program of link " + entry.Name())
		if err := l.Update(a.programs[at.attach]); err != nil && !errors.Is(err, unix.ENOLINK) {
			return fmt.Errorf("replace the program of link %s: %w", entry.Name(), err)
		}
	}
	return a.sweep()
}

const linkName = "%d-%d"

func (a *attachments) attach(devices map[uint32]string) error {
	for ifindex, name := range devices {
		if err := a.attachDevice(ifindex); err != nil {
			return fmt.Errorf("attach to device %s (ifindex %d): %w", name, ifindex, err)
		}
	}
	return nil
}

func (a *attachments) attachDevice(ifindex uint32) error {
	if !a.tcx {
		return a.attachFilters(ifindex)
	}
	for attach, prog := range a.programs {
		at := attachPoint{ifindex, attach}
		if a.links[at] != nil {
			continue
		}
		a.step(fmt.Sprintf("attach "+linkName, at.attach, at.ifindex))
		l, err := link.AttachTCX(link.TCXOptions{Interface: int(ifindex), Program: prog, Attach: attach})
		if err != nil {
			return err
		}
		if a.linkDir != "" {
			a.step(fmt.Sprintf("pin link "+linkName, at.attach, at.ifindex))
			if err := l.Pin(a.pin(at)); err != nil {
				return errors.Join(err, l.Close())
			}
			if err := a.pins.note(a.pin(at)); err != nil {
				return errors.Join(err, l.Close())
			}
		}
		a.links[at] = l
	}
	return nil
}

func (a *attachments) pin(at attachPoint) string {
	return filepath.Join(a.linkDir, fmt.Sprintf(linkName, at.attach, at.ifindex))
}

// sweep forgets the links and filters whose devices are gone.
func (a *attachments) sweep() error {
	for at, l := range a.links {
		info, err := l.Info()
		if err != nil {
			return fmt.Errorf("look at link of ifindex %d: %w", at.ifindex, err)
		}
		if tcx := info.TCX(); tcx != nil && tcx.Ifindex != 0 {
			continue
		}
		if err := a.drop(at); err != nil {
			return err
		}
	}
	for ifindex := range a.filters {
		var gone netlink.LinkNotFoundError
		if _, err := netlink.LinkByIndex(int(ifindex)); errors.As(err, &gone) {
			delete(a.filters, ifindex)
		}
	}
	return nil
}

func (a *attachments) drop(at attachPoint) error {
	l := a.links[at]
	delete(a.links, at)
	var err error
	if a.linkDir != "" {
		delete(a.pins, a.pin(at))
		err = l.Unpin()
	}
	return errors.Join(err, l.Close())
}

// remove detaches everything.
func (a *attachments) remove() error {
	var errs []error
	for at := range a.links {
		errs = append(errs, a.drop(at))
	}
	errs = append(errs, a.removeFilters())
	if a.linkDir != "" {
		errs = append(errs, os.Remove(a.linkDir))
	}
	return errors.Join(errs...)
}

// close lets go of what is pinned, and detaches what is not.
func (a *attachments) close() error {
	var errs []error
	for _, l := range a.links {
		errs = append(errs, l.Close())
	}
	clear(a.links)
	if !a.keep {
		errs = append(errs, a.removeFilters())
	}
	return errors.Join(errs...)
}
