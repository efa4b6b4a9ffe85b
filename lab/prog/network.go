// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

// network is the devices of a worker's namespace. They are there so that the
// kernel's helpers find them and the routes; no frame ever passes them. All
// nodes of a world share them: what the kernel says of one node's routes is
// right for every node, as long as it takes no node's address for its own.
type network struct {
	pods   [MaxPods]model.Device
	uplink model.Device
	second model.Device // an uplink, in worlds that have two
}

// The next hop of everything beyond a node, and the uplink's own addresses,
// which are nobody's in any world.
var (
	router4   = netip.MustParseAddr("198.18.0.1")
	router6   = netip.MustParseAddr("fd00:198:18::1")
	uplink4   = "198.18.0.254/24"
	uplink6   = "fd00:198:18::fe/64"
	second4   = "198.19.0.254/24"
	second6   = "fd00:1919::fe/64"
	routerMAC = macOf(0x42, 0)
)

// newNetwork moves the calling thread into a new namespace and makes the
// devices. The thread must not live on without the namespace.
func newNetwork() (*network, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("make a network namespace: %w: run as root, or give the binary CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF", err)
		}
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	if err := lab.Settle(); err != nil {
		return nil, err
	}
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer handle.Close()
	n := &network{}
	for i := range n.pods {
		n.pods[i], err = veth(handle, fmt.Sprintf("pod-%d", i), byte(i+1))
		if err != nil {
			return nil, err
		}
	}
	if n.uplink, err = veth(handle, "uplink", 15); err != nil {
		return nil, err
	}
	// The hosts behind it are neighbours, as far as the kernel's routes tell.
	if n.second, err = veth(handle, "second", 14); err != nil {
		return nil, err
	}
	if err := n.route(handle); err != nil {
		return nil, err
	}
	return n, assign(handle, n.second, second4, second6)
}

// macOf makes addresses of which no two have an octet in common, for kinds that
// differ by 0x40 and numbers below 16: a program that leaves one octet of an
// address as it was is seen.
func macOf(kind, n byte) net.HardwareAddr {
	return net.HardwareAddr{kind + n<<2, kind + 16 + n, kind + 32 + n, kind + 48 + n, kind + n<<2 + 1, kind + 4 + n<<2}
}

// renewed is another address for a device in whose place another is made: no
// other has an octet of it in the same place.
func renewed(mac net.HardwareAddr) net.HardwareAddr {
	out := slices.Clone(mac)
	for i := range out {
		out[i] ^= 0x20
	}
	return out
}

// veth makes a pair, the host's side and in place of the pod's a second one.
func veth(handle *netlink.Handle, name string, n byte) (model.Device, error) {
	d := model.Device{
		Name:   name,
		MAC:    macOf(0x82, n),
		PodMAC: macOf(0x02, n),
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, d.MAC, 1500
	peer := "in-" + name
	err := handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerHardwareAddr: d.PodMAC})
	if err != nil {
		return d, fmt.Errorf("make device %s: %w", name, err)
	}
	for _, end := range []string{peer, name} {
		link, err := handle.LinkByName(end)
		if err != nil {
			return d, fmt.Errorf("find device %s: %w", end, err)
		}
		if err := handle.LinkSetUp(link); err != nil {
			return d, fmt.Errorf("set device %s up: %w", end, err)
		}
		d.Ifindex = link.Attrs().Index
	}
	return d, nil
}

// route gives the uplink its addresses, and everything beyond a next hop
// that is already known.
func (n *network) route(handle *netlink.Handle) error {
	if err := assign(handle, n.uplink, uplink4, uplink6); err != nil {
		return err
	}
	for _, hop := range []netip.Addr{router4, router6} {
		family := unix.AF_INET
		everywhere := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		if hop.Is6() {
			family = unix.AF_INET6
			everywhere = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		err := handle.NeighAdd(&netlink.Neigh{
			LinkIndex: n.uplink.Ifindex, Family: family, State: unix.NUD_PERMANENT,
			IP: hop.AsSlice(), HardwareAddr: routerMAC,
		})
		if err != nil {
			return fmt.Errorf("add neighbour %s: %w", hop, err)
		}
		err = handle.RouteAdd(&netlink.Route{LinkIndex: n.uplink.Ifindex, Dst: everywhere, Gw: hop.AsSlice()})
		if err != nil {
			return fmt.Errorf("add default route via %s: %w", hop, err)
		}
	}
	return nil
}

// assign gives a device addresses, and with them routes to what is around them.
func assign(handle *netlink.Handle, d model.Device, cidrs ...string) error {
	link, err := handle.LinkByIndex(d.Ifindex)
	if err != nil {
		return fmt.Errorf("find device %s: %w", d.Name, err)
	}
	for _, cidr := range cidrs {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return fmt.Errorf("read address %s: %w", cidr, err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := handle.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("give %s the address %s: %w", d.Name, cidr, err)
		}
	}
	return nil
}
