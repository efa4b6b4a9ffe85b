// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// crowded is a state in which a pod has so many rules, and so many peers on
// other nodes have an identity each. All of them may open flows to port 80 by
// one rule for any peer; the others are each for one of the peers.
func crowded(n *node, six bool, rules, identities int) *model.State {
	s := newState(n.client, n.web)
	for i := range identities {
		a := peerAddr(i, six)
		s.Addresses = s.Addresses.With(model.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: model.FirstLabelIdentity + model.Identity(i), Native: true})
	}
	set := model.RuleSet{Key: "crowded", Rules: []model.Rule{
		{Direction: model.Egress},
		{Direction: model.Ingress, Protocol: model.ProtocolTCP, Port: 80, PortBits: 16, Precedence: 1},
	}}
	for i := range rules - 1 {
		set.Rules = append(set.Rules, model.Rule{
			Direction: model.Ingress, Peer: model.FirstLabelIdentity + model.Identity(i%identities),
			Protocol: model.ProtocolTCP, Port: 1024 + uint16(i/identities), PortBits: 16,
		})
	}
	s.RuleSets = append(s.RuleSets, set)
	s.Endpoints[1].RuleSet = set.Key
	return s
}

// peerAddr is that of a pod on another node.
func peerAddr(i int, six bool) netip.Addr {
	if six {
		return netip.AddrFrom16([16]byte{0xfd, 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
	}
	return netip.AddrFrom4([4]byte{10, 64 + byte(i>>16), byte(i >> 8), byte(i)})
}

// identities64k is as many as labels can have: the wire has 16 bits for a
// number, and the first 256 are reserved.
const identities64k = 1<<16 - 256

// BenchmarkPolicyNewFlow measures packets that open flows to a pod, from peers
// who take turns by chance: over BASE, and over the same packets to a pod that
// has no policy, of the same rounds. Beside them it measures one of a known
// flow, for which no policy is asked.
func BenchmarkPolicyNewFlow(b *testing.B) {
	for _, rules := range []int{1, 100, 1 << 14} {
		for _, identities := range []int{1, 1000, identities64k} {
			forFamilies(b, []int{identities}, func(b *testing.B, six bool, identities int) {
				policyNewFlow(b, six, rules, identities)
			}, fmt.Sprintf("rules=%d", rules))
		}
	}
}

func policyNewFlow(b *testing.B, six bool, rules, identities int) {
	n := newNode(b)
	d := openDatapath(b, Options{Flows: 1 << 14, Unanswered: 1 << 16})
	_, err := d.Apply(crowded(n, six, rules, identities))
	require.NoError(b, err)

	web, client := "10.0.0.2", "10.0.0.1"
	if six {
		web, client = "fd00::2", "fd00::1"
	}
	const sample = 2048
	r := rand.New(rand.NewPCG(5, 6))
	var frames, toOpen [][]byte
	for i := range sample {
		peer := peerAddr(r.IntN(identities), six).String()
		frames = append(frames, tcpFrame(b, peer, web, uint16(20000+i), 80, syn))
		toOpen = append(toOpen, tcpFrame(b, peer, client, uint16(20000+i), 80, syn))
	}
	runAt(b, d, model.ToContainer, n.web.Ifindex, frames[0], model.Forward)
	runAt(b, d, model.ToContainer, n.client.Ifindex, toOpen[0], model.Forward)
	refused := tcpFrame(b, peerAddr(0, six).String(), web, 19999, 81, syn)
	runAt(b, d, model.ToContainer, n.web.Ifindex, refused, model.Drop)

	w, beside := newBench(b, frames), newBench(b, toOpen)
	prog := program(b, d, bpf.ContainerProgToContainer)
	var base, full, without []time.Duration
	fresh := func() { require.NoError(b, empty[flowKey](d.maps[bpf.ContainerMapCtUnanswered])) }
	// Few at a time: a round in which another process had the CPU is then one
	// of many. The next round has others.
	const few = 128
	for i := range 6 * sample / few {
		at := i * few % sample
		fresh()
		base = append(base, w.some(b, at, w.objs.Nothing, n.web.Ifindex, few))
		full = append(full, w.some(b, at, prog, n.web.Ifindex, few))
		fresh()
		without = append(without, beside.some(b, at, prog, n.client.Ifindex, few))
	}
	report(b, median(base), median(full))
	b.ReportMetric(float64((median(full) - median(without)).Nanoseconds()), "ns/packet-over-no-policy")

	fresh()
	run(b, d, n.client, tcpFrame(b, client, web, 40000, 80, syn), model.Forward)
	run(b, d, n.web, tcpFrame(b, web, client, 80, 40000, synAck), model.Forward)
	known := tcpFrame(b, client, web, 40000, 80, ack)
	require.Equal(b, FlowKnown, run(b, d, n.client, known, model.Forward).Decision.Flow)
	nothing, with := compare(b, program(b, d, bpf.ContainerProgFromContainer), n.client.Ifindex, known)
	b.ReportMetric(float64((with - nothing).Nanoseconds()), "ns/packet-of-a-known-flow-over-BASE")
}

// BenchmarkPolicyChange measures from the beginning of Apply to the end of the
// first frame that is judged by the policy that it brings, of a flow that is
// known. All endpoints have that policy, of ten rules. Compiling is not in it
// (BenchmarkCompile of model/policygen), nor are the endpoints' devices.
func BenchmarkPolicyChange(b *testing.B) {
	for _, endpoints := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("endpoints=%d", endpoints), func(b *testing.B) {
			n := newNode(b)
			var d *Datapath
			var judged Ran
			frame := tcpFrame(b, "10.0.0.1", "10.0.0.2", 40000, 80, ack)
			var begin time.Time
			var took []time.Duration
			opts := small()
			opts.Step = func(step string) {
				if step != "end" || begin.IsZero() {
					return
				}
				var err error
				judged, err = d.Run(model.FromContainer, Frame{Data: frame, Ifindex: n.client.Ifindex})
				took = append(took, time.Since(begin))
				require.NoError(b, err)
			}
			d = openDatapath(b, opts)
			open, closed := policyOfAll(n, endpoints, 80), policyOfAll(n, endpoints, 81)
			_, err := d.Apply(open)
			require.NoError(b, err)
			run(b, d, n.client, frame, model.Forward)
			for i := range 200 {
				next, want := closed, model.Drop
				if i%2 == 1 {
					next, want = open, model.Forward
				}
				begin = time.Now()
				_, err := d.Apply(next)
				require.NoError(b, err)
				require.Equal(b, want, judged.Decision.Action)
			}
			slices.Sort(took)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
		})
	}
}

