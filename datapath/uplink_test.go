// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/model"
)

// withUplink gives a node a way out, and services that outsiders use:
//
//	outside 198.51.100.7 ~~~ uplink 192.0.2.1, port 30080 -> web
//	                                           port 30081 -> 203.0.113.9, elsewhere
func withUplink(t testing.TB, n *node) model.Uplink {
	t.Helper()
	device := addDevice(t, "uplink")
	uplink, err := netlink.LinkByName("uplink")
	require.NoError(t, err)
	for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		address, err := netlink.ParseAddr(a)
		require.NoError(t, err)
		address.Flags = 2 // IFA_F_NODAD: it counts at once
		require.NoError(t, netlink.AddrAdd(uplink, address))
	}
	for _, via := range []string{"192.0.2.254", "2001:db8::fe"} {
		require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.ParseIP(via)}))
	}
	forward(t)
	n.state.Node.Uplinks = []model.Uplink{{Name: device.Name, Ifindex: device.Ifindex, MAC: device.MAC}}
	n.state.Node.Masquerade = &model.Masquerade{IPv4: addr("192.0.2.1"), IPv6: addr("2001:db8::1"), FirstPort: 32768, LastPort: 65535}
	for _, scope := range []model.Scope{model.ScopeInside, model.ScopeOutside} {
		for _, s := range []struct {
			at, backend string
			port        uint16
		}{
			{"192.0.2.1", "10.0.0.2", 30080}, {"2001:db8::1", "fd00::2", 30080},
			{"192.0.2.1", "203.0.113.9", 30081}, {"2001:db8::1", "2001:db8:9::9", 30081},
		} {
			n.state.Services = n.state.Services.With(model.Service{
				Name: model.PortRef{Namespace: "default", Name: "web", Port: fmt.Sprint(s.port)}, Kind: model.KindNodePort, Scope: scope,
				Address: addr(s.at), Port: s.port, Protocol: model.ProtocolTCP,
				Backends: []model.Backend{{Address: addr(s.backend), Port: 8080}},
			})
		}
	}
	return n.state.Node.Uplinks[0]
}

// forward makes the namespace a router: a route lookup says no otherwise.
func forward(t testing.TB) {
	t.Helper()
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		writeSysctl(t, name, "1")
	}
}

func runAt(t testing.TB, d *Datapath, hook model.Hook, ifindex int, frame []byte, action model.Action) Ran {
	t.Helper()
	ran, err := d.Run(hook, Frame{Data: frame, Ifindex: ifindex})
	require.NoError(t, err)
	require.Equalf(t, action, ran.Decision.Action, "decision: %+v", ran.Decision)
	return ran
}

func TestWhoComesByAnUplinkReachesAPodAndIsAnswered(t *testing.T) {
	n := newNode(t)
	uplink := withUplink(t, n)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for _, a := range []struct{ outside, node, web string }{
		{"198.51.100.7", "192.0.2.1", "10.0.0.2"}, {"2001:db8:7::7", "2001:db8::1", "fd00::2"},
	} {
		there := runAt(t, d, model.FromDevice, uplink.Ifindex, tcpFrame(t, a.outside, a.node, 40000, 30080, syn), model.Forward)
		require.Equal(t, FlowNew, there.Decision.Flow)
		require.Equal(t, model.OutLocal, there.Decision.Out)
		requireRouted(t, tcpFrame(t, a.outside, a.web, 40000, 8080, syn), there.Data)
		back := run(t, d, n.web, tcpFrame(t, a.web, a.outside, 8080, 40000, synAck), model.Forward)
		require.Equal(t, FlowKnown, back.Decision.Flow)
		require.Equal(t, model.OutDevice, back.Decision.Out)
		requireRouted(t, tcpFrame(t, a.node, a.outside, 30080, 40000, synAck), back.Data)
	}
	flows, err := d.Flows()
	require.NoError(t, err)
	require.Len(t, flows, 4)
	for _, f := range flows {
		if !f.Reply {
			require.Equal(t, model.FromDevice, f.Hook)
			require.Equal(t, "node", f.Endpoint)
			require.Equal(t, "default/web:30080", f.Service.String())
		}
	}
	events, err := d.Events()
	require.NoError(t, err)
	require.NotEmpty(t, events)
	require.Equal(t, model.FromDevice, events[0].Hook)
	require.Equal(t, "node", events[0].Endpoint)
	counters, err := d.Counters()
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(counters), "from-device")
}

func TestARunnerRunsAtUplinksToo(t *testing.T) {
	n := newNode(t)
	uplink := withUplink(t, n)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for hook, frame := range map[model.Hook][]byte{
		model.FromDevice: tcpFrame(t, "198.51.100.7", "192.0.2.1", 40000, 30081, syn),
		model.ToDevice:   tcpFrame(t, "192.0.2.1", "192.0.2.1", 40000, 30081, syn),
	} {
		ran, err := d.Runner(hook).Run(frame, uplink.Ifindex, 0)
		require.NoError(t, err)
		require.Equal(t, model.Forward, ran.Decision.Action, hook)
		require.Equal(t, model.OutDevice, ran.Decision.Out, hook)
	}
	_, err = d.Run("no-hook", Frame{Data: tcpFrame(t, "10.0.0.1", "10.0.0.2", 1, 2, syn)})
	require.ErrorContains(t, err, "no such hook")
}

