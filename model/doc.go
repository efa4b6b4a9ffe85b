// SPDX-License-Identifier: Apache-2.0

// Package model is the network as data: the State that the loader writes into the
// datapath's tables, identities, verdicts, reasons and options.
//
// Package model/manifest reads and checks Kubernetes' objects. Package model/compile
// makes a State of them. Package model/oracle says from the same objects what should
// become of a frame: it reads labels, selectors and raw bytes itself and never looks
// at a compiled identity or rule.
//
// None of them talks to a cluster, a kernel or a clock: objects, time and devices
// are handed in.
//
// The one invariant: neither compiler nor oracle calls the other, so that an
// error in one of them shows as a disagreement. Tests of imports forbid it.
package model
