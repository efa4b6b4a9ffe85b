// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weirnet/weir/vmtest/internal/wire"
)

// A snapshot is a guest that waits for its first word, in two files: its
// memory, which a restored guest maps privately, and the rest of its state. It
// is keyed by everything that made it, so that it never has to be invalidated:
// another machine has another key.

// Files of a snapshot.
const (
	memoryFile = "memory"
	stateFile  = "state"
	factsFile  = "facts.json"
)

// facts are what was learned when a snapshot was made.
type facts struct {
	Slowdown float64
	Seconds  float64 // the boot took
}

// Plan is all that it takes to start machines of one kind, see Prepare. It does
// not change.
type Plan struct {
	qemu     string // path
	kernel   *Kernel
	options  Options
	hardware hardware
	init     string // path
	key      string
	files    []guestFile
}

func newPlan(ctx context.Context, path string, k *Kernel, o Options) (*Plan, error) {
	if o.Service != nil {
		o.Files = slices.Concat(o.Files, o.Service.Files)
	}
	p := &Plan{qemu: path, kernel: k, options: o}
	p.hardware = hardware{
		accel: o.Accelerator, memory: o.Memory, cpus: o.CPUs,
		disks: o.Disks, networks: o.Networks, append: o.Append,
	}
	var initDigest string
	var err error
	if p.init, initDigest, err = initProgram(ctx, orSilent(o.Progress)); err != nil {
		return nil, err
	}
	if p.files, err = resolveFiles(o.Files); err != nil {
		return nil, err
	}
	identity, err := qemuIdentity(path)
	if err != nil {
		return nil, err
	}
	h := p.hardware
	shape := boot{kernel: "K", initramfs: "I", memoryFile: "M", socket: "S", nullDevices: true}
	parts := []any{identity, k.digest, initDigest, h.arguments(shape), o.Modules, o.Service.startMessage(), snapshotForm}
	for _, f := range p.files {
		digest, err := f.digest()
		if err != nil {
			return nil, err
		}
		parts = append(parts, f.FileMessage, digest)
	}
	data, err := json.Marshal(parts)
	if err != nil {
		return nil, err
	}
	p.key = digestBytes(data)[:24]
	return p, nil
}

// snapshotForm changes when the way of making snapshots does.
const snapshotForm = 2

// qemuIdentity changes when QEMU is replaced; asking it for its version would
// cost more than restoring a guest.
func qemuIdentity(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("look at QEMU: %w", err)
	}
	return fmt.Sprint(path, info.Size(), info.ModTime().UnixNano()), nil
}

func (p *Plan) dir() (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "snapshots", p.key), nil
}

// restore starts a machine from its snapshot.
func (p *Plan) restore(ctx context.Context) (*Machine, error) {
	dir, err := p.dir()
	if err != nil {
		return nil, err
	}
	lock := "snapshot-" + p.key
	for try := 0; ; try++ {
		unlock, err := flockCache(ctx, lock, syscall.LOCK_SH)
		if err != nil {
			return nil, err
		}
		m, err := p.wake(ctx, dir)
		unlock()
		switch {
		case err == nil || ctx.Err() != nil:
			return m, err
		case try == 2 && p.options.Accelerator == KVM:
			// A processor whose state cannot be carried over still boots.
			return p.bootCold(ctx)
		case try == 2:
			return nil, err
		}
		if try > 0 {
			orSilent(p.options.Progress).Step(fmt.Sprintf("%s: %v; making the snapshot again", p.kernel.ID, err))
		}
		if err := p.make(ctx, dir, lock, try > 0); err != nil {
			return nil, err
		}
	}
}

// make makes the snapshot, unless another process has just done so.
func (p *Plan) make(ctx context.Context, dir, lock string, again bool) error {
	unlock, err := lockCache(ctx, lock)
	if err != nil {
		return err
	}
	defer unlock()
	if m, _, err := readManifest(dir); err == nil && m.check(dir, false) == nil && !again {
		return nil
	}
	removeLeftovers(filepath.Dir(dir))
	expireSnapshots(ctx, filepath.Dir(dir))
	if err := checkSpace(filepath.Dir(dir), snapshotSpace); err != nil {
		return fmt.Errorf("make a snapshot of %s: %w", p.kernel.ID, err)
	}
	orSilent(p.options.Progress).Step(p.kernel.ID + ": boot, to make a snapshot")
	if err := makeEntry(dir, func(tmp string) error { return p.freeze(ctx, tmp) }); err != nil {
		return fmt.Errorf("make a snapshot of %s: %w", p.kernel.ID, err)
	}
	if learned, err := readFacts(dir); err == nil {
		orSilent(p.options.Progress).Step(fmt.Sprintf("%s: booted in %.1f s, %.1f times slower than this machine; the snapshot is kept",
			p.kernel.ID, learned.Seconds, learned.Slowdown))
	}
	return nil
}