func TestWhatLeavesIsMasqueradedAndItsAnswerFindsBack(t *testing.T) {
	n := newNode(t)
	uplink := withUplink(t, n)
	n.state.Addresses = model.ListOf([]model.Address{{Prefix: prefix("203.0.113.0/24"), Identity: model.IdentityWorld, Native: true}}...)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for _, a := range []struct{ pod, node, peer string }{
		{"10.0.0.1", "192.0.2.1", "198.51.100.7"}, {"fd00::1", "2001:db8::1", "2001:db8:7::7"},
	} {
		out := run(t, d, n.client, tcpFrame(t, a.pod, a.peer, 40000, 443, syn), model.Forward)
		requireRouted(t, tcpFrame(t, a.node, a.peer, 40000, 443, syn), out.Data)
		back := runAt(t, d, model.FromDevice, uplink.Ifindex, tcpFrame(t, a.peer, a.node, 443, 40000, synAck), model.Forward)
		require.Equal(t, model.OutLocal, back.Decision.Out)
		requireRouted(t, tcpFrame(t, a.peer, a.pod, 443, 40000, synAck), back.Data)
	}
	native := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "203.0.113.7", 40000, 443, syn), model.Forward)
	requireRouted(t, tcpFrame(t, "10.0.0.1", "203.0.113.7", 40000, 443, syn), native.Data)
}

// programsOn counts the programs on a device, by asking the kernel.
func programsOn(t *testing.T, ifindex int) int {
	t.Helper()
	device, err := netlink.LinkByIndex(ifindex)
	require.NoError(t, err)
	count := 0
	for attach, parent := range filterParents {
		if tcx, err := haveTCX(); err == nil && tcx {
			count += tcxPrograms(t, ifindex, attach)
		}
		filters, err := netlink.FilterList(device, parent)
		require.NoError(t, err)
		count += len(filters)
	}
	return count
}

func TestUplinksAreTakenOverAndLetGo(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			if tcx, err := haveTCX(); err != nil || !tcx && !clsact {
				t.Skip("kernel before 6.6 has no tcx")
			}
			uplink := withUplink(t, n)
			opts := pinnedOptions(pinDir(t))
			opts.ForceClsact = clsact
			d, err := Open(opts)
			require.NoError(t, err)
			_, err = d.Apply(n.state.Clone())
			require.NoError(t, err)
			require.Equal(t, 2, programsOn(t, uplink.Ifindex))
			require.NoError(t, d.Close())
			require.Equal(t, 2, programsOn(t, uplink.Ifindex), "they go on without a loader")

			d, err = Open(opts)
			require.NoError(t, err)
			require.Equal(t, 2, programsOn(t, uplink.Ifindex))
			require.NoError(t, d.Replace())
			require.Equal(t, 2, programsOn(t, uplink.Ifindex))
			n.state.Node.Uplinks = nil
			_, err = d.Apply(n.state.Clone())
			require.NoError(t, err)
			require.Zero(t, programsOn(t, uplink.Ifindex), "it is no uplink any more")
			require.Equal(t, 2, programsOn(t, n.client.Ifindex))

			n.state.Endpoints = n.state.Endpoints[1:]
			_, err = d.Apply(n.state.Clone())
			require.NoError(t, err)
			require.Equal(t, 2, programsOn(t, n.client.Ifindex), "a pod's device goes on dropping")
			require.NoError(t, d.Remove())
			require.Zero(t, programsOn(t, n.client.Ifindex))
		})
	}
}

func TestADeviceMayChangeItsRole(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			opts := small()
			opts.Attach, opts.ForceClsact = true, clsact
			d := openDatapath(t, opts)
			_, err := d.Apply(n.state.Clone())
			require.NoError(t, err)
			n.state.Endpoints = n.state.Endpoints[:1]
			n.state.Node.Uplinks = []model.Uplink{{Name: "web", Ifindex: n.web.Ifindex}}
			_, err = d.Apply(n.state.Clone())
			require.NoError(t, err)
			require.Equal(t, 2, programsOn(t, n.web.Ifindex), "the uplink's, and not a pod's beside")
		})
	}
}

func TestUplinksThatAreNoneAreRefusedByName(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	for name, c := range map[string]struct {
		uplinks []model.Uplink
		says    string
	}{
		"no device":      {[]model.Uplink{{Name: "eth9"}}, "uplink eth9 is no device"},
		"a pod's device": {[]model.Uplink{{Name: "eth9", Ifindex: n.web.Ifindex}}, "uplink eth9 is the device of endpoint default/web too"},
		"one twice":      {[]model.Uplink{{Name: "eth8", Ifindex: 999}, {Name: "eth9", Ifindex: 999}}, "uplinks eth8 and eth9 are one device"},
	} {
		state := newState(n.client, n.web)
		state.Node.Uplinks = c.uplinks
		_, err := d.Apply(state.Clone())
		require.ErrorContains(t, err, c.says, name)
	}
	n.state.Node.Masquerade = &model.Masquerade{IPv4: addr("192.0.2.1")}
	_, err := d.Apply(n.state.Clone())
	require.ErrorContains(t, err, "they are no range")
}

func tcxPrograms(t *testing.T, ifindex int, attach ebpf.AttachType) int {
	t.Helper()
	found, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: attach})
	require.NoError(t, err)
	return len(found.Programs)
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// writeSysctl sets one of the thread's namespace.
func writeSysctl(t testing.TB, name, value string) {
	t.Helper()
	// /proc/sys/net is of the network namespace of who opens it.
	require.NoError(t, os.WriteFile("/proc/thread-self/root/proc/sys/"+name, []byte(value), 0o644))
}
