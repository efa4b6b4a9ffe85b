// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Gateways are the next hops of pods' default routes, IPv4 and IPv6, on every
// node and in every world of the lab. They are no address of the node that
// anybody reaches; fe80::1, which would be the natural choice, is what some
// hypervisors and container engines call themselves.
func Gateways() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fe80::57:1")}
}
