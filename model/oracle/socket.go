// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"

	"github.com/weirnet/weir/model"
)

// Lead is what should become of a socket of the node's own that connects or
// sends to an address, where sockets have programs.
type Lead struct {
	// Servers are those to one of whom it is led. Without any, it goes where it
	// would have gone, unless it is refused.
	Servers []netip.AddrPort
	// Refused is the reason for which it is.
	Refused model.Reason
	Story   []string // one sentence, where a service is meant
}

// Lead says where a new socket of the node is led. The node is nobody that source
// ranges keep out.
func (o *Oracle) Lead(to netip.AddrPort, protocol model.Protocol) (l Lead) {
	s := o.world.atSocket(to, protocol)
	if s == nil {
		return l
	}
	for _, b := range s.servers {
		if b.eligible {
			l.Servers = append(l.Servers, netip.AddrPortFrom(b.addr, b.port))
		}
	}
	switch {
	case len(l.Servers) > 0:
		l.Story = []string{fmt.Sprintf("%s port %d leads the node's sockets to %s", s, s.port, l.Servers)}
		return l
	case s.local:
		l.Refused = model.ReasonNoLocalBackend
	default:
		l.Refused = model.ReasonNoBackend
	}
	l.Story = []string{fmt.Sprintf("%s port %d has nobody who takes new flows", s, s.port)}
	return l
}

// atSocket is the frontend that a socket of the node meets: node ports answer on
// loopback there, and host ports that are for any address or for that one.
func (k *knowledge) atSocket(to netip.AddrPort, protocol model.Protocol) *served {
	if !to.Addr().IsLoopback() {
		return k.frontends[frontend{to.Addr(), to.Port(), protocol, model.ScopeInside}]
	}
	if s := k.loopback[frontend{to.Addr(), to.Port(), protocol, model.ScopeInside}]; s != nil {
		return s
	}
	for _, own := range k.own {
		if own.Is4() != to.Addr().Is4() {
			continue
		}
		if s := k.frontends[frontend{own, to.Port(), protocol, model.ScopeInside}]; s != nil && s.kind == model.KindNodePort {
			return s
		}
	}
	return nil
}
