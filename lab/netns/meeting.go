// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"

	"github.com/weirnet/weir/model"
)

// meetings know who dialled and who accepted. Both ends of a conversation are
// in this process, so that the two can speak of it beside the wire: who they
// are, and how long a message is. Nothing of that is in the packets, whose
// payload is the message alone.
//
// A dialler is recognized by its address as the listener sees it. Behind
// source NAT, where that is one of the node's addresses, or its own with another
// port, it is recognized by its message, or by being the only one who waits to
// be accepted.
type meetings struct {
	node []netip.Addr

	mu      sync.Mutex
	callers []*caller // those whose sockets are open, oldest first
}

// caller is the dialling end of a conversation.
type caller struct {
	host     string
	protocol model.Protocol
	local    netip.AddrPort

	// Guarded by meetings.mu.
	server    string         // who accepted, or ""
	peer      netip.AddrPort // the caller as seen by who accepted
	met       chan struct{}  // closed when somebody accepted
	end       *served        // of TCP, the accepting end
	message   []byte         // being exchanged, or nil
	announced int            // length of the answer to it, or -1
}

func newMeetings(node []netip.Addr) *meetings { return &meetings{node: node} }

// join adds a caller before its first packet leaves.
func (m *meetings) join(host string, protocol model.Protocol, local netip.AddrPort) *caller {
	m.mu.Lock()
	defer m.mu.Unlock()

	c := &caller{host: host, protocol: protocol, local: local, met: make(chan struct{}), announced: -1}
	m.callers = append(m.callers, c)
	return c
}

func (m *meetings) leave(c *caller) {
	m.mu.Lock()
	defer m.mu.Unlock()

	m.callers = slices.DeleteFunc(m.callers, func(other *caller) bool { return other == c })
}

// accepted tells that host accepted a TCP connection, at end, from peer. It
// gives the caller if it is known already.
func (m *meetings) accepted(host string, peer netip.AddrPort, end *served) *caller {
	m.mu.Lock()
	defer m.mu.Unlock()

	waiting := m.from(peer, model.ProtocolTCP, func(c *caller) bool { return c.end == nil })
	if len(waiting) != 1 {
		return nil
	}
	waiting[0].meet(host, peer, end)
	return waiting[0]
}

// heard tells that host got the beginning of a message from peer. It gives
// who sent it, or nil when that is a stranger, and the message's length.
func (m *meetings) heard(host string, protocol model.Protocol, peer netip.AddrPort, beginning []byte, end *served) (*caller, int) {
	m.mu.Lock()
	defer m.mu.Unlock()

	speaking := m.from(peer, protocol, func(c *caller) bool {
		return c.message != nil && c.end == end && bytes.HasPrefix(c.message, beginning)
	})
	if len(speaking) == 0 && end != nil {
		// The connection was accepted before it was clear from whom.
		speaking = m.from(peer, protocol, func(c *caller) bool {
			return c.message != nil && c.end == nil && bytes.HasPrefix(c.message, beginning)
		})
	}
	if len(speaking) == 0 {
		return nil, len(beginning)
	}
	speaking[0].meet(host, peer, end)
	return speaking[0], len(speaking[0].message)
}

// from gives the callers that may be who peer is, best guess first.
func (m *meetings) from(peer netip.AddrPort, protocol model.Protocol, eligible func(*caller) bool) []*caller {
	var exact, samePort, others []*caller
	translated := slices.Contains(m.node, peer.Addr())
	for _, c := range m.callers {
		switch {
		case c.protocol != protocol || !eligible(c):
		case c.local == peer:
			exact = append(exact, c)
		case c.local.Addr() == peer.Addr(): // its port alone is another
			others = append(others, c)
		case !translated || c.local.Addr().Is4() != peer.Addr().Is4():
		case c.local.Port() == peer.Port():
			samePort = append(samePort, c)
		default:
			others = append(others, c)
		}
	}
	if len(exact) > 0 {
		return exact
	}
	if len(samePort) > 0 {
		return samePort
	}
	return others
}

func (c *caller) meet(host string, peer netip.AddrPort, end *served) {
	if c.server == "" {
		close(c.met)
	}
	c.server, c.peer, c.end = host, peer, end
}

// says begins an exchange.
func (m *meetings) says(c *caller, message []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.message, c.announced = append([]byte{}, message...), -1 // not nil
}

// answers tells how long the answer will be, before any of it is sent.
func (m *meetings) answers(c *caller, length int) {
	if c == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.message, c.announced = nil, length
}

// answerLength is -1 when nobody announced one.
func (m *meetings) answerLength(c *caller) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.announced
}

// metBy is who accepted, and the caller as they saw it.
func (m *meetings) metBy(c *caller) (server string, peer netip.AddrPort, end *served) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.server, c.peer, c.end
}
