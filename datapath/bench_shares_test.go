// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// BenchmarkShares measures what the share of its pod costs a packet that opens a
// flow, and one of a known flow: over the same program without the turns, in the same
// rounds. In a flood each opening forgets an older one.
func BenchmarkShares(b *testing.B) {
	for name, unanswered := range map[string]uint32{"openings": 1 << 16, "flood": 1 << 9} {
		for family, six := range map[string]bool{"ipv4": false, "ipv6": true} {
			b.Run(name+"/"+family, func(b *testing.B) { shares(b, six, unanswered) })
		}
	}
}

func shares(b *testing.B, six bool, unanswered uint32) {
	n := newNode(b)
	with := openDatapath(b, Options{Unanswered: unanswered})
	without := openDatapath(b, Options{Unanswered: 1 << 16, Edit: withoutShares(b)})
	client, web := "10.0.0.1", "10.0.0.2"
	if six {
		client, web = "fd00::1", "fd00::2"
	}
	var frames [][]byte
	for i := range 2048 {
		frames = append(frames, tcpFrame(b, client, web, uint16(20000+i), 8080, syn))
	}
	known := tcpFrame(b, client, web, 40000, 8080, ack)
	for _, d := range []*Datapath{with, without} {
		_, err := d.Apply(n.state.Clone())
		require.NoError(b, err)
		run(b, d, n.client, tcpFrame(b, client, web, 40000, 8080, syn), model.Forward)
		run(b, d, n.web, tcpFrame(b, web, client, 8080, 40000, synAck), model.Forward)
		require.Equal(b, FlowKnown, run(b, d, n.client, known, model.Forward).Decision.Flow)
	}
	openings, going := newBench(b, frames), newBench(b, [][]byte{known})
	one, other := program(b, with, bpf.ContainerProgFromContainer), program(b, without, bpf.ContainerProgFromContainer)
	var base, shared, free, base1, shared1, free1 []time.Duration
	const few = 128
	for i := range 200 {
		at := i * few % len(frames)
		for _, d := range []*Datapath{with, without} {
			if unanswered > 1<<10 || d == without {
				require.NoError(b, empty[flowKey](d.maps[bpf.ContainerMapCtUnanswered]))
			}
		}
		base = append(base, openings.some(b, at, openings.objs.Nothing, n.client.Ifindex, few))
		shared = append(shared, openings.some(b, at, one, n.client.Ifindex, few))
		free = append(free, openings.some(b, at, other, n.client.Ifindex, few))
		base1 = append(base1, going.run(b, going.objs.Nothing, n.client.Ifindex, 2000))
		shared1 = append(shared1, going.run(b, one, n.client.Ifindex, 2000))
		free1 = append(free1, going.run(b, other, n.client.Ifindex, 2000))
	}
	report(b, median(base), median(shared))
	b.ReportMetric(float64((median(shared) - median(free)).Nanoseconds()), "ns/opening-over-no-shares")
	b.ReportMetric(float64((median(shared1) - median(base1)).Nanoseconds()), "ns/known-over-BASE")
	b.ReportMetric(float64((median(shared1) - median(free1)).Nanoseconds()), "ns/known-over-no-shares")
}

// withoutShares takes the shares of flows out of a pod's programs: a call of
// share_charge_opening is none, and what only it has called is gone.
func withoutShares(b *testing.B) func(*ebpf.CollectionSpec) error {
	return func(spec *ebpf.CollectionSpec) error {
		for _, name := range []string{bpf.ContainerProgFromContainer, bpf.ContainerProgToContainer} {
			prog := spec.Programs[name]
			if prog == nil {
				continue
			}
			var rest asm.Instructions
			calls, inside := 0, false
			for _, ins := range prog.Instructions {
				if symbol := ins.Symbol(); symbol != "" {
					inside = symbol == "share_charge_opening" || symbol == "ct_forget"
				}
				switch {
				case inside:
				case ins.IsFunctionCall() && ins.Reference() == "share_charge_opening":
					calls++
					rest = append(rest, asm.Mov.Imm(asm.R0, 0))
				default:
					rest = append(rest, ins)
				}
			}
			require.Positive(b, calls, name)
			prog.Instructions = rest
		}
		return nil
	}
}
