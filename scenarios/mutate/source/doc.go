// SPDX-License-Identifier: Apache-2.0

// Package source plants deliberate errors in Go source: all of them at once, each
// behind a switch of package planted, so that a package is compiled once and not
// once an error.
//
// It builds and runs nothing, and writes nothing into the tree: what it makes is
// an overlay for the go command. Its one invariant is that code with errors and
// none acting does what the code without them does, on the same lines.
package source
