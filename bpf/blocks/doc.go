// SPDX-License-Identifier: Apache-2.0

// Package blocks tells how a BPF program can run: its basic blocks, the edges
// between them, the registers that are free at each, and the source lines that
// they were made of. It is for those who count what runs, and for those who
// change it; it loads nothing and changes nothing. Its one invariant is that
// blocks of a program cover its instructions, each once and in their order.
package blocks
