// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net"
	"net/netip"
)

// State is what one node's datapath has to know: the compiler makes it from
// Objects, the loader makes the tables equal to it. All slices are sorted and
// hold no duplicates, so equal networks have equal states.
type State struct {
	Node      Node
	Endpoints []Endpoint
	Addresses []Address
	Services  []Service
	RuleSets  []RuleSet
}

// Node is the node on which the datapath runs.
type Node struct {
	Name string
	// Addresses are the node's own. Their identity is IdentityHost, and what
	// is sent to them goes up the node's stack. The first of each family is
	// the source that a hairpin flow is given.
	Addresses []netip.Addr
	// Gateways are the next hops of the pods' default routes, one a family.
	// No device has them: ARP and neighbour solicitations for them are
	// answered by the datapath.
	Gateways []netip.Addr
}

// Endpoint is a pod of this node.
type Endpoint struct {
	Name     string // namespace/name
	Device   Device
	IPv4     netip.Addr // the zero Addr when the pod has none
	IPv6     netip.Addr
	Identity Identity
	RuleSet  string // RuleSet.Key; empty is no policy state: nothing passes
}

// Device is the host's side of a pod's veth pair.
type Device struct {
	Name    string
	Ifindex int
	MAC     net.HardwareAddr // of the host's side
	PodMAC  net.HardwareAddr // of the pod's side
}

// Address is what is known of a peer by its address.
type Address struct {
	Prefix   netip.Prefix // masked
	Identity Identity
}

// Identity is the number of a set of security-relevant labels. Numbers below
// FirstLabelIdentity are reserved. Only 24 bits travel on the wire.
type Identity uint32

// Reserved identities.
const (
	IdentityUnknown    Identity = 0 // in a rule: any peer
	IdentityHost       Identity = 1 // this node
	IdentityWorld      Identity = 2 // an address that nothing is known of
	IdentityRemoteNode Identity = 3
	IdentityUnmanaged  Identity = 4 // a pod that has not been given an identity
	IdentityHealth     Identity = 5

	FirstLabelIdentity Identity = 256
	// FirstBlockIdentity and above are address blocks that policies name, and
	// never leave the node: the wire has no room for them.
	FirstBlockIdentity Identity = 1 << 24
)

// Protocol is an IP protocol number.
type Protocol uint8

// Protocols that the datapath knows by name.
const (
	ProtocolAny    Protocol = 0
	ProtocolICMP   Protocol = 1
	ProtocolTCP    Protocol = 6
	ProtocolUDP    Protocol = 17
	ProtocolICMPv6 Protocol = 58
	ProtocolSCTP   Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case ProtocolAny:
		return "any"
	case ProtocolICMP:
		return "icmp"
	case ProtocolTCP:
		return "tcp"
	case ProtocolUDP:
		return "udp"
	case ProtocolICMPv6:
		return "icmpv6"
	case ProtocolSCTP:
		return "sctp"
	}
	return fmt.Sprintf("proto-%d", uint8(p))
}

// Service is one frontend: an address, port and protocol.
type Service struct {
	Name     string // namespace/name:port, port by name where it has one
	Address  netip.Addr
	Port     uint16
	Protocol Protocol
	Backends []Backend // none: what is sent here is refused
}

// Backend is one place where a service is served.
type Backend struct {
	Address netip.Addr
	Port    uint16
	// Terminating backends keep their flows and get no new ones.
	Terminating bool
}

// RuleSet is the policy of all endpoints that have the same. It always
// answers for both directions: a direction that no policy selects has a rule
// that allows everything.
type RuleSet struct {
	Key   string // equal rules have equal keys
	Rules []Rule
}

// Direction is seen from the endpoint.
type Direction uint8

// Directions.
const (
	Ingress Direction = 0
	Egress  Direction = 1
)

func (d Direction) String() string {
	if d == Ingress {
		return "ingress"
	}
	return "egress"
}

// Rule is one entry of a policy's table. Of the rules that match, the one of
// highest Precedence decides; none matching is a denial.
type Rule struct {
	Direction Direction
	Peer      Identity // IdentityUnknown: any
	Protocol  Protocol // ProtocolAny: any, and PortBits is 0
	Port      uint16
	PortBits  uint8 // how many leading bits of Port count: 16 exact, 0 any port
	Deny      bool
	// Precedence orders rules that overlap. The compiler gives rules of one
	// set that overlap and disagree different precedences.
	Precedence uint32
	Origin     Origin
}

// Origin says where a rule comes from, for people.
type Origin struct {
	Policy string // kind/namespace/name; empty: no policy selects the endpoint
	Rule   int    // index in the policy's list of that direction, from 0
}

func (o Origin) String() string {
	if o.Policy == "" {
		return "no policy"
	}
	return fmt.Sprintf("%s rule %d", o.Policy, o.Rule)
}
