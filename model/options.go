// SPDX-License-Identifier: Apache-2.0

package model

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

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
	// 0: DefaultFirstPort and DefaultLastPort. The first eighth of them, at least one
	// of several, is given to the node's own flows alone.
	FirstPort, LastPort uint16
	// Algorithm is how backends are chosen where a Service does not say.
	Algorithm Algorithm
	// MaglevSize is the size of a Maglev table, a prime; 0: DefaultMaglevSize.
	MaglevSize int
	// Return and Tunnel say how clients of other nodes' backends are served.
	// All nodes of a cluster have the same. Tunnel is TunnelIPIP where Return
	// needs one and Tunnel is empty.
	Return Return
	Tunnel Tunnel
	// ExternalIPs are the addresses that Services may name as externalIPs;
	// those of nodes among them only where they are named.
	ExternalIPs Allowed
	// HostPorts are the node's addresses at which host ports are that name no
	// address, loopback among them.
	HostPorts Allowed
	// AuditAnnotations are those that are believed.
	AuditAnnotations AuditAnnotations
	// DeniedIngress and DeniedEgress are what a packet gets that a policy denies
	// in that direction, where the policy does not say.
	DeniedIngress, DeniedEgress Denial
	// ServicePings is what becomes of pings of services' addresses.
	ServicePings ServicePings
	// ReservedPorts are TCP ports of all nodes, which no object takes; nil:
	// DefaultReservedPorts.
	ReservedPorts []uint16
}

// ServicePings is what becomes of pings of addresses that are services' alone.
type ServicePings string

// ServicePings. The empty one is PingsAnswered.
const (
	PingsAnswered ServicePings = "answer"
	PingsDropped  ServicePings = "drop"
)

// Denial is what a packet gets that a policy denies.
type Denial string

// Denials. The empty one is DenialDrop.
const (
	DenialDrop   Denial = "drop"
	DenialRefuse Denial = "refuse" // its sender is told: by a reset, or by ICMP
)

// Denied is what a packet gets that a policy denies in a direction, where the policy
// does not say; "" for DenialDrop.
func (o *Options) Denied(direction Direction) Denial {
	if direction == Egress {
		return o.DeniedEgress
	}
	return o.DeniedIngress
}

// AuditAnnotations says whose annotations that denials are only told count.
type AuditAnnotations string

// AuditAnnotations. The empty one is AuditPods. Those of pods, which tenants
// write, lift no policy of the whole cluster.
const (
	AuditPods       AuditAnnotations = "pods"       // pods', and all others
	AuditNamespaces AuditAnnotations = "namespaces" // namespaces', and policies'
	AuditPolicies   AuditAnnotations = "policies"   // policies' alone
	AuditOff        AuditAnnotations = "off"        // nobody's
)

// DefaultReservedPorts are those of Kubernetes' own programs on nodes: etcd,
// the kubelet, kube-proxy's health, the API server's controllers; and Weir's.
func DefaultReservedPorts() []uint16 {
	return []uint16{2379, 2380, 2381, 9879, 10248, 10250, 10256, 10257, 10259}
}

// PortsReserved are ReservedPorts, or the default.
func (o *Options) PortsReserved() []uint16 {
	if o.ReservedPorts == nil {
		return DefaultReservedPorts()
	}
	return o.ReservedPorts
}

// Return is how the answers of a backend on another node come to the client.
type Return string

// Returns. The empty one is ReturnSNAT.
const (
	ReturnSNAT   Return = "snat"   // back through the node that the client came to
	ReturnDSR    Return = "dsr"    // straight from the backend's node; TCP and UDP
	ReturnHybrid Return = "hybrid" // TCP straight, UDP back through the node
)

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

// DefaultRefusals is how many resets and ICMP errors an endpoint's packets get in a second
// at most: as many as Linux has long made of ICMP for all (icmp_msgs_per_sec).
const DefaultRefusals = 1000

// MaxMaglevSize bounds Options.MaglevSize: the tables of all services share
// one map of the kernel.
const MaxMaglevSize = 131071

// OptionsKind is what errors call the options, which are no object of the cluster.
const OptionsKind = "Options"

