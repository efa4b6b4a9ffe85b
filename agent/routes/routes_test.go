// SPDX-License-Identifier: Apache-2.0

package routes_test

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/agent/routes"
)

// inNamespace runs a test in a network namespace with a device of two
// networks, and gives its index. The thread ends with the test.
func inNamespace(t *testing.T) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes a network namespace")
	}
	runtime.LockOSThread()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer", PeerTxQLen: -1}))
	for _, name := range []string{"lo", "peer", "eth0"} {
		link, err := netlink.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(link))
	}
	link, err := netlink.LinkByName("eth0")
	require.NoError(t, err)
	for _, text := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		addr, err := netlink.ParseAddr(text)
		require.NoError(t, err)
		addr.Flags = unix.IFA_F_NODAD
		require.NoError(t, netlink.AddrAdd(link, addr))
	}
	return link.Attrs().Index
}

func table(t *testing.T) map[string]string {
	t.Helper()
	list, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routes.Protocol}, netlink.RT_FILTER_PROTOCOL)
	require.NoError(t, err)
	have := map[string]string{}
	for _, r := range list {
		way := "device"
		switch {
		case r.Type == unix.RTN_UNREACHABLE:
			way = "unreachable"
		case len(r.Gw) > 0:
			way = r.Gw.String()
		}
		have[r.Dst.String()] = way
	}
	return have
}

func TestRoutesBecomeThoseThatAreWanted(t *testing.T) {
	device := inNamespace(t)
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	foreign := &netlink.Route{LinkIndex: device, Dst: ipNet(t, "10.9.0.0/16"), Scope: netlink.SCOPE_LINK}
	require.NoError(t, netlink.RouteAdd(foreign))
	for _, step := range []struct {
		name   string
		wanted []routes.Route
		want   map[string]string
	}{
		{"of all kinds", []routes.Route{
			{To: prefix("10.0.1.7/32"), Device: device, Source: addr("192.0.2.1")},
			{To: prefix("fd00:1::7/128"), Device: device, Source: addr("2001:db8::1")},
			{To: prefix("10.0.1.0/24")},
			{To: prefix("fd00:1::/64")},
			{To: prefix("10.0.2.0/24"), Via: addr("192.0.2.2")},
			{To: prefix("fd00:2::/64"), Via: addr("2001:db8::2")},
		}, map[string]string{
			"10.0.1.7/32": "device", "fd00:1::7/128": "device", "10.0.1.0/24": "unreachable", "fd00:1::/64": "unreachable",
			"10.0.2.0/24": "192.0.2.2", "fd00:2::/64": "2001:db8::2",
		}},
		{"changed", []routes.Route{
			{To: prefix("10.0.2.0/24"), Via: addr("192.0.2.3")},
			{To: prefix("fd00:2::/64"), Via: addr("2001:db8::3")},
			{To: prefix("fd00:1::7/128")},
		}, map[string]string{"10.0.2.0/24": "192.0.2.3", "fd00:2::/64": "2001:db8::3", "fd00:1::7/128": "unreachable"}},
		{"none", nil, map[string]string{}},
	} {
		for _, again := range []string{"", ", again"} {
			require.NoError(t, routes.Sync(step.wanted, nil), step.name+again)
			require.Equal(t, step.want, table(t), step.name+again)
		}
	}
	list, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: foreign.Dst}, netlink.RT_FILTER_DST)
	require.NoError(t, err)
	require.Len(t, list, 1, "what others made stays")
}

func TestARouteBehindOthersLeadsWhereTheyAreGone(t *testing.T) {
	device := inNamespace(t)
	for _, to := range []string{"10.0.1.0/24", "fd00:1::/64"} {
		prefix := netip.MustParsePrefix(to)
		foreign := &netlink.Route{LinkIndex: device, Dst: ipNet(t, to)}
		require.NoError(t, netlink.RouteAdd(foreign))
		// An earlier version has put it in others' place.
		require.NoError(t, routes.Sync([]routes.Route{{To: netip.MustParsePrefix("10.7.0.0/16")}}, nil))
		for range 2 {
			require.NoError(t, routes.Sync([]routes.Route{{To: prefix, Behind: true}, {To: netip.MustParsePrefix("10.7.0.0/16"), Behind: true}}, nil))
			require.Equal(t, map[string]string{to: "unreachable", "10.7.0.0/16": "unreachable"}, table(t))
			found, err := netlink.RouteGet(prefix.Addr().Next().AsSlice())
			require.NoError(t, err)
			require.Equal(t, device, found[0].LinkIndex, "others' comes first")
		}
		require.NoError(t, netlink.RouteDel(foreign))
		_, err := netlink.RouteGet(prefix.Addr().Next().AsSlice())
		require.ErrorIs(t, err, unix.EHOSTUNREACH)
		require.NoError(t, routes.Sync(nil, nil))
		require.Empty(t, table(t))
	}
}

// What is added beside a Sync that spares it stays, and the next one takes it away.
func TestARouteThatIsAddedIsSpared(t *testing.T) {
	inNamespace(t)
	wanted := []routes.Route{{To: netip.MustParsePrefix("10.7.0.0/16")}}
	added := netip.MustParsePrefix("10.0.1.9/32")
	require.NoError(t, routes.Add([]routes.Route{{To: added}}))
	require.NoError(t, routes.Sync(wanted, func(p netip.Prefix) bool { return p == added }))
	require.Equal(t, map[string]string{"10.0.1.9/32": "unreachable", "10.7.0.0/16": "unreachable"}, table(t))
	require.NoError(t, routes.Sync(wanted, func(netip.Prefix) bool { return false }))
	require.Equal(t, map[string]string{"10.7.0.0/16": "unreachable"}, table(t))
	require.NoError(t, routes.Sync(nil, nil))
}

func TestANodeBehindARouterIsNotRouted(t *testing.T) {
	device := inNamespace(t)
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: device, Dst: ipNet(t, "198.51.100.0/24"), Gw: netip.MustParseAddr("192.0.2.254").AsSlice()}))
	err := routes.Sync([]routes.Route{
		{To: netip.MustParsePrefix("10.0.3.0/24"), Via: netip.MustParseAddr("198.51.100.1")},
		{To: netip.MustParsePrefix("10.0.2.0/24"), Via: netip.MustParseAddr("192.0.2.2")},
	}, nil)
	require.ErrorIs(t, err, routes.ErrRouted)
	require.ErrorContains(t, err, "192.0.2.254")
	require.Equal(t, map[string]string{"10.0.2.0/24": "192.0.2.2"}, table(t), "the others are made")
}

func ipNet(t *testing.T, text string) *net.IPNet {
	t.Helper()
	n, err := netlink.ParseIPNet(text)
	require.NoError(t, err)
	return n
}
