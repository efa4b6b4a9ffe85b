// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// maxFrames bounds what one call may set off: more is a loop.
const maxFrames = 1000

// ErrLoop is frames that set off frames without end.
var ErrLoop = errors.New("frames go round and round")

// emit sends a frame, and carries all that it sets off to its end.
func (w *World) emit(from *host, data []byte) error {
	w.queue = append(w.queue, departure{from, data})
	for n := 0; len(w.queue) > 0; n++ {
		if n == maxFrames {
			w.queue = w.queue[:0]
			return fmt.Errorf("send from %s: %w: stopped after %d", from.name, ErrLoop, maxFrames)
		}
		d := w.queue[0]
		w.queue = w.queue[1:]
		if err := w.carry(d.from, d.data); err != nil {
			w.queue = w.queue[:0]
			return fmt.Errorf("send from %s: %w", d.from.name, err)
		}
	}
	w.queue = nil
	for _, n := range w.nodes {
		faults, err := n.witness.Counters()
		if err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
		last := &w.walks[len(w.walks)-1]
		last.Faults = append(last.Faults, faults...)
	}
	return nil
}

// carry takes one frame from a host to where it ends.
func (w *World) carry(from *host, data []byte) error {
	t := &trip{world: w, data: data, walk: lab.Walk{Time: w.Now(), From: from.name, Sent: data}}
	var err error
	switch from.kind {
	case isPod:
		err = t.fromPod(from)
	case isNode:
		err = t.fromNode(from.node)
	case isOutside:
		err = t.fromOutside(from)
	}
	w.walks = append(w.walks, t.walk)
	return err
}

// trip is one frame on its way.
type trip struct {
	world *World
	data  []byte // as it is now
	mark  uint32 // that hooks of the node where it is have left; lost between machines
	walk  lab.Walk
	// second says at which of two uplinks the frame is.
	second bool
	// ledOn says that the node where the frame is leads it on: it came in by some device.
	ledOn bool
}

// maxSteps is how many hooks a frame may meet: more than a hop limit allows where
// each node lowers it, and few enough that one which does not is told of.
const maxSteps = 512

func (t *trip) faultf(format string, args ...any) {
	t.walk.Faults = append(t.walk.Faults, fmt.Sprintf(format, args...))
}

// hook runs a program at a device of a node, the pod's or the uplink where pod
// is nil, and gives what it decided.
func (t *trip) hook(hook model.Hook, n *node, pod *host) (datapath.Decision, error) {
	if len(t.walk.Steps) == maxSteps {
		t.faultf("it goes round: it has met %d hooks", maxSteps)
		return datapath.Decision{Action: model.Drop}, nil
	}
	now := t.world.Now()
	endpoint, ifindex := n.name, t.uplink()
	if pod != nil {
		endpoint, ifindex = pod.name, pod.device.Ifindex
	}
	if t.world.onFrame != nil {
		t.world.onFrame(n.name, model.Where{Hook: hook, Endpoint: endpoint}, t.data, now, t.isLedTo(hook))
	}
	ran, faults, err := t.world.run(n, hook, t.data, ifindex, t.ledBy(hook), t.mark)
	var contradiction *datapath.Contradiction
	if errors.Is(err, datapath.ErrSum) { // the kernel gives nothing of it back
		t.faultf("%s of %s: %v", hook, endpoint, datapath.ErrSum)
		return datapath.Decision{Action: model.Drop}, nil
	}
	if err != nil && !errors.As(err, &contradiction) {
		return datapath.Decision{}, fmt.Errorf("run %s of %s: %w", hook, endpoint, err)
	}
	t.walk.Faults = append(t.walk.Faults, faults...)
	step := lab.Step{
		Node: n.name, Hook: hook, Endpoint: endpoint,
		Decision: ran.Decision, Contradiction: contradiction, In: t.data, Out: bytes.Clone(ran.Data),
	}
	t.walk.Steps = append(t.walk.Steps, step)
	t.data, t.mark = step.Out, ran.Mark
	if t.world.onStep != nil {
		t.world.onStep(step, now)
	}
	return ran.Obeyed(hook, ifindex), nil
}

