// SPDX-License-Identifier: Apache-2.0

// Package netns is the lab's world of real stacks and real sockets: a network
// namespace for each node, pod and outside host, veth pairs between them, a
// router where the topology has one, and each node's datapath attached to the
// pods' host-side devices and, where the topology says so, to its uplink.
//
// It crafts no packets but those that it is told to send, and judges none.
// Its one invariant is that a world leaves nothing behind: its namespaces have
// no name and its pins no mount point, so that they go with the process, even
// one that is killed (kept worlds excepted, which a person asked for). A cgroup
// has a name; that of a killed process goes when the next one is made.
package netns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/model"
)

// Options say how a World is built.
type Options struct {
	// Keep gives the namespaces names, below /run/netns, so that a person can
	// look around with `ip netns exec` until Close.
	Keep bool
	// Pin makes the datapath keep its tables and links in a bpffs, which
	// belongs to this world alone.
	Pin bool
	// Plain leaves the datapath out: the node's stack forwards, and Apply is
	// an error. It is what a measurement compares with.
	Plain bool
	// Blind leaves the captures out: Arrived and Send are errors. Captures
	// cost throughput.
	Blind bool
	// Clsact attaches programs by clsact also where the kernel has tcx. To attach a
	// link, and to detach it, takes a grace period of RCU with the lock of all devices
	// held; a filter takes none.
	Clsact bool
	// Datapath is how the datapath is opened. Its Attach and PinPath are the
	// world's own; with Flows and Unanswered 0, there is room for fewer than
	// by default.
	Datapath datapath.Options
}

// World is a network of namespaces. Its methods may be called by several
// goroutines.
type World struct {
	topology lab.Topology
	options  Options
	nodes    []*node
	outside  []*host
	router   *host // nil: outside hosts are neighbours of the only node
	roads    roads // of the router
	byName   map[string]*host

	names    *names // of a kept world
	meetings *meetings

	pool  *Pool        // that the datapaths go back to, or nil
	using sync.RWMutex // of the nodes' datapaths

	closing context.Context // ends when Close begins
	stop    context.CancelFunc
	serving sync.WaitGroup // goroutines that Close waits for

	mu       sync.Mutex
	open     map[closer]struct{} // what Close closes
	closed   bool
	advanced time.Duration // the datapath's clock
}

type closer interface{ Close() error }

var _ lab.World = (*World)(nil)

// New builds a world. ErrUnprivileged. The caller closes it.
func New(ctx context.Context, topology lab.Topology, options Options) (*World, error) {
	return newStarted(ctx, topology, options, nil)
}

func newStarted(ctx context.Context, topology lab.Topology, options Options, pool *Pool) (*World, error) {
	if err := checkPrivilege(); err != nil {
		return nil, err
	}
	if err := checkTopology(topology); err != nil {
		return nil, err
	}
	w := newWorld(topology, options)
	w.pool = pool
	if err := w.start(ctx); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func newWorld(topology lab.Topology, options Options) *World {
	w := &World{
		topology: topology,
		roads:    roads{leads: lab.NewLeads(topology.Routes)},
		options:  options,
		byName:   map[string]*host{},
		open:     map[closer]struct{}{},
	}
	w.closing, w.stop = context.WithCancel(context.Background())
	add := func(h lab.Host) *host {
		added := &host{name: h.Name, addresses: h.Addresses, silent: h.Silent, second: h.Second}
		w.byName[h.Name] = added
		return added
	}
	var addresses []netip.Addr
	for _, h := range topology.Nodes {
		w.nodes = append(w.nodes, &node{host: add(h), hooks: topology.Uplinks})
		addresses = append(addresses, h.Addresses...)
	}
	w.meetings = newMeetings(addresses)
	for i, h := range topology.Pods {
		n, pod := w.nodes[topology.NodeOf(h)], add(h)
		pod.wire = podWire(len(n.pods), i)
		n.pods = append(n.pods, pod)
	}
	for _, h := range topology.Outside {
		w.outside = append(w.outside, add(h))
		if h.Second {
			for _, n := range w.nodes {
				n.bySecond = append(n.bySecond, h.Addresses...)
			}
		}
	}
	wireOf := outsideWire
	if topology.Routed() {
		w.router = &host{name: routerName, addresses: []netip.Addr{routerV4}}
	} else {
		wireOf = uplinkWire
		if len(w.outside) == 0 {
			w.outside = append(w.outside, &host{name: nobody})
		}
	}
	for i, h := range w.outside {
		h.wire = wireOf(i)
	}
	return w
}

func (w *World) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{w.build, func(context.Context) error { return w.name() }, w.capture} {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("build world: %w", err)
		}
		if err := step(ctx); err != nil {
			return fmt.Errorf("build world: %w", err)
		}
	}
	// Last: what may have to be waited for.
	if err := w.openDatapaths(ctx); err != nil {
		return fmt.Errorf("build world: %w", err)
	}
	for _, n := range w.nodes {
		for _, pod := range n.pods {
			pod.cgroup = n.cgroup // pods are processes of the node
		}
	}
	return nil
}

