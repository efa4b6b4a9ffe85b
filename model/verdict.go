// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
)

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

// Where is the place where a frame is seen.
type Where struct {
	Hook     Hook
	Endpoint string // whose device it is, namespace/name; at the node's devices, the node's name
}

func (w Where) String() string { return string(w.Hook) + " of " + w.Endpoint }

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

// String gives "tcp 10.0.0.1:40000 -> 10.0.0.2:80".
func (t Tuple) String() string {
	end := func(addr fmt.Stringer, port uint16, v6 bool) string {
		switch {
		case port == 0:
			return addr.String()
		case v6:
			return fmt.Sprintf("[%s]:%d", addr, port)
		}
		return fmt.Sprintf("%s:%d", addr, port)
	}
	return fmt.Sprintf("%s %s -> %s", t.Protocol, end(t.Src, t.Sport, t.Src.Is6()), end(t.Dst, t.Dport, t.Dst.Is6()))
}

// Reversed is the tuple of the answers.
func (t Tuple) Reversed() Tuple {
	return Tuple{Src: t.Dst, Dst: t.Src, Sport: t.Dport, Dport: t.Sport, Protocol: t.Protocol}
}
