// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// run passes a frame through a node's program, and gives what is wrong with what
// the program left besides it. What the node has not made came in by a device: ledBy.
func (w *World) run(n *node, hook model.Hook, data []byte, ifindex, ledBy int, mark uint32) (datapath.Ran, []string, error) {
	if w.unheld != nil {
		return datapath.Ran{}, nil, w.unheld
	}
	defer w.wasBusy()
	ran, events, faults, err := n.witness.Run(hook, data, ifindex, ledBy, mark)
	if len(events) > 0 {
		faults = append(faults, misnamed(events, data)...)
	}
	if err == nil && ran.Decision.Action == model.Forward {
		faults = append(faults, n.misaddressed(hook, data, ran.Data, &ran.Decision)...)
	}
	if err == nil && ran.Decision.Action == model.Reply {
		faults = append(faults, n.misanswered(ran.Decision.Reason, data, ran.Data, ifindex)...)
	}
	return ran, faults, err
}

// misnamed compares whom events tell of with the packet that was sent.
func misnamed(events []datapath.Looked, data []byte) []string {
	p := frame.Decode(data)
	tuple, ok := p.Tuple()
	_, quotes := p.Quoted()
	// A later fragment is told of with the ports of the first.
	if !ok || quotes || p.Later() {
		return nil
	}
	carried := tuple
	if inner, wrapped := p.Carried(); wrapped { // and may have been taken out of that
		_, quotes = inner.Quoted()
		if carried, ok = inner.Tuple(); !ok || quotes || inner.Later() {
			return nil
		}
	}
	var faults []string
	for i := range events {
		e := &events[i]
		fits := func(t model.Tuple) bool {
			if e.Flow != datapath.FlowNone {
				return e.Tuple == t
			}
			// Before a flow is looked up the packet may not have been read to its ports.
			port := func(told, is uint16) bool { return told == 0 || told == is }
			return port(e.Tuple.Sport, t.Sport) && port(e.Tuple.Dport, t.Dport)
		}
		if !fits(tuple) && !fits(carried) {
			faults = append(faults, fmt.Sprintf("an event tells of %s, and the packet is %s", e.Tuple, carried))
		}
	}
	return faults
}

// misaddressed looks at the hardware addresses of a frame that is let through. A
// program gives it those of the pod's device where it leads it into a pod; all
// others are the kernel's to give.
func (n *node) misaddressed(hook model.Hook, data, left []byte, d *datapath.Decision) []string {
	const both = 12 // octets of the two
	if len(data) < both || len(left) < both {
		return nil
	}
	want := data[:both]
	if d.Out == model.OutLocal && hook != model.ToContainer {
		i := slices.IndexFunc(n.pods, func(h *host) bool { return h.device.Ifindex == d.Ifindex })
		if i < 0 {
			return []string{fmt.Sprintf("it leads into device %d, which is no pod's", d.Ifindex)}
		}
		want = slices.Concat(n.pods[i].device.PodMAC, n.pods[i].device.MAC)
	}
	if !bytes.Equal(want, left[:both]) {
		return []string{fmt.Sprintf("the frame's hardware addresses are %x, and have to be %x", left[:both], want)}
	}
	return nil
}

// misanswered compares an answer of the datapath with what it has to be.
func (n *node) misanswered(reason model.Reason, asked, answer []byte, ifindex int) []string {
	var mac, pod []byte
	for _, h := range n.pods {
		if h.device.Ifindex == ifindex {
			mac, pod = h.device.MAC, h.device.PodMAC
		}
	}
	// What came in a tunnel is taken out of it first. Whom an answer is from tells
	// whether it was: a packet in a packet may as well be for a service's address, and
	// both of them for the same.
	p, outer := frame.Decode(answer), frame.Decode(asked)
	if inner, ok := outer.Carried(); ok && p.Version != 0 && p.Src == inner.Dst && p.Src != outer.Dst {
		asked = outer.TakenOut()
	}
	want := frame.Answer(asked, reason, mac, pod, p.SaidMTU())
	got := frame.WithoutChecksums(answer)
	sums := p.Checksums()
	switch {
	case want == nil:
		return []string{fmt.Sprintf("nobody knows what an answer for %s has to be", reason)}
	case reason == model.ReasonTooBig && p.SaidMTU() == 0:
		return []string{"the answer does not say what would fit"}
	case !bytes.Equal(frame.WithoutChecksums(want), got):
		return []string{fmt.Sprintf("the answer is %x, and has to be %x", got, frame.WithoutChecksums(want))}
	case sums.IP == frame.Wrong, sums.Transport == frame.Wrong && !echoes(asked):
		return []string{fmt.Sprintf("the answer's checksums are %s in the IP header and %s in the transport's", sums.IP, sums.Transport)}
	}
	return nil
}

// echoes is whether a frame is a ping that was harmed before: what it carries, and the
// sum of that, come back as they were.
func echoes(asked []byte) bool {
	p := frame.Decode(asked)
	return (p.Proto == protoICMP || p.Proto == protoICMPv6) && p.Checksums().Transport == frame.Wrong
}

// Pass runs a frame through a hook of a node alone, at one of its devices, as
// if it had come there. Faults are what is wrong with what the program left
// besides the frame; what is given is good until the next call.
func (w *World) Pass(name string, hook model.Hook, data []byte, ifindex int) (ran datapath.Ran, faults []string, err error) {
	n := w.nodeCalled(name)
	if n == nil {
		return ran, nil, fmt.Errorf("run %s: there is no node %s in the world", hook, name)
	}
	return w.run(n, hook, data, ifindex, 0, datapath.MarkOfOthers)
}

// Counted says which counters of a node are not what its programs have noted.
func (w *World) Counted(name string) ([]string, error) { return w.nodeCalled(name).witness.Counters() }