// snapshotSpace is what a snapshot may need, in bytes. A full disk would not be
// an error for the guest's memory, but the end of QEMU.
const snapshotSpace = 800 << 20

// bootDeadline is for a boot under emulation on a machine with other work.
const bootDeadline = 90 * time.Second

// boot starts a machine from nothing, up to where it waits for work.
func (p *Plan) boot(ctx context.Context, dir string) (*Machine, error) {
	start := time.Now()
	initramfs := filepath.Join(dir, "initramfs")
	if err := p.writeInitramfs(initramfs); err != nil {
		return nil, err
	}
	defer os.Remove(initramfs)
	q, err := startQEMU(p.qemu, p.hardware, boot{
		kernel: p.kernel.Image(), initramfs: initramfs,
		memoryFile: filepath.Join(dir, memoryFile), shared: true,
		nullDevices: !p.options.Cold,
	})
	if err != nil {
		return nil, err
	}
	m := newMachine(p.kernel, p.options, q)
	if err = p.prepare(ctx, m, start); err == nil {
		err = m.begin(ctx, p.options.Service)
	}
	if err != nil {
		console := m.Console()
		m.Close()
		if errors.Is(err, ErrBroken) {
			return nil, err
		}
		return nil, &DeathError{Cause: fmt.Sprintf("boot %s: %v", p.kernel.ID, err), Console: console[max(0, len(console)-lastWords):]}
	}
	return m, nil
}

// prepare brings a machine that boots to where it can be used.
func (p *Plan) prepare(ctx context.Context, m *Machine, start time.Time) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootDeadline, fmt.Errorf("no answer from the guest within %s", bootDeadline))
	defer cancel()
	if err := m.talk(); err != nil {
		return err
	}
	hello := wire.HelloMessage{LogLevel: consoleLevel, Hostname: p.hostname(), Calibrate: true}
	if p.options.Cold {
		hello.BeatInterval = int64(beatInterval)
	}
	ready, err := m.hello(ctx, hello)
	if err != nil {
		return err
	}
	m.Started = time.Since(start)
	m.Slowdown = max(1, float64(ready.Calibration)/float64(wire.Calibrate()))
	if err := m.LoadModules(ctx, p.options.Modules...); err != nil {
		return err
	}
	return m.putFiles(ctx, p.files)
}

// consoleLevel shows everything but debugging.
const consoleLevel = 7

func (p *Plan) hostname() string {
	if p.options.Hostname != "" {
		return p.options.Hostname
	}
	return "weir"
}

// freeze boots a machine and stores it in tmp.
func (p *Plan) freeze(ctx context.Context, tmp string) error {
	m, err := p.boot(ctx, tmp)
	if err != nil {
		return err
	}
	defer m.Close()
	for _, s := range m.Splats() {
		if s.Kind.Fatal() {
			return &DeathError{Cause: "the kernel died while it started: " + s.String(), Splat: &s}
		}
		orSilent(p.options.Progress).Step(fmt.Sprintf("%s: the kernel complained while it started: %s", p.kernel.ID, s))
	}
	// The guest must have taken every byte, and see that nobody is there.
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	m.conn.Close()
	if err := m.q.mon.do("stop", nil, nil); err != nil {
		return err
	}
	if err := m.q.mon.saveTo(filepath.Join(tmp, stateFile)); err != nil {
		return err
	}
	learned := facts{Slowdown: m.Slowdown, Seconds: m.Started.Seconds()}
	if err := os.WriteFile(filepath.Join(tmp, factsFile), encode(learned), 0o644); err != nil {
		return err
	}
	return writeManifest(tmp, manifest{ID: p.kernel.ID, Release: p.kernel.Release}, false)
}

