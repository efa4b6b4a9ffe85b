// SPDX-License-Identifier: Apache-2.0

// Package pcap reads and writes captures: pcap (draft-ietf-opsawg-pcap) and
// pcapng (draft-ietf-opsawg-pcapng), gzip or not.
//
// It judges no packet: package replay does. Its one invariant is that a file
// costs no more memory than a few packets, whatever the file claims: what is
// written is whole after every call, and what is read is bounded before it is
// read, so that damage ends in a DamageError that says where.
//
// Reading is done here and not by gopacket's pcapgo, which serves whole files
// but not hostile ones: it allocates what a snap length or a packet claims (up
// to 4 GB), panics on short options, divides by zero for a time resolution of
// 10^-20, refuses files whose snap length is 0, and its errors name no place.
package pcap
