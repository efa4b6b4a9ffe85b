// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"github.com/weirnet/weir/bpf"
)

const (
	flowAcked = uint8(bpf.ContainerFlowFlagsFLOW_ACKED)
	flowHere  = uint8(bpf.ContainerFlowFlagsFLOW_HERE)
	flowACK   = uint8(bpf.ContainerFlowSeenSEEN_ACK)
	flowSYN   = uint8(bpf.ContainerFlowSeenSEEN_SYN)
	flowFIN   = uint8(bpf.ContainerFlowSeenSEEN_FIN)
)

// trace is what a packet leaves in the entry of its flow: the flags that it has, and
// the numbers. An idle one leaves none. It is given what was there.
func trace(left *bpf.ContainerScratch, before flowValue) flowValue {
	pkt := &left.Pkt
	flags := pkt.TcpFlags & flowSeen
	if pkt.Traceless != 0 {
		return before
	}
	before.Seen |= flags
	switch {
	case flags&flowACK != 0:
		before.Sent, before.Acked, before.Flags = pkt.Seq, pkt.Ack, before.Flags|flowAcked
	case flags&flowSYN != 0:
		before.Sent, before.Flags = pkt.Seq, before.Flags&^flowAcked
	}
	return before
}

// number is what an entry holds of both sides; what is not known is nothing.
type number struct {
	isSent, isAcked bool
	sent, acked     uint32
}

func (n number) String() string {
	text := "no number"
	if n.isSent {
		text = fmt.Sprintf("number %d", n.sent)
	}
	if n.isAcked {
		text += fmt.Sprintf(", acknowledging %d", n.acked)
	}
	return text
}

func numberOf(v *flowValue) number {
	n := number{isSent: v.Seen&(flowSYN|flowACK) != 0, isAcked: v.Flags&flowAcked != 0}
	if n.isSent {
		n.sent = v.Sent
	}
	if n.isAcked {
		n.acked = v.Acked
	}
	return n
}
