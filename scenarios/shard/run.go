// SPDX-License-Identifier: Apache-2.0

package shard

import (
	"crypto/sha256"
	"fmt"

	"github.com/weirnet/weir/scenarios"
)

// Run says which part of which whole some results are, as reports keep it.
type Run struct {
	Shard   string   `json:"shard"`   // I/N
	Kernels []string `json:"kernels"` // as results name them
	// Scenarios and Plan are digests: of the whole's runs and their files, and of
	// which part each scenario is in.
	Scenarios string `json:"scenarios"`
	Plan      string `json:"plan"`
	// Build is the program that ran it, and Seed that of the order of its runs; empty
	// where that is not known, and as they are planned.
	Build string `json:"build,omitempty"`
	Seed  string `json:"seed,omitempty"`
	// Results is how many this part is to have.
	Results int `json:"results"`
	// Ended says that the run came to its end, whatever it found.
	Ended bool `json:"ended"`
	// Problems are of the run as a whole, like something that it left behind.
	Problems []string `json:"problems,omitempty"`
}

// NewRun describes the part of a plan that is about to be run. Runs are the
// whole's on one kernel.
func NewRun(s Shard, plan Plan, all []*scenarios.Scenario, runs []scenarios.Result, kernels []string) *Run {
	return &Run{
		Shard: s.String(), Kernels: kernels, Plan: plan.digest(), Scenarios: wholeOf(all, runs),
		Results: plan.count(s.Part, runs) * len(kernels),
	}
}

// count is how many of the runs are of a part.
func (p Plan) count(part int, runs []scenarios.Result) (n int) {
	for _, r := range runs {
		if p[scenarioOf(r)] == part {
			n++
		}
	}
	return n
}

// wholeOf is a digest of runs and of what their files say.
func wholeOf(all []*scenarios.Scenario, runs []scenarios.Result) string {
	sources := map[string][32]byte{}
	for _, s := range all {
		sources[s.Name] = sha256.Sum256([]byte(s.Source))
	}
	var lines []string
	for _, r := range runs {
		lines = append(lines, fmt.Sprintf("%s %s %x", r.World, r.Scenario, sources[scenarioOf(r)]))
	}
	return digest(lines)
}
