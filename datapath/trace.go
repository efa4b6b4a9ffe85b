// SPDX-License-Identifier: Apache-2.0

package datapath

import "github.com/weirnet/weir/bpf"

const (
	flowSent    = uint8(bpf.ContainerFlowFlagsFLOW_SENT)
	flowAcked   = uint8(bpf.ContainerFlowFlagsFLOW_ACKED)
	flowNumbers = flowSent | flowAcked
	flowACK     = uint8(bpf.ContainerFlowSeenSEEN_ACK)
	flowSYN     = uint8(bpf.ContainerFlowSeenSEEN_SYN)
	flowFIN     = uint8(bpf.ContainerFlowSeenSEEN_FIN)
)

// trace is what a packet leaves in the entry of its flow: the flags that it has, and
// the numbers. An idle one leaves none. It is given what was there.
func trace(left *bpf.ContainerScratch, before flowValue) flowValue {
	pkt := &left.Pkt
	flags := pkt.TcpFlags & flowSeen
	if pkt.Idle != 0 {
		return before
	}
	before.Seen |= flags
	switch {
	case flags&(flowACK|flowRST) == flowACK:
		before.Sent, before.Acked, before.Flags = pkt.Seq, pkt.Ack, before.Flags|flowNumbers
	case flags&flowSYN != 0:
		before.Sent, before.Flags = pkt.Seq, before.Flags&^flowAcked|flowSent
	}
	return before
}

// number is what an entry holds of both sides; what is not known is nothing.
type number struct {
	known       uint8
	sent, acked uint32
}

func numberOf(v *flowValue) number {
	n := number{known: v.Flags & flowNumbers}
	if n.known&flowSent != 0 {
		n.sent = v.Sent
	}
	if n.known&flowAcked != 0 {
		n.acked = v.Acked
	}
	return n
}
