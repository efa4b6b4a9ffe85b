// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

// Addresses of the services of uplinkObjects.
var (
	nearV4, nearV6       = netip.MustParseAddr("10.96.0.20"), netip.MustParseAddr("fd96::20")
	distantV4, distantV6 = netip.MustParseAddr("10.96.0.30"), netip.MustParseAddr("fd96::30")
	hostedV4, hostedV6   = netip.MustParseAddr("10.96.0.40"), netip.MustParseAddr("fd96::40")
)

// uplinkObjects are the objects of twoNodes, and three services of all kinds:
// near of the pod web, distant of the pod far on the second node, and hosted
// of the first node's own stack. The node ports are the services' with a
// different digit in front, load balancers lead to balancerV4 and balancerV6.
var uplinkObjects = twoNodeObjects +
	podService("near", "web", nearV4, nearV6, 31000) +
	podService("distant", "far", distantV4, distantV6, 32000) +
	podService("hosted", "node", hostedV4, hostedV6, 30000) + `---
apiVersion: v1
kind: Pod
metadata: {name: node, namespace: default, labels: {app: node}}
spec: {nodeName: node, hostNetwork: true, containers: [{name: main, image: none}]}
status: {podIPs: [{ip: 192.0.2.1}, {ip: "2001:db8::1"}]}
`

// targets are the ports that servers listen on. Services have them less 5000,
// node ports and load balancers have them added to a service's base.
var targets = []struct {
	name     string
	protocol model.Protocol
	target   uint16
}{
	{"http", model.ProtocolTCP, 8080},
	{"dns-udp", model.ProtocolUDP, 5353}, {"dns-tcp", model.ProtocolTCP, 5353},
	{"iperf-tcp", model.ProtocolTCP, 5201}, {"iperf-udp", model.ProtocolUDP, 5201},
}

// ofService is the port of a service that leads to target.
func ofService(target uint16) uint16 { return target - 5000 }

