// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/bpf/mutant"
	"github.com/weirnet/weir/model"
)

// inPieces is a frame from the client of newNode to its web server whose first piece
// ends before its TCP header does.
func inPieces(t *testing.T) []byte {
	t.Helper()
	for port := range uint16(1000) {
		frame := tcpFrame(t, "10.0.0.1", "10.0.0.2", 40000+port, 8080, syn)
		if piece := firstPiece(frame); piece > 0 && piece < 54 {
			return frame
		}
	}
	t.Fatal("no frame of a thousand has a first piece that ends before its TCP header does")
	return nil
}

// takesPieces is whether the kernel has to take frames in pieces.
func takesPieces(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	require.NoError(t, unix.Uname(&name))
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	require.NoError(t, err)
	return major > 6 || major == 6 && minor >= 19
}

func TestFramesComeInPiecesWhereTheKernelCan(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	r, frame := d.Runner(model.FromContainer), inPieces(t)
	ran, err := r.Run(frame, n.client.Ifindex, 0)
	require.NoError(t, err)
	require.Equal(t, model.Forward, ran.Decision.Action)
	require.Equal(t, frame[34:], ran.Data[34:])
	require.Equal(t, takesPieces(t), !r.whole, "from kernel %s on", piecesKernel)
}

// Errors in what brings a frame's headers into one piece, which no other frame shows.
func TestAnErrorWithPiecesIsNoticedWhereTheKernelHasThem(t *testing.T) {
	all, err := bpf.LoadContainer()
	require.NoError(t, err)
	mutants, err := mutant.Enumerate(all)
	require.NoError(t, err)
	planted := 0
	for _, m := range mutants {
		if m.Kind != mutant.Call || m.Text != "pull_headers(ctx);" && m.Function != "pull_headers" {
			continue
		}
		planted++
		t.Run(m.ID, func(t *testing.T) {
			n := newNode(t)
			opts := small()
			opts.Edit = func(spec *ebpf.CollectionSpec) error {
				for _, p := range spec.Programs {
					if _, err := mutant.Apply(p, m); err != nil {
						return err
					}
				}
				return nil
			}
			d := openDatapath(t, opts)
			_, err := d.Apply(n.state.Clone())
			require.NoError(t, err)
			ran, err := d.Runner(model.FromContainer).Run(inPieces(t), n.client.Ifindex, 0)
			require.NoError(t, err)
			if !takesPieces(t) {
				require.Equal(t, model.Forward, ran.Decision.Action)
				return
			}
			require.Equal(t, model.Drop, ran.Decision.Action)
			require.Equal(t, model.ReasonTruncated, ran.Decision.Reason)
		})
	}
	require.Equal(t, 2, planted, "the call of pull_headers, and what it calls")
}

// BenchmarkFirstPiece looks for the place in a frame as long as Ethernet's are.
func BenchmarkFirstPiece(b *testing.B) {
	frame := append(tcpFrame(b, "10.0.0.1", "10.0.0.2", 40000, 8080, syn), make([]byte, 1460)...)
	for b.Loop() {
		if firstPiece(frame) == 0 {
			b.Fatal("the frame is left in one")
		}
	}
}
