// SPDX-License-Identifier: Apache-2.0

package model

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// State is what one node's datapath has to know: the compiler makes it from
// Objects, the loader makes the tables equal to it. All slices and lists are
// sorted and hold no duplicates, so equal networks have equal states.
type State struct {
	Node      Node
	Endpoints []Endpoint
	Addresses List[Address]
	// TunnelEndpoints are other nodes', by their numbers. The compiler makes none yet.
	TunnelEndpoints []TunnelEndpoint
	Services        List[Service]
	// ServiceAddresses are those of Services that are nobody else's: not a node's,
	// not a pod's. What is sent there, and to no frontend, is refused. Pings are
	// answered where AnswersPings.
	ServiceAddresses []netip.Addr
	AnswersPings     bool
	// Loopback are frontends at the node's loopback addresses, which its own
	// sockets reach and no packet.
	Loopback []Service
	RuleSets []RuleSet
	// Peers are the other nodes, those first whose Nodes are to be believed
	// first. The datapath has no need of them: the node's routes have.
	Peers []Peer
}

// Node is the node on which the datapath runs.
type Node struct {
	Name string
	// Addresses are the node's own. Their identity is IdentityHost, and what
	// is sent to them goes up the node's stack. The first of each family is
	// the source that a hairpin flow is given.
	Addresses []netip.Addr
	// Gateways are the next hops of the pods' default routes: the first of
	// each family is that of all pods whose Device names none. ARP and
	// neighbour solicitations for them are answered by the datapath; those of
	// no Device are nobody's addresses.
	Gateways []netip.Addr
	// Uplinks are the node's devices towards others; none: only pods' devices
	// have programs.
	Uplinks []Uplink
	// Masquerade is how flows are given the node's address; nil: never.
	Masquerade *Masquerade
	// Tunnel leads to backends that answer clients themselves.
	Tunnel Tunnel
	// RuleSet is the key of the rules for the node's own traffic; empty: no
	// policy selects the node, and all of it passes.
	RuleSet string
}

// Tunnel is how a packet is led to another node.
type Tunnel string

// Tunnels.
const (
	TunnelNone   Tunnel = ""
	TunnelIPIP   Tunnel = "ipip"   // RFC 2003, RFC 2473
	TunnelGeneve Tunnel = "geneve" // RFC 8926, with IP inside
)

// Uplink is one of the node's devices towards other nodes and the world.
type Uplink struct {
	Name    string
	Ifindex int
	MAC     net.HardwareAddr
	MTU     int // bytes of an IP packet; 0: 1500
}

// Masquerade is the translation of sources to an address of the node. What is
// sent to an Address with Native is left as it is.
type Masquerade struct {
	// IPv4 and IPv6 are the sources; the zero Addr: that family is not
	// masqueraded.
	IPv4, IPv6 netip.Addr
	// FirstPort and LastPort bound the source ports, and identifiers of ICMP
	// echoes, that are taken where a flow's own is not free.
	FirstPort, LastPort uint16
	// NodePorts says how many of them, from FirstPort on, only the node's own
	// flows are given: pods and who comes from outside have the rest.
	NodePorts uint16
}

// Endpoint is a pod of this node.
type Endpoint struct {
	Name     Key
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
	// Gateways are the next hops of this pod's default routes, where they are
	// others than the node's: one a family at most.
	Gateways []netip.Addr
}

// Address is what is known of a peer by its address.
type Address struct {
	Prefix   netip.Prefix // masked
	Identity Identity
	// Of is the pod's or node's own identity, where blocks of policies hold the
	// address and Identity is what they tell it apart by; else IdentityUnknown.
	Of Identity
	// Native addresses are reached with the pod's own source: other pods and
	// nodes, and what the operator excludes from masquerading.
	Native bool
	// Node addresses are another node's, whatever their identity says.
	Node bool
	// TunnelEndpoint is the number of the node behind which the addresses are, in
	// State.TunnelEndpoints; 0: none is known.
	TunnelEndpoint uint32
}

// TunnelEndpoint is where another node takes packets in an outer header.
type TunnelEndpoint struct {
	// Number is what addresses name it by, not 0: a node keeps it while it is there.
	Number uint32
	Node   string
	// IPv4 and IPv6 are the node's addresses, whatever family is inside: at least one
	// of them; the zero Addr where the node has none of that family.
	IPv4, IPv6 netip.Addr
}