func (w *World) openDatapaths(ctx context.Context) error {
	if w.options.Plain {
		return nil
	}
	if w.pool != nil {
		return w.pool.lend(ctx, w.nodes, w.topology.Sockets, w.options)
	}
	defer phase.Start(ctx, phase.Load)()
	for _, n := range w.nodes {
		if err := n.openDatapath(w.options, w.topology.Sockets); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return nil
}

func (n *node) openDatapath(o Options, sockets bool) (err error) {
	options := ofWorld(o.Datapath)
	options.ForceClsact = options.ForceClsact || o.Clsact
	if sockets {
		if n.cgroup, err = newCgroup(); err != nil {
			return err
		}
		n.cgroup.lead(&options)
	}
	if o.Pin {
		pins, err := newBPFFS()
		if err != nil {
			return err
		}
		n.pins = pins
		options.PinPath = pins.path() + "/weir"
	}
	return n.ns.run(func() (err error) {
		n.datapath, err = datapath.Open(options)
		return err
	})
}

// ofWorld completes how a world's datapath is opened.
func ofWorld(o datapath.Options) datapath.Options {
	o.Attach, o.PinPath = true, ""
	if o.Flows == 0 {
		o.Flows = lab.FlowRoom
	}
	if o.Unanswered == 0 {
		o.Unanswered = lab.FlowRoom
	}
	return o
}

// Close ends all conversations and removes everything. A world of a Pool is
// removed in the background, and what fails then is told by Pool.Close.
func (w *World) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	open := slices.Collect(maps.Keys(w.open))
	w.mu.Unlock()

	w.stop()
	for _, c := range open {
		c.Close() // Closed already, or never used again: nothing to report.
	}
	w.using.Lock() // Nobody is at the datapaths now, and nobody will be.
	running := map[*node]*datapath.Datapath{}
	for _, n := range w.nodes {
		if n.datapath != nil {
			running[n] = n.datapath
		}
		n.datapath = nil
	}
	w.using.Unlock()
	if w.pool != nil {
		w.pool.retire(w, running)
		return nil
	}
	var errs []error
	for n, d := range running {
		errs = append(errs, n.ns.run(d.Remove))
	}
	return errors.Join(append(errs, w.dismantle())...)
}

// dismantle removes all but the datapaths.
func (w *World) dismantle() error {
	errs := []error{w.closeTaps()}
	w.serving.Wait()
	errs = append(errs, w.roads.close())
	for _, n := range w.nodes {
		if n.pins != nil {
			errs = append(errs, n.pins.close())
		}
		if n.cgroup != nil && w.pool == nil {
			errs = append(errs, n.cgroup.close())
		}
	}
	if w.names != nil {
		errs = append(errs, w.names.remove())
	}
	for _, h := range w.hosts() {
		if h.ns != nil {
			errs = append(errs, h.ns.close())
		}
	}
	return errors.Join(errs...)
}

// closeTaps closes all at once: each waits for an RCU grace period, and they
// wait for the same one.
func (w *World) closeTaps() error {
	var g errgroup.Group
	for _, h := range w.hosts() {
		if h.arrivals == nil {
			continue
		}
		for _, t := range h.arrivals.taps {
			g.Go(t.file.Close)
		}
	}
	return g.Wait()
}

// closeWith makes Close close c, unless release is called before. It is an
// error when the world is closed already; then c is closed.
func (w *World) closeWith(c closer) (release func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()

	if w.closed {
		c.Close()
		return nil, fmt.Errorf("the world is closed: %w", net.ErrClosed)
	}
	w.open[c] = struct{}{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.open, c)
	}, nil
}

// hosts are all that have a namespace, the first node first.
func (w *World) hosts() (all []*host) {
	for _, n := range w.nodes {
		all = append(append(all, n.host), n.pods...)
	}
	if w.router != nil {
		all = append(all, w.router)
	}
	return append(all, w.outside...)
}

// node finds a node; the empty name is the first.
func (w *World) node(name string) (*node, error) {
	if name == "" {
		return w.nodes[0], nil
	}
	var known []string
	for _, n := range w.nodes {
		if n.name == name {
			return n, nil
		}
		known = append(known, n.name)
	}
	return nil, fmt.Errorf("no node is named %s in this topology, but %q", name, known)
}

func (w *World) host(name string) (*host, error) {
	h, ok := w.byName[name]
	if !ok {
		known := slices.Sorted(maps.Keys(w.byName))
		return nil, fmt.Errorf("no host is named %s in this topology, but %q", name, known)
	}
	return h, nil
}

// Devices are the devices of a node's pods by pod name; none of a node that is
// not there.
func (w *World) Devices(name string) map[string]model.Device {
	devices := map[string]model.Device{}
	n, err := w.node(name)
	if err != nil {
		return devices
	}
	for _, pod := range n.pods {
		devices[pod.name] = model.Device{
			Name:    pod.wire.nodeName,
			Ifindex: pod.wire.nodeIndex,
			MAC:     pod.wire.nodeMAC,
			PodMAC:  pod.wire.hostMAC,
		}
	}
	return devices
}

