// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/weirnet/weir/model"
)

// Family of addresses.
type Family string

// Families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// Families are all of them.
func Families() []Family { return []Family{IPv4, IPv6} }

func (f Family) is6() bool { return f == IPv6 }

func (f Family) String() string {
	if f.is6() {
		return "IPv6"
	}
	return "IPv4"
}

// Kind is what is asked.
type Kind string

// Kinds. Of those that lead to servers by a service, Name is the service's.
const (
	ToPod          Kind = "pod"           // Name is a pod
	ToNode         Kind = "node"          // Name is a probe with a node's network
	ToClusterIP    Kind = "cluster-ip"    // the service's own address
	ToNodePort     Kind = "node-port"     // at the node of number Node
	ToExternalIP   Kind = "external-ip"   // of the service
	ToLoadBalancer Kind = "load-balancer" // the address that a load balancer would have
	ToHostPort     Kind = "host-port"     // of pod Name, at its node
	ToOutside      Kind = "outside"       // the host beside the nodes
	ToName         Kind = "name"          // a name, of which the resolver is asked
)

// Target is what is asked, of what kind.
type Target struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name,omitempty"`
	Node int    `json:"node,omitempty"` // of ToNodePort, from 1 on
	Port uint16 `json:"port,omitempty"`
}

// Verb is what is done.
type Verb string

// Verbs.
const (
	TCP       Verb = "tcp"       // a connection, on which the server says who it is
	UDP       Verb = "udp"       // a datagram and its answer
	ICMP      Verb = "icmp"      // an echo request and its reply
	Spread    Verb = "spread"    // TCP until each server has answered
	Stick     Verb = "stick"     // TCP again and again, and always the same server
	Hold      Verb = "hold"      // a TCP connection that is there during the whole run
	Transfer  Verb = "transfer"  // many octets by TCP, both ways
	Full      Verb = "full"      // a datagram as long as the path takes it in one piece
	Fragments Verb = "fragments" // a datagram that needs several
	FullICMP  Verb = "full-icmp" // an echo request as long as the path takes it
	ManyICMP  Verb = "fragments-icmp"
	AskUDP    Verb = "ask-udp" // the addresses of a name
	AskTCP    Verb = "ask-tcp"
	Latency   Verb = "latency"    // rounds of small messages, measured
	Rate      Verb = "throughput" // a transfer, measured
)

// protocol is that of the packets.
func (v Verb) protocol() model.Protocol {
	switch v {
	case UDP, Full, Fragments:
		return model.ProtocolUDP
	}
	return model.ProtocolTCP
}

// packets is the protocol as events have it; icmp is that of icmpv6 too.
func (v Verb) packets() string {
	switch v {
	case ICMP, FullICMP, ManyICMP:
		return "icmp"
	case AskUDP:
		return "udp"
	}
	return v.protocol().String()
}

// Need is what a cluster has to have for an action.
type Need string

// Needs.
const (
	NeedTwoNodes Need = "two nodes"
	NeedOutside  Need = "a host beside the nodes"
	NeedWayBack  Need = "a way back from there to pods"
	NeedPolicies Need = "policies that hold"
	NeedDNS      Need = "a DNS"
	NeedHostPods Need = "pods with nodes' networks"
	NeedPerf     Need = "leave to take time"

	NeedCilium       Need = "the kind CiliumNetworkPolicy"
	NeedClusterwide  Need = "the kind CiliumClusterwideNetworkPolicy"
	NeedClusterKinds Need = "the kind ClusterNetworkPolicy"
)

// Action is one thing that is done, and how it has to end. It is data: what a run
// makes of it is in do.go.
type Action struct {
	Test   string `json:"test"`
	Case   string `json:"case"`
	Family Family `json:"family"`
	From   string `json:"from"` // a probe, or Outside
	To     Target `json:"to"`
	Verb   Verb   `json:"verb"`
	// Denied actions have to fail, by silence or by a refusal.
	Denied bool `json:"denied,omitempty"`
	// By are the servers that may answer; none: the one that is asked.
	By []string `json:"by,omitempty"`
	// Seen says that the server has to see the address of who asks, unchanged.
	Seen  bool   `json:"seen,omitempty"`
	Needs []Need `json:"needs,omitempty"`
}

// asksNames says whether it is about a name itself, and not about whom that leads to.
func (a *Action) asksNames() bool { return a.Verb == AskUDP || a.Verb == AskTCP }

// Outside is the host beside the nodes: the machine that the test is run on.
const Outside = "outside"

// Name is unique among all actions: test/case/family.
func (a *Action) Name() string { return fmt.Sprintf("%s/%s/%s", a.Test, a.Case, string(a.Family)) }

// Selection says which actions are meant. The zero one is of all but those that
// measure.
type Selection struct {
	Run, Skip *regexp.Regexp // of names; nil: all, and none
	Families  []Family       // none: all
	Perf      bool
}

// Take gives the actions that are meant, in their order.
func (s *Selection) Take(all []Action) []Action {
	var taken []Action
	for i := range all {
		name := all[i].Name()
		switch {
		case s.Run != nil && !s.Run.MatchString(name):
		case s.Skip != nil && s.Skip.MatchString(name):
		case len(s.Families) > 0 && !slices.Contains(s.Families, all[i].Family):
		case !s.Perf && slices.Contains(all[i].Needs, NeedPerf):
		default:
			taken = append(taken, all[i])
		}
	}
	return taken
}
