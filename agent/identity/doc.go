// SPDX-License-Identifier: Apache-2.0

// Package identity has the nodes of a cluster agree on the numbers of sets of
// labels, by one object of the cluster's API for each: its name is the number,
// so the API itself gives a number once.
//
// There is no leader. The agent of a node that has such a pod makes the object;
// a number to begin with comes from the labels themselves, so that agents that
// make it at once meet at one name. An object whose labels no pod has had for
// long is deleted by whoever notices first.
//
// It decides nothing about packets, and nothing waits for it: labels without a
// number are numbered by the node alone until they have one. Its one invariant:
// numbers that it gives at one time are of one set of labels each, and one that
// is in use changes only when the API says so.
package identity
