// SPDX-License-Identifier: Apache-2.0

package cover

import "github.com/weirnet/weir/bpf/blocks"

// Counts are what the counters held at one time, by object's name.
type Counts []ObjectCounts

// ObjectCounts are those of an object, by program's name.
type ObjectCounts struct {
	Name     string
	Programs []ProgramCounts
}

// ProgramCounts are those of a program.
type ProgramCounts struct {
	*blocks.Program
	Counts []BlockCounts // of each of Program.Blocks
}

// BlockCounts says how often a block was entered and, where it branches, how
// often its jump was taken and how often not.
type BlockCounts struct{ Entered, Taken, Next uint64 }
