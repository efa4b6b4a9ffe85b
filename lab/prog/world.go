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
	"github.com/weirnet/weir/model"
)

// World is one network in miniature. It must only be used on the thread of
// the worker that made it.
type World struct {
	net     *network
	dp      *datapath.Datapath
	offset  time.Duration // of the clock
	hosts   map[string]*host
	pods    []*host // by slot
	node    *host
	outside []*host

	queue    []departure
	walks    []lab.Walk
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
	addresses []netip.Addr
	device    model.Device // of a pod: its slot's
	mac       net.HardwareAddr
	gateway   net.HardwareAddr
	arrived   []lab.Frame
	stack     stack
}

type departure struct {
	from *host
	data []byte
}

// firstPort is where the ports that the world chooses begin.
const firstPort = 32768

func newWorld(topo lab.Topology, nw *network, dp *datapath.Datapath) (*World, error) {
	w := &World{net: nw, dp: dp, hosts: make(map[string]*host, len(topo.Pods)+3), nextPort: firstPort}
	for i, t := range topo.Pods {
		d := nw.pods[i]
		h := &host{name: t.Name, kind: isPod, addresses: t.Addresses, device: d, mac: d.PodMAC, gateway: d.MAC}
		w.pods = append(w.pods, h)
		w.add(h, t)
	}
	w.node = &host{name: topo.Nodes[0].Name, kind: isNode, mac: nw.uplink.MAC, gateway: routerMAC,
		addresses: slices.Concat(topo.Nodes[0].Addresses, topo.Gateways)}
	w.add(w.node, topo.Nodes[0])
	for i, t := range topo.Outside {
		h := &host{name: t.Name, kind: isOutside, addresses: t.Addresses, gateway: nw.uplink.MAC,
			mac: net.HardwareAddr{0x02, 0x0a, 0, 0, 0, byte(i + 1)}}
		w.outside = append(w.outside, h)
		w.add(h, t)
	}
	if want := len(topo.Pods) + len(topo.Outside) + 1; len(w.hosts) != want {
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

// OnStep has a function called for every hook that a frame passes, in order,
// with the time by the datapath's clock.
func (w *World) OnStep(f func(lab.Step, time.Time)) { w.onStep = f }

// Devices implements lab.World.
func (w *World) Devices(string) map[string]model.Device {
	out := make(map[string]model.Device, len(w.pods))
	for _, h := range w.pods {
		out[h.name] = h.device
	}
	return out
}

// Uplinks implements lab.World: only pods' devices have programs.
func (w *World) Uplinks(string) []model.Uplink { return nil }

// MACs implements lab.World.
func (w *World) MACs(name string) (own, gateway net.HardwareAddr, err error) {
	h, err := w.host(name)
	if err != nil {
		return nil, nil, err
	}
	return h.mac, h.gateway, nil
}

// Apply implements lab.World.
func (w *World) Apply(_ context.Context, _ string, state *model.State) (datapath.Change, error) {
	return w.dp.Apply(state)
}

// now is the time by the datapath's clock.
func (w *World) now() time.Time { return time.Now().Add(w.offset) }

// Advance implements lab.World.
func (w *World) Advance(_ context.Context, by time.Duration) error {
	w.offset += by
	return w.dp.Advance(by)
}

// Collect implements lab.World.
func (w *World) Collect(context.Context) error {
	_, err := w.dp.Collect()
	return err
}

// Datapath implements lab.World.
func (w *World) Datapath(string) *datapath.Datapath { return w.dp }

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
