// SPDX-License-Identifier: Apache-2.0

// Package watch says which runs of scenarios a change of files touches: of
// scenarios themselves, or of the C that the programs are built from, which it
// builds anew. It hears of changes from the kernel, and never looks for them by
// the clock. It runs nothing and prints nothing.
//
// Its one invariant is that a run is left out only if nothing that it reached has
// changed since it last ran, as far as line tables tell: what they do not tell, as
// of a definition, touches all that ran a program that has changed.
package watch
