// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
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
	return nil
}

// carry takes one frame from a host to where it ends.
func (w *World) carry(from *host, data []byte) error {
	t := &trip{world: w, data: data, walk: lab.Walk{Time: w.now(), From: from.name, Sent: data}}
	var err error
	switch from.kind {
	case isPod:
		err = t.fromPod(from)
	case isNode:
		err = t.fromNode()
	case isOutside:
		err = t.fromOutside()
	}
	w.walks = append(w.walks, t.walk)
	return err
}

// trip is one frame on its way.
type trip struct {
	world *World
	data  []byte // as it is now
	walk  lab.Walk
}

func (t *trip) faultf(format string, args ...any) {
	t.walk.Faults = append(t.walk.Faults, fmt.Sprintf(format, args...))
}

// hook runs a program of a pod's device, and gives what it decided.
func (t *trip) hook(hook model.Hook, pod *host) (datapath.Decision, error) {
	now := t.world.now()
	ran, err := t.world.dp.Run(hook, datapath.Frame{Data: t.data, Ifindex: pod.device.Ifindex})
	if err != nil {
		return datapath.Decision{}, fmt.Errorf("run %s of %s: %w", hook, pod.name, err)
	}
	step := lab.Step{Hook: hook, Endpoint: pod.name, Decision: ran.Decision, In: t.data, Out: ran.Data}
	t.walk.Steps = append(t.walk.Steps, step)
	t.data = ran.Data
	if t.world.onStep != nil {
		t.world.onStep(step, now)
	}
	return ran.Decision, nil
}

func (t *trip) fromPod(pod *host) error {
	d, err := t.hook(model.FromContainer, pod)
	if err != nil || d.Action == model.Drop {
		return err
	}
	switch d.Out {
	case model.OutSelf:
		t.deliver(pod)
	case model.OutLocal:
		i := slices.IndexFunc(t.world.pods, func(h *host) bool { return h.device.Ifindex == d.Ifindex })
		if i < 0 {
			t.faultf("the way out is the pod behind device %d, but no pod has that device", d.Ifindex)
			return nil
		}
		t.deliver(t.world.pods[i])
	case model.OutHost:
		t.deliver(t.world.node)
	case model.OutDevice:
		if d.Ifindex != t.world.net.uplink.Ifindex {
			t.faultf("the way out is device %d, but the route leads to device %d", d.Ifindex, t.world.net.uplink.Ifindex)
			return nil
		}
		t.leave()
	default:
		t.faultf("the frame was neither dropped nor given a way out (%q, %q)", d.Action, d.Out)
	}
	return nil
}

// leave brings a frame to the host outside that has its destination. The
// kernel's part (redirect_neigh) is done here: the next hop's address.
func (t *trip) leave() {
	p := frame.Decode(t.data)
	i := slices.IndexFunc(t.world.outside, func(h *host) bool { return slices.Contains(h.addresses, p.Dst) })
	if i < 0 {
		t.walk.Nobody = fmt.Sprintf("left the node, where no host has the address %s", p.Dst)
		return
	}
	to := t.world.outside[i]
	t.address(to.mac, t.world.net.uplink.MAC)
	t.deliver(to)
}

// address gives the frame hardware addresses, in a copy.
func (t *trip) address(dst, src []byte) {
	t.data = bytes.Clone(t.data)
	copy(t.data, dst)
	copy(t.data[6:], src)
}

func (t *trip) fromNode() error {
	p := frame.Decode(t.data)
	if pod := t.world.podAt(p, t.data); pod != nil {
		return t.intoPod(pod)
	}
	t.leave()
	return nil
}

// podAt finds the pod that a frame of the node's is for: by hardware address
// where it names one, else by address.
func (w *World) podAt(p *frame.Packet, data []byte) *host {
	for _, h := range w.pods {
		if bytes.HasPrefix(data, h.mac) {
			return h
		}
	}
	for _, h := range w.pods {
		if p.Version != 0 && slices.Contains(h.addresses, p.Dst) {
			return h
		}
	}
	return nil
}

func (t *trip) intoPod(pod *host) error {
	d, err := t.hook(model.ToContainer, pod)
	if err != nil || d.Action == model.Drop {
		return err
	}
	if d.Action != model.Forward {
		t.faultf("%s can only forward or drop, not %s", model.ToContainer, d.Action)
		return nil
	}
	t.deliver(pod)
	return nil
}

// fromOutside does what the node's kernel does with a frame from its uplink.
func (t *trip) fromOutside() error {
	p := frame.Decode(t.data)
	if p.Version == 0 {
		t.walk.Nobody = "the node's stack takes no such frame from its uplink"
		return nil
	}
	if slices.Contains(t.world.node.addresses, p.Dst) {
		t.deliver(t.world.node)
		return nil
	}
	i := slices.IndexFunc(t.world.pods, func(h *host) bool { return slices.Contains(h.addresses, p.Dst) })
	if i < 0 {
		t.walk.Nobody = fmt.Sprintf("the node has no route to %s but the one that it came from", p.Dst)
		return nil
	}
	if p.TTL <= 1 {
		t.walk.Nobody = "the node's stack does not forward a packet whose time is over"
		return nil
	}
	pod := t.world.pods[i]
	t.address(pod.mac, pod.device.MAC)
	decrement(t.data, p)
	return t.intoPod(pod)
}

// decrement takes one off the TTL or hop limit, and adjusts the checksum as a
// router does, RFC 1141: a wrong one stays wrong.
func decrement(data []byte, p *frame.Packet) {
	if p.Version == 6 {
		data[p.L3+7]--
		return
	}
	data[p.L3+8]--
	check := data[p.L3+10 : p.L3+12]
	sum := uint32(binary.BigEndian.Uint16(check)) + 0x100
	binary.BigEndian.PutUint16(check, uint16(sum+sum>>16))
}

// deliver gives the frame to a host, and the host's answers to the queue.
func (t *trip) deliver(to *host) {
	t.walk.To, t.walk.Delivered = to.name, t.data
	t.verify(to)
	to.arrived = append(to.arrived, lab.Frame{Time: t.world.now(), Host: to.name, Data: t.data})
	for _, answer := range to.stack.receive(t.data) {
		t.world.queue = append(t.world.queue, departure{to, answer})
	}
}

// verify checks what no way through a datapath may change: checksums that
// were right are right, wrong ones are not repaired, and the frame is
// addressed to the one who gets it.
func (t *trip) verify(to *host) {
	before, after := frame.Decode(t.walk.Sent).Checksums(), frame.Decode(t.data).Checksums()
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

// verifyFragment checks what stands for a fragment's transport checksum: the
// first fragment's makes up for what was translated, and a later one has
// nothing behind its IP header that is anybody's to change.
func (t *trip) verifyFragment(to *host) {
	before, after := frame.Decode(t.walk.Sent), frame.Decode(t.data)
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
	n := len(t.walk.Steps)
	return n > 0 && t.walk.Steps[n-1].Decision.Action == model.Reply
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
