// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attachments are the programs on the endpoints' devices and on the uplinks: by
// tcx links, or by clsact filters on kernels before 6.6; and those on a cgroup's
// sockets. A device that is no
// endpoint's any more keeps its programs, which drop, until it is gone. One
// that is no uplink any more loses them: there they let pass what they do not
// know, and are not to translate.
type attachments struct {
	step    func(string)
	linkDir string // where links are pinned, or ""
	tcx     bool   // devices get links
	mayTCX  bool   // the kernel and the options allow it
	keep    bool   // clsact filters outlive close
	cgroup  cgroup // who applies a state looks it up anew
	swept   time.Time
	// whole is whether what the state in force asks for is attached, and nothing else,
	// until it asks for something else. Who applies a state alone knows.
	whole bool

	// mu guards what is attached, and the pins. It is held while one device, or the
	// sockets, get their programs: who connects a pod waits for no other's.
	mu       sync.Mutex
	programs *programs
	pins     pinned
	links    map[attachPoint]link.Link
	filters  map[uint32]role // of devices with clsact filters, by ifindex
}

// role is what a device or a cgroup is to the datapath. Links and filters of a
// role carry its name.
type role string

const (
	rolePod    role = ""
	roleUplink role = "uplink"
	roleSocket role = "socket"
)

type attachPoint struct {
	role   role
	target uint64 // ifindex of the device, or number of the cgroup
	attach ebpf.AttachType
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
	if opts.Cgroup != "" {
		var err error
		if a.cgroup, err = cgroupAt(opts.Cgroup); err != nil {
			return nil, err
		}
	}
	tcx, err := haveTCX()
	if err != nil {
		return nil, err
	}
	a.mayTCX = tcx && !opts.ForceClsact && !slices.Contains(opts.Without, FeatureTCX)
	a.tcx = a.mayTCX
	if a.keep {
		a.linkDir = filepath.Join(opts.PinPath, "links")
		if err := os.MkdirAll(a.linkDir, 0o700); err != nil {
			return nil, fmt.Errorf("make directory for links: %w", err)
		}
	}
	if err := a.takeOver(); err != nil || a.tcx {
		return a, err
	}
	return a, a.takeOverFilters()
}

