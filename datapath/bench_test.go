// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// BenchmarkKnownFlow measures a packet of a known flow, in ns over BASE: the
// same wrapper around an empty program, in the same run. Rounds of the two are
// interleaved, and the medians are reported.
func BenchmarkKnownFlow(b *testing.B) {
	for name, a := range map[string]struct{ client, dst, web string }{
		"pod-to-service/ipv4": {"10.0.0.1", "10.96.0.1", "10.0.0.2"},
		"pod-to-service/ipv6": {"fd00::1", "fd96::1", "fd00::2"},
		"pod-to-pod/ipv4":     {"10.0.0.1", "10.0.0.2", "10.0.0.2"},
		"pod-to-pod/ipv6":     {"fd00::1", "fd00::2", "fd00::2"},
	} {
		b.Run(name, func(b *testing.B) {
			n := newNode(b)
			d := openDatapath(b, small())
			_, err := d.Apply(n.state.Clone())
			require.NoError(b, err)
			dport, back := uint16(80), uint16(8080)
			if a.dst == a.web {
				dport = 8080
			}
			run(b, d, n.client, tcpFrame(b, a.client, a.dst, 40000, dport, syn), model.Forward)
			run(b, d, n.web, tcpFrame(b, a.web, a.client, back, 40000, synAck), model.Forward)
			frame := tcpFrame(b, a.client, a.dst, 40000, dport, ack)
			require.Equal(b, FlowKnown, run(b, d, n.client, frame, model.Forward).Decision.Flow)
			measure(b, program(b, d, bpf.ContainerProgFromContainer), n.client.Ifindex, frame)
		})
	}
}

// bench is a wrapper that fails the benchmark.
type bench struct{ *wrapper }

func newBench(b *testing.B, frames [][]byte) *bench {
	b.Helper()
	w, err := newWrapper(frames, nil, nil)
	require.NoError(b, err)
	b.Cleanup(func() { w.objs.Close() })
	return &bench{w}
}

// run gives a program repeat frames, from the first one on, and tells the time
// of one.
func (w *bench) run(b *testing.B, prog *ebpf.Program, ifindex, repeat int) time.Duration {
	b.Helper()
	return w.some(b, 0, prog, ifindex, repeat)
}

// some is run from a frame on.
func (w *bench) some(b *testing.B, at int, prog *ebpf.Program, ifindex, repeat int) time.Duration {
	b.Helper()
	took, err := w.wrapper.run(prog, ifindex, at, repeat, nil)
	require.NoError(b, err)
	return took / time.Duration(repeat)
}

// program gives one of a datapath.
func program(b *testing.B, d *Datapath, name string) *ebpf.Program {
	b.Helper()
	prog, err := d.programs.get(name)
	require.NoError(b, err)
	return prog
}

// measure reports ns a packet of prog, and over BASE. Frames take turns.
func measure(b *testing.B, prog *ebpf.Program, ifindex int, frames ...[]byte) {
	b.Helper()
	base, full := compare(b, prog, ifindex, frames...)
	report(b, base, full)
}

// compare gives the time of a packet without and with prog.
func compare(b *testing.B, prog *ebpf.Program, ifindex int, frames ...[]byte) (base, with time.Duration) {
	b.Helper()
	w := newBench(b, frames)
	const rounds = 31
	repeat := max(20000, len(frames))
	var without, full []time.Duration
	for range rounds {
		without = append(without, w.run(b, w.objs.Nothing, ifindex, repeat))
		full = append(full, w.run(b, prog, ifindex, repeat))
	}
	return median(without), median(full)
}

func report(b *testing.B, base, full time.Duration) {
	b.Helper()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(base.Nanoseconds()), "BASE-ns/packet")
	b.ReportMetric(float64((full - base).Nanoseconds()), "ns/packet-over-BASE")
	b.ReportMetric(float64(full)/float64(base), "times-BASE")
}

func median(d []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[len(sorted)/2]
}

// TestProgramsFitTheVerifier prints what each program costs to load, and
// fails when one comes near the verifier's limit of a million instructions.
func TestProgramsFitTheVerifier(t *testing.T) {
	newNode(t)
	d := openDatapath(t, small())
	require.NoError(t, d.programs.need())
	require.NoError(t, d.programs.add(d.programs.objects.socket))
	for name, prog := range d.programs.loaded {
		info, err := prog.Info()
		require.NoError(t, err)
		verified, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("kernel before 5.16 does not tell verified instructions")
		}
		fmt.Printf("%s: %d instructions verified\n", name, verified)
		require.Less(t, verified, uint32(100_000), name)
	}
}
