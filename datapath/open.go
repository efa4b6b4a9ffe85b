// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// Datapath is a loaded datapath. Its methods may be called by several
// goroutines, each on a thread in the network namespace in which Open was
// called. Of Apply, and of Collect, one runs at a time; but Apply, Connect, Collect,
// Events and all that only reads do not wait for each other.
type Datapath struct {
	opts  Options
	names *names
	lock  *ownerLock // of the pins; nil without

	maps     map[string]*ebpf.Map
	programs *programs

	// Who takes several of these locks takes them in this order, and those of
	// attachments and programs last.

	// applying is the turn of who changes the state: Apply, the sweep behind it,
	// Reset, Replace, Close and Remove. It guards what only they change. Their own
	// tables are written under it, and their own programs attached; nobody
	// sleeps under it, and who reads, collects or connects does not take it.
	applying sync.Mutex
	nodes    *pairTable[uint32, nodeHalf]
	tunnels  *pairTable[uint32, tunnelHalf]
	cidrs    *pairTable[cidrKey, ipcacheHalf]
	wanted   map[cidrKey]ipcacheHalf // the CIDRs that the state has; nil before an Apply
	services *pairTable[serviceKey, serviceHalf]
	backends *pairTable[backendKey, backendHalf]
	slots    *slotTable
	sources  *sourceTable
	maglev   *maglevArray
	moves    moves        // of tables into a new layout, in Open
	stamps   []stamp      // of the directories of pins, when all pins were there; nil: not known
	last     *remembered  // of the state in force; nil where all of the tables have to be looked at
	inForce  *model.State // in force, also where last is not known; nil before an Apply
	oldest   uint32       // no group from here on has had a number before

	pinnedLabels pinnedLabels

	// collecting is the turn of the collector, which alone takes it, but for those
	// who end or replace what it works with. It guards what is below. The collector
	// takes applying only where it is free.
	collecting sync.Mutex
	dead       map[flowKey]uint64 // when an entry was found dead, on the datapath's clock
	forgetting bool               // clients of groups that are gone may be left

	// reading is the turn of who reads the ring of events: what is in it now, without
	// waiting for more.
	reading sync.Mutex
	events  *ringbuf.Reader

	// mu guards what several of them share. It is held for memory, for one batch of
	// a table's entries, or for one write of table control: never for a walk.
	// Only who has applying too gives packets the other half.
	mu        sync.Mutex
	settings  settings
	changed   *placesTable
	spent     Spent
	flipped   time.Time // when packets were last given the other half
	endpoints *pairTable[uint32, endpointHalf]
	ipcache   *pairTable[tableAddr, ipcacheHalf]
	rules     *ruleTable
	labels    labels           // maps and slices in it are never changed, but for numbers
	ahead     map[uint32]ahead // endpoints that were connected beside a state, by ifindex

	attached *attachments
	pins     pinned // with the lock of attached

	sums sums
}

// Open loads the programs and makes or takes over the tables. The calling
// thread's network namespace is the one in which devices are looked up.
//
// It fails with ErrPrivilege, ErrLocked or an *ebpf.VerifierError, and then
// has changed nothing.
func Open(opts Options) (*Datapath, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if opts.EventsPerSecond == 0 {
		opts.EventsPerSecond = defaultEventsPerSecond
	}
	if opts.Step == nil {
		opts.Step = func(string) {}
	}
	d := &Datapath{opts: opts, dead: map[flowKey]uint64{}, ahead: map[uint32]ahead{}, pins: pinned{}}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.release())
	}
	return d, nil
}