// replace puts other programs in the place of those that are attached.
func (a *attachments) replace(others *programs) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.programs = others
	for at, l := range a.links {
		if err := a.update(at, l); err != nil {
			return fmt.Errorf("replace the program of %s: %w", at, err)
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
// as it is, and so does one of a cgroup that is to be left.
func (a *attachments) update(at attachPoint, l link.Link) error {
	if at.role == roleSocket && at.target != a.cgroup.id {
		return nil
	}
	prog, err := a.programs.at(at)
	if err != nil {
		return err
	}
	if err := l.Update(prog); err != nil && !errors.Is(err, unix.ENOLINK) {
		return err
	}
	return nil
}

// ErrAttached is a datapath whose programs are attached to devices.
var ErrAttached = errors.New("programs are attached to devices")

// ByClsact has devices attached by clsact from now on, or again as the kernel and the
// options have it. It is for a datapath that is attached to no device: ErrAttached.
func (d *Datapath) ByClsact(clsact bool) error {
	a := d.attached
	a.mu.Lock()
	defer a.mu.Unlock()
	onDevice := func(at attachPoint) bool { return at.role != roleSocket }
	if len(a.filters) > 0 || slices.ContainsFunc(slices.Collect(maps.Keys(a.links)), onDevice) {
		return fmt.Errorf("choose how to attach: %w: reset the datapath", ErrAttached)
	}
	a.tcx = a.mayTCX && !clsact
	return nil
}

// LeadSockets has the sockets of the options' cgroup led from now on, or no sockets. It
// is for a datapath that is attached to nothing: ErrAttached.
func (d *Datapath) LeadSockets(lead bool) (err error) {
	a := d.attached
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.filters) > 0 || len(a.links) > 0 {
		return fmt.Errorf("choose whether to lead sockets: %w: reset the datapath", ErrAttached)
	}
	a.cgroup = cgroup{}
	if lead && d.opts.Cgroup != "" {
		a.cgroup, err = cgroupAt(d.opts.Cgroup)
	}
	return err
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
		if at.role != roleSocket && !a.tcx {
			continue
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

// A pinned link is named by its attach type and its device or cgroup, with the
// role in front of those that are no pods'.
const linkName = "%d-%d"

func (at attachPoint) link() string {
	name := fmt.Sprintf(linkName, at.attach, at.target)
	if at.role != rolePod {
		name = string(at.role) + "-" + name
	}
	return name
}

func pointOfLink(name string) (at attachPoint, ok bool) {
	for _, role := range []role{roleUplink, roleSocket} {
		if rest, found := strings.CutPrefix(name, string(role)+"-"); found {
			at.role, name = role, rest
		}
	}
	_, err := fmt.Sscanf(name, linkName, &at.attach, &at.target)
	return at, err == nil
}

// String names the device or the cgroup, for people.
func (at attachPoint) String() string {
	if at.role == roleSocket {
		return fmt.Sprintf("cgroup with number %d", at.target)
	}
	return fmt.Sprintf("ifindex %d", at.target)
}

func (a *attachments) attach(devices, uplinks map[uint32]string) error {
	for role, devices := range map[role]map[uint32]string{rolePod: devices, roleUplink: uplinks} {
		for ifindex, name := range devices {
			if err := a.attachDevice(ifindex, role); err != nil {
				return fmt.Errorf("attach to device %s (ifindex %d): %w", name, ifindex, err)
			}
		}
	}
	return a.attachSockets()
}

func (a *attachments) attachDevice(ifindex uint32, role role) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.tcx {
		return a.attachFilters(ifindex, role)
	}
	for attach := range attachedTo[role] {
		err := a.link(attachPoint{role, uint64(ifindex), attach}, func(prog *ebpf.Program) (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Interface: int(ifindex), Program: prog, Attach: attach})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// link attaches the program of a point, and pins its link, where that is not yet
// done.
func (a *attachments) link(at attachPoint, attach func(*ebpf.Program) (link.Link, error)) error {
	if a.links[at] != nil {
		return nil
	}
	prog, err := a.programs.at(at)
	if err != nil {
		return err
	}
	a.step("attach " + at.link())
	l, err := attach(prog)
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
	return nil
}

func (a *attachments) pin(at attachPoint) string {
	return filepath.Join(a.linkDir, at.link())
}

// isWhole is whether nothing is to be attached or detached for a state that asks for
// what the one before has.
func (a *attachments) isWhole() bool {
	if !a.whole || a.cgroup.path == "" {
		return a.whole
	}
	now, err := a.cgroup.again()
	return err == nil && now == a.cgroup
}

// release detaches from devices that are no uplinks any more, pods' programs
// from those that have become uplinks, and sockets' from other cgroups than the
// one that is asked for.
func (a *attachments) release(uplinks map[uint32]string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for at, l := range a.links {
		if a.wanted(at, uplinks) {
			continue
		}
		a.step("detach " + at.link())
		if err := errors.Join(l.Detach(), a.drop(at)); err != nil {
			return fmt.Errorf("detach from %s: %w: all else of the state is in force", at, err)
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
	a.whole = true
	return nil
}

func (a *attachments) wanted(at attachPoint, uplinks map[uint32]string) bool {
	if at.role == roleSocket {
		return at.target == a.cgroup.id
	}
	_, uplink := uplinks[uint32(at.target)]
	return uplink == (at.role == roleUplink)
}

// count is how many programs, or pairs of filters, are attached.
func (a *attachments) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.links) + len(a.filters)
}

// has says whether a device has programs of a pod.
func (a *attachments) has(ifindex uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for attach := range attachedTo[rolePod] {
		if a.links[attachPoint{rolePod, uint64(ifindex), attach}] != nil {
			return true
		}
	}
	role, ok := a.filters[ifindex]
	return ok && role == rolePod
}

// sweepInterval is how long a sweep is good for: it costs as much as is attached.
const sweepInterval = 200 * time.Millisecond

// sweep forgets the links and filters whose devices or cgroups are gone. It asks the
// kernel without a lock: who applies a state alone forgets any.
func (a *attachments) sweep() error {
	if time.Since(a.swept) < sweepInterval {
		return nil
	}
	a.swept = time.Now()
	links, filters := a.attachedNow()
	for at, l := range links {
		info, err := l.Info()
		if err != nil {
			return fmt.Errorf("look at link of %s: %w", at, err)
		}
		if tcx := info.TCX(); tcx != nil && tcx.Ifindex != 0 {
			continue
		}
		if cgroup := info.Cgroup(); cgroup != nil && cgroup.CgroupId != 0 {
			continue
		}
		a.mu.Lock()
		err = a.drop(at)
		a.mu.Unlock()
		if err != nil {
			return err
		}
	}
	for ifindex := range filters {
		var gone netlink.LinkNotFoundError
		if _, err := netlink.LinkByIndex(int(ifindex)); errors.As(err, &gone) {
			a.mu.Lock()
			a.whole = false
			delete(a.filters, ifindex)
			a.mu.Unlock()
		}
	}
	return nil
}

func (a *attachments) attachedNow() (map[attachPoint]link.Link, map[uint32]role) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.links), maps.Clone(a.filters)
}

func (a *attachments) drop(at attachPoint) error {
	a.whole = false
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
	a.mu.Lock()
	defer a.mu.Unlock()
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
	a.mu.Lock()
	defer a.mu.Unlock()
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
