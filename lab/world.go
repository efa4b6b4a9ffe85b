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
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/model"
)

// Topology is a network before any object is applied: one node with pods, and
// hosts outside.
type Topology struct {
	Node    Host
	Pods    []Host // Name is namespace/name
	Outside []Host // hosts beyond the node's uplink
	// Gateways are the pods' default routes, one a family.
	Gateways []netip.Addr
}

// Host is anybody who can send and receive.
type Host struct {
	Name      string
	Addresses []netip.Addr // at most one of each family for pods and outside hosts
	// Silent hosts answer nothing by themselves: no handshake, no reset, no
	// echo. What they send is what Send is given.
	Silent bool
}

// World is a network that runs.
type World interface {
	// Devices are the pods' devices by pod name, for the compiler.
	Devices() map[string]model.Device
	// MACs gives the address that a host's interface has, and the one that
	// it sends to (its gateway's).
	MACs(host string) (own, gateway net.HardwareAddr, err error)
	// Apply makes the datapath equal to state.
	Apply(ctx context.Context, state *model.State) (datapath.Change, error)

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

	// Send puts a frame on host's interface.
	Send(ctx context.Context, host string, frame []byte) error
	// Arrived gives the frames that came to host's interface since the last
	// call for that host, oldest first, waiting until there is one or ctx ends.
	Arrived(ctx context.Context, host string) ([]Frame, error)

	// Advance moves the datapath's clock.
	Advance(ctx context.Context, by time.Duration) error
	// Collect runs the flow collector once.
	Collect(ctx context.Context) error
	// Datapath gives the running datapath, to inspect its tables.
	Datapath() *datapath.Datapath
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
	Hook     model.Hook
	Endpoint string // whose device it is
	Decision datapath.Decision
	In, Out  []byte // the frame before and after; nil where unknown
}
