// SPDX-License-Identifier: Apache-2.0

// Package pcap writes captures that carry what Weir knows of each packet as
// a comment beside it, in the pcapng format of
// draft-ietf-opsawg-pcapng.
//
// It interprets no packet. Its one invariant is that what it writes is whole
// after every call: a capture that is cut off by a crash can still be read.
package pcap
