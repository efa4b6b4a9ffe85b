// SPDX-License-Identifier: Apache-2.0

// Package failure makes scenarios of actions of 'weir connectivity test' that failed,
// from the report alone: the network around the action, the objects that have to do
// with it, and the action itself, with how it had to end.
//
// It does not repeat what others did meanwhile, and no cluster is asked. Its one
// invariant is that what it gives is a scenario: it was parsed and rehearsed.
package failure
