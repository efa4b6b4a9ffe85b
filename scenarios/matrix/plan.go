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
	cover  bool // what its runs reach is counted
	failed int  // how often a guest failed before any of these runs began
}

// chunk is how many runs of a world one guest is given at least. World prog is a
// hundred times faster.
var chunk = map[syntax.World]int{syntax.Prog: 1000, syntax.Netns: 20}

// share is which part of what is left of a world the next guest is given. A start
// costs as much as five runs of world netns, the translation of the same code anew
// among them, so the first guests are given much.
// Little is left for the last ones, so that they end together. What a guest has told
// when it dies is not run again: a death costs one more start, whatever it was given.
const share = 3

// cut cuts the names into what each guest is given.
func cut(names []string, least int) [][]string {
	var parts [][]string
	for len(names) > 0 {
		n := min(max(least, (len(names)+share-1)/share), len(names))
		parts = append(parts, names[:n:n])
		names = names[n:]
	}
	return parts
}

// plan cuts the runs into units, those first that tell most soonest: all
// kernels' prog, then part after part of all kernels. Where there are more kernels than
// places for guests of world prog, each has one. Cover says in which worlds what
// runs reach is counted.
func plan(kernels []*vmtest.Kernel, places int, runs []scenarios.Result, cover func(syntax.World) bool) []unit {
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
		least := chunk[world]
		if world == syntax.Prog && len(kernels) > places {
			least = len(byWorld[world])
		}
		for n, names := range cut(byWorld[world], least) {
			for _, k := range kernels {
				units = append(units, unit{kernel: k, world: world, names: names, costs: i == 0 && n == 0, cover: cover(world)})
			}
		}
	}
	return units
}
