// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

func TestAnEntryIsLeftAsItWasMet(t *testing.T) {
	const now = 100 * touchEvery
	ack := uint8(bpf.ContainerFlowSeenSEEN_ACK)
	entry := func(flags uint8, seen uint8, ago uint64) *meeting {
		return &meeting{value: flowValue{Flags: flags | flowAcked, Seen: seen, LastSeen: now - ago}, moved: flags&flowAnswered != 0}
	}
	led := entry(0, ack, 0)
	led.value.Out = uint8(bpf.ContainerOutOUT_TUNNEL)
	twice := entry(flowAnswered, ack, 0)
	twice.twice = true
	full := entry(flowAnswered, ack, 0)
	full.moved = false
	beside := *full
	beside.dead = true
	both := readAs([]bpf.ContainerTable{inAnswered, inUnanswered}, nil)
	for name, c := range map[string]struct {
		is, before *meeting
		read       reads
		want       string
	}{
		"as it has to be":               {entry(0, ack, 7), nil, 0, ""},
		"a flag that is not kept":       {entry(0, flowRST, 0), nil, 0, "of its direction were seen 0x4"},
		"not touched":                   {entry(0, ack, touchEvery), nil, 0, "and is noted at"},
		"in the future":                 {&meeting{value: flowValue{Flags: flowAcked, Seen: ack, LastSeen: now + 1}}, nil, 0, "and is noted at"},
		"an answer that is none":        {entry(flowReply, ack, 0), nil, 0, "its flow is not answered"},
		"an acknowledgement in vain":    {led, nil, 0, "is not answered"},
		"in both tables":                {twice, nil, 0, "in both tables"},
		"where it was":                  {full, entry(0, ack, 0), 0, "not among those"},
		"where it was, and not tried":   {full, full, 0, ""},
		"where it was, beside the dead": {&beside, entry(0, ack, 0), 0, ""},
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

func TestAnEntryShowsWhereBothSidesAre(t *testing.T) {
	const now = 100 * touchEvery
	entry := func(flags, seen uint8, sent, acked uint32) *meeting {
		return &meeting{value: flowValue{Flags: flags, Seen: seen, LastSeen: now, Sent: sent, Acked: acked}}
	}
	acked, opened := entry(flowAcked, flowACK, 5, 7), entry(0, flowSYN, 5, 7)
	ended := entry(flowAcked, flowACK|flowFIN, 5, 7)
	for name, c := range map[string]struct {
		flags      uint8
		seq, ack   uint32
		idle       bool
		is, before *meeting
		want       string
	}{
		"an acknowledgement":          {flowACK, 5, 7, false, acked, nil, ""},
		"one that is not noted":       {flowACK, 5, 7, false, entry(0, flowACK, 5, 7), nil, "noted is"},
		"another one":                 {flowACK, 5, 8, false, acked, nil, "noted is"},
		"another place":               {flowACK, 6, 7, false, acked, nil, "noted is"},
		"a side that has got nothing": {flowSYN, 5, 0, false, opened, nil, ""},
		"which has got something":     {flowSYN, 5, 0, false, entry(flowAcked, flowSYN, 5, 7), nil, "noted is"},
		"a reset":                     {flowRST, 9, 9, false, entry(flowAcked, flowACK|flowRST, 5, 7), acked, ""},

		"what may be anybody's":                  {flowFIN | flowACK, 9, 9, true, acked, acked, ""},
		"what may be anybody's, and is believed": {flowFIN | flowACK, 9, 9, true, ended, acked, "no trace"},
		"an acknowledgement without a trace":     {flowACK, 5, 7, true, acked, acked, "it ends nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			left := &bpf.ContainerScratch{}
			left.Pkt.Now, left.Pkt.TcpFlags, left.Pkt.Seq, left.Pkt.Ack = now, c.flags, c.seq, c.ack
			if c.idle {
				left.Pkt.Traceless = 1
			}
			faults := c.is.wrong(left, 0, c.before)
			if c.want == "" {
				require.Empty(t, faults)
				return
			}
			require.Len(t, faults, 1)
			require.Contains(t, faults[0], c.want)
		})
	}
}

func TestAWayOutFollowsFromTheHook(t *testing.T) {
	for name, c := range map[string]struct {
		hook    model.Hook
		action  model.Action
		out     uint8
		ifindex uint32
		asItIs  uint8
		want    string
	}{
		"dropped":                               {model.FromDevice, model.Drop, 0, 0, 0, ""},
		"dropped to a pod":                      {model.FromDevice, model.Drop, 1, 0, 0, "has a way out"},
		"dropped by a device":                   {model.FromDevice, model.Drop, 0, 7, 0, "has a way out"},
		"dropped as it is":                      {model.FromDevice, model.Drop, 0, 0, 1, "has a way out"},
		"answered":                              {model.ToContainer, model.Reply, 6, 7, 0, ""},
		"from a pod":                            {model.FromContainer, model.Forward, 1, 7, 0, ""},
		"from a pod, as it is":                  {model.FromContainer, model.Forward, 2, 0, 1, "as it is: true"},
		"to a pod, as it is":                    {model.ToContainer, model.Forward, 1, 7, 1, ""},
		"to a pod":                              {model.ToContainer, model.Forward, 1, 7, 0, "as it is: false"},
		"from a device, as it is":               {model.FromDevice, model.Forward, 2, 0, 1, ""},
		"from a device to a host, not as it is": {model.FromDevice, model.Forward, 2, 0, 0, "as it is: false"},
		"from a device into a pod":              {model.FromDevice, model.Forward, 1, 7, 0, ""},
		"from a device as it is, by a device":   {model.FromDevice, model.Forward, 2, 7, 1, "the device of its way out is 7"},
		"to a pod by no device":                 {model.ToContainer, model.Forward, 1, 0, 1, "the device of its way out is 0"},
		"to a device, as it is":                 {model.ToDevice, model.Forward, 3, 7, 1, ""},
		"to a device by none, as it is":         {model.ToDevice, model.Forward, 3, 0, 1, "the device of its way out is 0"},
		"to a device, not as it is":             {model.ToDevice, model.Forward, 3, 7, 0, "no flow is known for it"},
	} {
		t.Run(name, func(t *testing.T) {
			r := reading{hook: c.hook, action: c.action, lookup: FlowNone, straight: true}
			faults := wayOut(&r, c.out, c.ifindex, c.asItIs)
			if c.want == "" {
				require.Empty(t, faults)
				return
			}
			require.Len(t, faults, 1)
			require.Contains(t, faults[0], c.want)
		})
	}
}
