// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/model"
)

// World is one network in miniature. It must only be used on the thread of
// the worker that made it.
type World struct {
	net     *network
	routed  bool      // see lab.Topology
	uplinks bool      // have programs
	leads   lab.Leads // of the router, besides
	second  bool      // nodes have a second uplink
	// tellsLed says whether the kernel tells programs what the node has not made.
	tellsLed bool
	offset   time.Duration // of the clocks
	busy     time.Time     // when something last happened
	unheld   error         // of a clock that could not be held
	hosts    map[string]*host
	nodes    []*node
	outside  []*host

	queue    []departure
	walks    []lab.Walk
	onFrame  func(node string, at model.Where, frame []byte, now time.Time, ledOn bool)
	onStep   func(lab.Step, time.Time)
	nextPort uint16
	// served is who accepted or answered last, for the exchange that asked.
	served accepted
}

var _ lab.World = (*World)(nil)

type hostKind uint8

const (
	isPod hostKind = iota
	isNode
	isOutside
)

type host struct {
	name      string
	kind      hostKind
	node      *node // of a pod and a node
	addresses []netip.Addr
	device    model.Device // of a pod: its slot's
	mac       net.HardwareAddr
	gateway   net.HardwareAddr
	arrived   []lab.Frame
	stack     stack
	second    bool // of a host outside: behind the second uplinks
}

// node is a machine with pods. All nodes have the devices of the worker's
// namespace, as if each had its own.
type node struct {
	*host
	dp      *datapath.Datapath
	witness *datapath.Witness
	pods    []*host      // by slot
	public  []netip.Addr // its addresses without the pods' gateways
}

type departure struct {
	from *host
	data []byte
}

// firstPort is where the ports that the world chooses begin.
const firstPort = 32768

func newWorld(topo lab.Topology, nw *network, dps []*datapath.Datapath) (*World, error) {
	tellsLed, err := datapath.TellsLed()
	if err != nil {
		return nil, fmt.Errorf("make a world: %w", err)
	}
	w := &World{
		tellsLed: tellsLed,
		net:      nw, routed: topo.Routed(), uplinks: topo.Uplinks, leads: lab.NewLeads(topo.Routes), second: topo.HasSecond(),
		hosts: make(map[string]*host, len(topo.Nodes)+len(topo.Pods)+len(topo.Outside)), nextPort: firstPort,
	}
	for i, t := range topo.Nodes {
		n := &node{dp: dps[i], witness: dps[i].Witness(), public: t.Addresses, host: &host{name: t.Name, kind: isNode, mac: nw.uplink.MAC, gateway: routerMAC,
			addresses: slices.Concat(t.Addresses, topo.Gateways)}}
		n.host.node = n
		w.nodes = append(w.nodes, n)
		w.add(n.host, t)
	}
	for _, t := range topo.Pods {
		n := w.nodes[topo.NodeOf(t)]
		d := nw.pods[len(n.pods)]
		h := &host{name: t.Name, kind: isPod, node: n, addresses: t.Addresses, device: d, mac: d.PodMAC, gateway: d.MAC}
		n.pods = append(n.pods, h)
		w.add(h, t)
	}
	for i, t := range topo.Outside {
		h := &host{name: t.Name, kind: isOutside, addresses: t.Addresses, gateway: nw.uplink.MAC, second: t.Second,
			mac: net.HardwareAddr{0x02, 0x0a, 0, 0, 0, byte(i + 1)}}
		if w.routed {
			h.gateway = routerMAC
		}
		w.outside = append(w.outside, h)
		w.add(h, t)
	}
	if want := len(topo.Nodes) + len(topo.Pods) + len(topo.Outside); len(w.hosts) != want {
		return nil, fmt.Errorf("make a world: %w: two hosts have one name", ErrTopology)
	}
	return w, nil
}

func (w *World) add(h *host, t lab.Host) {
	h.stack = stack{world: w, host: h, silent: t.Silent}
	w.hosts[h.name] = h
}

func (w *World) host(name string) (*host, error) {
	h, ok := w.hosts[name]
	if !ok {
		return nil, fmt.Errorf("find host %s: there is none of that name in the world", name)
	}
	return h, nil
}

// nodeCalled gives a node; the first for the empty name, and nil for none.
func (w *World) nodeCalled(name string) *node {
	if name == "" {
		return w.nodes[0]
	}
	if h := w.hosts[name]; h != nil && h.kind == isNode {
		return h.node
	}
	return nil
}

// OnFrame has a function called with every frame that is about to meet a hook.
func (w *World) OnFrame(f func(node string, at model.Where, frame []byte, now time.Time, ledOn bool)) {
	w.onFrame = f
}

