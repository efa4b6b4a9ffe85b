// SPDX-License-Identifier: Apache-2.0

// Package connectivity tests the network of a live cluster, whosever it is: it puts
// probes on its nodes (lab/kube, lab/probe), finds out what the cluster has, and does
// one thing after another between them. What is done is data (tests.go,
// policies.go), what a cluster lacks for it is a rule (features.go), and each action
// has a result of its own.
//
// It is not for finding out why a datapath does what it does: for that there are
// scenarios. Its one invariant is that of lab/kube: what a run makes is in namespaces
// of its own, and goes with it.
package connectivity