// Uplinks are a node's devices towards others, if they are to have programs.
func (w *World) Uplinks(name string) []model.Uplink {
	n, err := w.node(name)
	if err != nil || !n.hooks {
		return nil
	}
	var uplinks []model.Uplink
	for _, l := range n.links {
		uplinks = append(uplinks, model.Uplink{Name: l.name, Ifindex: l.ifindex, MAC: l.mac})
	}
	return uplinks
}

// MACs gives the address of host's interface and of the interface at its
// other end. A node's are those of its first uplink.
func (w *World) MACs(host string) (own, gateway net.HardwareAddr, err error) {
	h, err := w.host(host)
	if err != nil {
		return nil, nil, err
	}
	return h.links[0].mac, h.links[0].peerMAC, nil
}

var errPlain = errors.New("this world was built without the datapath (Options.Plain)")

// withDatapath calls f on a thread in a node's namespace. The node's
// datapath is the world's own until f is back, and may be another's after
// Close.
func (w *World) withDatapath(n *node, f func(*datapath.Datapath) error) error {
	w.using.RLock()
	defer w.using.RUnlock()
	switch {
	case w.options.Plain:
		return errPlain
	case n.datapath == nil:
		return fmt.Errorf("the world is closed: %w", net.ErrClosed)
	}
	return n.ns.run(func() error { return f(n.datapath) })
}

func (w *World) withEachDatapath(f func(*datapath.Datapath) error) error {
	for _, n := range w.nodes {
		if err := w.withDatapath(n, f); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return nil
}

// Apply makes a node's datapath equal to state.
func (w *World) Apply(ctx context.Context, name string, state *model.State) (change datapath.Change, err error) {
	if err := ctx.Err(); err != nil {
		return change, fmt.Errorf("apply state: %w", err)
	}
	n, err := w.node(name)
	if err != nil {
		return change, fmt.Errorf("apply state: %w", err)
	}
	defer phase.Start(ctx, phase.Tables)()
	err = w.withDatapath(n, func(d *datapath.Datapath) (err error) {
		before := d.Spent()
		change, err = d.Apply(state)
		after := d.Spent()
		phase.Move(ctx, phase.Load, after.Loading-before.Loading)
		phase.Move(ctx, phase.Attach, after.Attaching-before.Attaching)
		phase.Move(ctx, phase.Waits, after.Waiting-before.Waiting)
		return err
	})
	if err != nil {
		return datapath.Change{}, fmt.Errorf("apply state to %s: %w", n.name, err)
	}
	return change, nil
}

// Now implements lab.World.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.advanced)
}

// Advance moves the datapaths' clocks.
func (w *World) Advance(ctx context.Context, by time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.withEachDatapath(func(d *datapath.Datapath) error { return d.Advance(by) }); err != nil {
		return fmt.Errorf("advance clock: %w", err)
	}
	w.advanced += by
	return nil
}

// booted is the time of day at which the datapath's clock was 0, had it never
// been advanced: so that events and captured frames are of one clock.
func (w *World) booted() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic("netns: read the monotonic clock: " + err.Error()) // Every kernel has it.
	}
	return time.Now().Add(-time.Duration(now.Nano()) - w.advanced)
}

// Collect runs each node's flow collector once.
func (w *World) Collect(ctx context.Context) error {
	err := w.withEachDatapath(func(d *datapath.Datapath) error {
		_, err := d.Collect()
		return err
	})
	if err != nil {
		return fmt.Errorf("collect flows: %w", err)
	}
	return nil
}

// Datapath gives a node's running datapath, or nil with Options.Plain. It is
// not to be used after Close.
func (w *World) Datapath(name string) *datapath.Datapath {
	w.using.RLock()
	defer w.using.RUnlock()
	n, err := w.node(name)
	if err != nil {
		return nil
	}
	return n.datapath
}

// Walks gives the datapaths' events as walks of one step, those of a node in
// their order.
func (w *World) Walks() []lab.Walk {
	w.using.RLock()
	defer w.using.RUnlock()
	var walks []lab.Walk
	booted := w.booted()
	for _, n := range w.nodes {
		if n.datapath == nil {
			continue
		}
		// Events that cannot be read are no walks; what went wrong is seen in
		// the frames that did not arrive.
		events, _ := n.datapath.Events()
		for _, e := range events {
			walks = append(walks, walkOf(n, e, booted))
		}
	}
	slices.SortStableFunc(walks, func(a, b lab.Walk) int { return a.Time.Compare(b.Time) })
	return walks
}

func walkOf(n *node, e datapath.Event, booted time.Time) lab.Walk {
	walk := lab.Walk{
		Time:  booted.Add(e.Time),
		Steps: []lab.Step{{Node: n.name, Hook: e.Hook, Endpoint: e.Endpoint, Decision: e.Decision, Tuple: e.Tuple}},
	}
	switch {
	case e.Hook == model.FromContainer, e.Hook == model.ToDevice:
		walk.From = e.Endpoint
	case e.Hook == model.ToContainer && e.Decision.Action == model.Forward:
		walk.To = e.Endpoint
	}
	return walk
}
