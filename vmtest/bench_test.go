// SPDX-License-Identifier: Apache-2.0

package vmtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/vmtest"
)

// BenchmarkColdBoot measures from nothing to the first answer of the guest's
// user space.
func BenchmarkColdBoot(b *testing.B) { benchmarkStart(b, vmtest.Options{Cold: true}) }

// BenchmarkRestore measures the same from a snapshot.
func BenchmarkRestore(b *testing.B) { benchmarkStart(b, vmtest.Options{}) }

func benchmarkStart(b *testing.B, o vmtest.Options) {
	kernels, err := vmtest.Locked()
	require.NoError(b, err)
	for _, locked := range kernels {
		b.Run(locked.ID, func(b *testing.B) {
			k := find(b, locked.ID)
			m, err := vmtest.Start(b.Context(), k, o) // the snapshot is not what is measured
			require.NoErrorf(b, err, "%+v", err)
			require.NoError(b, m.Close())
			var total float64
			for b.Loop() {
				m, err := vmtest.Start(b.Context(), k, o)
				require.NoErrorf(b, err, "%+v", err)
				total += m.Started.Seconds()
				b.StopTimer()
				require.NoError(b, m.Close())
				b.StartTimer()
			}
			b.ReportMetric(total/float64(b.N), "s-to-answer")
		})
	}
}

// BenchmarkUname measures a whole unit of work: restore, carry a program of
// this machine into the guest, run it, close.
func BenchmarkUname(b *testing.B) {
	k := find(b, "5.10")
	for b.Loop() {
		m, err := vmtest.Start(b.Context(), k, vmtest.Options{})
		require.NoErrorf(b, err, "%+v", err)
		r, err := m.Run(b.Context(), host(b, "uname", "-r"))
		require.NoError(b, err)
		require.Equal(b, 0, r.ExitCode)
		require.NoError(b, m.Close())
	}
}
