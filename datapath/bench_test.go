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
			_, err := d.Apply(n.state)
			require.NoError(b, err)
			dport, back := uint16(80), uint16(8080)
			if a.dst == a.web {
				dport = 8080
			}
			run(b, d, n.client, tcpFrame(b, a.client, a.dst, 40000, dport, syn), model.Forward)
			run(b, d, n.web, tcpFrame(b, a.web, a.client, back, 40000, synAck), model.Forward)
			frame := tcpFrame(b, a.client, a.dst, 40000, dport, ack)
			require.Equal(b, FlowKnown, run(b, d, n.client, frame, model.Forward).Decision.Flow)
			measure(b, d.programs[bpf.ContainerProgFromContainer], frame, n.client.Ifindex)
		})
	}
}

// measure reports ns a packet of prog, and over BASE.
func measure(b *testing.B, prog *ebpf.Program, frame []byte, ifindex int) {
	b.Helper()
	var objs bpf.BenchObjects
	require.NoError(b, bpf.LoadBenchObjects(&objs, nil))
	defer objs.Close()
	saved := bpf.BenchSavedFrame{Len: uint32(len(frame))}
	copy(saved.Frame[:], frame)
	require.NoError(b, objs.Saved.Put(uint32(0), &saved))

	const rounds, repeat = 31, 20000
	times := map[*ebpf.Program][]time.Duration{}
	for range rounds {
		for _, p := range []*ebpf.Program{objs.Nothing, prog} {
			require.NoError(b, objs.Target.Put(uint32(0), uint32(p.FD())))
			in := skbContext{Ifindex: uint32(ifindex)}
			start := time.Now()
			_, err := objs.Again.Run(&ebpf.RunOptions{Data: frame, Context: &in, Repeat: repeat})
			require.NoError(b, err)
			times[p] = append(times[p], time.Since(start)/repeat)
		}
	}
	base, full := median(times[objs.Nothing]), median(times[prog])
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
	for name, prog := range d.programs {
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
