// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
)

// host is a node, a pod, an outside host or the router: a namespace with
// interfaces.
type host struct {
	name      string
	addresses []netip.Addr
	silent    bool // its namespace has no addresses, its neighbours know its MAC
	ns        *namespace
	wire      wire   // of a pod or an outside host
	links     []link // a pod's or an outside host's one; a node's uplinks
	ports     []link // a node's to its pods; all of the router's
	second    bool   // of an outside host: behind the nodes' second uplinks
	arrivals  *arrivals
	served    openPorts
	cgroup    *cgroup // of a node whose sockets have programs and of its pods, else nil

	inside configurator // of nodes and the router, while the world is built
}

// node is a host with pods, a machine of the cluster.
type node struct {
	*host
	pods  []*host
	hooks bool // at its uplinks
	// bySecond are the addresses that its second uplink leads to.
	bySecond []netip.Addr

	pins     *bpffs             // with Options.Pin
	datapath *datapath.Datapath // nil with Options.Plain, and once closed
	lent     *cgroup            // with a Pool's datapath, whether sockets are led or not
}

// link is one interface of a host and what is at its other end.
type link struct {
	name    string
	ifindex int
	mac     net.HardwareAddr
	peerMAC net.HardwareAddr
	peer    *host // nil: nobody
	second  bool  // between a node and the router: the second of two
}

// wire is a veth pair between a node or the router and somebody else.
type wire struct {
	nodeName  string // of the node's or router's side
	nodeIndex int
	nodeMAC   net.HardwareAddr
	hostName  string // of the other side
	hostMAC   net.HardwareAddr
}

// hostInterface is the only interface of pods and outside hosts.
const hostInterface = "eth0"

// First interface indexes of the node's side. The other side has index 2, and
// differs: a veth pair with one index at both ends takes the slow way through
// the kernel's link watch (linkwatch_urgent_event) and comes up a second late.
const (
	firstUplinkIndex  = 10
	secondUplinkIndex = firstUplinkIndex + 1 // of nodes with two towards a router
	firstPodIndex     = 100
)

// podWire is the wire of the nth pod of a node, which is the mth of the world,
// both from 0. Nodes are machines of their own: names and indexes are those of
// other nodes' pods too.
func podWire(n, m int) wire {
	return wire{
		nodeName:  fmt.Sprintf("pod-%d", n),
		nodeIndex: firstPodIndex + n,
		nodeMAC:   macAddress(1, m),
		hostName:  hostInterface,
		hostMAC:   macAddress(2, m),
	}
}

// uplinkWire is the wire of the nth outside host, from 0, to the only node.
func uplinkWire(n int) wire {
	return wire{
		nodeName:  fmt.Sprintf("eth%d", n),
		nodeIndex: firstUplinkIndex + n,
		nodeMAC:   macAddress(3, n),
		hostName:  hostInterface,
		hostMAC:   macAddress(4, n),
	}
}

// nodeWire is the wire of the nth node, from 0, to the router. Here the node's
// side is the node's.
func nodeWire(n int) wire {
	return wire{
		nodeName:  "eth0",
		nodeIndex: firstUplinkIndex,
		nodeMAC:   macAddress(3, n),
		hostName:  fmt.Sprintf("node-%d", n),
		hostMAC:   macAddress(5, n),
	}
}

// secondWire is the second wire of the nth node, from 0, to the router.
func secondWire(n int) wire {
	return wire{
		nodeName:  "eth1",
		nodeIndex: secondUplinkIndex,
		nodeMAC:   macAddress(7, n),
		hostName:  fmt.Sprintf("second-%d", n),
		hostMAC:   macAddress(8, n),
	}
}

// outsideWire is the wire of the nth outside host, from 0, to the router.
func outsideWire(n int) wire {
	return wire{
		nodeName:  fmt.Sprintf("host-%d", n),
		nodeIndex: firstPodIndex + n,
		nodeMAC:   macAddress(6, n),
		hostName:  hostInterface,
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
	if len(t.Nodes) == 0 {
		return errors.New("build topology: it has no node")
	}
	for _, n := range t.Nodes {
		if err := check(n, 0); err != nil {
			return err
		}
		if n.Silent {
			return fmt.Errorf("build topology: %s: a node cannot be silent", n.Name)
		}
	}
	for _, h := range slices.Concat(t.Pods, t.Outside) {
		if err := check(h, 1); err != nil {
			return err
		}
	}
	if t.HasSecond() && !t.Routed() {
		return errors.New("build topology: second uplinks lead to a router, and there is none: let the uplinks have programs")
	}
	return checkPlaces(t)
}

// checkPlaces refuses pods and routes of nodes that are not there.
func checkPlaces(t lab.Topology) error {
	for _, pod := range t.Pods {
		if t.NodeOf(pod) < 0 {
			return fmt.Errorf("build topology: %s is on %s, which is no node", pod.Name, pod.Node)
		}
	}
	for _, r := range t.Routes {
		isOfRoute := func(n lab.Host) bool { return n.Name == r.Node }
		if !slices.ContainsFunc(t.Nodes, isOfRoute) {
			return fmt.Errorf("build topology: %s is routed to %q, which is no node", r.To, r.Node)
		}
		if !r.To.IsValid() || r.To.Is4In6() {
			return fmt.Errorf("build topology: a route to %s leads to %q, which is not a plain address", r.Node, r.To)
		}
	}
	return nil
}
