// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/weirnet/weir/model"
)

// node is a network namespace with the host sides of two pods' devices, and
// a state that fits it.
//
//	client 10.0.0.1, fd00::1     web 10.0.0.2, fd00::2, serves 10.96.0.1:80
type node struct {
	client, web model.Device
	state       *model.State
}

// newNode puts the test's thread into a namespace of its own, that dies with
// the thread.
func newNode(t testing.TB) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it makes a network namespace and loads BPF programs")
	}
	runtime.LockOSThread() // and never unlock: the thread dies with the test
	ns, err := netns.New()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ns.Close()) })
	n := &node{client: addDevice(t, "client"), web: addDevice(t, "web")}
	n.state = newState(n.client, n.web)
	return n
}

func addDevice(t testing.TB, name string) model.Device {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-pod"}
	require.NoError(t, netlink.LinkAdd(veth))
	for _, end := range []string{name, name + "-pod"} {
		link, err := netlink.LinkByName(end)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(link))
	}
	device, err := existingDevice(name)
	require.NoError(t, err)
	return device
}

func existingDevice(name string) (model.Device, error) {
	host, err := netlink.LinkByName(name)
	if err != nil {
		return model.Device{}, err
	}
	pod, err := netlink.LinkByName(name + "-pod")
	if err != nil {
		return model.Device{}, err
	}
	return model.Device{
		Name: name, Ifindex: host.Attrs().Index,
		MAC: host.Attrs().HardwareAddr, PodMAC: pod.Attrs().HardwareAddr,
	}, nil
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

const (
	clientIdentity model.Identity = 300
	webIdentity    model.Identity = 301
)

// allowAll is what an endpoint has that no policy selects.
func allowAll() model.RuleSet {
	return model.RuleSet{Key: "all", Rules: []model.Rule{{Direction: model.Ingress}, {Direction: model.Egress}}}
}

func newState(client, web model.Device) *model.State {
	return &model.State{
		Node: model.Node{
			Name:      "node",
			Addresses: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")},
			Gateways:  model.Gateways(),
		},
		Endpoints: []model.Endpoint{
			{Name: model.Key{Namespace: "default", Name: "client"}, Device: client, IPv4: addr("10.0.0.1"), IPv6: addr("fd00::1"), Identity: clientIdentity, RuleSet: "all"},
			{Name: model.Key{Namespace: "default", Name: "web"}, Device: web, IPv4: addr("10.0.0.2"), IPv6: addr("fd00::2"), Identity: webIdentity, RuleSet: "all"},
		},
		Services: model.ListOf([]model.Service{
			{Name: model.PortRef{Namespace: "default", Name: "web", Port: "80"}, Address: addr("10.96.0.1"), Port: 80, Protocol: model.ProtocolTCP, Backends: []model.Backend{{Address: addr("10.0.0.2"), Port: 8080}}},
			{Name: model.PortRef{Namespace: "default", Name: "web", Port: "80"}, Address: addr("fd96::1"), Port: 80, Protocol: model.ProtocolTCP, Backends: []model.Backend{{Address: addr("fd00::2"), Port: 8080}}},
		}...),
		RuleSets: []model.RuleSet{allowAll()},
	}
}

func openDatapath(t testing.TB, opts Options) *Datapath {
	t.Helper()
	if opts.Cgroup != "" && opts.Edit == nil {
		opts.Edit = asAsked(t)
	}
	d, err := Open(opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// tcpFrame is a TCP segment from src to dst, with checksums.
func tcpFrame(t testing.TB, src, dst string, sport, dport uint16, set func(*layers.TCP)) []byte {
	t.Helper()
	from, to := addr(src), addr(dst)
	eth := &layers.Ethernet{
		SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2},
		EthernetType: layers.EthernetTypeIPv4,
	}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), Window: 65535}
	set(tcp)
	var ip gopacket.SerializableLayer
	if from.Is4() {
		v4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
		require.NoError(t, tcp.SetNetworkLayerForChecksum(v4))
		ip = v4
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
		require.NoError(t, tcp.SetNetworkLayerForChecksum(v6))
		ip = v6
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	require.NoError(t, gopacket.SerializeLayers(buf, opts, eth, ip, tcp))
	return buf.Bytes()
}

func syn(tcp *layers.TCP) { tcp.SYN = true }
func ack(tcp *layers.TCP) { tcp.ACK = true }
func synAck(tcp *layers.TCP) {
	tcp.SYN, tcp.ACK = true, true
}
