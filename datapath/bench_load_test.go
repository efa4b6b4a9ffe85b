// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// roomFor is room for so many services with ten backends each.
func roomFor(services int) Options {
	opts := small()
	opts.Services = uint32(2 * services)
	opts.Room = map[string]uint32{bpf.ContainerMapBackends: uint32(20 * services), bpf.ContainerMapSlotRows: uint32(20 * services)}
	return opts
}

// BenchmarkFirstLoad measures the first Apply of so many services with ten backends
// each: cpu-ms is what the process used for it, KiB what the kernel has for a table
// then.
func BenchmarkFirstLoad(b *testing.B) {
	for _, count := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("apply/services=%d", count), func(b *testing.B) {
			n := newNode(b)
			n.state.Services = model.ListOf(servicesOf(count, 10)...)
			var used time.Duration
			rounds := 0
			var sizes []TableSize
			for b.Loop() {
				d, err := Open(roomFor(count))
				require.NoError(b, err)
				runtime.GC()
				began := cpuTime(b)
				_, err = d.Apply(n.state)
				used += cpuTime(b) - began
				require.NoError(b, err)
				rounds++
				sizes, err = d.TableSizes()
				require.NoError(b, err)
				require.NoError(b, d.Close())
			}
			b.ReportMetric(float64(used.Microseconds())/1000/float64(rounds), "cpu-ms/load")
			for _, size := range sizes {
				b.ReportMetric(float64(size.Bytes)/1024, "KiB-"+size.Name)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
