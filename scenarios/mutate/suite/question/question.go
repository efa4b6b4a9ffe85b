// SPDX-License-Identifier: Apache-2.0

// Package question is what is said between package suite and a worker, which is
// built with errors: one object of JSON a line.
package question

import "fmt"

// Seed begins the sequences of the fuzzer: the same for all errors.
const Seed = 1

// Run is a scenario of the library in world prog, or a sequence of the fuzzer.
type Run struct {
	Scenario int    `json:"scenario"` // number in the plan; -1 for a sequence
	Sequence uint64 `json:"sequence"`
	Uplinks  bool   `json:"uplinks"`
}

// Name is what reports call a sequence.
func (r Run) Name() string {
	if r.Uplinks {
		return fmt.Sprintf("sequence %d with uplinks", r.Sequence)
	}
	return fmt.Sprintf("sequence %d", r.Sequence)
}

// Question asks for runs, one after the other until one fails, with an error or,
// where Watch says how many places there are, with none: which are reached?
type Question struct {
	Mutant int   `json:"mutant"`
	Watch  int   `json:"watch,omitempty"`
	Runs   []Run `json:"runs"`
}

// Answer is the plan at the beginning; a run that begins; or what became of a
// question.
type Answer struct {
	Runs    []string `json:"names,omitempty"`
	Begun   *Run     `json:"begun,omitempty"`
	Done    bool     `json:"done,omitempty"`
	Failed  *Run     `json:"failed,omitempty"`
	Why     string   `json:"why,omitempty"`
	Reached []int    `json:"reached,omitempty"`
}
