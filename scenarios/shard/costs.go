// SPDX-License-Identifier: Apache-2.0

package shard

import (
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
)

// Costs are what runs took, by world and scenario/family: the mean of all
// kernels. Nil: nothing is known.
type Costs map[Cost]float64 // seconds

// Cost names what is measured.
type Cost struct {
	World    syntax.World
	Scenario string // with its family
}

// Measured are the costs that results tell of.
func Measured(results []scenarios.Result) Costs {
	costs, count := Costs{}, map[Cost]float64{}
	for _, r := range results {
		what := Cost{r.World, r.Scenario}
		costs[what] += r.Seconds
		count[what]++
	}
	for what := range costs {
		costs[what] /= count[what]
	}
	return costs
}

// ordinary is what a run of a world takes where nothing of that world was
// measured: only that one is a hundred times the other matters.
var ordinary = map[syntax.World]float64{syntax.Prog: 0.005, syntax.Netns: 0.5}

// estimate gives the cost of a run: what was measured, else the mean of what was
// in its world among these runs, else what is ordinary there.
func (c Costs) estimate(runs []scenarios.Result) func(scenarios.Result) float64 {
	sum, count := map[syntax.World]float64{}, map[syntax.World]float64{}
	for _, r := range runs {
		if seconds, known := c[Cost{r.World, r.Scenario}]; known {
			sum[r.World] += seconds
			count[r.World]++
		}
	}
	return func(r scenarios.Result) float64 {
		if seconds, known := c[Cost{r.World, r.Scenario}]; known {
			return seconds
		}
		if count[r.World] > 0 {
			return sum[r.World] / count[r.World]
		}
		return ordinary[r.World]
	}
}