// podService is a service of kind LoadBalancer.
func podService(name, app string, v4, v6 netip.Addr, base uint16) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec:
  type: LoadBalancer
  selector: {app: %s}
  clusterIP: %s
  clusterIPs: [%[3]s, "%[4]s"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports:
`, name, app, v4, v6)
	for _, p := range targets {
		fmt.Fprintf(&b, "  - {name: %s, port: %d, targetPort: %d, nodePort: %d, protocol: %s}\n",
			p.name, ofService(p.target), p.target, base+ofService(p.target)%1000, map[model.Protocol]string{
				model.ProtocolTCP: "TCP", model.ProtocolUDP: "UDP"}[p.protocol])
	}
	last := v4.As4()[3]
	fmt.Fprintf(&b, `status:
  loadBalancer:
    ingress: [{ip: 198.18.9.%d}, {ip: "2001:db8:9::%d"}]
`, last, last)
	return b.String()
}

// balancer is the address of a service's load balancer.
func balancer(service netip.Addr) netip.Addr {
	if service.Is4() {
		return netip.AddrFrom4([4]byte{198, 18, 9, service.As4()[3]})
	}
	last := service.As16()[15]
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:9::%x", last))
}

// journey is a way from a client to a server.
type journey struct {
	name, from, to string
	at             []netip.Addr
	port           func(target uint16) uint16
	sees           []netip.Addr // the client, as the server sees it
}

// journeys are those of uplinkObjects with masquerading.
func journeys() []journey {
	same := func(target uint16) uint16 { return target }
	nodePort := func(base uint16) func(uint16) uint16 {
		return func(target uint16) uint16 { return base + ofService(target)%1000 }
	}
	balancers := func(services ...netip.Addr) (all []netip.Addr) {
		for _, s := range services {
			all = append(all, balancer(s))
		}
		return all
	}
	node, node2 := []netip.Addr{nodeV4, nodeV6}, []netip.Addr{node2V4, node2V6}
	near, distant := []netip.Addr{nearV4, nearV6}, []netip.Addr{distantV4, distantV6}
	hosted := []netip.Addr{hostedV4, hostedV6}
	client, outside := []netip.Addr{clientV4, clientV6}, []netip.Addr{outsideV4, outsideV6}
	far := []netip.Addr{farV4, farV6}
	return []journey{
		{"pod to ClusterIP of a pod here", "default/client", "default/web", near, ofService, client},
		{"pod to ClusterIP of a pod elsewhere", "default/client", "default/far", distant, ofService, client},
		{"pod to ClusterIP of a node", "default/client", "node", hosted, ofService, client},
		{"pod elsewhere to ClusterIP of a node", "default/far", "node", hosted, ofService, far},
		{"pod to a node port of its node, pod here", "default/client", "default/web", node, nodePort(31000), client},
		{"pod to a node port of its node, pod elsewhere", "default/client", "default/far", node, nodePort(32000), client},
		{"pod to a node port elsewhere", "default/client", "default/web", node2, nodePort(31000), []netip.Addr{node2V4, node2V6}},
		{"pod to a load balancer, pod elsewhere", "default/client", "default/far", balancers(distant...), ofService, client},
		{"outside to a node port, pod there", "outside", "default/web", node, nodePort(31000), outside},
		{"outside to a node port, pod elsewhere", "outside", "default/far", node, nodePort(32000), node},
		{"outside to a node port, node", "outside", "node", node, nodePort(30000), outside},
		{"outside to a node port of the second node, node", "outside", "node", node2, nodePort(30000), node2},
		{"outside to a load balancer, pod there", "outside", "default/web", balancers(near...), ofService, outside},
		{"outside to a load balancer, pod elsewhere", "outside", "default/far", balancers(distant...), ofService, node},
		{"node to ClusterIP of a pod here", "node", "default/web", near, ofService, node},
		{"node to ClusterIP of a pod elsewhere", "node", "default/far", distant, ofService, node},
		{"second node to ClusterIP of a node", "node-2", "node", hosted, ofService, node2},
		{"node to a load balancer, pod elsewhere", "node", "default/far", balancers(distant...), ofService, node},
		{"node to a node port elsewhere", "node", "default/web", node2, nodePort(31000), node2},
		{"pod to outside", "default/client", "outside", outside, same, node},
		{"pod elsewhere to outside", "default/far", "outside", outside, same, node2},
		{"node to outside", "node", "outside", outside, same, node},
		{"pod to itself by ClusterIP", "default/web", "default/web", near, ofService, node},
		{"pod to itself by a node port", "default/far", "default/far", node2, nodePort(32000), node2},
		{"pod to itself by a node port elsewhere", "default/web", "default/web", node2, nodePort(31000), node2},
		{"pod to itself by a load balancer", "default/web", "default/web", balancers(near...), ofService, node},
		{"pod to pod elsewhere", "default/client", "default/far", far, same, client},
	}
}

func (j journey) where(address netip.Addr, target uint16) netip.AddrPort {
	return netip.AddrPortFrom(address, j.port(target))
}

// uplinkTopology is twoNodes with programs at the nodes' uplinks.
func uplinkTopology() lab.Topology {
	t := twoNodes()
	t.Uplinks = true
	return t
}

func newUplinkWorld(t testing.TB, options Options) *World {
	t.Helper()
	w := newNodesWorld(t, uplinkTopology(), options)
	applyToNodes(t, w, model.Options{Masquerade: true}, uplinkObjects)
	return w
}

// servers are the hosts that serve in these tests.
var servers = []string{"default/web", "default/far", "node", "outside"}

func TestServicesLeadThereByEveryJourney(t *testing.T) {
	w := newUplinkWorld(t, Options{})
	listenEverywhere(t, w, servers...)
	for _, j := range journeys() {
		for i, address := range j.at {
			for _, port := range ports {
				t.Run(fmt.Sprintf("%s, %s %s", j.name, family(address), port.protocol), func(t *testing.T) {
					checkJourney(t, w, j, port.protocol, j.where(address, port.target), j.sees[i])
				})
			}
		}
	}
	for _, name := range []string{"default/client", "default/web", "default/far", "node", "node-2", "outside"} {
		requireWholeChecksums(t, w, name)
	}
}

func checkJourney(t *testing.T, w *World, j journey, protocol model.Protocol, at netip.AddrPort, sees netip.Addr) {
	t.Helper()
	c, err := w.Dial(within(t, patient), j.from, protocol, 0, at)
	require.NoError(t, err)
	for range 2 {
		answer, err := c.Exchange(within(t, patient), []byte("hello"))
		require.NoError(t, err)
		require.Equal(t, j.to+": hello", string(answer))
	}
	require.Equal(t, sees.String(), c.Peer().Addr().String())
	require.NoError(t, c.Close())
}

func TestFragmentsGoByEveryJourney(t *testing.T) {
	w := newUplinkWorld(t, Options{Blind: true})
	listenEverywhere(t, w, servers...)
	// Of three fragments; the last one is smaller than a header.
	message := bytes.Repeat([]byte("fragment"), 2970/8)
	for _, j := range journeys() {
		for _, address := range j.at {
			t.Run(j.name+", "+family(address), func(t *testing.T) {
				c, err := w.Dial(within(t, patient), j.from, model.ProtocolUDP, 0, j.where(address, 5353))
				require.NoError(t, err)
				for range 2 {
					answer, err := c.Exchange(within(t, patient), message)
					require.NoError(t, err)
					require.Equal(t, j.to+": "+string(message), string(answer))
				}
				require.NoError(t, c.Close())
			})
		}
	}
	requireNoChecksumErrors(t, w)
}

func TestPingGoesThroughMasquerading(t *testing.T) {
	w := newUplinkWorld(t, Options{})
	for _, tt := range []struct {
		from, to string
		at, sees []netip.Addr
	}{
		{"default/client", "outside", []netip.Addr{outsideV4, outsideV6}, []netip.Addr{nodeV4, nodeV6}},
		{"default/far", "outside", []netip.Addr{outsideV4, outsideV6}, []netip.Addr{node2V4, node2V6}},
		{"node-2", "second", []netip.Addr{secondV4, secondV6}, []netip.Addr{node2V4, node2V6}},
		{"default/client", "node-2", []netip.Addr{node2V4, node2V6}, []netip.Addr{clientV4, clientV6}},
		{"default/client", "default/far", []netip.Addr{farV4, farV6}, []netip.Addr{clientV4, clientV6}},
		{"outside", "default/far", []netip.Addr{farV4, farV6}, []netip.Addr{outsideV4, outsideV6}},
		{"outside", "node-2", []netip.Addr{node2V4, node2V6}, []netip.Addr{outsideV4, outsideV6}},
		{"node", "default/far", []netip.Addr{farV4, farV6}, []netip.Addr{nodeV4, nodeV6}},
	} {
		for i, at := range tt.at {
			t.Run(fmt.Sprintf("%s to %s", tt.from, at), func(t *testing.T) {
				require.NoError(t, w.Ping(within(t, patient), tt.from, at))
				await(t, w, tt.to, isEchoFrom(tt.sees[i]))
			})
		}
	}
	requireNoChecksumErrors(t, w)
}

// isEchoFrom matches echo requests of a source.
func isEchoFrom(source netip.Addr) func(lab.Frame) bool {
	return func(f lab.Frame) bool {
		tuple, ok := frame.Decode(f.Data).Tuple()
		return ok && tuple.Src == source && tuple.Sport != 0 && tuple.Dport == 0 &&
			(tuple.Protocol == model.ProtocolICMP || tuple.Protocol == model.ProtocolICMPv6)
	}
}

// eachJourney runs f in a world of each condition for each journey of a list,
// in both families, when prepare has been called.
func eachJourney(t *testing.T, all []journey, prepare func(*testing.T, *World), f func(*testing.T, *World, journey, netip.Addr)) {
	t.Helper()
	for _, condition := range conditions {
		t.Run(condition.name, func(t *testing.T) {
			w := newUplinkWorld(t, Options{Blind: true})
			for _, h := range w.hosts() {
				if h != w.router {
					setOffload(t, w, h.name, condition.offload)
				}
			}
			prepare(t, w)
			for _, j := range all {
				for _, address := range j.at {
					t.Run(j.name+", "+family(address), func(t *testing.T) { f(t, w, j, address) })
				}
			}
			requireNoChecksumErrors(t, w)
		})
	}
}

func TestCurlGetsFilesByEveryJourney(t *testing.T) {
	folder := t.TempDir()
	file := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	require.NoError(t, os.WriteFile(filepath.Join(folder, "file"), file, 0o644))
	eachJourney(t, journeys(), func(t *testing.T, w *World) {
		for _, server := range servers {
			serveWeb(t, w, server, folder, w.byName[server].addresses...)
		}
	}, func(t *testing.T, w *World, j journey, address netip.Addr) {
		watches := map[string]*segments{}
		for _, host := range []string{j.from, j.to} {
			watches[host] = watchSegments(t, w, host)
		}
		got := run(t, w, j.from, "curl", "-sS", "--fail", "--max-time", "10", fmt.Sprintf("http://%s/file", j.where(address, 8080)))
		require.Equal(t, string(file), got)
		for host, watch := range watches {
			segment, _ := watch.sizes(t)
			require.LessOrEqual(t, segment, mtu, "at %s", host)
		}
	})
}

func TestDigAsksByEveryJourney(t *testing.T) {
	eachJourney(t, journeys(), func(t *testing.T, w *World) {
		for _, server := range servers {
			serveNames(t, w, server)
		}
	}, func(t *testing.T, w *World, j journey, address netip.Addr) {
		at := j.where(address, 5353)
		for _, transport := range []string{"+notcp", "+tcp"} {
			got := run(t, w, j.from, "dig", "@"+at.Addr().String(), "-p", strconv.Itoa(int(at.Port())),
				"+short", "+tries=1", "+time=2", transport, "weir.example", "A")
			require.Equal(t, "192.0.2.53\n", got, transport)
		}
	})
}

// TestIperfRunsByJourney tells how fast it is, and asserts that it ends well:
// speeds of a machine that does something else too say little.
func TestIperfRunsByJourney(t *testing.T) {
	// One of each kind of translation.
	long := slices.DeleteFunc(journeys(), func(j journey) bool {
		return !slices.Contains([]string{
			"pod to pod elsewhere", "pod to ClusterIP of a pod elsewhere", "outside to a node port, node",
			"outside to a node port, pod there", "outside to a node port, pod elsewhere",
			"node to ClusterIP of a pod here", "node to ClusterIP of a pod elsewhere", "pod to outside",
		}, j.name)
	})
	require.Len(t, long, 8)
	eachJourney(t, long, func(t *testing.T, w *World) {
		for _, server := range servers {
			serve(t, w, server, "Server listening", "iperf3", "-s", "-p", "5201", "--forceflush")
		}
	}, func(t *testing.T, w *World, j journey, address netip.Addr) {
		for _, stream := range streams {
			rate := throughput(t, w, j.from, j.where(address, 5201), slices.Concat(stream.args, []string{"-n", "32M"})...)
			t.Logf("%s: %.2f Gbit/s", stream.name, rate/1e9)
		}
	})
}
