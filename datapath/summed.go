// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/model"
)

// ErrSum is a frame of which a program has changed more than it has told the
// kernel: the sum that a device made of all of it does not fit any more, and who
// gets it finds it broken.
var ErrSum = errors.New("the device's sum over the frame does not fit to what the program made of it")

// testComplete is BPF_F_TEST_SKB_CHECKSUM_COMPLETE of linux/bpf.h, since kernel
// 6.11 (a3cfe84cca28): the frame comes as from a device that has summed all of it,
// and the kernel compares the sum afterwards.
const testComplete = 1 << 2

// callSummed runs a frame as one of which the device that it came by has told the
// sum, where the kernel can do that and the frame is one of which the sum tells
// something. What pods and the node send has none such, but all hooks keep it right
// by the same code.
func (r *Runner) callSummed(frame []byte) error {
	r.attr.Flags = 0
	if !r.unsummed && hasSum(frame) && (!isIPv6(frame) || r.d.sumsIPv6()) {
		r.attr.Flags = testComplete
	}
	err := r.callInPieces(frame)
	if r.attr.Flags == 0 || !errors.Is(err, unix.EINVAL) {
		return err
	}
	// An older kernel, or a frame that none takes: it has not run.
	r.attr.Flags = 0
	if err = r.callInPieces(frame); err == nil {
		r.unsummed = true
	}
	return err
}

// sums is whether the programs keep a device's sum right, once somebody has asked.
type sums struct {
	asked sync.Once
	ipv6  bool
}

// sumsIPv6 is whether the programs keep the sum right where they translate IPv6:
// without a flag of kernel 6.16 they cannot (FeatureCsumIPv6).
func (d *Datapath) sumsIPv6() bool {
	d.sums.asked.Do(func() {
		found, err := probe()
		d.sums.ipv6 = err == nil && found.csumIPv6 && !slices.Contains(d.opts.Without, FeatureCsumIPv6)
	})
	return d.sums.ipv6
}

func isIPv6(frame []byte) bool { return binary.BigEndian.Uint16(frame[12:]) == 0x86dd }

// hasSum is whether a frame has a checksum that makes up for what is translated:
// SCTP, ICMP of the other family, datagrams without a checksum and later fragments
// do not, and nobody looks at a sum of theirs. Nor does it tell anything where an answer cuts the frame: the
// kernel throws it away then (bpf_skb_change_tail), but compares it all the same.
func hasSum(frame []byte) bool {
	const ethernet, ipv4, ipv6, tcp, udp = 14, 20, 40, 20, 8
	if len(frame) < ethernet+ipv4 {
		return false
	}
	at, proto := ethernet+ipv4, model.Protocol(frame[23])
	switch {
	case binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[14] == 0x45 && binary.BigEndian.Uint16(frame[20:])&0x3fff == 0:
	case isIPv6(frame) && len(frame) >= ethernet+ipv6:
		at, proto = ethernet+ipv6, model.Protocol(frame[20])
	default:
		return false
	}
	switch octets := len(frame) - at; proto {
	case model.ProtocolTCP:
		return octets == tcp
	case model.ProtocolUDP:
		return octets == udp && binary.BigEndian.Uint16(frame[at+6:]) != 0
	case model.ProtocolICMP:
		const reply, request = 0, 8 // of echoes, which a refusal cuts
		cut := octets > udp && (frame[at] == reply || frame[at] == request)
		return !isIPv6(frame) && octets >= udp && !cut
	case model.ProtocolICMPv6: // but what asks neighbours: who asks has made it, and no device has summed it
		const request, reply, firstOfND, lastOfND = 128, 129, 133, 137
		cut := octets > udp && (frame[at] == request || frame[at] == reply)
		return isIPv6(frame) && octets >= udp && !cut && (frame[at] < firstOfND || frame[at] > lastOfND)
	}
	return false
}
