// SPDX-License-Identifier: Apache-2.0

// Package matrix runs scenarios in guests: on each of several kernels, as many
// guests at once as keep the processors busy.
//
// It knows nothing of what a scenario says. A guest runs this same program,
// which writes into the kernel's log where each scenario begins and ends: so
// that whatever the kernel says, or dies of, belongs to one scenario. The
// package's one invariant is that every run that was asked for has a Result,
// and that none is given out before the kernel is known to have kept quiet
// through it.
package matrix
