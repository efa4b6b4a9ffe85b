// SPDX-License-Identifier: Apache-2.0

// Package mutate measures what the lab notices: it plants deliberate errors in
// the datapath's programs, one at a time, and looks whether a scenario, the
// fuzzer or a test of sockets fails.
//
// It is not for finding errors in the datapath, and judges nothing by itself: an
// error is noticed when what proves the datapath fails. Its one invariant is that
// nothing counts as noticed that did not fail with that error alone, and nothing
// as unnoticed that was not asked all that reaches it.
package mutate
