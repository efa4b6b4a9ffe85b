// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// weirIn runs a command on the test's own thread, which is in the namespaces
// of a datapath, and gives its output and exit code.
func weirIn(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{}, args...)) // with nil it would take those of the test's program
	err := root.Execute()
	if err != nil {
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), exitCode(err)
}

// busyDatapath pins a datapath that knows a few flows, and says where. Its pod
// default/client 10.0.0.1 has spoken to the service default/web at 10.96.0.1,
// which default/web 10.0.0.2 serves, and to 198.51.100.7 outside.
func busyDatapath(t *testing.T) string {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread() // and never unlock: the thread dies with the test
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	dir := t.TempDir()
	require.NoError(t, unix.Mount("bpf", dir, "bpf", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	ns, err := netns.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ns.Close()) })

	client, web, uplink := vethEnd(t, "client"), vethEnd(t, "web"), vethEnd(t, "uplink")
	routeBy(t, "uplink")
	pins := filepath.Join(dir, "weir")
	d, err := datapath.Open(datapath.Options{PinPath: pins, Flows: 1024, Unanswered: 1024})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	_, err = d.Apply(busyState(client, web, uplink))
	require.NoError(t, err)
	for _, p := range []struct {
		hook     model.Hook
		dev      model.Device
		from, to string
		flags    int
	}{
		{model.FromContainer, client, "10.0.0.1:40001", "198.51.100.7:443", 2},
		{model.FromDevice, uplink, "198.51.100.7:40002", "192.0.2.1:30080", 2},
		// The last to be used is the first to be listed.
		{model.FromContainer, client, "10.0.0.1:40000", "10.96.0.1:80", 2},
		{model.FromContainer, web, "10.0.0.2:8080", "10.0.0.1:40000", 18},
		{model.FromContainer, client, "10.0.0.1:40000", "10.96.0.1:80", 16},
	} {
		ran, err := d.Run(p.hook, datapath.Frame{Data: segment(t, p.from, p.to, p.flags), Ifindex: p.dev.Ifindex})
		require.NoError(t, err)
		require.Equalf(t, model.Forward, ran.Decision.Action, "%+v", ran.Decision)
	}
	return pins
}

func vethEnd(t *testing.T, name string) model.Device {
	t.Helper()
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-far"}))
	var ends [2]netlink.Link
	for i, end := range []string{name, name + "-far"} {
		l, err := netlink.LinkByName(end)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(l))
		ends[i] = l
	}
	return model.Device{Name: name, Ifindex: ends[0].Attrs().Index, MAC: ends[0].Attrs().HardwareAddr, PodMAC: ends[1].Attrs().HardwareAddr}
}

// routeBy makes a device the way to the world, and the namespace a router.
func routeBy(t *testing.T, name string) {
	t.Helper()
	// /proc/sys/net is of the namespace of the thread that opens it.
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	l, err := netlink.LinkByName(name)
	require.NoError(t, err)
	address, err := netlink.ParseAddr("192.0.2.1/24")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(l, address))
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP("192.0.2.254")}))
}

func busyState(client, web, uplink model.Device) *model.State {
	addr := netip.MustParseAddr
	pod := func(name model.Key, dev model.Device, ip string, id model.Identity) model.Endpoint {
		return model.Endpoint{Name: name, Device: dev, IPv4: addr(ip), Identity: id, RuleSet: "open"}
	}
	service := func(kind model.ServiceKind, scope model.Scope, ip string, port uint16) model.Service {
		return model.Service{
			Name: model.PortRef{Namespace: "default", Name: "web", Port: "80"}, Kind: kind, Scope: scope, Address: addr(ip), Port: port, Protocol: model.ProtocolTCP,
			Backends: []model.Backend{{Address: addr("10.0.0.2"), Port: 8080}},
		}
	}
	sticky := service(model.KindClusterIP, model.ScopeInside, "10.96.0.1", 80)
	sticky.Affinity, sticky.MaglevSize = 3*time.Hour, 251
	sticky.Backends = append(sticky.Backends, model.Backend{Address: addr("10.0.0.3"), Port: 8080, Terminating: true})
	ranged := service(model.KindNodePort, model.ScopeOutside, "192.0.2.1", 30080)
	ranged.Local, ranged.Sources = true, []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	origin := model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "web"}, Rule: 1}
	return &model.State{
		Node: model.Node{
			Name: "node", Addresses: []netip.Addr{addr("192.0.2.1")},
			Uplinks:    []model.Uplink{{Name: uplink.Name, Ifindex: uplink.Ifindex}},
			Masquerade: &model.Masquerade{IPv4: addr("192.0.2.1"), FirstPort: 32768, LastPort: 65535},
		},
		Endpoints: []model.Endpoint{pod(model.Key{Namespace: "default", Name: "client"}, client, "10.0.0.1", 300), pod(model.Key{Namespace: "default", Name: "web"}, web, "10.0.0.2", 301)},
		RuleSets:  []model.RuleSet{{Key: "open", Rules: []model.Rule{{Direction: model.Egress}, {Direction: model.Ingress, Origin: origin}}}},
		Services: model.ListOf([]model.Service{
			sticky, service(model.KindNodePort, model.ScopeInside, "192.0.2.1", 30080), ranged,
			{Name: model.PortRef{Namespace: "default", Name: "nobody", Port: "53"}, Kind: model.KindClusterIP, Address: addr("10.96.0.2"), Port: 53, Protocol: model.ProtocolUDP},
		}...),
	}
}

