// SPDX-License-Identifier: Apache-2.0

// Package cover counts which blocks and branches of BPF programs run, by
// counters that it puts into the programs before they are loaded: no second
// build, and nothing of the compiler. What the counters mean in the source is
// told by package blocks; pages and percentages are not its matter.
//
// Its one invariant is that a count is zero exactly if what it counts has not
// run since the last Reset. How much above zero it is may be too little: a
// counter is read, raised and written back without a lock, so what several CPUs
// do at once may count once.
package cover