// Owner is whose address it is: the identity that its labels give it, whatever
// blocks of policies hold it.
func (a *Address) Owner() Identity { return cmp.Or(a.Of, a.Identity) }

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
	// nodes that such blocks hold. They never leave the node: the wire has no
	// room for them.
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

// Scope is from where a frontend is reached. Addresses that are reached from
// both have a frontend in each, which may have other backends.
type Scope uint8

// Scopes.
const (
	ScopeInside  Scope = 0 // from pods of this node, and from the node itself
	ScopeOutside Scope = 1 // what comes in by an uplink
)

func (s Scope) String() string {
	if s == ScopeInside {
		return "inside"
	}
	return "outside"
}

// ServiceKind is what made a frontend, for people.
type ServiceKind string

// Kinds of frontends.
const (
	KindClusterIP    ServiceKind = "ClusterIP"
	KindNodePort     ServiceKind = "NodePort"
	KindLoadBalancer ServiceKind = "LoadBalancer"
	KindExternalIP   ServiceKind = "ExternalIP"
	KindHostPort     ServiceKind = "HostPort"
)

// Service is one frontend: an address, port and protocol, in one scope.
type Service struct {
	Name     PortRef
	Kind     ServiceKind
	Scope    Scope
	Address  netip.Addr
	Port     uint16
	Protocol Protocol
	Backends []Backend // none: what is sent here is refused, or dropped if Local
	// Local frontends have backends of this node only. Without one their
	// packets are dropped and not refused: another node may have some.
	Local bool
	// Affinity keeps a client's flows with one backend for that long after
	// the last one began; 0: no.
	Affinity time.Duration
	// Sources are who may send here; nil: everybody.
	Sources []netip.Prefix
	// DSR frontends lead to backends elsewhere by Node.Tunnel, which answer
	// the client themselves; else by the node's source.
	DSR bool
	// MaglevSize is the size of the table by which backends are chosen, a
	// prime; 0: by chance.
	MaglevSize int
}

// Backend is one place where a service is served.
type Backend struct {
	Address netip.Addr
	Port    uint16
	// Weight is the backend's share of new flows, from 1 to MaxWeight; 0 is 1.
	Weight uint16
	// Terminating backends keep their TCP flows and get no new ones.
	Terminating bool
}

// MaxWeight bounds Backend.Weight.
const MaxWeight = 256

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

// RuleAction is what becomes of what a rule matches.
type RuleAction uint8

// RuleActions.
const (
	RuleAllow RuleAction = iota
	RuleDeny
	// RuleAudit lets through what a policy denies that is in audit, and tells
	// of it.
	RuleAudit
	// RuleRefuse denies, and has the sender told: a reset, or an ICMP error.
	RuleRefuse
	// RuleRedirect leads what is matched to a proxy on this node, at Rule.ProxyPort.
	// The datapath has no proxy yet, and refuses a state with such a rule.
	RuleRedirect
)

// Denies is whether what is matched is not let through.
func (a RuleAction) Denies() bool { return a == RuleDeny || a == RuleRefuse }

func (a RuleAction) String() string {
	names := [...]string{"allow", "deny", "audit", "refuse", "redirect"}
	if int(a) >= len(names) {
		return fmt.Sprintf("action-%d", uint8(a))
	}
	return names[a]
}

// Rule is one entry of a policy's table. Of the rules that match, the one of
// highest Precedence decides; none matching is a denial.
type Rule struct {
	Direction Direction
	Peer      Identity // IdentityUnknown: any
	Protocol  Protocol // ProtocolAny: any, and PortBits is 0
	Port      uint16   // of ICMP: the type of what opens a flow
	PortBits  uint8    // how many leading bits of Port count: 16 exact, 0 any port
	Action    RuleAction
	ProxyPort uint16 // of RuleRedirect: where the proxy listens, not 0; else 0
	// Precedence orders rules that overlap. The compiler gives rules of one
	// set that overlap and disagree different precedences.
	Precedence uint32
	Origin     Origin
}
