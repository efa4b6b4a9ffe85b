// SPDX-License-Identifier: Apache-2.0

// Package replay passes the packets of captures through the datapath's real
// programs, and says what each would meet: under the objects of a cluster, or
// as if every address that it sees were a pod's. It compares two such runs,
// and makes a regression scenario of a packet.
//
// It proves nothing about sockets or timing: every packet is carried by
// BPF_PROG_TEST_RUN, under a clock that stands still but for the timestamps:
// captures replayed again give the same outcomes, whatever else the machine
// does. Its one invariant is that every packet of a capture has an Outcome, and
// that one that did not reach a program says why in a sentence.
package replay
