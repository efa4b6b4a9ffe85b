// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

func TestARunnerDecidesAsRunDoes(t *testing.T) {
	n := newNode(t)
	slow, fast := openDatapath(t, small()), openDatapath(t, small())
	for _, d := range []*Datapath{slow, fast} {
		_, err := d.Apply(n.state.Clone())
		require.NoError(t, err)
	}
	r := fast.Runner(model.FromContainer)
	for name, frame := range map[string][]byte{
		"a service":            tcpFrame(t, "10.0.0.1", "10.96.0.1", 40000, 80, syn),
		"another pod":          tcpFrame(t, "fd00::1", "fd00::2", 40000, 8080, syn),
		"not the pod's source": tcpFrame(t, "10.0.0.9", "10.0.0.2", 40000, 8080, syn),
	} {
		for range 2 {
			want, err := slow.Run(model.FromContainer, Frame{Data: frame, Ifindex: n.client.Ifindex})
			require.NoError(t, err)
			got, err := r.Run(frame, n.client.Ifindex, 0)
			require.NoError(t, err)
			require.Equal(t, want.Decision, got.Decision, name)
			require.Equal(t, want.Data, got.Data, name)
			require.Equal(t, want.Mark, got.Mark, name)
		}
	}
}

func TestARunnerRefusesWhatTheKernelDoes(t *testing.T) {
	n := newNode(t)
	r := openDatapath(t, small()).Runner(model.ToContainer)
	ipv4 := append(make([]byte, 12), 0x08, 0x00)
	for _, length := range []int{0, 13, 14, 33, MaxRunBytes + 1} {
		frame := append(ipv4[:min(length, 14):14], make([]byte, max(0, length-14))...)
		_, err := r.Run(frame, n.web.Ifindex, 0)
		require.ErrorIs(t, err, ErrNotDeliverable, "%d bytes", length)
	}
	for _, length := range []int{34, MaxRunBytes} {
		_, err := r.Run(append(ipv4[:14:14], make([]byte, length-14)...), n.web.Ifindex, 0)
		require.NoError(t, err, "%d bytes", length)
	}
}

func TestProgramsOfAnotherObjectFileAreLoaded(t *testing.T) {
	newNode(t)
	object, err := os.ReadFile("../bpf/container_bpfel.o")
	require.NoError(t, err)
	openDatapath(t, Options{Flows: 1024, Unanswered: 1024, Object: object})
	for name, broken := range map[string][]byte{
		"text":           []byte("not an ELF file"),
		"another object": readFile(t, "../bpf/bench_bpfel.o"),
		"half a file":    object[:len(object)/2],
	} {
		_, err := Open(Options{Object: broken})
		require.ErrorIs(t, err, ErrObject, name)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	return data
}

// BenchmarkRunner measures a frame of a known flow through a Runner, all of
// its cost: what a replay can reach.
func BenchmarkRunner(b *testing.B) {
	n := newNode(b)
	d := openDatapath(b, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(b, err)
	r := d.Runner(model.FromContainer)
	frame := tcpFrame(b, "10.0.0.1", "10.96.0.1", 40000, 80, syn)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Run(frame, n.client.Ifindex, 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
}

// BenchmarkEmptyRun passes a frame through a program that does nothing, as a Runner
// does: what the kernel's test run costs by itself, beneath which no Runner gets.
func BenchmarkEmptyRun(b *testing.B) {
	newNode(b)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}})
	require.NoError(b, err)
	defer prog.Close()
	for _, length := range []int{64, 1514} {
		b.Run(fmt.Sprintf("%d bytes", length), func(b *testing.B) {
			r := &Runner{}
			r.attr.ProgFD = uint32(prog.FD())
			frame := make([]byte, length)
			copy(frame, tcpFrame(b, "10.0.0.1", "10.96.0.1", 40000, 80, syn))
			b.ReportAllocs()
			for b.Loop() {
				if err := r.call(frame); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
		})
	}
}

func TestABenchRefusesFramesThatComeOutOtherThanAlone(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	opening := tcpFrame(t, "10.0.0.1", "10.96.0.1", 40000, 80, syn)
	what := Benched{Hook: model.FromContainer, Ifindex: n.client.Ifindex, Frames: [][]byte{opening}}
	b, err := d.Bench(what)
	require.NoError(t, err)
	// A wrapper that puts another frame in the place of the first.
	require.NoError(t, b.w.objs.Saved.Put(uint32(0), bpf.BenchSavedFrame{Len: uint32(len(opening))}))
	require.ErrorIs(t, b.Check(), ErrWrongPath)
	require.NoError(t, b.Close())

	known := what
	known.Flows = []model.Tuple{{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.96.0.1"), Sport: 40000, Dport: 80, Protocol: model.ProtocolTCP}}
	_, err = d.Bench(known)
	require.ErrorIs(t, err, ErrNoFlow, "nobody has answered")

	what.Frames = nil
	_, err = d.Bench(what)
	require.ErrorContains(t, err, "wrap 0 frames: give 1 to 1048576")
	what.Frames = [][]byte{make([]byte, 209)}
	_, err = d.Bench(what)
	require.ErrorContains(t, err, "wrap a frame of 209 bytes: give 208 at most")
}
