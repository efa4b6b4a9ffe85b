// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// readAs makes reads of tables that had it, and of tables that had not.
func readAs(hits, misses []bpf.ContainerTable) (r reads) {
	for _, t := range hits {
		r |= 3 << (2 * t)
	}
	for _, t := range misses {
		r |= 1 << (2 * t)
	}
	return r
}

func TestWhatIsReadFollowsFromWhatBecameOfAPacket(t *testing.T) {
	type tables = []bpf.ContainerTable
	local, device := uint8(bpf.ContainerOutOUT_LOCAL), uint8(bpf.ContainerOutOUT_DEVICE)
	opened := func(out uint8, service uint32, routed uint64) reading {
		return reading{
			hook: model.FromContainer, lookup: FlowNew, action: model.Forward, judged: true, now: 7,
			open: &flowValue{Out: out, Service: service, Routed: routed}, reply: &flowValue{Out: local},
		}
	}
	missed := tables{inFlows, inUnanswered}
	known := reading{hook: model.FromContainer, lookup: FlowKnown, action: model.Forward, straight: true}
	toPod := tables{inEndpoints, inServices, inSlots, inAddresses, inEgress, inIngress}
	for name, c := range map[string]struct {
		of           reading
		hits, misses tables
		want         string // part of what is wrong; nothing is where it is empty
	}{
		"a known flow":                        {known, tables{inFlows}, nil, ""},
		"a known flow that is routed":         {known, tables{inFlows, inRoutes}, nil, ""},
		"a known flow in no table":            {known, nil, missed, "in no table"},
		"a known flow, and rules":             {known, tables{inFlows, inEgress}, nil, "needs none of them"},
		"a flow missed once":                  {known, nil, tables{inFlows}, "not looked for among the unanswered"},
		"to a service's pod":                  {opened(local, 9, 0), toPod, missed, ""},
		"to a service's pod, not rejected":    {opened(local, 9, 0), tables{inEndpoints, inServices, inSlots, inAddresses, inEgress}, append(tables{inIngress}, missed...), "had nothing for it"},
		"to a service's pod, unasked":         {opened(local, 9, 0), tables{inEndpoints, inServices, inSlots, inAddresses, inEgress}, missed, "ingress was asked: false"},
		"to a service's pod by nobody":        {opened(local, 9, 0), tables{inEndpoints, inServices, inAddresses, inEgress, inIngress}, missed, "nobody has chosen the backend"},
		"a service that is none":              {opened(local, 0, 0), toPod, missed, "there is a service: true"},
		"a service that nobody found":         {opened(local, 9, 0), tables{inEndpoints, inSlots, inAddresses, inEgress, inIngress}, append(tables{inServices}, missed...), "read for no service"},
		"to the outside":                      {opened(device, 0, 7), tables{inEndpoints, inEgress, inRoutes}, append(tables{inServices, inAddresses, inPrefixes}, missed...), ""},
		"to the outside, its prefix not read": {opened(device, 0, 7), tables{inEndpoints, inEgress, inRoutes}, append(tables{inServices, inAddresses}, missed...), "its prefix not looked for"},
		"to the outside by no route":          {opened(device, 0, 0), tables{inEndpoints, inEgress}, append(tables{inServices, inAddresses, inPrefixes}, missed...), "a route was asked: false"},
		"a route of another time":             {opened(device, 0, 6), tables{inEndpoints, inEgress, inRoutes}, append(tables{inServices, inAddresses, inPrefixes}, missed...), "a route was found at 7, and is noted at 6"},
		"malformed":                           {reading{hook: model.FromContainer, action: model.Drop, reason: model.ReasonTruncated}, nil, nil, ""},
		"malformed, and looked up": {reading{hook: model.FromContainer, action: model.Drop, reason: model.ReasonTruncated}, nil,
			tables{inServices}, "nothing was to be looked up"},
		"denied by no rule's table": {reading{hook: model.FromContainer, lookup: FlowNew, action: model.Drop, reason: model.ReasonPolicyEgress}, nil, missed, "no rule of egress was asked"},
		"decided by a rule unread":  {reading{hook: model.FromContainer, lookup: FlowNew, action: model.Drop, origin: 3}, nil, missed, "a rule has decided, and none was found"},
	} {
		t.Run(name, func(t *testing.T) {
			c.of.reads = readAs(c.hits, c.misses)
			faults := c.of.wrong()
			if c.want == "" {
				require.Empty(t, faults)
				return
			}
			require.NotEmpty(t, faults)
			require.Contains(t, strings.Join(faults, "\n"), c.want)
		})
	}
	found := known
	found.reads = 2 << (2 * inFlows)
	require.Contains(t, found.wrong()[0], "had what was not looked for")
}
