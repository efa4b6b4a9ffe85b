// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Options are what an operator chooses, and no object says. The zero Options
// are those of a node without uplinks: nothing is masqueraded, backends are
// chosen by chance.
type Options struct {
	// NodePortAddresses choose among the node's addresses those that answer on
	// node ports; nil: all of them.
	NodePortAddresses []netip.Prefix
	// Masquerade gives what leaves the cluster the node's address, but for
	// what is sent to MasqueradeExcluded.
	Masquerade         bool
	MasqueradeExcluded []netip.Prefix
	// FirstPort and LastPort bound the source ports that masquerading takes;
	// 0: DefaultFirstPort and DefaultLastPort.
	FirstPort, LastPort uint16
	// Algorithm is how backends are chosen where a Service does not say.
	Algorithm Algorithm
	// MaglevSize is the size of a Maglev table, a prime; 0: DefaultMaglevSize.
	MaglevSize int
}

// Algorithm is how a backend is chosen.
type Algorithm string

// Algorithms. The empty one is AlgorithmRandom.
const (
	AlgorithmRandom Algorithm = "random"
	AlgorithmMaglev Algorithm = "maglev"
)

// Defaults of Options. The ports are those above what kube-apiserver gives to
// Services (30000-32767).
const (
	DefaultFirstPort  = 32768
	DefaultLastPort   = 65535
	DefaultMaglevSize = 16381
)
