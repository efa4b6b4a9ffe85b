// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/weirnet/weir/lab"
)

// host is the node, a pod or an outside host: a namespace with interfaces.
type host struct {
	name      string
	addresses []netip.Addr
	silent    bool // its namespace has no addresses, its neighbours know its MAC
	ns        *namespace
	links     []link // a pod's or an outside host's one; the node's uplinks
	arrivals  *arrivals
}

// link is one interface of a host and what is at its other end.
type link struct {
	name    string
	ifindex int
	mac     net.HardwareAddr
	peerMAC net.HardwareAddr
	peer    *host // nil: nobody
}

// wire is a veth pair between the node and somebody else.
type wire struct {
	nodeName  string // of the node's side; the other side is always eth0
	nodeIndex int
	nodeMAC   net.HardwareAddr
	hostMAC   net.HardwareAddr
}

// First interface indexes of the node's side. The other side has index 2, and
// differs: a veth pair with one index at both ends takes the slow way through
// the kernel's link watch (linkwatch_urgent_event) and comes up a second late.
const (
	firstUplinkIndex = 10
	firstPodIndex    = 100
)

// podWire is the wire of the nth pod, from 0.
func podWire(n int) wire {
	return wire{
		nodeName:  fmt.Sprintf("pod-%d", n),
		nodeIndex: firstPodIndex + n,
		nodeMAC:   macAddress(1, n),
		hostMAC:   macAddress(2, n),
	}
}

// uplinkWire is the wire of the nth outside host, from 0.
func uplinkWire(n int) wire {
	return wire{
		nodeName:  fmt.Sprintf("eth%d", n),
		nodeIndex: firstUplinkIndex + n,
		nodeMAC:   macAddress(3, n),
		hostMAC:   macAddress(4, n),
	}
}

// macAddress is locally administered, and the same in every world, so that
// captures of two runs compare.
func macAddress(kind byte, n int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x57, kind, byte(n >> 16), byte(n >> 8), byte(n)}
}

// linkLocal is the IPv6 address of an interface by RFC 4291, appendix A.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0xfe, 0x80, 0, 0, 0, 0, 0, 0,
		mac[0] ^ 0x02, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5],
	})
}

// address is the host's first one of to's family.
func (h *host) address(to netip.Addr) (netip.Addr, error) {
	if h.silent {
		return netip.Addr{}, fmt.Errorf("%s is silent: it has no sockets", h.name)
	}
	for _, a := range h.addresses {
		if a.Is4() == to.Is4() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no address of the family of %s", h.name, to)
}

// firstOf is the first address of a family, or the zero Addr.
func firstOf(addresses []netip.Addr, is4 bool) netip.Addr {
	for _, a := range addresses {
		if a.Is4() == is4 {
			return a
		}
	}
	return netip.Addr{}
}

// checkTopology refuses what cannot be built.
func checkTopology(t lab.Topology) error {
	if t.Routed() || len(t.Nodes) == 0 {
		return fmt.Errorf("build topology: one node without programs at its own devices is all that is possible, not %d", len(t.Nodes))
	}
	names := map[string]bool{}
	owners := map[netip.Addr]string{}
	check := func(h lab.Host, perFamily int) error {
		if h.Name == "" {
			return fmt.Errorf("build topology: a host has no name")
		}
		if names[h.Name] {
			return fmt.Errorf("build topology: two hosts are named %s", h.Name)
		}
		names[h.Name] = true
		count := map[bool]int{}
		for _, a := range h.Addresses {
			if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
				return fmt.Errorf("build topology: %s: %q is not a plain IPv4 or IPv6 address", h.Name, a)
			}
			if other, taken := owners[a]; taken {
				return fmt.Errorf("build topology: %s and %s both have %s", other, h.Name, a)
			}
			owners[a] = h.Name
			if count[a.Is4()]++; perFamily > 0 && count[a.Is4()] > perFamily {
				return fmt.Errorf("build topology: %s has more than %d address of a family", h.Name, perFamily)
			}
		}
		return nil
	}
	if err := check(t.Nodes[0], 0); err != nil {
		return err
	}
	if t.Nodes[0].Silent {
		return fmt.Errorf("build topology: %s: the node cannot be silent", t.Nodes[0].Name)
	}
	for _, h := range append(append([]lab.Host(nil), t.Pods...), t.Outside...) {
		if err := check(h, 1); err != nil {
			return err
		}
	}
	return nil
}
