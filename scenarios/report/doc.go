// SPDX-License-Identifier: Apache-2.0

// Package report shows the results of scenarios: to people as they come, to
// machines as JSON and JUnit, and a failure as a story with a capture.
//
// It decides nothing. Its one invariant is that what a terminal shows and
// what a file keeps say the same.
package report

import (
	"fmt"

	"github.com/weirnet/weir/scenarios"
)

// Tally counts results.
type Tally struct{ Passed, Same, Failed, Skipped int }

// Count tallies results.
func Count(results []scenarios.Result) Tally {
	var t Tally
	for _, r := range results {
		t.add(r)
	}
	return t
}

func (t *Tally) add(r scenarios.Result) {
	switch r.Outcome {
	case scenarios.Pass:
		t.Passed++
	case scenarios.Same:
		t.Same++
	case scenarios.Skipped:
		t.Skipped++
	default:
		t.Failed++
	}
}

// String is the last line of a run.
func (t Tally) String() string {
	if t.Same > 0 {
		return fmt.Sprintf("%d passed, %d the same as on another kernel, %d failed, %d skipped", t.Passed, t.Same, t.Failed, t.Skipped)
	}
	return fmt.Sprintf("%d passed, %d failed, %d skipped", t.Passed, t.Failed, t.Skipped)
}
