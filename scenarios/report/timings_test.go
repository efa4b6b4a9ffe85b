// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab/phase"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/matrix"
	"github.com/weirnet/weir/scenarios/syntax"
)

func took(scenario, kernel string, world syntax.World, phases map[phase.Phase]float64) scenarios.Result {
	r := scenarios.Result{Scenario: scenario, Kernel: kernel, World: world, Outcome: scenarios.Pass, Phases: phases}
	for _, seconds := range phases {
		r.Seconds += seconds
	}
	return r
}

func TestTimingsAreByKernelAndWorldTheDearestFirst(t *testing.T) {
	results := []scenarios.Result{
		took("a/ipv4", "5.10.1", syntax.Prog, map[phase.Phase]float64{phase.Steps: 0.5}),
		took("a/ipv4", "5.10.1", syntax.Netns, map[phase.Phase]float64{phase.Load: 4, phase.Waits: 1}),
		took("b/ipv4", "5.10.1", syntax.Netns, map[phase.Phase]float64{phase.Waits: 2}),
		took("a/ipv4", "7.2.3", syntax.Netns, map[phase.Phase]float64{phase.Load: 1}),
	}
	starts := []matrix.Start{
		{Kernel: "7.2.3", World: syntax.Netns, Warm: true, Boot: 0.25, Ready: 1},
		{Kernel: "7.2.3", World: syntax.Netns, Boot: 2, Ready: 3},
	}
	require.Equal(t, []Timing{
		{Kernel: "5.10.1", World: syntax.Netns, Runs: 2, Seconds: 7, Phases: map[phase.Phase]float64{phase.Load: 4, phase.Waits: 3}},
		{Kernel: "7.2.3", World: syntax.Netns, Runs: 1, Seconds: 1, Phases: map[phase.Phase]float64{phase.Load: 1}, Guests: 2, Warm: 1, Boot: 2.25, Ready: 4},
		{Kernel: "5.10.1", World: syntax.Prog, Runs: 1, Seconds: 0.5, Phases: map[phase.Phase]float64{phase.Steps: 0.5}},
	}, Timings(results, starts))

	var out bytes.Buffer
	(&Text{Out: &out}).Timings(results, nil)
	require.Regexp(t, `(?m)^KERNEL  WORLD  RUNS  SECONDS  LOAD  STEPS  WAITS$`, out.String())
	require.Regexp(t, `(?m)^5\.10 +netns +2 +7\.0 +4\.0 +- +3\.0$`, out.String())
	require.Regexp(t, `(?s)The slowest 4:.*a/ipv4 +netns +5\.10 .*b/ipv4 +netns .*a/ipv4 +netns +7\.2 .*a/ipv4 +prog`, out.String())
	require.NotContains(t, out.String(), "GUESTS", "there were none")
}
