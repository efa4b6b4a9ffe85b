// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Hook is a place where the datapath sees a frame.
type Hook string

// Hooks of a pod's host-side device.
const (
	FromContainer Hook = "from-container"
	ToContainer   Hook = "to-container"
)

// Hooks of the node's own devices. Where.Endpoint is the node's name there.
const (
	FromDevice Hook = "from-device" // what came from outside
	ToDevice   Hook = "to-device"   // what the node sends, and is not judged yet
)

// Action is what becomes of a frame.
type Action string

// Actions.
const (
	Forward Action = "forward"
	Drop    Action = "drop"
	// Reply is the datapath's own answer to the sender, in place of the
	// frame: ARP, neighbour advertisement, ICMP port unreachable.
	Reply Action = "reply"
	// Audit is, in events, the forwarding of a frame that a policy denies and
	// is only to tell of.
	Audit Action = "audit"
)

// Out is the way out of a frame that is forwarded.
type Out string

// Ways out.
const (
	OutNone   Out = ""
	OutLocal  Out = "local"  // into a pod of this node
	OutHost   Out = "host"   // up the node's stack
	OutDevice Out = "device" // out of one of the node's devices, as the routes say
	OutTunnel Out = "tunnel" // the same in an outer header, to the node of a pod
	OutSelf   Out = "self"   // back to the sender (Reply)
)

// Reason is why a frame was dropped or answered. The names are those of
// bpf/lib/reasons.h in lower case with hyphens.
type Reason string

// Tuple is what a flow is known by. Ports are 0 where the protocol has none;
// an ICMP echo request has its identifier as Sport, a reply as Dport.
type Tuple struct {
	Src, Dst     netip.Addr
	Sport, Dport uint16
	Protocol     Protocol
}
