// SPDX-License-Identifier: Apache-2.0

// Package policy says what network policies allow before they are applied:
// whether one flow is allowed and by which rule, which pod may reach which,
// what a change of objects would connect or cut, and which policies would allow
// what was recorded.
//
// It asks the oracle, or the datapath's own programs on frames that it makes.
// Its one invariant: it changes nothing outside the process but a network
// namespace of its own, which is gone when the programs are.
package policy
