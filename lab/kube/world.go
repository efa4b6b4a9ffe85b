// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/lab/probe"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// World is a scenario's part of a cluster.
type World struct {
	session  *Session
	topology lab.Topology // with planned addresses
	name     string       // that its namespaces begin with
	places   *Places
	alone    bool // it holds the ports of the hosts that worlds share

	mu      sync.Mutex
	clients map[string]*probe.Client // by host
	here    *probe.Client
	labels  map[string]map[string]string // of pods and namespaces, as written last
	ending  map[string]bool              // pods that are being deleted
	written map[string]*object
}

var _ lab.World = (*World)(nil)

// Uses are what a scenario takes of what worlds share.
type Uses struct {
	Nodes []string // those that act themselves, by the scenario's names
	Ports bool     // it serves ports of nodes or outside
}

// New makes a world: its namespaces and pods, and no other object. One that serves
// ports of hosts that worlds share waits for others that do so, and they for it.
func (s *Session) New(ctx context.Context, topology lab.Topology, objects *manifest.Objects, uses Uses) (*World, error) {
	defer phase.Start(ctx, phase.Namespaces)()
	s.mu.Lock()
	s.worlds++
	w := &World{
		session: s, topology: topology, name: fmt.Sprintf("%s-%s-%d", s.options.Prefix, s.run, s.worlds), places: NewPlaces(), alone: uses.Ports,
		clients: map[string]*probe.Client{}, labels: map[string]map[string]string{}, ending: map[string]bool{}, written: map[string]*object{},
	}
	w.places.free = s.nodePort
	s.mu.Unlock()
	if uses.Ports {
		s.shared.Lock()
	}
	if err := w.build(ctx, objects, uses); err != nil {
		return nil, errors.Join(fmt.Errorf("build world: %w", err), w.Close())
	}
	return w, nil
}

