// SPDX-License-Identifier: Apache-2.0

// Package model is the network as data, and the compiler, which turns
// Kubernetes' objects into a State that the loader writes into the datapath's
// tables.
//
// What should become of a frame says package model/oracle from the same objects:
// it reads labels, selectors and raw bytes itself and never looks at a compiled
// identity or rule.
//
// The package does not talk to a cluster, a kernel or a clock: objects, time
// and devices are handed in.
//
// The one invariant: neither compiler nor oracle calls the other, so that an
// error in one of them shows as a disagreement. A test of model/oracle forbids it.
package model
