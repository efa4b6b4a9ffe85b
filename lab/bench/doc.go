// SPDX-License-Identifier: Apache-2.0

// Package bench measures what the datapath's paths cost a packet, and tells what
// benchmarks say of the goals that Weir has.
//
// It judges by ratios alone: a figure in nanoseconds is one machine's. The unit is
// BASE, the empty program under the same wrapper in the same run. Its one invariant
// is that a path whose packets come out other than those of a single run is not
// measured.
package bench
