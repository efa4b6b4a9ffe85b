// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"net/netip"
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/pcap"
)

// Verdict is what became of a packet.
type Verdict string

// Verdicts. What the datapath answers in the packet's place, ARP for one, is
// Forward with the way out model.OutSelf, and its reason says what answered.
const (
	Forward Verdict = "forward"
	Drop    Verdict = "drop"
	Refused Verdict = "refused" // it did not reach a program
	// Broken is a program that did something else than it noted, so that nothing
	// it says can be believed. The reason is a sentence.
	Broken Verdict = "broken"
)

// Outcome is what one packet met.
type Outcome struct {
	Number    int    // from 1, through all captures
	Capture   string // the file
	Time      time.Time
	Captured  int // bytes, as the capture has them
	Length    int // bytes on the wire, as the capture says
	Truncated bool
	// CutHeaders is that the capture has cut into the headers. What the packet
	// met on the wire cannot be known: it is dropped as model.ReasonTruncated,
	// as a packet that is no longer would be, and no program sees it.
	CutHeaders bool

	// Segments is how many packets a device would make of this one, which the
	// stack has left whole (GSO), each with SegmentSize bytes of payload; 0 of
	// any other.
	Segments, SegmentSize int
	// Judged is how many of the segments were passed through the program, each
	// by itself; 0: the packet was judged by its headers, as one.
	Judged int
	// SegmentsDropped are those of them that would not go on. The rest of the
	// Outcome is the first such one's, else the first one's.
	SegmentsDropped int
	// Shortened is that the packet is longer than the kernel's test run takes:
	// it was judged with a part of its payload.
	Shortened bool

	Header  Header
	Verdict Verdict
	Reason  string // a reason of the datapath; of a Refused or Broken packet a sentence
	Hook    model.Hook
	File    string // of the C source, where it was decided
	Line    int
	Out     model.Out
	To      string // of OutLocal: the endpoint
	Flow    datapath.FlowLookup
	Origin  model.Origin // the rule that decided, on the slow path
	// Isolating are the policies because of which a packet that no rule allows is
	// dropped. Origin is the first of them then, with RuleNone. Nil where there is no
	// state, and where the backends of a service differ in it.
	Isolating []model.PolicyRef
	// Translated is the packet's tuple as it left, where that is another.
	Translated *Header

	// NeverSent is that nobody would have sent the packet, since it follows from
	// one that was dropped: set by Connections.
	NeverSent bool
	// SrcName and DstName are what the objects call the addresses; empty where
	// they have none of them.
	SrcName, DstName string

	// Endpoint is whose device the packet passed.
	Endpoint string
	// Frame is the packet, or its segment, as the program got it; nil where it is
	// no frame.
	Frame []byte
	// Packet is the packet as the capture has it, of the interface described.
	// All of this is good until the next packet.
	Packet    *pcap.Packet
	Interface pcap.Interface

	payload int    // bytes behind the transport's header, on the wire
	seq     uint32 // of TCP
}

// flowID is a flow, whichever direction a packet of it has.
type flowID struct {
	low, high         netip.Addr
	lowPort, highPort uint16
	protocol          model.Protocol
	etherType         uint16 // of packets that are not IP
	datagram          uint32 // of a fragment whose flow nobody knows
}

// flow gives the flow that a packet is of. A fragment's flow has no ports.
func (h *Header) flow() flowID {
	if !h.IP {
		return flowID{low: h.Src, high: h.Dst, etherType: h.EtherType}
	}
	f := flowID{low: h.Src, high: h.Dst, lowPort: h.Sport, highPort: h.Dport, protocol: h.Protocol}
	if c := h.Src.Compare(h.Dst); c > 0 || c == 0 && h.Sport > h.Dport {
		f.low, f.high, f.lowPort, f.highPort = f.high, f.low, f.highPort, f.lowPort
	}
	return f
}
