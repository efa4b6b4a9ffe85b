// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// BenchmarkRepair measures the CPU time of a comparison of all tables in which nothing
// has drifted, and how long it takes: it sleeps mostly.
func BenchmarkRepair(b *testing.B) {
	for _, count := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", count), func(b *testing.B) {
			n := newNode(b)
			opts := small()
			opts.Services = uint32(2 * count)
			opts.Room = map[string]uint32{bpf.ContainerMapBackends: uint32(20 * count), bpf.ContainerMapSlotRows: uint32(20 * count)}
			d := openDatapath(b, opts)
			n.state.Services = model.ListOf(servicesOf(count, 10)...)
			_, err := d.Apply(n.state)
			require.NoError(b, err)
			var cpu, took time.Duration
			compared := 0
			for b.Loop() {
				before, began := cpuTime(b), time.Now()
				done, err := d.Repair(b.Context())
				require.NoError(b, err)
				require.Empty(b, done.Tables)
				cpu, took, compared = cpu+cpuTime(b)-before, took+time.Since(began), done.Compared
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(compared), "entries")
			b.ReportMetric(float64(cpu.Microseconds())/1000/float64(b.N), "CPU-ms")
			b.ReportMetric(float64(took.Microseconds())/1000/float64(b.N), "ms")
		})
	}
}
