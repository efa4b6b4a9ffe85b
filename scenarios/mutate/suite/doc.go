// SPDX-License-Identifier: Apache-2.0

// Package suite measures what the lab notices of errors in its own Go code, the
// model above all: it plants them, one acting at a time, and looks whether a unit
// test, a scenario in world prog or the fuzzer fails.
//
// It decides nothing about code, and leaves the tree as it is. Its one invariant
// is that of package mutate: nothing counts as noticed that did not fail with
// that error alone, and nothing as unnoticed that was not asked all that reaches
// it.
package suite
