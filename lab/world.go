// SPDX-License-Identifier: Apache-2.0

// Package lab builds the worlds in which scenarios run. A world is a network
// with Weir's datapath in it; all worlds offer the same verbs, so that one
// scenario runs in each.
//
// It knows nothing of scenario files, and judges nothing: a world says what
// happened, the scenario engine says whether that was right.
package lab

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
)

// Topology is a network before any object is applied: nodes with pods, and
// hosts outside.
//
// A network is routed if it has several nodes, or uplinks: each node has one
// uplink then, to a router that has everybody else. The router changes nothing
// of a packet, not even the time to live: it gives it the hardware addresses
// of the next hop. What is for a node or for a pod it carries to the node,
// what nobody has it carries to the first node if it comes from outside, since
// that is where load balancers' addresses lead, and else nowhere.
// In a network that is not routed, each host outside is the node's neighbour.
type Topology struct {
	Nodes   []Host // at least one
	Pods    []Host // Name is namespace/name
	Outside []Host // hosts beyond the nodes' uplinks
	// Gateways are the pods' default routes, one a family, the same on every
	// node.
	Gateways []netip.Addr
	// Uplinks lets the nodes' own devices have programs.
	Uplinks bool
	// Sockets lets what is dialled on the nodes have programs at its sockets, node
	// ports on loopback too. Only worlds of real sockets have that.
	Sockets bool
	// SmallShares gives each pod SmallShare of every table that has room by shares.
	// Only world prog has that.
	SmallShares bool
	// Routes are what the router carries to a node besides. Those to one
	// address share what is sent there: see frame.Path.
	Routes []Route
}

// Manner is how a socket is used, in worlds that have any.
type Manner struct {
	// Unconnected sends each datagram to the address, and says whom it is from
	// that comes.
	Unconnected bool
	// Mapped is an IPv6 socket that speaks IPv4.
	Mapped bool
}

// Routed says whether there is a router between the nodes and the others.
func (t Topology) Routed() bool { return t.Uplinks || len(t.Nodes) > 1 }

// HasSecond says whether the nodes have second uplinks.
func (t Topology) HasSecond() bool {
	return slices.ContainsFunc(t.Outside, func(h Host) bool { return h.Second })
}

// NodeOf gives the index of a pod's node; -1 when there is none of that name.
func (t Topology) NodeOf(pod Host) int {
	if pod.Node == "" {
		return 0
	}
	return slices.IndexFunc(t.Nodes, func(n Host) bool { return n.Name == pod.Node })
}

// Route leads an address to a node, as who announces load balancers' addresses
// has told the router.
type Route struct {
	To   netip.Addr
	Node string
}

// Host is anybody who can send and receive.
type Host struct {
	Name      string
	Addresses []netip.Addr // at most one of each family for pods and outside hosts
	// Node is, of a pod, the node that it runs on; empty: the first.
	Node string
	// Second is, of a host outside, that the nodes' second uplinks lead to it and
	// from it. In a network where a host has it, each node has two, both to the
	// router; all other traffic takes the first.
	Second bool
	// Silent hosts answer nothing by themselves: no handshake, no reset, no
	// echo. What they send is what Send is given.
	Silent bool
}

// World is a network that runs. Where a node is named, the empty name is the
// first.
type World interface {
	// Devices are the devices of a node's pods by pod name, and Uplinks the
	// node's own that are to have programs, for the compiler. Devices of two
	// nodes may have equal numbers.
	Devices(node string) map[string]model.Device
	Uplinks(node string) []model.Uplink
	// MACs gives the address that a host's interface has, and the one that
	// it sends to (its gateway's). A node's are those of its uplink.
	MACs(host string) (own, gateway net.HardwareAddr, err error)
	// Apply makes a node's datapath equal to state.
	Apply(ctx context.Context, node string, state *model.State) (datapath.Change, error)

	// Intent: whole exchanges.

	// Listen makes host accept TCP connections or UDP datagrams on port of
	// all its addresses, and answer each message with answer(message).
	Listen(ctx context.Context, host string, proto model.Protocol, port uint16, answer func([]byte) []byte) error
	// Dial opens a TCP connection, or a connected UDP socket. ErrRefused,
	// ErrTimeout. The source port is chosen by the world when 0.
	Dial(ctx context.Context, host string, proto model.Protocol, sport uint16, to netip.AddrPort) (Conn, error)
	// Ping sends an ICMP echo request and waits for the reply. ErrTimeout.
	Ping(ctx context.Context, host string, to netip.Addr) error

	// Frames.

	// The network, changed while it runs.

	// Assign gives a node's kernel an address beside its own, or takes it away
	// again. Ports that the node listens on are served at it too.
	Assign(ctx context.Context, node string, a netip.Addr, has bool) error
	// Lead has the router carry what is sent to an address to nodes from now on,
	// instead of to those of before; to none: as if nothing had been said of it.
	Lead(ctx context.Context, to netip.Addr, nodes ...string) error

	// Send puts a frame on host's interface.
	Send(ctx context.Context, host string, frame []byte) error
	// Arrived gives the frames that came to host's interface since the last
	// call for that host, oldest first, waiting until there is one or ctx ends.
	Arrived(ctx context.Context, host string) ([]Frame, error)

	// Now is the time by the datapaths' clocks.
	Now() time.Time
	// Advance moves all datapaths' clocks.
	Advance(ctx context.Context, by time.Duration) error
	// Collect runs each node's flow collector once.
	Collect(ctx context.Context) error
	// Datapath gives a node's running datapath, to inspect its tables.
	Datapath(node string) *datapath.Datapath
	// Walks gives what is known of the frames' ways since the last call:
	// in prog every hook of every frame, elsewhere the sampled events.
	Walks() []Walk
	// Enter says how a person looks around in a world that is kept.
	Enter() string
	// Close removes everything.
	Close() error
}

// Conn is an open exchange.
type Conn interface {
	// Exchange sends a message and gives the answer. ErrTimeout, ErrReset.
	Exchange(ctx context.Context, message []byte) ([]byte, error)
	// Local and Remote are the addresses as the host that dialled sees them.
	Local() netip.AddrPort
	Remote() netip.AddrPort
	// Peer is the address of the dialler as the listener saw it; the zero
	// AddrPort when nobody accepted.
	Peer() netip.AddrPort
	// Server is the name of the host that accepted, or "".
	Server() string
	Close() error
}

// Frame is one frame as a host's interface carried it.
type Frame struct {
	Time time.Time
	Host string
	Data []byte // from the Ethernet header on
}

// Walk is the way of one frame through the datapath.
type Walk struct {
	Time  time.Time
	From  string // the host that sent it
	To    string // where it was delivered, or ""
	Steps []Step
	// Sent and Delivered are the frame's bytes at its two ends; nil where
	// unknown.
	Sent, Delivered []byte
	// Nobody says why a frame that no hook dropped was delivered to nobody.
	Nobody string
	// Faults are what no frame may suffer whatever was decided about it: a
	// checksum broken or repaired, a way out that leads nowhere.
	Faults []string
}

// Step is one hook's part of a walk.
type Step struct {
	Node     string
	Hook     model.Hook
	Endpoint string            // whose device it is: a pod, or the node itself
	Decision datapath.Decision // as the program noted it
	// Contradiction is what the program did, if not what it noted; nil where it
	// did, and in worlds that do not see it.
	Contradiction *datapath.Contradiction
	// Tuple is what the hook saw, where In is unknown; the zero Tuple of what
	// has none.
	Tuple   model.Tuple
	In, Out []byte // the frame before and after; nil where unknown
}