// policyOfAll is a state of so many endpoints beside the client, one of which
// is web; they have one policy, which opens a port to the client.
func policyOfAll(n *node, endpoints int, port uint16) *model.State {
	s := newState(n.client, n.web)
	set := model.RuleSet{Key: fmt.Sprintf("port-%d", port), Rules: []model.Rule{{Direction: model.Egress},
		{Direction: model.Ingress, Peer: clientIdentity, Protocol: model.ProtocolTCP, Port: port, PortBits: 16}}}
	for i := range uint16(8) {
		set.Rules = append(set.Rules, model.Rule{Direction: model.Ingress, Peer: clientIdentity, Protocol: model.ProtocolUDP, Port: 1000 + i, PortBits: 16})
	}
	s.RuleSets = append(s.RuleSets, set)
	s.Endpoints[1].RuleSet = set.Key
	for i := range endpoints - 1 {
		device := n.web
		device.Ifindex = 1_000_000 + i
		s.Endpoints = append(s.Endpoints, model.Endpoint{
			Name: model.Key{Namespace: "default", Name: fmt.Sprintf("pod-%d", i)}, Device: device, Identity: webIdentity, RuleSet: set.Key,
			IPv4: peerAddr(i, false), IPv6: peerAddr(i, true),
		})
	}
	return s
}
