// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attachments are the programs on the endpoints' devices and on the uplinks: by
// tcx links, or by clsact filters on kernels before 6.6. A device that is no
// endpoint's any more keeps its programs, which drop, until it is gone. One
// that is no uplink any more loses them: there they let pass what they do not
// know, and are not to translate.
type attachments struct {
	programs *programs
	pins     pinned
	step     func(string)
	linkDir  string // where links are pinned, or ""
	tcx      bool
	keep     bool // clsact filters outlive close
	links    map[attachPoint]link.Link
	filters  map[uint32]role // of devices with clsact filters, by ifindex
}

// role is what a device is to the datapath. Links and filters of a role carry
// its name.
type role string

const (
	rolePod    role = ""
	roleUplink role = "uplink"
)

type attachPoint struct {
	role    role
	ifindex uint32
	attach  ebpf.AttachType
}

// What clsact filters of ours are known by, beside their name.
const (
	filterPriority = 1
	filterHandle   = 0x57
)

func openAttachments(opts *Options, loaded *programs, pins pinned) (*attachments, error) {
	a := &attachments{
		programs: loaded,
		pins:     pins,
		step:     opts.Step,
		keep:     opts.PinPath != "",
		links:    map[attachPoint]link.Link{},
		filters:  map[uint32]role{},
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

// replace puts other programs in the place of those that are attached.
func (a *attachments) replace(others *programs) error {
	a.programs = others
	for at, l := range a.links {
		if err := a.update(at, l); err != nil {
			return fmt.Errorf("replace the program of ifindex %d: %w", at.ifindex, err)
		}
	}
	for ifindex, role := range a.filters {
		if err := a.replaceFilters(ifindex, role); err != nil {
			return fmt.Errorf("replace the filters of ifindex %d: %w", ifindex, err)
		}
	}
	return nil
}

// update puts the program of a hook into a link. One whose device is gone stays
// as it is.
func (a *attachments) update(at attachPoint, l link.Link) error {
	prog, err := a.programs.at(at)
	if err != nil {
		return err
	}
	if err := l.Update(prog); err != nil && !errors.Is(err, unix.ENOLINK) {
		return err
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
		at, ok := pointOfLink(entry.Name())
		if !ok || attachedTo[at.role][at.attach] == "" {
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
		if err := a.update(at, l); err != nil {
			return fmt.Errorf("replace the program of link %s: %w", entry.Name(), err)
		}
	}
	return a.sweep()
}

// A pinned link is named by its attach type and its device, with the role in
// front of those of uplinks.
const linkName = "%d-%d"

func (at attachPoint) link() string {
	name := fmt.Sprintf(linkName, at.attach, at.ifindex)
	if at.role != rolePod {
		name = string(at.role) + "-" + name
	}
	return name
}

func pointOfLink(name string) (at attachPoint, ok bool) {
	if rest, found := strings.CutPrefix(name, string(roleUplink)+"-"); found {
		at.role, name = roleUplink, rest
	}
	_, err := fmt.Sscanf(name, linkName, &at.attach, &at.ifindex)
	return at, err == nil
}

func (a *attachments) attach(devices, uplinks map[uint32]string) error {
	for role, devices := range map[role]map[uint32]string{rolePod: devices, roleUplink: uplinks} {
		for ifindex, name := range devices {
			if err := a.attachDevice(ifindex, role); err != nil {
				return fmt.Errorf("attach to device %s (ifindex %d): %w", name, ifindex, err)
			}
		}
	}
	return nil
}

func (a *attachments) attachDevice(ifindex uint32, role role) error {
	if !a.tcx {
		return a.attachFilters(ifindex, role)
	}
	for attach := range attachedTo[role] {
		at := attachPoint{role, ifindex, attach}
		if a.links[at] != nil {
			continue
		}
		prog, err := a.programs.at(at)
		if err != nil {
			return err
		}
		a.step("attach " + at.link())
		l, err := link.AttachTCX(link.TCXOptions{Interface: int(ifindex), Program: prog, Attach: attach})
		if err != nil {
			return err
		}
		if a.linkDir != "" {
			a.step("pin link " + at.link())
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
	return filepath.Join(a.linkDir, at.link())
}

// release detaches from devices that are no uplinks any more, and pods'
// programs from those that have become uplinks.
func (a *attachments) release(uplinks map[uint32]string) error {
	for at, l := range a.links {
		if _, uplink := uplinks[at.ifindex]; uplink == (at.role == roleUplink) {
			continue
		}
		a.step("detach " + at.link())
		if err := errors.Join(l.Detach(), a.drop(at)); err != nil {
			return fmt.Errorf("detach from ifindex %d: %w: all else of the state is in force", at.ifindex, err)
		}
	}
	for ifindex, role := range a.filters {
		if _, uplink := uplinks[ifindex]; uplink || role != roleUplink {
			continue
		}
		if err := a.removeFilter(ifindex); err != nil {
			return err
		}
	}
	return nil
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
