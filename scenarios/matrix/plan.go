// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"slices"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/vmtest"
)

// unit is what one guest is given: runs of one world.
type unit struct {
	kernel *vmtest.Kernel
	world  syntax.World
	names  []string
	costs  bool
	failed int // how often a guest failed before any of these runs began
}

// chunk is how many runs of a world one guest is given: what a death costs,
// against what a start costs. World prog is a hundred times faster.
var chunk = map[syntax.World]int{syntax.Prog: 1000, syntax.Netns: 20}

// plan cuts the runs into units, those first that tell most soonest: all
// kernels' prog, then chunk after chunk of all kernels.
func plan(kernels []*vmtest.Kernel, runs []scenarios.Result) []unit {
	byWorld := map[syntax.World][]string{}
	var worlds []syntax.World
	for _, r := range runs {
		if !slices.Contains(worlds, r.World) {
			worlds = append(worlds, r.World)
		}
		byWorld[r.World] = append(byWorld[r.World], r.Scenario)
	}
	var units []unit
	for i, world := range worlds {
		for n, names := range slices.Collect(slices.Chunk(byWorld[world], chunk[world])) {
			for _, k := range kernels {
				units = append(units, unit{kernel: k, world: world, names: names, costs: i == 0 && n == 0})
			}
		}
	}
	return units
}