func (d *Datapath) open() error {
	if err := checkPrivilege(); err != nil {
		return err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	if d.opts.PinPath != "" {
		lock, err := takeLock(d.opts.PinPath)
		if err != nil {
			return err
		}
		d.lock = lock
	}
	d.opts.Step("load the programs")
	if err := d.load(); err != nil {
		return err
	}
	return d.takeOver()
}

// load makes the programs and the maps, or opens the pinned maps.
func (d *Datapath) load() error {
	obj, err := readObjects(&d.opts)
	if err != nil {
		return err
	}
	if d.names, err = readNames(obj.container.Types); err != nil {
		return err
	}
	if err := obj.configure(&d.opts); err != nil {
		return err
	}
	if d.moves, err = planMoves(obj.container, d.opts.PinPath); err != nil {
		return err
	}
	if d.opts.PinPath != "" {
		for _, name := range sharedMaps {
			obj.container.Maps[name].Pinning = ebpf.PinByName
		}
	}
	d.programs, d.maps, err = obj.loadPrograms(&d.opts, ebpf.CollectionOptions{
		Maps:            ebpf.MapOptions{PinPath: d.opts.PinPath},
		MapReplacements: d.moves.replacements(),
	})
	if err != nil {
		return err
	}
	if d.opts.PinPath != "" && d.opts.Attach {
		// Uplinks and sockets may have programs of an earlier process: nothing is
		// taken over before those that replace them are loaded.
		if err := d.LoadAll(); err != nil {
			return err
		}
	}
	if err := d.pinTables(); err != nil {
		return err
	}
	d.events, err = ringbuf.NewReader(d.maps[bpf.ContainerMapEvents])
	if err != nil {
		return fmt.Errorf("open the ring of events: %w", err)
	}
	return nil
}

// pinTables puts the tables of a new layout in the place of the old ones.
func (d *Datapath) pinTables() error {
	if d.opts.PinPath == "" {
		return nil
	}
	for _, m := range d.moves {
		d.opts.Step("pin table " + m.name + " of a new layout")
		if err := m.pin(d.maps[m.name]); err != nil {
			return err
		}
	}
	if err := removeFormerPins(d.opts.PinPath); err != nil {
		return err
	}
	for _, name := range sharedMaps {
		if err := d.pins.note(filepath.Join(d.opts.PinPath, name)); err != nil {
			return err
		}
	}
	return nil
}

// takeOver reads what the maps hold: of an earlier process, or nothing.
func (d *Datapath) takeOver() error {
	zero := uint32(0)
	if err := d.maps[bpf.ContainerMapControl].Lookup(&zero, &d.settings); err != nil {
		return fmt.Errorf("read table control: %w", err)
	}
	fresh := d.settings == (settings{})
	if fresh {
		d.settings.Epoch = 1
	}
	if fresh || d.opts.Seed != 0 {
		d.settings.Seed = d.opts.Seed
	}
	d.settings.EventsPerSecond = d.opts.EventsPerSecond
	d.settings.Trace = 0
	if d.opts.TraceAll {
		d.settings.Trace = 1
	}
	if err := d.readTables(); err != nil {
		return err
	}
	// A loader before this one may not have known of places, and its epochs count.
	if err := d.changed.put(placeOfAll, d.settings.Epoch); err != nil {
		return err
	}
	if err := d.readLabels(); err != nil {
		return err
	}
	d.opts.Step("write settings")
	if err := d.writeSettings(); err != nil {
		return err
	}
	var err error
	if d.attached, err = openAttachments(&d.opts, d.programs, d.pins); err != nil {
		return err
	}
	// Until now the old programs have written into the tables of the old
	// layout.
	return d.moves.finish(d.maps)
}

func (d *Datapath) readTables() (err error) {
	if d.changed, err = newPlacesTable(d.maps[bpf.ContainerMapChanged]); err != nil {
		return err
	}
	alone := new(sync.Mutex) // applying guards them
	if d.nodes, err = newPairTable[uint32, nodeHalf](d.maps[bpf.ContainerMapNodes], alone); err != nil {
		return err
	}
	if d.tunnels, err = newPairTable[uint32, tunnelHalf](d.maps[bpf.ContainerMapTunnelEndpoints], alone); err != nil {
		return err
	}
	if d.endpoints, err = newPairTable[uint32, endpointHalf](d.maps[bpf.ContainerMapEndpoints], &d.mu); err != nil {
		return err
	}
	if d.ipcache, err = newPairTable[tableAddr, ipcacheHalf](d.maps[bpf.ContainerMapIpcache], &d.mu); err != nil {
		return err
	}
	if d.cidrs, err = newPairTable[cidrKey, ipcacheHalf](d.maps[bpf.ContainerMapIpcacheCidrs], alone); err != nil {
		return err
	}
	if d.services, err = newPairTable[serviceKey, serviceHalf](d.maps[bpf.ContainerMapServices], alone); err != nil {
		return err
	}
	if d.backends, err = newPairTable[backendKey, backendHalf](d.maps[bpf.ContainerMapBackends], alone); err != nil {
		return err
	}
	if d.rules, err = newRuleTable(d.maps[bpf.ContainerMapRules], &d.mu); err != nil {
		return err
	}
	for _, pair := range d.endpoints.have {
		d.rules.reserve(pair[0].Set, pair[1].Set)
	}
	for _, pair := range d.nodes.have {
		d.rules.reserve(pair[0].Set, pair[1].Set)
	}
	if d.slots, err = newSlotTable(d.maps[bpf.ContainerMapSlotRows]); err != nil {
		return err
	}
	if d.sources, err = newSourceTable(d.maps[bpf.ContainerMapSources]); err != nil {
		return err
	}
	return d.mapMaglev()
}

// writeSettings is called with mu held.
func (d *Datapath) writeSettings() error {
	zero := uint32(0)
	if err := d.maps[bpf.ContainerMapControl].Put(&zero, &d.settings); err != nil {
		return fmt.Errorf("write table control: %w", err)
	}
	return nil
}

// stop waits for whoever works with tables and programs, and keeps others from it.
func (d *Datapath) stop() {
	d.applying.Lock()
	d.collecting.Lock()
	d.reading.Lock()
}

func (d *Datapath) goOn() {
	d.reading.Unlock()
	d.collecting.Unlock()
	d.applying.Unlock()
}

// Close leaves a pinned datapath forwarding. One that is not pinned goes with
// it: its programs are detached.
func (d *Datapath) Close() error {
	d.stop()
	defer d.goOn()
	return d.release()
}

// Replace loads the programs anew and puts them in the place of those that
// run, each by one atomic change: no frame is lost, and none meets neither.
func (d *Datapath) Replace() error {
	d.stop()
	defer d.goOn()
	again, err := d.loadAgain()
	if err != nil {
		return err
	}
	old := d.programs
	d.programs = again
	return errors.Join(d.attached.replace(again), old.close())
}

// loadAgain loads the programs over the tables that are there.
func (d *Datapath) loadAgain() (*programs, error) {
	obj, err := readObjects(&d.opts)
	if err != nil {
		return nil, err
	}
	if err := obj.configure(&d.opts); err != nil {
		return nil, err
	}
	again, maps, err := obj.loadPrograms(&d.opts, ebpf.CollectionOptions{MapReplacements: shared(d.maps)})
	if err != nil {
		return nil, err
	}
	again.tables = d.maps
	if d.programs.hasHost() {
		err = again.need()
	}
	if err == nil && d.programs.hasSockets() {
		_, err = again.get(bpf.SocketProgConnect4)
	}
	err = errors.Join(err, closeAll(maps)) // clones, or the programs' own: programs hold them
	if err != nil {
		return nil, errors.Join(err, again.close())
	}
	return again, nil
}

// Remove detaches and unpins everything, and closes.
func (d *Datapath) Remove() error {
	d.stop()
	defer d.goOn()
	errs := []error{d.attached.remove()}
	if d.opts.PinPath != "" {
		for _, name := range slices.Concat([]string{labelsPin}, sharedMaps, formerPins()) {
			err := os.Remove(filepath.Join(d.opts.PinPath, name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("unpin table: %w", err))
			}
		}
	}
	errs = append(errs, d.release())
	if d.opts.PinPath != "" {
		errs = append(errs, os.Remove(d.opts.PinPath))
	}
	return errors.Join(errs...)
}

func (d *Datapath) release() error {
	var errs []error
	if d.attached != nil {
		errs = append(errs, d.attached.close())
	}
	if d.events != nil {
		errs = append(errs, d.events.Close())
	}
	if d.programs != nil {
		errs = append(errs, d.programs.close())
	}
	for _, m := range d.maps {
		errs = append(errs, m.Close())
	}
	errs = append(errs, d.pinnedLabels.close(), d.moves.close())
	if d.lock != nil {
		errs = append(errs, d.lock.release())
	}
	return errors.Join(errs...)
}

// EndpointRoom is how many endpoints the tables hold.
func (d *Datapath) EndpointRoom() int { return int(d.maps[bpf.ContainerMapEndpoints].MaxEntries()) }
