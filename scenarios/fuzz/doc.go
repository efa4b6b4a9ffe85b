// SPDX-License-Identifier: Apache-2.0

// Package fuzz makes networks and sequences of frames by chance, has the
// programs and the model judge each frame, and shrinks what they do not agree
// on to a scenario file.
//
// It does not judge who is right, and proves nothing about sockets or devices:
// frames go through the programs by BPF_PROG_TEST_RUN. Its one invariant is
// that a sequence follows from its seed, its number and the captures alone.
package fuzz