func (w *World) build(ctx context.Context, objects *manifest.Objects, uses Uses) error {
	s := w.session
	if len(w.topology.Nodes) > len(s.nodes) {
		return fmt.Errorf("the scenario has %d nodes, and %d of the cluster are ready", len(w.topology.Nodes), len(s.nodes))
	}
	for i, n := range w.topology.Nodes {
		w.places.nodes[n.Name] = s.nodes[i].Name
		w.places.Pair(n.Addresses, addressesOf(&s.nodes[i]))
		if of := objects.Nodes[n.Name]; of != nil {
			w.places.PairBlocks(of.Spec.PodCIDRs, s.nodes[i].Spec.PodCIDRs)
		}
	}
	for i, h := range w.topology.Outside {
		if i == 0 {
			w.places.Pair(h.Addresses, slices.Collect(maps.Values(s.outside)))
		}
	}
	for name, ns := range objects.Namespaces {
		if err := w.namespace(ctx, name, ns.Labels); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for _, node := range uses.Nodes {
		g.Go(func() error {
			c, err := s.node(ctx, w.places.nodes[node])
			if err != nil {
				return err
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			w.clients[node] = c
			return nil
		})
	}
	g.Go(func() error { return w.startPods(ctx, objects) })
	return g.Wait()
}

// namespace makes the one that a scenario calls so.
func (w *World) namespace(ctx context.Context, name string, labels map[string]string) error {
	w.places.namespaces[name] = w.name + "-" + name
	w.labels["namespace/"+name] = maps.Clone(labels)
	return w.session.namespace(ctx, w.places.namespaces[name], "baseline", labels)
}

func (w *World) startPods(ctx context.Context, objects *manifest.Objects) error {
	var g errgroup.Group
	for _, h := range w.topology.Pods {
		g.Go(func() error { return w.startPod(ctx, h, objects.Pods[h.Name]) })
	}
	return g.Wait()
}

func (w *World) startPod(ctx context.Context, h lab.Host, like *corev1.Pod) error {
	namespace, name, _ := strings.Cut(h.Name, "/")
	pod := w.session.pod(name, w.places.nodes[like.Spec.NodeName], probePort)
	pod.Labels = like.Labels
	pod.Spec.Containers[0].Ports = like.Spec.Containers[0].Ports
	pod.Spec.SecurityContext = mayPing()
	running, err := w.session.runPod(ctx, w.places.namespaces[namespace], pod)
	if err != nil {
		return err
	}
	client, err := w.session.reach(ctx, w.places.namespaces[namespace], name, probePort)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.places.Pair(h.Addresses, addressesOfPod(running))
	w.clients[h.Name] = client
	w.labels["pod/"+h.Name] = maps.Clone(like.Labels)
	return nil
}

// Topology has the cluster's addresses in the place of those that were planned.
func (w *World) Topology() lab.Topology {
	t := w.topology
	t.Nodes, t.Pods, t.Outside = w.located(t.Nodes), w.located(t.Pods), w.located(t.Outside)
	return t
}

func (w *World) located(hosts []lab.Host) []lab.Host {
	out := make([]lab.Host, len(hosts))
	for i, h := range hosts {
		out[i] = w.places.host(h)
	}
	return out
}

// Address is where a planned address is.
func (w *World) Address(a netip.Addr) netip.Addr {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.places.address(a)
}

// client is the probe of a host.
func (w *World) client(host string) (*probe.Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.ContainsFunc(w.topology.Outside, func(h lab.Host) bool { return h.Name == host }) {
		if w.here == nil {
			w.here = w.session.here()
		}
		return w.here, nil
	}
	c := w.clients[host]
	if c == nil {
		return nil, fmt.Errorf("no host is named %s in this topology", host)
	}
	return c, nil
}

// Listen is ListenFor where the answer is known: a function stays in its process.
func (w *World) Listen(context.Context, string, model.Protocol, uint16, func([]byte) []byte) error {
	return errors.New("listen: only a fixed answer travels to a probe: ListenFor")
}

// ListenFor serves a port of all of a host's addresses, and says the answer to every
// message; nil: the message.
func (w *World) ListenFor(ctx context.Context, host string, protocol model.Protocol, port uint16, answer *string) error {
	c, err := w.client(host)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	l := probe.Listen{Name: host, Protocol: protocol, Port: port, Answer: answer}
	for _, h := range slices.Concat(w.topology.Nodes, w.topology.Pods, w.topology.Outside) {
		if h.Name == host {
			for _, a := range w.places.host(h).Addresses {
				if !slices.Contains(h.Addresses, a) { // planned, and of no such family here
					l.Addresses = append(l.Addresses, a)
				}
			}
		}
	}
	if err := c.Listen(ctx, l); err != nil {
		return fmt.Errorf("listen on %s %s port %d: %w", host, protocol, port, err)
	}
	return nil
}

// Dial opens a TCP connection, or a connected UDP socket.
func (w *World) Dial(ctx context.Context, host string, protocol model.Protocol, sport uint16, to netip.AddrPort) (lab.Conn, error) {
	c, err := w.client(host)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", to, err)
	}
	at := w.port(netip.AddrPortFrom(w.Address(to.Addr()), to.Port()))
	conn, err := c.Dial(ctx, probe.Dial{Protocol: protocol, Sport: sport, To: at})
	if err != nil {
		return nil, fmt.Errorf("dial %s %s from %s: %w", protocol, at, host, noWay(err))
	}
	return &planned{conn, at, to}, nil
}

// noWay puts the lab's word to that a router on the way knows none: nobody answers
// then. In a cluster that has a way to everywhere else it is silence.
func noWay(err error) error {
	for _, text := range []string{unix.ENETUNREACH.Error(), unix.EHOSTUNREACH.Error()} {
		if strings.Contains(err.Error(), text) {
			return fmt.Errorf("%w: %w", lab.ErrTimeout, err)
		}
	}
	return err
}

// planned is a connection to an address that the scenario knows by another one.
type planned struct {
	lab.Conn
	at, to netip.AddrPort
}

// Remote is the other end in the scenario's words, where it is that.
func (c *planned) Remote() netip.AddrPort {
	if got := c.Conn.Remote(); got != c.at {
		return got
	}
	return c.to
}

// port is a node port as the cluster gave it.
func (w *World) port(to netip.AddrPort) netip.AddrPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	given, is := w.places.ports[to.Port()]
	ofNode := to.Addr().IsLoopback() || slices.ContainsFunc(w.session.nodes, func(n corev1.Node) bool { return slices.Contains(addressesOf(&n), to.Addr()) })
	if !is || !ofNode {
		return to
	}
	return netip.AddrPortFrom(to.Addr(), given)
}