func segment(t *testing.T, from, to string, flags int) []byte {
	t.Helper()
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	num := func(name string, v int) frame.Field { return frame.Field{Name: name, Value: frame.Num(v)} }
	mac := func(name string) frame.Field {
		return frame.Field{Name: name, Value: frame.MAC(net.HardwareAddr{2, 0, 0, 0, 0, 1})}
	}
	data, err := frame.Build(
		frame.Layer{Kind: "eth", Fields: []frame.Field{mac("src"), mac("dst")}},
		frame.Layer{Kind: "ipv4", Fields: []frame.Field{{Name: "src", Value: frame.Addr(src.Addr())}, {Name: "dst", Value: frame.Addr(dst.Addr())}}},
		frame.Layer{Kind: "tcp", Fields: []frame.Field{num("sport", int(src.Port())), num("dport", int(dst.Port())), num("flags", flags)}})
	require.NoError(t, err)
	return data
}

// squeezed makes runs of spaces one: tables are compared by their words.
// Idle times are all 0s: a busy machine lets a second go by.
func squeezed(table string) []string {
	var lines []string
	table = idleTime.ReplaceAllString(table, " 0s ")
	for _, line := range strings.Split(strings.TrimRight(table, "\n"), "\n") {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

var idleTime = regexp.MustCompile(` [0-9]+s `)

func TestServicesOfARunningDatapathAreListedAndShown(t *testing.T) {
	pins := busyDatapath(t)
	out, stderr, code := weirIn("service", "list", "--pins", pins)
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, []string{
		"NAME KIND SCOPE PROTOCOL ADDRESS BACKENDS ALGORITHM RULES",
		"default/nobody:53 ClusterIP inside udp 10.96.0.2:53 0 random -",
		"default/web:80 ClusterIP inside tcp 10.96.0.1:80 1 (+1 terminating) maglev affinity 3h0m0s",
		"default/web:80 NodePort inside tcp 192.0.2.1:30080 1 random -",
		"default/web:80 NodePort outside tcp 192.0.2.1:30080 1 random local backends only, 1 source ranges",
	}, squeezed(out))

	for _, name := range []string{"default/web:80", "default/web", "web", "web:80"} {
		out, stderr, code = weirIn("service", "show", name, "--pins", pins)
		require.Equal(t, exitOK, code, stderr)
		require.Equal(t, []string{
			"default/web:80 ClusterIP inside tcp 10.96.0.1:80",
			"algorithm maglev, a table of 251",
			"rules affinity 3h0m0s",
			"backend 10.0.0.2:8080 100.0 % default/web",
			"backend 10.0.0.3:8080 terminating -",
			"default/web:80 NodePort inside tcp 192.0.2.1:30080",
			"algorithm random",
			"backend 10.0.0.2:8080 100.0 % default/web",
			"default/web:80 NodePort outside tcp 192.0.2.1:30080",
			"algorithm random",
			"rules local backends only, 1 source ranges",
			"source 198.51.100.0/24",
			"backend 10.0.0.2:8080 100.0 % default/web",
		}, squeezed(out), name)
	}
	out, _, _ = weirIn("service", "show", "nobody", "--pins", pins)
	require.Contains(t, out, "none: refused or dropped")

	out, stderr, code = weirIn("service", "show", "web", "--pins", pins, "-o", "json")
	require.Equal(t, exitOK, code, stderr)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 3)
	require.JSONEq(t, `{"name": "default/web:80", "kind": "NodePort", "scope": "outside", "protocol": "tcp", "address": "192.0.2.1:30080",
		"algorithm": "random", "local": true, "restricted": true, "sources": ["198.51.100.0/24"],
		"backends": [{"address": "10.0.0.2:8080", "name": "default/web", "share": 1}]}`, lines[2])
}

