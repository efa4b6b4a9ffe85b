// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
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

func TestResidentsAreLookedUpAsProgramsDo(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	of := func(text string) resident { return d.resident(encodeAddr(netip.MustParseAddr(text)), d.settings.Epoch) }
	require.True(t, of("10.0.0.1").exact, "a pod")
	require.Equal(t, resident{identity: uint32(model.IdentityWorld)}, of("192.0.2.77"), "nobody")
}

func TestWhatIsReadFollowsFromWhatBecameOfAPacket(t *testing.T) {
	type tables = []bpf.ContainerTable
	local, device := uint8(bpf.ContainerOutOUT_LOCAL), uint8(bpf.ContainerOutOUT_DEVICE)
	opened := func(out uint8, service uint32, routed uint64) reading {
		dst := resident{identity: 257, exact: true}
		if out == device {
			dst = resident{identity: uint32(model.IdentityWorld)}
		}
		return reading{
			hook: model.FromContainer, lookup: FlowNew, action: model.Forward, judged: true, now: 7,
			open: &flowValue{Out: out, Service: service, Routed: routed}, reply: &flowValue{Out: local},
			src: resident{identity: 256, exact: true}, dst: dst, own: 256, srcIdentity: 256, dstIdentity: dst.identity,
		}
	}
	missed := tables{inAnswered, inUnanswered}
	other := opened(local, 9, 0)
	other.dstIdentity = 258
	anew := func(hook model.Hook, other model.Hook, flags uint8) reading {
		return reading{hook: hook, lookup: FlowRejudged, action: model.Forward, straight: true, met: &flowValue{OtherHook: hookNumbers[other], Flags: flags, Out: local}}
	}
	stale := reading{hook: model.FromContainer, lookup: FlowKnown, action: model.Forward, straight: true, met: &flowValue{Out: device, Routed: 1}, now: 1 + 1e9}
	known := reading{hook: model.FromContainer, lookup: FlowKnown, action: model.Forward, straight: true}
	toPod := tables{inEndpoints, inServices, inSlots, inIPCache, inEgress, inIngress}
	for name, c := range map[string]struct {
		of           reading
		hits, misses tables
		want         string // part of what is wrong; nothing is where it is empty
	}{
		"a known flow":                        {known, tables{inAnswered}, nil, ""},
		"a known flow that is routed":         {known, tables{inAnswered, inRoutes}, nil, ""},
		"a known flow in no table":            {known, nil, missed, "in no table"},
		"a known flow, and rules":             {known, tables{inAnswered, inEgress}, nil, "needs none of them"},
		"a flow missed once":                  {known, nil, tables{inAnswered}, "not looked for among the unanswered"},
		"to a service's pod":                  {opened(local, 9, 0), toPod, missed, ""},
		"to a service's pod, not rejected":    {opened(local, 9, 0), tables{inEndpoints, inServices, inSlots, inIPCache, inEgress}, append(tables{inIngress}, missed...), "had nothing for it"},
		"to a service's pod, unasked":         {opened(local, 9, 0), tables{inEndpoints, inServices, inSlots, inIPCache, inEgress}, missed, "ingress was asked: false"},
		"to a service's pod by nobody":        {opened(local, 9, 0), tables{inEndpoints, inServices, inIPCache, inEgress, inIngress}, missed, "nobody has chosen the backend"},
		"a service that is none":              {opened(local, 0, 0), toPod, missed, "there is a service: true"},
		"a service that nobody found":         {opened(local, 9, 0), tables{inEndpoints, inSlots, inIPCache, inEgress, inIngress}, append(tables{inServices}, missed...), "read for no service"},
		"to the outside":                      {opened(device, 0, 7), tables{inEndpoints, inIPCache, inEgress, inRoutes}, append(tables{inServices, inCIDRs}, missed...), ""},
		"to the outside, its prefix not read": {opened(device, 0, 7), tables{inEndpoints, inIPCache, inEgress, inRoutes}, append(tables{inServices}, missed...), "a prefix was looked for: false"},
		"to the outside by no route":          {opened(device, 0, 0), tables{inEndpoints, inIPCache, inEgress}, append(tables{inServices, inCIDRs}, missed...), "a route was asked: false"},
		"a route of another time":             {opened(device, 0, 6), tables{inEndpoints, inIPCache, inEgress, inRoutes}, append(tables{inServices, inCIDRs}, missed...), "a route was found at 7, and is noted at 6"},
		"to another than is told":             {other, toPod, missed, "is told to be from 256 for 258"},
		"a new flow that was met":             {opened(local, 9, 0), append(tables{inAnswered}, toPod...), nil, "met where none was ever stored"},
		"a route that is too old":             {stale, tables{inAnswered}, nil, "a route of 1 is used at 1000000001"},
		"an answer of a pod, judged anew":     {anew(model.FromContainer, model.FromContainer, 0), tables{inAnswered, inEndpoints, inIPCache, inEgress, inIngress}, nil, ""},
		"an answer of a pod, half judged":     {anew(model.FromContainer, model.FromContainer, 0), tables{inAnswered, inEndpoints, inIPCache, inEgress}, nil, "ingress was asked: false"},
		"an answer to itself, judged anew":    {anew(model.FromContainer, model.FromContainer, flowHairpin), tables{inAnswered, inEndpoints}, nil, ""},
		"an answer to the node, judged anew":  {anew(model.FromContainer, model.ToDevice, 0), tables{inAnswered, inEndpoints}, nil, ""},
		"an answer to a pod, unasked":         {anew(model.ToContainer, model.FromContainer, 0), tables{inAnswered, inEndpoints, inIPCache}, nil, "egress was asked: false"},
		"a neighbour of no pod":               {reading{hook: model.FromContainer, action: model.Drop, reason: model.ReasonBadARP}, nil, nil, "of whom a pod asks was not looked up"},
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
	gone := reading{hook: model.FromContainer, lookup: FlowNew, action: model.Drop, reason: model.ReasonNoEndpoint, reads: readAs(nil, missed)}
	require.Contains(t, gone.wrong()[0], "no pod was looked up to be missed")
	found := known
	found.reads = 2 << (2 * inAnswered)
	require.Contains(t, found.wrong()[0], "had what was not looked for")
}