// isLedTo says whether a hook is told that the node has not made the frame. Those that
// frames come in by know it by themselves.
func (t *trip) isLedTo(hook model.Hook) bool {
	return t.ledOn && hook == model.ToContainer && t.world.tellsLed
}

// ledBy is the device that such a frame came in by, and 0 for all others.
func (t *trip) ledBy(hook model.Hook) int {
	if !t.isLedTo(hook) {
		return 0
	}
	return t.uplink()
}

// unseen has a hook see a frame that the mark says is judged already: it lets
// it pass without a word.
func (t *trip) unseen(hook model.Hook, n *node, pod *host) error {
	endpoint, ifindex := n.name, t.uplink()
	if pod != nil {
		endpoint, ifindex = pod.name, pod.device.Ifindex
	}
	ran, faults, err := t.world.run(n, hook, t.data, ifindex, t.ledBy(hook), t.mark)
	t.walk.Faults = append(t.walk.Faults, faults...)
	var contradiction *datapath.Contradiction
	switch {
	case errors.As(err, &contradiction):
		t.faultf("of a frame that another hook had marked with %#x, %v", t.mark, contradiction)
	case err != nil:
		return fmt.Errorf("run %s of %s: %w", hook, endpoint, err)
	case !bytes.Equal(ran.Data, t.data):
		t.faultf("%s of %s has changed a frame that another hook had marked with %#x", hook, endpoint, t.mark)
	}
	return nil
}

func (t *trip) fromPod(pod *host) error {
	t.mark = datapath.MarkOfOthers
	d, err := t.hook(model.FromContainer, pod.node, pod)
	if err != nil || d.Action == model.Drop {
		return err
	}
	switch d.Out {
	case model.OutSelf:
		if err := t.unseen(model.ToContainer, pod.node, pod); err != nil {
			return err
		}
		t.deliver(pod)
	case model.OutHost:
		t.deliver(pod.node.host)
	default:
		return t.follow(pod.node, d)
	}
	return nil
}

// follow takes a frame the way out that a hook of a node has chosen.
func (t *trip) follow(n *node, d datapath.Decision) error {
	switch d.Out {
	case model.OutLocal:
		i := slices.IndexFunc(n.pods, func(h *host) bool { return h.device.Ifindex == d.Ifindex })
		if i < 0 {
			t.faultf("the way out is the pod behind device %d, but no pod of %s has that device", d.Ifindex, n.name)
			return nil
		}
		if datapath.Judged(model.ToContainer, t.mark) {
			if err := t.unseen(model.ToContainer, n, n.pods[i]); err != nil {
				return err
			}
		}
		t.deliver(n.pods[i])
		return nil
	case model.OutDevice, model.OutTunnel:
		t.takeRoute()
		if d.Ifindex != t.uplink() {
			t.faultf("the way out is device %d, but the route leads to device %d", d.Ifindex, t.uplink())
			return nil
		}
		if d.Out == model.OutTunnel {
			t.walk.Faults = append(t.walk.Faults, frame.Tunnelled(t.walk.Steps[len(t.walk.Steps)-1].In, t.data)...)
		}
		return t.leave(n)
	}
	t.faultf("the frame was neither dropped nor given a way out (%q, %q)", d.Action, d.Out)
	return nil
}

// uplink is the device of the uplink where the frame is.
func (t *trip) uplink() int {
	if t.second {
		return t.world.net.second.Ifindex
	}
	return t.world.net.uplink.Ifindex
}

// takeRoute goes to the uplink that a node's kernel has a route by.
func (t *trip) takeRoute() {
	if !t.world.second {
		return
	}
	to := t.world.outsideAt(frame.Decode(t.data))
	t.second = to != nil && to.second
}

// address gives the frame hardware addresses, in a copy.
func (t *trip) address(dst, src []byte) {
	t.data = bytes.Clone(t.data)
	copy(t.data, dst)
	copy(t.data[6:], src)
}

