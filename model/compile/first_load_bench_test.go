// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// What a node's first compile costs that finds so many services with ten backends
// each: cpu-ms is what the process used for it.
func BenchmarkFirstLoad(b *testing.B) {
	for _, many := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("compile/services=%d", many), func(b *testing.B) {
			objs := manyServices(b, many)
			local := withUplink()
			local.Budgets = roomyBudgets()
			runtime.GC()
			began, rounds := cpuTime(b), 0
			for b.Loop() {
				local.Identities = model.NewAllocator()
				_, _, err := All(objs, "node-a", local)
				require.NoError(b, err)
				rounds++
			}
			b.ReportMetric(float64((cpuTime(b)-began).Microseconds())/1000/float64(rounds), "cpu-ms/load")
			b.ReportMetric(0, "ns/op")
		})
	}
}