// OnStep has a function called for every hook that a frame passes, in order,
// with the time by the datapath's clock.
func (w *World) OnStep(f func(lab.Step, time.Time)) { w.onStep = f }

// Devices implements lab.World.
func (w *World) Devices(name string) map[string]model.Device {
	n := w.nodeCalled(name)
	if n == nil {
		return nil
	}
	out := make(map[string]model.Device, len(n.pods))
	for _, h := range n.pods {
		out[h.name] = h.device
	}
	return out
}

// Renew gives a pod's interface other hardware addresses on both its sides, and
// says which: it is made again, under its name and addresses. The datapath is told
// by the next Apply.
func (w *World) Renew(pod string) (model.Device, error) {
	h, err := w.host(pod)
	if err == nil && h.kind != isPod {
		err = fmt.Errorf("it is no pod")
	}
	if err != nil {
		return model.Device{}, fmt.Errorf("renew the interface of %s: %w", pod, err)
	}
	h.device.MAC, h.device.PodMAC = renewed(h.device.MAC), renewed(h.device.PodMAC)
	h.mac, h.gateway = h.device.PodMAC, h.device.MAC
	return h.device, nil
}

// Uplinks implements lab.World.
func (w *World) Uplinks(name string) []model.Uplink {
	if !w.uplinks || w.nodeCalled(name) == nil {
		return nil
	}
	uplinks := []model.Uplink{uplinkAt(w.net.uplink)}
	if w.second {
		uplinks = append(uplinks, uplinkAt(w.net.second))
	}
	return uplinks
}

func uplinkAt(d model.Device) model.Uplink {
	return model.Uplink{Name: d.Name, Ifindex: d.Ifindex, MAC: d.MAC}
}

// Assign implements lab.World.
func (w *World) Assign(_ context.Context, name string, a netip.Addr, has bool) error {
	n := w.nodeCalled(name)
	if n == nil {
		return fmt.Errorf("assign %s: there is no node %s in the world", a, name)
	}
	if n.own(a) == has {
		return fmt.Errorf("assign %s to %s: it is there already, or not any more", a, n.name)
	}
	without := func(b netip.Addr) bool { return a == b }
	// A new list: the old one is the topology's.
	n.addresses = slices.DeleteFunc(slices.Clone(n.addresses), without)
	if has {
		n.addresses = append(n.addresses, a)
	}
	w.leads.Assign(n.name, a, has)
	return nil
}

// Lead implements lab.World.
func (w *World) Lead(_ context.Context, to netip.Addr, nodes ...string) error {
	for _, name := range nodes {
		if w.nodeCalled(name) == nil {
			return fmt.Errorf("lead %s: there is no node %s in the world", to, name)
		}
	}
	w.leads.Lead(to, nodes...)
	return nil
}

// MACs implements lab.World.
func (w *World) MACs(name string) (own, gateway net.HardwareAddr, err error) {
	h, err := w.host(name)
	if err != nil {
		return nil, nil, err
	}
	return h.mac, h.gateway, nil
}

// Apply implements lab.World.
func (w *World) Apply(ctx context.Context, name string, state *model.State) (datapath.Change, error) {
	n := w.nodeCalled(name)
	if n == nil {
		return datapath.Change{}, fmt.Errorf("apply state: there is no node %s in the world", name)
	}
	defer phase.Start(ctx, phase.Tables)()
	return n.dp.Apply(state)
}

func (w *World) each(f func(*datapath.Datapath) error) error {
	for _, n := range w.nodes {
		if err := f(n.dp); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
	}
	return nil
}

// Datapath implements lab.World.
func (w *World) Datapath(name string) *datapath.Datapath {
	n := w.nodeCalled(name)
	if n == nil {
		return nil
	}
	return n.dp
}

// Walks implements lab.World.
func (w *World) Walks() []lab.Walk {
	out := w.walks
	w.walks = nil
	return out
}

// Enter implements lab.World: there is no place where a person could look.
func (w *World) Enter() string { return "" }

// Close implements lab.World. The worker keeps the devices and programs.
func (w *World) Close() error { return nil }

// Send implements lab.World. When it returns, the frame and all that it set
// off have arrived or been dropped.
func (w *World) Send(_ context.Context, name string, data []byte) error {
	h, err := w.host(name)
	if err != nil {
		return err
	}
	return w.emit(h, data)
}

// Arrived implements lab.World. It never waits: nothing is on its way.
func (w *World) Arrived(_ context.Context, name string) ([]lab.Frame, error) {
	h, err := w.host(name)
	if err != nil {
		return nil, err
	}
	out := h.arrived
	h.arrived = nil
	return out, nil
}

// freePort gives a source port that this world has not used.
func (w *World) freePort() uint16 {
	w.nextPort++
	return w.nextPort
}