// wake restores a machine from a snapshot that is whole.
func (p *Plan) wake(ctx context.Context, dir string) (*Machine, error) {
	manifest, _, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	if err := manifest.check(dir, false); err != nil {
		return nil, err
	}
	learned, err := readFacts(dir)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	os.Chtimes(dir, now, now) // expireSnapshots keeps what is used

	ctx, cancel := context.WithTimeoutCause(ctx, restoreDeadline, fmt.Errorf("no answer from the restored guest within %s", restoreDeadline))
	defer cancel()
	q, err := startQEMU(p.qemu, p.hardware, boot{memoryFile: filepath.Join(dir, memoryFile), restore: true})
	if err != nil {
		return nil, err
	}
	m := newMachine(p.kernel, p.options, q)
	m.Slowdown, m.Warm, m.waiting = learned.Slowdown, true, p.options.Service != nil
	if err := p.greet(ctx, m, filepath.Join(dir, stateFile)); err != nil {
		m.Close()
		return nil, fmt.Errorf("restore %s: %w", p.kernel.ID, err)
	}
	m.Started = time.Since(now)
	m.done.Go(m.watch)
	return p.drive(ctx, m)
}

func readFacts(dir string) (learned facts, err error) {
	data, err := os.ReadFile(filepath.Join(dir, factsFile))
	if err != nil {
		return facts{}, err
	}
	if err := json.Unmarshal(data, &learned); err != nil {
		return facts{}, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	return learned, nil
}

// restoreDeadline is a hundred times what it takes.
const restoreDeadline = 10 * time.Second

func (p *Plan) greet(ctx context.Context, m *Machine, state string) error {
	if err := m.q.mon.loadFrom(state); err != nil {
		return err
	}
	if err := m.q.mon.do("cont", nil, nil); err != nil {
		return err
	}
	if err := m.talk(); err != nil {
		return err
	}
	_, err := m.hello(ctx, wire.HelloMessage{
		LogLevel: consoleLevel, Hostname: p.hostname(), BeatInterval: int64(beatInterval),
	})
	return err
}

// bootCold starts a machine without any snapshot.
func (p *Plan) bootCold(ctx context.Context) (*Machine, error) {
	dir, err := p.dir()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	removeLeftovers(filepath.Dir(dir))
	if dir, err = os.MkdirTemp(filepath.Dir(dir), halfMade+"cold-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // QEMU has its files open
	m, err := p.boot(ctx, dir)
	if err != nil {
		return nil, err
	}
	m.done.Go(m.watch)
	return p.drive(ctx, m)
}

// drive loads the drivers of the machine's own devices.
func (p *Plan) drive(ctx context.Context, m *Machine) (*Machine, error) {
	if err := m.LoadModules(ctx, p.hardware.deviceModules()...); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// firstModules are those without which there is no port to the host.
var firstModules = []string{"virtio_pci", "virtio_console"}

func (p *Plan) writeInitramfs(file string) error {
	program, err := os.ReadFile(p.init)
	if err != nil {
		return fmt.Errorf("read init: %w", err)
	}
	var image bytes.Buffer
	cpio := &cpioWriter{w: &image}
	cpio.dir("dev")
	cpio.device("dev/console", 5, 1) // or else the kernel complains
	cpio.dir("modules")
	cpio.file("init", 0o755, program)
	ordered, _ := p.kernel.modules.order(firstModules...) // what is missing is built in
	for i, m := range ordered {
		content, err := p.kernel.modules.read(m)
		if err != nil {
			return err
		}
		cpio.file(fmt.Sprintf("modules/%02d-%s.ko", i, m.Name), 0o644, content)
	}
	if err := cpio.close(); err != nil {
		return err
	}
	return os.WriteFile(file, image.Bytes(), 0o644)
}

// Snapshots are kept for a week after their last use, and no more of them than
// fit into so many bytes: a bare one has about a hundred million, one with a
// service several times as much.
const (
	snapshotAge  = 7 * 24 * time.Hour
	snapshotRoom = 12 << 30
)

// expireSnapshots removes what nobody has used for long. A machine that runs
// has its files open, and does not need their names; one that is being
// restored has a lock.
func expireSnapshots(ctx context.Context, parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	type used struct {
		name string
		when time.Time
	}
	var snapshots []used
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && !strings.HasPrefix(e.Name(), halfMade) {
			snapshots = append(snapshots, used{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(snapshots, func(a, b used) int { return b.when.Compare(a.when) })
	var size int64
	for _, s := range snapshots {
		dir := filepath.Join(parent, s.name)
		size += occupied(dir)
		if size > snapshotRoom || time.Since(s.when) >= snapshotAge {
			removeUnused(ctx, dir, "snapshot-"+s.name)
		}
	}
}

// occupied is what the files of a folder take on the disk, in bytes. A guest's
// memory has holes.
func occupied(dir string) (size int64) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, f := range files {
		var stat syscall.Stat_t
		if syscall.Stat(filepath.Join(dir, f.Name()), &stat) == nil {
			size += stat.Blocks * 512
		}
	}
	return size
}
