// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
)

func TestAnEntryIsLeftAsItWasMet(t *testing.T) {
	const now = 100 * touchEvery
	ack := uint8(bpf.ContainerFlowSeenSEEN_ACK)
	entry := func(flags uint8, seen uint8, ago uint64) *meeting {
		return &meeting{value: flowValue{Flags: flags, Seen: seen, LastSeen: now - ago}, moved: flags&flowAnswered != 0}
	}
	led := entry(0, ack, 0)
	led.value.Out = uint8(bpf.ContainerOutOUT_TUNNEL)
	twice := entry(flowAnswered, ack, 0)
	twice.twice = true
	full := entry(flowAnswered, ack, 0)
	full.moved = false
	beside := *full
	beside.dead = true
	both := readAs([]bpf.ContainerTable{inFlows, inUnanswered}, nil)
	for name, c := range map[string]struct {
		is, before *meeting
		read       reads
		want       string
	}{
		"as it has to be":               {entry(0, ack, 7), nil, 0, ""},
		"a flag that is not kept":       {entry(0, flowRST, 0), nil, 0, "of its direction were seen 0x4"},
		"not touched":                   {entry(0, ack, touchEvery), nil, 0, "and is noted at"},
		"in the future":                 {&meeting{value: flowValue{Seen: ack, LastSeen: now + 1}}, nil, 0, "and is noted at"},
		"an answer that is none":        {entry(flowReply, ack, 0), nil, 0, "its flow is not answered"},
		"an acknowledgement in vain":    {led, nil, 0, "is not answered"},
		"in both tables":                {twice, nil, 0, "in both tables"},
		"where it was":                  {full, nil, 0, "not among those"},
		"where it was, beside the dead": {&beside, nil, 0, ""},
		"touched once a second":         {entry(0, ack, 7), entry(0, ack, 7), 0, ""},
		"touched for nothing":           {entry(0, ack, 0), entry(0, ack, touchEvery-1), 0, "and again at"},
		"touched when it moves":         {entry(flowAnswered, ack, 0), entry(0, ack, 7), 0, ""},
		"touched after a second":        {entry(0, ack, 0), entry(0, ack, touchEvery), 0, ""},
		"looked for in vain":            {entry(flowAnswered, ack, 0), entry(flowAnswered, ack, 0), both, "among the others"},
		"looked for before it moved":    {entry(flowAnswered, ack, 0), entry(0, ack, 7), both, ""},
	} {
		t.Run(name, func(t *testing.T) {
			left := &bpf.ContainerScratch{}
			left.Pkt.Now, left.Pkt.TcpFlags = now, ack
			faults := c.is.wrong(left, c.read, c.before)
			if c.want == "" {
				require.Empty(t, faults)
				return
			}
			require.Len(t, faults, 1)
			require.Contains(t, faults[0], c.want)
		})
	}
}
