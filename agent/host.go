// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/config"
	"github.com/weirnet/weir/agent/endpoints"
	"github.com/weirnet/weir/model"
)

// localNode is what the node's kernel has.
type localNode struct {
	links     map[string]netlink.Link
	addresses map[netip.Addr]int // ifindex by address
	lasting   []netip.Addr       // of them, those that others may know the node by
	defaults  map[int]bool       // devices with a default route
	uplinks   []model.Uplink
	mtu       int
}

// lookAttempts is how often the kernel's lists are asked for that change while
// they are read.
const lookAttempts = 20

func (a *Agent) look() (l *localNode, err error) {
	for range lookAttempts {
		if l, err = lookOnce(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return l, err
}

func lookOnce() (*localNode, error) {
	l := &localNode{links: map[string]netlink.Link{}, addresses: map[netip.Addr]int{}, defaults: map[int]bool{}}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	for _, link := range links {
		l.links[link.Attrs().Name] = link
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, addr := range addrs {
		if parsed, ok := netip.AddrFromSlice(addr.IP); ok {
			l.addresses[parsed.Unmap()] = addr.LinkIndex
			if isLasting(&addr) {
				l.lasting = append(l.lasting, parsed.Unmap())
			}
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for i := range routes {
		if isDefault(&routes[i]) {
			l.defaults[routes[i].LinkIndex] = true
		}
	}
	return l, nil
}

// isLasting leaves out addresses of the node that others hardly know: those of
// links, those that stand for its privacy, and those that are not proved yet.
func isLasting(addr *netlink.Addr) bool {
	passing := unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	if addr.IP.To4() == nil {
		passing |= unix.IFA_F_TEMPORARY // of IPv4 the same bit is IFA_F_SECONDARY
	}
	return addr.IP.IsGlobalUnicast() && addr.Flags&passing == 0
}

// own are the addresses that others may know the node by, sorted.
func (l *localNode) own() []netip.Addr {
	slices.SortFunc(l.lasting, netip.Addr.Compare)
	return slices.Compact(l.lasting)
}

// isDefault is whether a route is for whatever has no other.
func isDefault(route *netlink.Route) bool {
	to := route.Dst
	return to == nil || to.IP.IsUnspecified() && isZero(to.Mask)
}

func isZero(mask net.IPMask) bool {
	ones, _ := mask.Size()
	return ones == 0
}

func (l *localNode) owns(addr netip.Addr) bool {
	_, found := l.addresses[addr]
	return found
}

func (l *localNode) byIndex(ifindex int) netlink.Link {
	for _, link := range l.links {
		if link.Attrs().Index == ifindex {
			return link
		}
	}
	return nil
}

func isLoopback(link netlink.Link) bool { return link.Attrs().Flags&net.FlagLoopback != 0 }

func (l *localNode) isUplink(link netlink.Link) bool {
	return slices.ContainsFunc(l.uplinks, func(u model.Uplink) bool { return u.Ifindex == link.Attrs().Index })
}

// setUplinks chooses the devices towards others: those that the operator names,
// else those that have the node's addresses or a default route.
func (l *localNode) setUplinks(c *config.Config, self *corev1.Node) {
	ours := map[int]bool{}
	for _, addr := range internalAddresses(self) {
		ours[l.addresses[addr]] = true
	}
	least := 0
	for name, link := range l.links {
		at := link.Attrs()
		chosen := ours[at.Index] || l.defaults[at.Index]
		if c.Devices != nil {
			chosen = slices.Contains(c.Devices, name)
		}
		if !chosen || isLoopback(link) || isPodDevice(name) {
			continue
		}
		l.uplinks = append(l.uplinks, model.Uplink{Name: name, Ifindex: at.Index, MAC: at.HardwareAddr, MTU: at.MTU})
		if least == 0 || at.MTU < least {
			least = at.MTU
		}
	}
	slices.SortFunc(l.uplinks, func(a, b model.Uplink) int { return a.Ifindex - b.Ifindex })
	const ethernet = 1500
	switch {
	case c.MTU != 0:
		l.mtu = c.MTU
	case least != 0:
		l.mtu = least
	default:
		l.mtu = ethernet
	}
}

var podDevice = regexp.MustCompile("^" + endpoints.DevicePrefix + "[0-9a-f]{11}$")

func isPodDevice(name string) bool { return podDevice.MatchString(name) }

// devices are the endpoints' that are there.
func (l *localNode) devices(ours map[model.Key]api.Endpoint) map[model.Key]model.Device {
	devices := map[model.Key]model.Device{}
	for key, e := range ours {
		link := l.links[e.HostDevice]
		if e.Ifindex == 0 || link == nil || link.Attrs().Index != e.Ifindex {
			continue
		}
		podMAC, err := net.ParseMAC(e.PodMAC)
		if err != nil {
			continue
		}
		device := model.Device{Name: e.HostDevice, Ifindex: e.Ifindex, MAC: link.Attrs().HardwareAddr, PodMAC: podMAC}
		if e.TakenOver {
			device.Gateways = e.Gateways
		}
		devices[key] = device
	}
	return devices
}

// sysctlsOfPod let an answer to what the node itself sent to a service come
// back out of a pod, with a source that may be the node's own.
func sysctlsOfPod(device string) []sysctl {
	at := "ipv4/conf/" + device
	return []sysctl{{at + "/accept_local", "1"}, {at + "/rp_filter", "0"}}
}

// bringUp lets packets through a device that has its programs.
func (a *Agent) bringUp(l *localNode, e *api.Endpoint) error {
	link := l.links[e.HostDevice]
	if link == nil {
		return fmt.Errorf("device %s is gone", e.HostDevice)
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	at := "ipv6/conf/" + e.HostDevice
	for _, s := range append(sysctlsOfPod(e.HostDevice),
		sysctl{at + "/accept_dad", "0"},
		sysctl{at + "/accept_ra", "0"},
		// 1: no link-local address by itself, which would wait to be proved.
		sysctl{at + "/addr_gen_mode", "1"},
	) {
		if err := a.set(s); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring device %s up: %w", e.HostDevice, err)
	}
	// Neighbours of IPv6 ask from an address of the interface that they are at,
	// and the pod will ask who that was: the gateway, for which the datapath
	// answers.
	i := slices.IndexFunc(e.Gateways, netip.Addr.Is6)
	if i < 0 || e.TakenOver {
		return nil
	}
	own := e.Gateways[i]
	address := &netlink.Addr{IPNet: &net.IPNet{IP: own.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrReplace(link, address); err != nil {
		return fmt.Errorf("give device %s address %s: %w", e.HostDevice, own, err)
	}
	return nil
}

// sysctl is a setting below /proc/sys/net.
type sysctl struct{ name, value string }

// mountBPF mounts a bpffs where the pins' directory is to be, if none is there.
func mountBPF(pins string) error {
	dir := filepath.Dir(pins)
	var at unix.Statfs_t
	if err := unix.Statfs(dir, &at); err != nil {
		return fmt.Errorf("look at the directory of pins %s: %w", dir, err)
	}
	if at.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount a bpffs on %s: %w: run the agent in a privileged container", dir, err)
	}
	return nil
}

// makeRouter has the node forward what is of the families of its pods, and
// leaves the other one as it is.
func (a *Agent) makeRouter(prefixes []netip.Prefix) error {
	if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		for _, s := range []sysctl{
			{"ipv4/ip_forward", "1"},
			// The greater of this and a device's own counts.
			{"ipv4/conf/all/rp_filter", "0"},
		} {
			if err := a.set(s); err != nil {
				return err
			}
		}
	}
	if slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return a.makeIPv6Router()
	}
	return nil
}

func (a *Agent) makeIPv6Router() error {
	// A router does not listen to others' advertisements, unless by 2: uplinks
	// may have their default route of one.
	confs, err := filepath.Glob(filepath.Join(a.sysctls(), "ipv6/conf/*/accept_ra"))
	if err != nil {
		return fmt.Errorf("list sysctls: %w", err)
	}
	for _, path := range confs {
		value, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(value)) != "1" || filepath.Base(filepath.Dir(path)) == "all" {
			continue
		}
		if err := a.set(sysctl{strings.TrimPrefix(path, a.sysctls()+"/"), "2"}); err != nil {
			return err
		}
	}
	return a.set(sysctl{"ipv6/conf/all/forwarding", "1"})
}

func (a *Agent) sysctls() string {
	if a.opts.Paths.Procfs == "" {
		return "/proc/sys/net"
	}
	return filepath.Join(a.opts.Paths.Procfs, "sys/net")
}

// set leaves a setting alone that has its value, as in places where it cannot
// be written, and settings of IPv6 where the kernel has none.
func (a *Agent) set(s sysctl) error {
	path := filepath.Join(a.sysctls(), s.name)
	value, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s.name, "ipv6/") {
		return nil
	}
	if err == nil && strings.TrimSpace(string(value)) == s.value {
		return nil
	}
	if err := os.WriteFile(path, []byte(s.value), 0o644); err != nil {
		return fmt.Errorf("set sysctl net/%s to %s: %w: run the agent in a privileged container", s.name, s.value, err)
	}
	return nil
}

func kernelRelease() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