// Ping sends an ICMP echo request and waits for the reply.
func (w *World) Ping(ctx context.Context, host string, to netip.Addr) error {
	c, err := w.client(host)
	if err != nil {
		return fmt.Errorf("ping %s: %w", to, err)
	}
	if err := c.Ping(ctx, w.Address(to)); err != nil {
		return fmt.Errorf("ping %s from %s: %w", w.Address(to), host, err)
	}
	return nil
}

// Clear ends all conversations and closes all ports, for another run of the
// scenario in the same world.
func (w *World) Clear(ctx context.Context) error {
	w.mu.Lock()
	clients := slices.Collect(maps.Values(w.clients))
	w.mu.Unlock()
	var errs []error
	for _, c := range clients {
		errs = append(errs, c.Forget(ctx))
	}
	return errors.Join(append(errs, w.leaveHere(ctx))...)
}

// leaveHere closes what this machine has opened for the world.
func (w *World) leaveHere(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.here == nil {
		return nil
	}
	here := w.here
	w.here = nil
	return errors.Join(here.Forget(ctx), here.Close())
}

// Close removes the world from the cluster; Session.Close waits until it is gone.
func (w *World) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), removal)
	defer cancel()
	errs := []error{w.leaveHere(ctx)}
	w.mu.Lock()
	clients := w.clients
	w.clients = nil
	w.mu.Unlock()
	for host, c := range clients {
		if w.places.nodes[host] != "" { // whose ports the next world may want at once
			errs = append(errs, c.Forget(ctx))
		}
		c.Close() // of a pod: it goes, and its end with it
	}
	if w.alone {
		w.session.shared.Unlock()
	}
	for _, ns := range w.places.namespaces {
		errs = append(errs, w.session.removeNamespace(ctx, ns))
	}
	return errors.Join(errs...)
}

// Enter says how a person looks around.
func (w *World) Enter() string {
	return "kubectl get pods,services,networkpolicies -o wide -n " + w.places.namespaces["default"]
}

// ErrNoFrames is of what only a world that has its own datapath and wires does.
var ErrNoFrames = errors.New("a live cluster has no frames, clocks and tables that the lab could reach")

// Devices and Uplinks are none: the cluster's agents have them.
func (w *World) Devices(string) map[string]model.Device { return map[string]model.Device{} }
func (w *World) Uplinks(string) []model.Uplink          { return nil }

// Datapath is nil: it is the agents'.
func (w *World) Datapath(string) *datapath.Datapath { return nil }

// Walks are none that are seen.
func (w *World) Walks() []lab.Walk { return nil }

// Now is the time here.
func (w *World) Now() time.Time { return time.Now() }

// Arrived gives no frames.
func (w *World) Arrived(context.Context, string) ([]lab.Frame, error) { return nil, nil }

// MACs, Apply, Assign, Lead, Send, Advance and Collect fail with ErrNoFrames.
func (w *World) MACs(string) (own, gateway net.HardwareAddr, err error) {
	return nil, nil, ErrNoFrames
}
func (w *World) Apply(context.Context, string, *model.State) (datapath.Change, error) {
	return datapath.Change{}, ErrNoFrames
}
func (w *World) Assign(context.Context, string, netip.Addr, bool) error { return ErrNoFrames }
func (w *World) Lead(context.Context, netip.Addr, ...string) error      { return ErrNoFrames }
func (w *World) Send(context.Context, string, []byte) error             { return ErrNoFrames }
func (w *World) Advance(context.Context, time.Duration) error           { return ErrNoFrames }
func (w *World) Collect(context.Context) error                          { return ErrNoFrames }