func TestFlowsOfARunningDatapathAreListed(t *testing.T) {
	pins := busyDatapath(t)
	out, stderr, code := weirIn("flow", "list", "--pins", pins)
	require.Equal(t, exitOK, code, stderr)
	lines := squeezed(out)
	require.Equal(t, "PROTOCOL TUPLE LEAVES FROM TO HOOK STATE IDLE SERVICE POLICY", lines[0])
	require.Len(t, lines, 4)
	service := "tcp 10.0.0.1:40000 > 10.96.0.1:80 10.0.0.1:40000 > 10.0.0.2:8080 default/client default/web from-container established 0s default/web:80 NetworkPolicy/default/web rule 1"
	world := "tcp 10.0.0.1:40001 > 198.51.100.7:443 192.0.2.1:40001 > 198.51.100.7:443 default/client - from-container syn-sent 0s - no policy"
	outside := "tcp 198.51.100.7:40002 > 192.0.2.1:30080 198.51.100.7:40002 > 10.0.0.2:8080 - default/web from-device syn-sent 0s default/web:80 NetworkPolicy/default/web rule 1"
	require.ElementsMatch(t, []string{service, world, outside}, lines[1:])

	for _, test := range []struct {
		name string
		args []string
		want []string
	}{
		{"from a pod", []string{"--from", "default/client"}, []string{service, world}},
		{"from a pod, without its namespace", []string{"--from", "client"}, []string{service, world}},
		{"from an address", []string{"--from", "198.51.100.7"}, []string{outside}},
		{"from a prefix", []string{"--from", "10.0.0.0/8"}, []string{service, world}},
		{"to a pod", []string{"--to", "default/web"}, []string{service, outside}},
		{"to a service's address", []string{"--to", "10.96.0.1"}, []string{service}},
		{"to a backend's address", []string{"--to", "10.0.0.2"}, []string{service, outside}},
		{"by a service", []string{"--service", "default/web"}, []string{service, outside}},
		{"by a service, from a pod", []string{"--service", "web:80", "--from", "client"}, []string{service}},
		{"of a protocol", []string{"--proto", "tcp"}, []string{service, world, outside}},
		{"of a protocol by number", []string{"--proto", "17"}, nil},
		{"of nobody", []string{"--from", "default/stranger"}, nil},
	} {
		out, stderr, code := weirIn(append([]string{"flow", "list", "--pins", pins}, test.args...)...)
		require.Equal(t, exitOK, code, stderr)
		require.ElementsMatch(t, test.want, squeezed(out)[1:], test.name)
	}
	out, _, _ = weirIn("flow", "list", "--pins", pins, "--limit", "1", "-o", "json")
	var one map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &one), "one object")
	require.Equal(t, map[string]any{"src": "10.0.0.1:40000", "dst": "10.96.0.1:80"}, one["tuple"])
	require.Equal(t, "default/client", one["from"])
}

func TestTranslatedSourcesOfARunningDatapathAreListed(t *testing.T) {
	pins := busyDatapath(t)
	out, stderr, code := weirIn("nat", "list", "--pins", pins)
	require.Equal(t, exitOK, code, stderr)
	require.Equal(t, []string{
		"PROTOCOL INSIDE OUTSIDE PEER NAME STATE IDLE SERVICE PORTS",
		"tcp 10.0.0.1:40001 192.0.2.1:40001 198.51.100.7:443 default/client syn-sent 0s - 1/32768 (0.0 %)",
	}, squeezed(out))
	out, _, _ = weirIn("nat", "list", "--pins", pins, "-o", "json")
	require.Contains(t, out, `"takenPorts":1,"ports":32768}`)
}

func TestCommandsThatReadTablesRefuseWhatIsWrong(t *testing.T) {
	pins := busyDatapath(t)
	for _, test := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no datapath", []string{"service", "list", "--pins", t.TempDir()}, exitFailed, "no datapath is pinned there: name the directory of one that runs by --pins"},
		{"no such service", []string{"service", "show", "nowhere", "--pins", pins}, exitFailed, "the datapath has none of that name"},
		{"which service", []string{"service", "show", "--pins", pins}, exitUsage, "which service?"},
		{"a format", []string{"flow", "list", "--pins", pins, "-o", "yaml"}, exitUsage, "there is only table and json"},
		{"a protocol", []string{"flow", "list", "--pins", pins, "--proto", "tpc"}, exitUsage, "--proto tpc: no protocol"},
		{"an address", []string{"flow", "list", "--pins", pins, "--from", "fd00:::1"}, exitUsage, "--from fd00:::1: no address"},
		{"a flag", []string{"nat", "list", "--no-such"}, exitUsage, "See 'weir nat list --help'"},
		{"a command", []string{"flow", "lost"}, exitUsage, "unknown command"},
		{"an argument", []string{"nat", "list", "all"}, exitUsage, "unknown command"},
	} {
		_, stderr, code := weirIn(test.args...)
		require.Equal(t, test.code, code, "%s: %s", test.name, stderr)
		require.Contains(t, stderr, test.says, test.name)
	}
	for _, args := range [][]string{{"service", "list"}, {"service", "show"}, {"flow", "list"}, {"nat", "list"}} {
		out, _, code := weirIn(append(args, "--help")...)
		require.Equal(t, exitOK, code)
		require.Contains(t, out, "Examples:", args)
		require.Contains(t, out, "/sys/fs/bpf/weir", args)
	}
}
