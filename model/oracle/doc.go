// SPDX-License-Identifier: Apache-2.0

// Package oracle says what should happen to a frame: it is what the lab holds
// the datapath against, the engine of policy simulation, and the explanation
// that a person reads.
//
// It reads objects and bytes with code of its own, and shares none with the
// compiler or with the C source: what these get wrong must not be right here.
package oracle
