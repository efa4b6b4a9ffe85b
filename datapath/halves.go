// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/weirnet/weir/bpf"
)

// A judgement makes two entries of a flow. What is in them follows from the packet
// and from how it leaves, and some of it shows in no packet: a flow that is marked
// as translated and is not leaves as it came, and a wrong half is met by another.

const (
	flowReply      = uint8(bpf.ContainerFlowFlagsFLOW_REPLY)
	flowTranslated = uint8(bpf.ContainerFlowFlagsFLOW_TRANSLATED)
	flowHairpin    = uint8(bpf.ContainerFlowFlagsFLOW_HAIRPIN)
	flowSource     = uint8(bpf.ContainerFlowFlagsFLOW_SOURCE)
	flowSeen       = uint8(bpf.ContainerFlowSeenSEEN_FIN | bpf.ContainerFlowSeenSEEN_SYN | bpf.ContainerFlowSeenSEEN_RST | bpf.ContainerFlowSeenSEEN_ACK)
	flowRST        = uint8(bpf.ContainerFlowSeenSEEN_RST)
)

// judged says whether the packet whose scratch it is was judged, and got a flow: a
// packet of a known one leaves both halves as they were soiled.
func judged(left, soiled *bpf.ContainerScratch) bool {
	if left.Open == soiled.Open || left.Reply == soiled.Reply {
		return false
	}
	// What the node sends and nobody could translate is let go without a flow.
	return left.Pkt.Key.Hook != uint8(bpf.ContainerHookHOOK_TO_DEVICE) || left.Open.Flags&flowSource != 0 ||
		left.Open.OtherHook != 0
}

// halves says what is wrong with the entries that were made of a packet that is
// let through.
func halves(left *bpf.ContainerScratch) []string {
	var faults []string
	same := func(what string, is, want any) {
		if is != want {
			faults = append(faults, what+": "+differing(is, want, "and has to be"))
		}
	}
	pkt, open, reply := &left.Pkt, &left.Open, &left.Reply
	key := &pkt.Key
	same("the key of the way back", left.ReplyKey, flowKey{
		Src: open.Dst, Dst: open.Src, Sport: open.Dport, Dport: open.Sport, Proto: key.Proto, Family: key.Family,
		Hook: open.OtherHook, Ifindex: open.OtherIfindex,
	})
	tunnelled := open.Out == uint8(bpf.ContainerOutOUT_TUNNEL)
	if !tunnelled {
		faults = append(faults, difference("the way there", key, open)...)
	}
	faults = append(faults, difference("the way back", &left.ReplyKey, reply)...)
	want := *reply
	want.LastSeen, want.Routed, want.Epoch, want.Service, want.Origin, want.Seen = pkt.Now, 0, pkt.Epoch, open.Service, 0, 0
	want.Sent, want.Acked = 0, 0
	want.Src, want.Dst, want.Sport, want.Dport = key.Dst, key.Src, key.Dport, key.Sport
	want.OtherIfindex, want.OtherHook = key.Ifindex, key.Hook
	want.Flags = flowReply | open.Flags&(flowHairpin|flowSource) | reply.Flags&flowTranslated
	if key.Hook == uint8(bpf.ContainerHookHOOK_FROM_CONTAINER) && open.Out == uint8(bpf.ContainerOutOUT_HOST) {
		want.Flags |= flowHere
	}
	same("the way back", *reply, want)
	want = *open
	want.LastSeen, want.Epoch, want.Seen, want.Sent, want.Acked = pkt.Now, pkt.Epoch, 0, 0, 0
	want.Flags &= flowTranslated | flowHairpin | flowSource
	if key.Hook == uint8(bpf.ContainerHookHOOK_TO_CONTAINER) && reply.Out == uint8(bpf.ContainerOutOUT_HOST) {
		want.Flags |= flowHere
	}
	want = trace(left, want)
	same("the way there", *open, want)
	for what, half := range map[string]*flowValue{"the way there": open, "the way back": reply} {
		if half.Out != uint8(bpf.ContainerOutOUT_LOCAL) {
			type macs struct{ Smac, Dmac [6]uint8 }
			same(what+", which leads to no pod", macs{half.Smac, half.Dmac}, macs{})
		}
		if half.Out == uint8(bpf.ContainerOutOUT_HOST) {
			type device struct{ Ifindex uint32 }
			same(what+", which leads to the node", device{half.Ifindex}, device{})
		}
	}
	return faults
}

// difference says what is wrong with what an entry keeps of the difference
// between its key and how it leaves.
func difference(what string, key *flowKey, f *flowValue) []string {
	differs := f.Src != key.Src || f.Dst != key.Dst || f.Sport != key.Sport || f.Dport != key.Dport
	if marked := f.Flags&flowTranslated != 0; marked != differs {
		return []string{fmt.Sprintf("%s is marked as translated: %v, and is: %v", what, marked, differs)}
	}
	var addrs, ports uint32
	if differs {
		addrs = change(words(&key.Src), words(&f.Src)) + change(words(&key.Dst), words(&f.Dst))
		ports = change([]uint16{key.Sport, key.Dport}, []uint16{f.Sport, f.Dport})
	}
	if onesSum(f.AddrDiff) != onesSum(addrs) || onesSum(f.PortDiff) != onesSum(ports) {
		return []string{fmt.Sprintf("%s keeps differences of %#x for addresses and %#x for ports, and they are %#x and %#x",
			what, onesSum(f.AddrDiff), onesSum(f.PortDiff), onesSum(addrs), onesSum(ports))}
	}
	return nil
}

