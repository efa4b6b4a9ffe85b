// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// A packet that meets its flow leaves the entry as it was, but for what it adds
// itself: when it was seen, the flags that it has, that both directions were seen,
// and with that the table in which the entry is.

// touchEvery is TOUCH_EVERY of bpf/lib/limits.h.
const touchEvery = uint64(time.Second)

const flowAnswered = uint8(bpf.ContainerFlowFlagsFLOW_ANSWERED)

// meeting is an entry that a packet has met, as it was left.
type meeting struct {
	value flowValue
	// moved: it is among the answered flows; there it cannot be where a dead entry
	// takes its place, or none is left.
	moved, dead bool
	// twice: it is among the others as well.
	twice bool
}

// meet reads the entry that a packet of a key has met; nil where there is none.
func (r *FlowReader) meet(key *flowKey) (*meeting, error) {
	var m *meeting
	dead := false
	r.entry.key = *key
	err := r.each(func(moved bool) bool {
		switch {
		case moved && r.entry.dead():
			dead = true
		case m == nil:
			m = &meeting{value: r.entry.value, moved: moved, dead: dead}
		default:
			m.twice = true
		}
		return true
	})
	return m, err
}

// wrong says what is wrong with how an entry was left by a packet that has met it
// and was no new flow's; before is how the last one left it, if it was none either.
func (m *meeting) wrong(left *bpf.ContainerScratch, read reads, before *meeting) []string {
	var faults []string
	demand := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, "the flow that it has met is wrong: "+fmt.Sprintf(format, args...))
		}
	}
	is, pkt := &m.value, &left.Pkt
	if pkt.Traceless != 0 {
		demand(pkt.TcpFlags&(flowFIN|flowRST) != 0, "it ends nothing, and has left no trace")
		if before != nil {
			was := &before.value
			demand(is.Seen == was.Seen && is.LastSeen == was.LastSeen && is.Flags == was.Flags && numberOf(is) == numberOf(was),
				"it is to leave no trace: %s", differing(*is, *was, "and was"))
		}
		return faults
	}
	flags := pkt.TcpFlags & flowSeen
	answered := is.Flags&flowAnswered != 0
	demand(is.Seen&flags == flags, "it has flags %#x, and of its direction were seen %#x", flags, is.Seen)
	traced := trace(left, *is)
	demand(is.Seen&flags != flags || numberOf(is) == numberOf(&traced), "it shows %s, and noted is %s", numberOf(&traced), numberOf(is))
	demand(is.LastSeen <= pkt.Now && pkt.Now-is.LastSeen < touchEvery, "it comes at %d, and is noted at %d", pkt.Now, is.LastSeen)
	demand(is.Flags&flowReply == 0 || answered, "it answers, and its flow is not answered")
	demand(is.Out != uint8(bpf.ContainerOutOUT_TUNNEL) || answered || is.Seen&uint8(bpf.ContainerFlowSeenSEEN_ACK) == 0, "it has seen an answer, and is not answered")
	demand(!m.moved || !m.twice, "it is in both tables")
	if before == nil || before.value.LastSeen > pkt.Now {
		return faults
	}
	was := &before.value
	if flags&(flowACK|flowSYN) == 0 {
		demand(numberOf(is) == numberOf(was), "it shows no numbers, and noted is %s, which was %s", numberOf(is), numberOf(was))
	}
	// One whose place a dead entry had is tried again once a second.
	tried := was.Flags&flowAnswered == 0 || pkt.Now-was.LastSeen >= touchEvery
	demand(m.moved || m.dead || !answered || !tried, "it is answered, and not among those")
	if was.Flags&flowAnswered == is.Flags&flowAnswered && pkt.Now-was.LastSeen < touchEvery {
		demand(is.LastSeen == was.LastSeen, "it was noted at %d, and again at %d", was.LastSeen, is.LastSeen)
	}
	if was.Flags&flowAnswered != 0 && before.moved && read.hit(inAnswered) {
		demand(!read.of(inUnanswered), "it is answered, and was looked for among the others")
	}
	return faults
}

// wayOut says what is wrong with the way out that is kept of a packet: one that is
// dropped has none, and hook and way say who goes on with it.
func wayOut(r *reading, out uint8, ifindex uint32, asItIs uint8) []string {
	kept := Decision{Action: r.action, Out: outs[out], AsItIs: asItIs != 0}
	switch {
	case r.action == model.Drop && (out != 0 || ifindex != 0 || asItIs != 0):
		return []string{fmt.Sprintf("it is dropped, and has a way out, %d by device %d", out, ifindex)}
	case r.action == model.Reply && ifindex == 0:
		return []string{"it is answered by no device"}
	case r.action != model.Forward:
		return nil
	case kept.AsItIs != kept.stays(r.hook):
		return []string{fmt.Sprintf("it goes out %s at %s, and is let through as it is: %t", kept.Out, r.hook, kept.AsItIs)}
	case r.hook == model.ToDevice && r.straight && r.lookup == FlowNone && asItIs == 0:
		return []string{"no flow is known for it at to-device, and it is not let through as it is"}
	case asItIs != 0 && (r.hook == model.FromDevice) == (ifindex != 0):
		return []string{fmt.Sprintf("the kernel goes on with it at %s, and the device of its way out is %d", r.hook, ifindex)}
	}
	return nil
}

// dueAnew says whether a flow was rightly kept, or judged anew, that the last packet
// left in an epoch before.
func (w *Witness) dueAnew(lookup FlowLookup, left *bpf.ContainerScratch) ([]string, error) {
	pkt := &left.Pkt
	before := w.met[pkt.Key]
	if before == nil || lookup != FlowKnown && lookup != FlowRejudged {
		return nil, nil
	}
	was := &before.value
	anew := was.Epoch != pkt.Epoch
	if anew {
		var err error
		if anew, err = w.d.changed.concern(was.Epoch, dependsOn(&pkt.Key, was, pkt.Decapped != 0)); err != nil {
			return nil, err
		}
	}
	if anew != (lookup == FlowRejudged) {
		return []string{fmt.Sprintf("its flow was judged in epoch %d, and in epoch %d it is %s: that it is to be judged anew is %v", was.Epoch, pkt.Epoch, lookup, anew)}, nil
	}
	return nil, nil
}

// dependsOn are the places of what a flow depends on.
func dependsOn(key *flowKey, flow *flowValue, led bool) []uint32 {
	places := []uint32{placeOfAll, placeOf(key.Src), placeOf(key.Dst), placeOf(flow.Dst)}
	if flow.Flags&flowReply == 0 {
		places = append(places, placeOfPort(key.Dst, key.Dport), placeOfPort(flow.Dst, flow.Dport))
		if led {
			places = append(places, placeOfPort(encodeAddr(netip.IPv4Unspecified()), key.Dport))
		}
	}
	return places
}

// concern is whether some place was changed behind an epoch.
func (t *placesTable) concern(epoch uint32, places []uint32) (bool, error) {
	var word [4]byte
	for _, place := range places {
		if _, err := t.memory.ReadAt(word[:], int64(place)*int64(len(word))); err != nil {
			return false, fmt.Errorf("read table changed: %w", err)
		}
		if int32(binary.NativeEndian.Uint32(word[:])-epoch) > 0 {
			return true, nil
		}
	}
	return false, nil
}
