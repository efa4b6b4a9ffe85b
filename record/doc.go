// SPDX-License-Identifier: Apache-2.0

// Package record writes what the interfaces of a lab world carry, with what
// the datapath decided about each packet beside it.
//
// It changes nothing in the world. Its one invariant is that a decision stands
// beside a packet only when hook, tuple, length and time all fit: one that
// fits none is kept beside none, and counted.
package record
