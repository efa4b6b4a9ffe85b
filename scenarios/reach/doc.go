// SPDX-License-Identifier: Apache-2.0

// Package reach tells, in lines and branches of the source, what of the
// datapath's programs scenarios reach: as lcov, as pages, and as one line. It
// counts nothing itself: it reads the records of package bpf/cover. Its one
// invariant is that a line is called reached only if an instruction of it ran,
// and unreachable only if the verifier took out all of its instructions on every
// kernel that records came from.
package reach
