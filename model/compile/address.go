// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// serviceAddresses are those that services have for themselves: ClusterIPs, and
// the addresses of balancers and those from outside that are led here. A node's
// are not among them, since its own sockets are there, and neither are those of
// the API's servers, which are spoken to by ports that no service has.
func (c *compiler) serviceAddresses() []netip.Addr {
	servers := c.apiAddresses()
	var addrs []netip.Addr
	add := func(addr netip.Addr) {
		if !c.isAnothers(addr, servers) {
			addrs = append(addrs, addr)
		}
	}
	for addr, svc := range c.clusterAt {
		if isServed(svc) && !manifest.IsHeadless(svc) {
			add(addr)
		}
	}
	for i := range c.frontends {
		switch f := &c.frontends[i]; f.Kind {
		case model.KindLoadBalancer, model.KindExternalIP:
			add(f.Address)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Clip(slices.Compact(addrs))
}

// isAnothers is whether an address is not a service's alone. servers are those of
// the API.
func (c *compiler) isAnothers(addr netip.Addr, servers []netip.Addr) bool {
	return c.isOfNode(addr) || c.podAt[addr] != nil || c.workloadAt[addr] != nil || slices.Contains(c.self.Gateways, addr) || slices.Contains(servers, addr)
}
