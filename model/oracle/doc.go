// SPDX-License-Identifier: Apache-2.0

// Package oracle says what should happen to a frame: it is what the lab holds
// the datapath against, the engine of policy simulation, and the explanation
// that a person reads.
//
// It has two parts. A judgement has no memory: of objects, a frame, and the flow
// that the frame met or did not meet, it makes what is right. An automaton of
// one connection has named states, each with the time that it lasts; it says
// whether a frame must, may or must not meet the connection's entries. Where a
// world sees the flow table (Sight), what was met is held against the automaton,
// and the judgement goes on from there; where none is seen, it is made for all
// that may have been met.
//
// It reads objects and bytes with code of its own, and shares none with the
// compiler or with the C source: what these get wrong must not be right here.
package oracle
