// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const printedNow = `goos: linux
pkg: github.com/weirnet/weir/model/compile
BenchmarkOneChange/1k/pod-2     1   0.50 cpu-ms/change
BenchmarkOneChange/10k/pod-2    1   0.60 cpu-ms/change
BenchmarkOneChange/100k/pod-2   1   1.20 cpu-ms/change
BenchmarkFirstLoad/compile/services=1000-2    1    20.0 cpu-ms/load
BenchmarkFirstLoad/compile/services=10000-2   1   150.0 cpu-ms/load
PASS
BenchmarkFirstLoad/apply/services=1000-2    1    10.0 cpu-ms/load   8.0 KiB-services   4.0 KiB-control
BenchmarkFirstLoad/apply/services=10000-2   1   100.0 cpu-ms/load  80.0 KiB-services   4.0 KiB-control
BenchmarkKnownFlow/pod-to-service/ipv4-2    1   100 BASE-ns/packet   120 ns/packet-over-BASE
`

const printedBefore = `BenchmarkOneChange/100k/pod-8   1   600 cpu-ms/change
BenchmarkKnownFlow/pod-to-service/ipv4   1   50 BASE-ns/packet
`

func read(t *testing.T, text string) Results {
	t.Helper()
	r := Results{}
	require.NoError(t, r.Add("printed", strings.NewReader(text)))
	return r
}

func rowOf(t *testing.T, rows []GoalRow, what, size string) GoalRow {
	t.Helper()
	for _, r := range rows {
		if strings.Contains(r.What, what) && r.Size == size {
			return r
		}
	}
	require.Failf(t, "no row", "%s, %s", what, size)
	return GoalRow{}
}

func TestGoalsAreRatiosToATenthAndToBefore(t *testing.T) {
	rows := Goals(read(t, printedNow), read(t, printedBefore))
	pod := rowOf(t, rows, "one pod elsewhere changes: compile", "100k")
	require.InDelta(t, 1.2, *pod.Now, 1e-9)
	require.InDelta(t, 2, *pod.Tenth, 1e-9)
	require.InDelta(t, 1200, *pod.Before, 1e-9, "this machine takes twice as long")
	require.InDelta(t, 0.001, *pod.Change, 1e-9)
	require.False(t, *pod.Met())
	less := rowOf(t, rows, "one pod elsewhere changes: compile", "10k")
	require.Nil(t, less.Before, "it was not measured")
	require.Nil(t, less.Met(), "the goal is of the largest size")

	load := rowOf(t, rows, "first load", "10000 services")
	require.InDelta(t, 250, *load.Now, 1e-9, "compiled and applied")
	require.True(t, *load.Met())
	require.InDelta(t, 10, *rowOf(t, rows, "memory of table services", "10000 services").Tenth, 1e-9)
	for _, r := range rows {
		require.NotContains(t, r.What, "table control", "it does not grow")
	}

	missing := rowOf(t, rows, "1,000 changes a second: agent", "10k")
	require.Nil(t, missing.Now)
	require.Nil(t, missing.Met())
}

func TestGoalsAreWrittenAsOneTable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, WriteGoals(&out, Goals(read(t, printedNow), read(t, printedBefore))))
	require.Regexp(t, `(?m)^one pod elsewhere changes: compile +100k +1.2 +ms of CPU +2 +1200 +0.001 +1 +no$`, out.String())
	require.Regexp(t, `(?m)^1,000 changes a second: agent +10k +- +% of a core +- +- +- +20 +-$`, out.String())
}

func TestALineThatIsNoResultIsToldWithItsPlace(t *testing.T) {
	require.ErrorContains(t, Results{}.Add("printed", strings.NewReader("BenchmarkX 1 many ns/op\n")), "printed:1")
}

func TestABenchmarkThatReportsByItsPartsAloneIsPassedOver(t *testing.T) {
	r := Results{}
	require.NoError(t, r.Add("bench.txt", strings.NewReader("BenchmarkConnect-2 \t 1\nBenchmarkConnect/tcp-2 \t 1 \t 5.0 ns/op\n")))
	require.Equal(t, []float64{5}, r["Connect/tcp"]["ns/op"])
}
