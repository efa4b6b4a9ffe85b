// SPDX-License-Identifier: Apache-2.0

// Package mutant plants deliberate errors in compiled BPF programs, one at a
// time, at the level of instructions: it needs no compiler, and takes objects of
// anybody that have BTF line information.
//
// It runs and loads nothing, and says nothing of what an error is noticed by.
// Its one invariant is that a program with an error has the instructions of the
// one without it, at the places where they were: each is replaced by one other.
// So jumps lead where they led, and what is known of the places of one program is
// true of the other.
package mutant
