// SPDX-License-Identifier: Apache-2.0

package shard

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

func TestAShardIsWrittenInOneWay(t *testing.T) {
	for _, good := range []string{"1/1", "2/5", "12/12"} {
		s, err := Parse(good)
		require.NoError(t, err)
		require.Equal(t, good, s.String())
	}
	for _, bad := range []string{"", "1", "/", "1/", "/2", "0/2", "3/2", "-1/2", "01/2", "+1/2", "1/2/3", "a/b", "1 /2", "1/0"} {
		_, err := Parse(bad)
		require.ErrorIs(t, err, ErrNotation, bad)
	}
}

// some are runs of n scenarios, in two families and both worlds.
func some(n int) []scenarios.Result {
	var runs []scenarios.Result
	for _, world := range []syntax.World{syntax.Prog, syntax.Netns} {
		for i := range n {
			for _, family := range []syntax.Family{syntax.IPv4, syntax.IPv6} {
				runs = append(runs, scenarios.Result{Scenario: fmt.Sprintf("s%03d/%s", i, family), World: world, Family: family})
			}
		}
	}
	return runs
}

func loads(plan Plan, of int, runs []scenarios.Result, costs Costs) []float64 {
	out := make([]float64, of)
	for _, r := range runs {
		out[plan[scenarioOf(r)]-1] += costs[Cost{r.World, r.Scenario}]
	}
	return out
}

func TestPartsAreBalancedByCost(t *testing.T) {
	runs := some(100)
	for i := range runs {
		runs[i].Seconds = float64(1 + i*i%37)
	}
	costs := Measured(runs)
	plan, err := NewPlan(7, runs, costs)
	require.NoError(t, err)
	got := loads(plan, 7, runs, costs)
	require.Less(t, slices.Max(got)/slices.Min(got), 1.02, "seconds of the parts: %v", got)
}

func TestWithoutCostsPartsAreOfEqualSize(t *testing.T) {
	plan, err := NewPlan(4, some(10), nil)
	require.NoError(t, err)
	sizes := make([]int, 4)
	for _, part := range plan {
		sizes[part-1]++
	}
	require.Equal(t, []int{3, 3, 2, 2}, sizes)
}

func TestWhatCostsNothingIsSpreadToo(t *testing.T) {
	runs := some(6)
	plan, err := NewPlan(3, runs, Measured(runs))
	require.NoError(t, err)
	for part := 1; part <= 3; part++ {
		require.Equal(t, 8, plan.count(part, runs))
	}
}

func TestTheSameInputsGiveTheSameParts(t *testing.T) {
	runs := some(50)
	for i := range runs {
		runs[i].Seconds = float64(i%5) / 3
	}
	want, err := NewPlan(3, runs, Measured(runs))
	require.NoError(t, err)
	slices.Reverse(runs)
	got, err := NewPlan(3, runs, Measured(runs))
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Len(t, want, 50, "a scenario's families and worlds are in one part")
}

func TestWhatWasNotMeasuredCostsTheMeanOfItsWorld(t *testing.T) {
	runs := some(2)
	estimate := Costs{{syntax.Netns, "s000/ipv4"}: 3, {syntax.Netns, "s000/ipv6"}: 5}.estimate(runs)
	require.Equal(t, 3.0, estimate(scenarios.Result{World: syntax.Netns, Scenario: "s000/ipv4"}))
	require.Equal(t, 4.0, estimate(scenarios.Result{World: syntax.Netns, Scenario: "s001/ipv4"}))
	require.Equal(t, ordinary[syntax.Prog], estimate(scenarios.Result{World: syntax.Prog, Scenario: "s001/ipv4"}))
}

func TestCostsAreTheMeanOfKernels(t *testing.T) {
	costs := Measured([]scenarios.Result{
		{World: syntax.Prog, Scenario: "a/ipv4", Kernel: "5.10", Seconds: 1},
		{World: syntax.Prog, Scenario: "a/ipv4", Kernel: "7.2", Seconds: 2},
	})
	require.Equal(t, Costs{{syntax.Prog, "a/ipv4"}: 1.5}, costs)
}

func TestMoreShardsThanScenariosAreAnError(t *testing.T) {
	_, err := NewPlan(3, some(2), nil)
	require.ErrorIs(t, err, ErrEmpty)
	require.ErrorContains(t, err, "3 shards for 2 scenarios")
}
