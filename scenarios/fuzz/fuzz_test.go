// SPDX-License-Identifier: Apache-2.0

package fuzz

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkFrames measures frames a second on one worker.
func BenchmarkFrames(b *testing.B) {
	var frames uint64
	for b.Loop() {
		tally, _, err := Run(b.Context(), Options{Seed: 1, Parallel: 1, Sequences: 60})
		require.NoError(b, err)
		frames += tally.Frames
	}
	b.ReportMetric(float64(frames)/b.Elapsed().Seconds(), "frames/s")
}
