// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
)

// Peer is another node, as far as its Node is believed.
type Peer struct {
	Name      string
	Addresses []netip.Addr // internal ones, in the Node's order
	PodCIDRs  []netip.Prefix
}