// Validate says what is wrong with the options: all of it joined, each a
// *FieldError of the object "Options".
func (o *Options) Validate() error {
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, &FieldError{Object: Ref{Kind: OptionsKind}, Field: field, Problem: fmt.Sprintf(format, args...)})
	}
	prefixes := func(list string, prefixes []netip.Prefix) {
		for i, prefix := range prefixes {
			if problem := prefixProblem(prefix); problem != "" {
				fail(fmt.Sprintf("%s[%d]", list, i), "%s", problem)
			}
		}
	}
	prefixes("nodePortAddresses", o.NodePortAddresses)
	prefixes("masqueradeExcluded", o.MasqueradeExcluded)
	for i, prefix := range o.NodePortAddresses {
		if prefix.IsValid() && prefix.Addr().IsLoopback() {
			fail(fmt.Sprintf("nodePortAddresses[%d]", i), "%s is loopback, where node ports do not answer: name an address that others reach", prefix)
		}
	}
	first, last := o.PortRange()
	if first > last {
		fail("firstPort", "%d is greater than lastPort %d: swap them", first, last)
	}
	if o.Algorithm != "" {
		if _, err := ParseAlgorithm(string(o.Algorithm)); err != nil {
			fail("algorithm", "%v", err)
		}
	}
	switch o.Return {
	case "", ReturnSNAT, ReturnDSR, ReturnHybrid:
	default:
		fail("return", "'%s' is unknown: use %s, %s or %s", o.Return, ReturnSNAT, ReturnDSR, ReturnHybrid)
	}
	switch o.Tunnel {
	case TunnelNone, TunnelIPIP, TunnelGeneve:
	default:
		fail("tunnel", "'%s' is unknown: use %s or %s", o.Tunnel, TunnelIPIP, TunnelGeneve)
	}
	prefixes("externalIPs", o.ExternalIPs.Only)
	prefixes("hostPorts", o.HostPorts.Only)
	switch o.AuditAnnotations {
	case "", AuditPods, AuditNamespaces, AuditPolicies, AuditOff:
	default:
		fail("auditAnnotations", "'%s' is unknown: use %s, %s, %s or %s", o.AuditAnnotations, AuditPods, AuditNamespaces, AuditPolicies, AuditOff)
	}
	for _, direction := range []Direction{Ingress, Egress} {
		denial := o.Denied(direction)
		if denial != "" && denial != DenialDrop && denial != DenialRefuse {
			field := map[Direction]string{Ingress: "deniedIngress", Egress: "deniedEgress"}[direction]
			fail(field, "'%s' is unknown: use %s or %s", denial, DenialDrop, DenialRefuse)
		}
	}
	switch o.ServicePings {
	case "", PingsAnswered, PingsDropped:
	default:
		fail("servicePings", "'%s' is unknown: use %s or %s", o.ServicePings, PingsAnswered, PingsDropped)
	}
	if i := slices.Index(o.ReservedPorts, 0); i >= 0 {
		fail(fmt.Sprintf("reservedPorts[%d]", i), "0 is no port: give 1–65535")
	}
	if size := o.MaglevSize; size != 0 && (size < 0 || size > MaxMaglevSize || !IsPrime(size)) {
		fail("maglevSize", "%d is not a prime up to %d: use one like 251, 1021, 4093, %d, 65537 or %d", size, MaxMaglevSize, DefaultMaglevSize, MaxMaglevSize)
	}
	return errors.Join(errs...)
}

// TunnelInUse is by what packets are led to other nodes.
func (o *Options) TunnelInUse() Tunnel {
	switch {
	case o.Return != ReturnDSR && o.Return != ReturnHybrid:
		return TunnelNone
	case o.Tunnel == TunnelNone:
		return TunnelIPIP
	}
	return o.Tunnel
}

// PortRange gives the first and the last port of the range, or of the default.
func (o *Options) PortRange() (first, last uint16) {
	first, last = o.FirstPort, o.LastPort
	if first == 0 {
		first = DefaultFirstPort
	}
	if last == 0 {
		last = DefaultLastPort
	}
	return first, last
}

// prefixProblem says what keeps a prefix out of a table; "" when nothing does.
func prefixProblem(prefix netip.Prefix) string {
	switch {
	case !prefix.IsValid():
		return "is not an address block like 10.0.0.0/8 or fd00::/16"
	case prefix.Addr().Is4In6():
		return fmt.Sprintf("%s is IPv4 written as IPv6: write it as IPv4", prefix)
	case prefix.Masked() != prefix:
		return fmt.Sprintf("%s has bits set beyond its length: write %s", prefix, prefix.Masked())
	}
	return ""
}

// IsPrime is whether a number has no divisor but itself: what a Maglev table's size
// has to be.
func IsPrime(n int) bool {
	if n < 2 {
		return false
	}
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return true
}

// ParseAlgorithm reads an algorithm by its name.
func ParseAlgorithm(text string) (Algorithm, error) {
	switch algorithm := Algorithm(text); algorithm {
	case AlgorithmRandom, AlgorithmMaglev:
		return algorithm, nil
	}
	return "", fmt.Errorf("%q is not one of %s, %s", text, AlgorithmRandom, AlgorithmMaglev)
}
