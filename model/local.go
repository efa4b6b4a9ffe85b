// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Local is what a node knows of itself and no object says.
type Local struct {
	// Devices are the host's sides of the veth pairs of this node's endpoints.
	Devices map[Key]Device
	// Gateways are the next hops of the pods' default routes.
	Gateways []netip.Addr
	// Addresses are those that the node's kernel has, whether its Node lists
	// them or not: frontends on the node's addresses are there too.
	Addresses []netip.Addr
	// Uplinks are the node's devices towards others; without them nothing is
	// reached from outside, and nothing is masqueraded.
	Uplinks []Uplink
	// Options are the operator's.
	Options Options
	// Budgets bound what the state has of each table; nil: no bounds.
	Budgets Budgets
	// Identities gives the numbers and keeps them between compiles; nil gives
	// numbers that hold for one compile alone.
	Identities *Allocator
	// Routes are where the node's routes lead out of a device; nil is a
	// default route in both families. Only the oracle asks.
	Routes []netip.Prefix
}

// DevicesOf are devices by the texts of their endpoints' keys, as Key.String writes
// them: labs and files know hosts by these.
func DevicesOf(byText map[string]Device) map[Key]Device {
	devices := make(map[Key]Device, len(byText))
	for text, device := range byText {
		devices[ParseKey(text)] = device
	}
	return devices
}