func (t *trip) intoPod(pod *host) error {
	d, err := t.hook(model.ToContainer, pod.node, pod)
	if err != nil || d.Action == model.Drop {
		return err
	}
	if d.Out == model.OutSelf {
		return t.backFrom(pod)
	}
	t.deliver(pod)
	return nil
}

// backFrom takes the answer to a frame that was for a pod to who has sent that: it
// comes in as if the pod had sent it, and the node's kernel leads it on.
func (t *trip) backFrom(pod *host) error {
	if err := t.unseen(model.FromContainer, pod.node, pod); err != nil {
		return err
	}
	return t.intoStack(pod.node)
}

// deliver gives the frame to a host, and the host's answers to the queue.
func (t *trip) deliver(to *host) {
	t.walk.To, t.walk.Delivered = to.name, t.data
	t.verify(to)
	to.arrived = append(to.arrived, lab.Frame{Time: t.world.Now(), Host: to.name, Data: t.data})
	for _, answer := range to.stack.receive(t.data) {
		t.world.queue = append(t.world.queue, departure{to, answer})
	}
}

// verify checks what no way through a datapath may change: checksums that
// were right are right, wrong ones are not repaired, and the frame is
// addressed to the one who gets it.
func (t *trip) verify(to *host) {
	before, after := t.sent().Checksums(), frame.Decode(t.data).Checksums()
	if t.answered() {
		before = frame.Checksums{IP: frame.Right, Transport: frame.Right}
		if after.IP == frame.Absent {
			before.IP = frame.Absent
		}
		if after.Transport == frame.Absent {
			before.Transport = frame.Absent
		}
		before.Quoted = after.Quoted
	} else {
		t.verifyFragment(to)
	}
	if before.IP != after.IP {
		t.faultf("the IPv4 header's checksum was %s when %s sent it, and is %s for %s", before.IP, t.walk.From, after.IP, to.name)
	}
	if before.Transport != after.Transport {
		t.faultf("the transport checksum was %s when %s sent it, and is %s for %s", before.Transport, t.walk.From, after.Transport, to.name)
	}
	if before.Quoted != after.Quoted {
		t.faultf("the checksum of the IPv4 header that is quoted was %s when %s sent it, and is %s for %s", before.Quoted, t.walk.From, after.Quoted, to.name)
	}
	if to.kind != isPod || len(t.data) < 14 || t.data[0]&1 != 0 {
		return
	}
	if !bytes.HasPrefix(t.data, to.mac) {
		t.faultf("%s gets a frame whose hardware address is another's: it would not take it", to.name)
	}
}

// sent is the packet that was sent; the one inside, if it was sent in a tunnel
// and taken out.
func (t *trip) sent() *frame.Packet {
	p := frame.Decode(t.walk.Sent)
	inner, wrapped := p.Carried()
	if _, still := frame.Decode(t.data).Carried(); wrapped && !still {
		return inner
	}
	return p
}

// verifyFragment checks what stands for a fragment's transport checksum: the
// first fragment's makes up for what was translated, and a later one has
// nothing behind its IP header that is anybody's to change.
func (t *trip) verifyFragment(to *host) {
	before, after := t.sent(), frame.Decode(t.data)
	if before.Later() && !bytes.Equal(before.Behind(), after.Behind()) {
		t.faultf("the later fragment that %s sent is another one for %s", t.walk.From, to.name)
	}
	was, sums := before.Residue()
	is, still := after.Residue()
	if was != is || sums != still {
		t.faultf("the first fragment's checksum does not fit to what %s gets of what %s sent", to.name, t.walk.From)
	}
}

// answered says that a hook made a frame of its own out of the one sent.
func (t *trip) answered() bool {
	return slices.ContainsFunc(t.walk.Steps, func(s lab.Step) bool { return s.Decision.Action == model.Reply })
}

// own says whether a host has an address.
func (h *host) own(a netip.Addr) bool { return slices.Contains(h.addresses, a) }

// address gives the host's address of a family; the zero Addr when it has none.
func (h *host) address(v6 bool) netip.Addr {
	for _, a := range h.addresses {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}
