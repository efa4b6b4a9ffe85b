// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// BenchmarkJudgedAnew tells which part of packets is judged anew while pods change:
// 100,000 flows, half of them by services, send a packet or ten a second, and ten of
// 10,000 pods in the cluster change in that second. "all" is how it is where every
// change concerns every flow.
func BenchmarkJudgedAnew(b *testing.B) {
	for _, each := range []int{1, 10} {
		for _, all := range []bool{true, false} {
			b.Run(fmt.Sprintf("packets-a-second=%d/all=%t", each, all), func(b *testing.B) {
				c := newChurn(b)
				// What one change costs ten packets of a flow costs one packet of ten flows.
				flows := c.frames[:len(c.frames)/each]
				anew, packets := 0, 0
				for b.Loop() {
					for i, frame := range slices.Concat(slices.Repeat([][][]byte{flows}, each)...) {
						if i%(len(flows)*each/10) == 0 {
							c.change(b, all)
						}
						packets++
						if c.pass(b, frame) == FlowRejudged {
							anew++
						}
					}
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(100*float64(anew)/float64(packets), "%judged-anew")
			})
		}
	}
}

// churn is a node whose client has flows to the others of its pods, in a cluster
// whose pods change.
type churn struct {
	n      *node
	d      *Datapath
	runner *Runner
	state  *model.State
	random *rand.Rand
	frames [][]byte
}

const (
	churnFlows = 100_000
	churnPods  = 10_000
	churnLocal = 250 // of these pods, to which flows lead
)

func churnAddr(pod int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(pod >> 8), byte(pod)}) }

func newChurn(b *testing.B) *churn {
	b.Helper()
	n := newNode(b)
	var addresses []model.Address
	services := n.state.Services.Slice()
	c := &churn{n: n, random: rand.New(rand.NewPCG(1, 2)), state: n.state.Clone()}
	for pod := range churnPods {
		a := churnAddr(pod)
		addresses = append(addresses, model.Address{Prefix: netip.PrefixFrom(a, 32), Identity: model.Identity(400 + pod%100), Native: true})
		if pod >= churnLocal {
			continue
		}
		device := n.web
		device.Ifindex = 10_000 + pod // no device: nothing is sent there
		c.state.Endpoints = append(c.state.Endpoints, model.Endpoint{Name: model.Key{Namespace: "default", Name: fmt.Sprintf("pod-%05d", pod)}, Device: device, IPv4: a, Identity: 400, RuleSet: "all"})
		services = append(services, model.Service{
			Name: model.PortRef{Namespace: "default", Name: fmt.Sprintf("s%d", pod), Port: "80"}, Address: netip.AddrFrom4([4]byte{10, 97, 0, byte(pod)}), Port: 80, Protocol: model.ProtocolTCP,
			Backends: []model.Backend{{Address: a, Port: 8080}},
		})
	}
	slices.SortFunc(services, func(a, b model.Service) int { return compareServices(&a, &b) })
	c.state.Services, c.state.Addresses = model.ListOf(services...), model.ListOf(addresses...)
	slices.SortFunc(c.state.Endpoints, func(a, b model.Endpoint) int { return compareEndpoints(&a, &b) })
	c.d = openDatapath(b, Options{Flows: 1024, Unanswered: 1 << 20})
	_, err := c.d.Apply(c.state)
	require.NoError(b, err)
	c.runner = c.d.Runner(model.FromContainer)
	for i := range churnFlows {
		dst, dport := churnAddr(i%churnLocal), uint16(8080)
		if i%2 == 0 {
			dst, dport = netip.AddrFrom4([4]byte{10, 97, 0, byte(i % churnLocal)}), 80
		}
		frame := tcpFrame(b, "10.0.0.1", dst.String(), uint16(1024+i/churnLocal), dport, func(tcp *layers.TCP) { tcp.SYN = true })
		require.Equal(b, FlowNew, c.pass(b, frame))
		c.frames = append(c.frames, frame)
	}
	c.random.Shuffle(len(c.frames), func(i, j int) { c.frames[i], c.frames[j] = c.frames[j], c.frames[i] })
	return c
}

func (c *churn) pass(b *testing.B, frame []byte) FlowLookup {
	b.Helper()
	ran, err := c.runner.Run(frame, c.n.client.Ifindex, 0)
	require.NoError(b, err)
	return ran.Decision.Flow
}

// change gives a pod another identity, and everything another epoch where all is set.
func (c *churn) change(b *testing.B, all bool) {
	b.Helper()
	next := *c.state
	addresses := c.state.Addresses.Slice()
	addresses[c.random.IntN(churnPods)].Identity = model.Identity(400 + c.random.IntN(100))
	next.Addresses = model.ListOf(addresses...)
	c.state = &next
	_, err := c.d.Apply(c.state)
	require.NoError(b, err)
	if all {
		require.NoError(b, c.d.changed.put(placeOfAll, c.d.settings.Epoch))
	}
}
