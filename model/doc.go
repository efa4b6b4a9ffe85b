// SPDX-License-Identifier: Apache-2.0

// Package model is the network as data, and the judgement of what should
// happen to a frame in it.
//
// Two halves stand side by side and share nothing but the types of their
// results. The compiler turns Kubernetes' objects into a State, which the
// loader writes into the datapath's tables. The oracle answers from the same
// objects what should become of a frame: it reads labels, selectors and raw
// bytes itself and never looks at a compiled identity or rule.
//
// The package does not talk to a cluster, a kernel or a clock: objects, time
// and devices are handed in.
//
// The one invariant: neither half calls the other, so that an error in one of
// them shows as a disagreement.
package model
