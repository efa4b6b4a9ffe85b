// SPDX-License-Identifier: Apache-2.0

// Package sysdump writes what somebody needs to know of a cluster to find out why Weir
// does not do there what it ought to: one zip.
//
// It changes nothing in the cluster, and asks for no Secret. Its one invariant is that
// what could not be had is named in the zip, with the reason, and keeps nothing else
// out of it.
package sysdump
