// SPDX-License-Identifier: Apache-2.0

package mutate

import "github.com/weirnet/weir/bpf/mutant"

// Outcome is what became of a mutant.
type Outcome string

// Outcomes. Refused, NotExecuted and Equivalent count for no score; Survived and
// Known count against it alike.
const (
	Refused     Outcome = "refused"      // the verifier takes no program with it
	NotExecuted Outcome = "not executed" // no run of the unchanged programs reaches it
	Equivalent  Outcome = "equivalent"   // listed as such, and survived
	Killed      Outcome = "killed"
	Survived    Outcome = "survived"
	Known       Outcome = "survived, known" // listed as such: it is known why nothing notices it
)

// Killers, in the order in which they are asked.
const (
	ByTest   = "test"   // unit tests, of errors in Go
	ByProg   = "prog"   // scenarios in world prog
	ByFuzz   = "fuzz"   // 5 seconds of the fuzzer
	ByNetns  = "netns"  // scenarios in world netns that reach it
	BySocket = "socket" // tests of the sockets' programs
)

// Result is a mutant and what became of it.
type Result struct {
	mutant.Mutant
	Object  string
	Outcome Outcome
	// By says who noticed it; Killer is the scenario or the sequence that did,
	// and Why what it said. Why is the list's reason of one that is
	// Equivalent or Known, and the verifier's of one that is Refused.
	By, Killer, Why string
	// Reached are how many runs execute it, by killer, and Example one of each.
	Reached map[string]int
	Example map[string]string
	// Changed says that its line is one of those that were asked for.
	Changed bool
}