// words are an address's, as the checksum sums them.
func words(a *tableAddr) []uint16 {
	var out []uint16
	b := toBytes(*a)
	for i := 0; i < len(b); i += 2 {
		out = append(out, binary.NativeEndian.Uint16(b[i:]))
	}
	return out
}

// change is what makes a checksum of one the other's, in ones' complement.
func change(from, to []uint16) uint32 {
	var sum uint32
	for i := range from {
		sum += uint32(^from[i]) + uint32(to[i])
	}
	return sum
}

// onesSum folds a sum; the two zeros are one.
func onesSum(sum uint32) uint32 { return sum % 0xffff }

// kept reads the entry that a packet of a key would meet; nil where there is none.
func (r *FlowReader) kept(key *flowKey) (*entry, error) {
	r.entry.key = *key
	var live *entry
	err := r.each(func(bool) bool {
		if r.entry.dead() {
			return true
		}
		live = &r.entry
		return false
	})
	return live, err
}

// stored compares the flow tables with the entries that were made of a packet. A
// reset begins nothing, and may leave what was; a flow that is its own answer has
// one entry for both ways.
func (w *Witness) stored(left *bpf.ContainerScratch) ([]string, error) {
	if left.Pkt.TcpFlags&flowRST != 0 || left.ReplyKey == left.Pkt.Key {
		return nil, nil
	}
	there, err := w.flows.kept(&left.Pkt.Key)
	if err != nil {
		return nil, err
	}
	var faults []string
	compare := func(what string, is *entry, made flowValue) {
		if is == nil {
			faults = append(faults, what+" is in no table")
			return
		}
		// An entry that is judged anew keeps what it has seen, and when.
		traced := numberOf(&made)
		made.LastSeen, made.Seen, made.Flags = is.value.LastSeen, made.Seen|is.value.Seen, made.Flags|is.value.Flags&uint8(bpf.ContainerFlowFlagsFLOW_ANSWERED)
		if !traced.isSent { // the packet has none
			made.Flags |= is.value.Flags & flowAcked
			made.Sent, made.Acked = is.value.Sent, is.value.Acked
		} else if !traced.isAcked { // what is not known may be anything
			made.Acked = is.value.Acked
		}
		if is.value != made {
			faults = append(faults, what+" in its table: "+differing(is.value, made, "and was made"))
		}
	}
	compare("the way there", there, left.Open)
	back, err := w.flows.kept(&left.ReplyKey)
	if err != nil {
		return faults, err
	}
	if left.Open.Out == uint8(bpf.ContainerOutOUT_TUNNEL) {
		if back != nil {
			faults = append(faults, "it leads into a tunnel, and there is an entry of its answers, which go another way")
		}
		return faults, nil
	}
	if back != nil {
		faults = append(faults, w.wayBack(left, &back.value)...)
	}
	made := left.Reply
	if back != nil { // one that is as it was keeps its way out until it is met
		if back.value.Epoch != left.Pkt.Epoch {
			made.Flags = made.Flags&^flowHere | back.value.Flags&flowHere
		}
		made.Epoch, made.Service, made.Origin, made.Routed = back.value.Epoch, back.value.Service, back.value.Origin, back.value.Routed
		made.Out, made.Ifindex, made.Smac, made.Dmac = back.value.Out, back.value.Ifindex, back.value.Smac, back.value.Dmac
	}
	compare("the way back", back, made)
	return faults, nil
}

// answersLast is shorter than any entry waits, once it is answered.
const answersLast = uint64(10 * time.Second)

// wayBack says what is wrong with the entry of answers behind a packet that was
// judged: where a connection begins anew, it has seen nothing; else one that has
// seen answers goes on.
func (w *Witness) wayBack(left *bpf.ContainerScratch, is *flowValue) []string {
	if left.Pkt.Reused != 0 {
		if is.Seen != 0 || is.Flags&flowAnswered != 0 || is.LastSeen != left.Pkt.Now {
			return []string{fmt.Sprintf("the way back, of a connection that begins, has seen flags %#x, at %d, with flags %#x", is.Seen, is.LastSeen, is.Flags)}
		}
		return nil
	}
	before := w.met[left.ReplyKey]
	if before == nil || before.value.Flags&flowReply == 0 || before.value.Flags&flowAnswered == 0 ||
		left.Pkt.Now-before.value.LastSeen > answersLast || !sameTranslation(&before.value, &left.Reply) {
		return nil
	}
	if is.Seen != before.value.Seen || is.Flags != before.value.Flags || is.LastSeen != before.value.LastSeen {
		return []string{"the way back, which goes on: " + differing(*is, before.value, "and was")}
	}
	return nil
}

// sameTranslation is whether two entries make the same of a packet.
func sameTranslation(a, b *flowValue) bool {
	return a.Src == b.Src && a.Dst == b.Dst && a.Sport == b.Sport && a.Dport == b.Dport &&
		a.OtherHook == b.OtherHook && a.OtherIfindex == b.OtherIfindex
}
