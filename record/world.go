// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/netns"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/pcap"
)

// Options make the datapath of a world tell of every packet: give them to
// netns.New.
func Options() netns.Options {
	return netns.Options{Datapath: datapath.Options{TraceAll: true, EventsPerSecond: 1 << 20}}
}

// Bounds of what is kept.
const (
	maxFrames = 1 << 17
	maxBytes  = 256 << 20
	maxEvents = 1 << 17
)

// carried is a frame at a host's interface.
type carried struct {
	host      string
	at        time.Time
	data      []byte
	direction pcap.Direction
	notes     []string
	tuple     model.Tuple
	isFlow    bool
}

// event is what the datapath told, by the clock of the frames.
type event struct {
	datapath.Event
	at time.Time
}

// World is a world that is recorded. It is used in the world's place, and
// what it has recorded is written after Close.
type World struct {
	*netns.World
	taps  taps
	nodes []string

	mu       sync.Mutex
	frames   []carried
	bytes    int
	events   []event
	advanced time.Duration
	// Lost is how many frames and events were not kept. Unplaced is how many
	// decisions fit no frame. Both are right after Write.
	Lost, Unplaced int
}

var _ lab.World = (*World)(nil)

// New records a world from now on: frames of the interfaces of pods and hosts
// outside, and of the nodes' first uplinks if they lead to a router, both ways. Of
// silent hosts it has what the script sends.
func New(w *netns.World, topology lab.Topology) (*World, error) {
	r := &World{World: w}
	for _, n := range topology.Nodes {
		r.nodes = append(r.nodes, n.Name)
	}
	tapped := slices.Concat(topology.Pods, topology.Outside)
	if topology.Routed() {
		tapped = append(tapped, topology.Nodes...)
	}
	for _, h := range tapped {
		if h.Silent {
			continue
		}
		t, err := newTap(w, h.Name)
		if err != nil {
			return nil, errors.Join(err, r.taps.close())
		}
		r.taps.list = append(r.taps.list, t)
		r.taps.reading.Go(func() { t.read(r.add) })
	}
	return r, nil
}

func (w *World) add(c carried) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.frames) == maxFrames || w.bytes+len(c.data) > maxBytes {
		w.Lost++
		return
	}
	w.frames = append(w.frames, c)
	w.bytes += len(c.data)
}

// Send implements lab.World.
func (w *World) Send(ctx context.Context, host string, data []byte) error {
	if !slices.ContainsFunc(w.taps.list, func(t *tap) bool { return t.host == host }) {
		w.add(carried{host: host, at: time.Now(), data: slices.Clone(data), direction: pcap.Out})
	}
	return w.World.Send(ctx, host, data)
}

// Advance implements lab.World.
func (w *World) Advance(ctx context.Context, by time.Duration) error {
	if err := w.World.Advance(ctx, by); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.advanced += by
	return nil
}

// Walks implements lab.World. Events can be read once, so both the recording
// and who asks for walks have them from here.
func (w *World) Walks() []lab.Walk {
	w.mu.Lock()
	defer w.mu.Unlock()
	var walks []lab.Walk
	offset := time.Duration(time.Now().UnixNano()) - monotonic() - w.advanced
	for _, node := range w.nodes {
		dp := w.Datapath(node)
		if dp == nil {
			continue
		}
		// What could not be read shows as packets that have no note.
		told, _ := dp.Events()
		for _, e := range told {
			walks = append(walks, w.keep(node, event{e, time.Unix(0, int64(offset+e.Time))}))
		}
	}
	return walks
}

// keep keeps an event and makes a walk of it. w.mu is held.
func (w *World) keep(node string, e event) lab.Walk {
	if len(w.events) < maxEvents {
		w.events = append(w.events, e)
	} else {
		w.Lost++
	}
	walk := lab.Walk{Time: e.at, Steps: []lab.Step{
		{Node: node, Hook: e.Hook, Endpoint: e.Endpoint, Decision: e.Decision, Tuple: e.Tuple},
	}}
	switch {
	case e.Hook == model.FromContainer, e.Hook == model.ToDevice:
		walk.From = e.Endpoint
	case e.Hook == model.ToContainer && e.Decision.Action == model.Forward:
		walk.To = e.Endpoint
	}
	return walk
}

// monotonic is the kernel's clock that the datapath's is made of.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic("record: read the monotonic clock: " + err.Error()) // every kernel has it
	}
	return time.Duration(now.Nano())
}

// Close implements lab.World.
func (w *World) Close() error {
	w.Walks() // what nobody has asked for
	err := errors.Join(w.taps.close(), w.World.Close())
	if err != nil {
		return fmt.Errorf("end recording: %w", err)
	}
	return nil
}
