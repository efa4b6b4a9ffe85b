// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// nodeBench is a bench whose node has an uplink, and what its operator wants.
func nodeBench(t *testing.T, options model.Options, extra ...string) *bench {
	local := testLocal()
	local.Uplinks = []model.Uplink{{Name: "eth0", Ifindex: 2}}
	local.Options = options
	b := &bench{T: t, oracle: NewOracle("node-a", local), objs: manifest.NewObjects(), now: time.Unix(1_000_000, 0)}
	b.apply(append([]string{clusterYAML}, extra...)...)
	return b
}

func (b *bench) in(frame []byte) Expectation {
	return b.oracle.Evaluate(frame, model.Where{Hook: model.FromDevice, Endpoint: "node-a"}, b.now)
}

func (b *bench) out(frame []byte) Expectation {
	return b.oracle.Evaluate(frame, model.Where{Hook: model.ToDevice, Endpoint: "node-a"}, b.now)
}

// family is the addresses of the tests' cluster in one family.
type family struct {
	name, client, web0, web1, far, node, other, gateway, outside, guest string
	lb, external, cluster                                               string
	echo                                                                model.Protocol
	ping, pong                                                          uint8
}

var families = []family{
	{
		"IPv4", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "172.18.0.2", "172.18.0.3", "10.0.0.254", "192.0.2.1", "192.0.2.2",
		"203.0.113.80", "203.0.113.81", "10.96.0.30", model.ProtocolICMP, 8, 0,
	},
	{
		"IPv6", "fd00::1", "fd00::2", "fd00::3", "fd00:1::1", "fd18::2", "fd18::3", "fd00::fe", "2001:db8::1", "2001:db8::2",
		"2001:db8:80::80", "2001:db8:80::81", "fd96::30", model.ProtocolICMPv6, 128, 129,
	},
}

func eachFamily(t *testing.T, test func(t *testing.T, f family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { test(t, f) })
	}
}

// shop is a service of every kind: cluster address, node port 30080, balancer
// and external address; spec is added to it.
func shop(app, spec string) string {
	return `
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.30, "fd96::30"]
  externalIPs: [203.0.113.81, "2001:db8:80::81"]
  selector: {app: ` + app + `}
  ports: [{name: t, port: 80, targetPort: 8080, nodePort: 30080}, {name: u, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}]
` + spec + `
status: {loadBalancer: {ingress: [{ip: 203.0.113.80}, {ip: "2001:db8:80::80"}]}}
`
}

const hostPod = `
apiVersion: v1
kind: Pod
metadata: {name: agent, labels: {app: agent}}
spec: {nodeName: node-a, hostNetwork: true}
status: {podIPs: [{ip: 172.18.0.2}, {ip: "fd18::2"}]}
`

func (b *bench) requirePassBy(e Expectation, out model.Out) {
	b.Helper()
	require.Equal(b, model.Forward, e.Action, e.String())
	require.Empty(b, e.Alternatives, e.String())
	require.Len(b, e.Translations, 1)
	got := e.Translations[0]
	require.True(b, got.Unchanged, strings.Join(e.Story, "\n"))
	require.Equal(b, []any{out, 0, (*flow)(nil)}, []any{got.Out, got.Hops, got.flow})
}

func (b *bench) requireOnly(e Expectation, want model.Tuple, to Translation) {
	b.Helper()
	require.Equal(b, model.Forward, e.Action, strings.Join(e.Story, "\n"))
	require.Empty(b, e.Alternatives, e.String())
	require.Len(b, e.Translations, 1, e.String())
	to.Tuple = want
	require.Equal(b, to, bare(e.Translations[0]))
	b.oracle.Observe(e, want, b.now)
}

func TestTheKernelIsTheJudgeOfItsOwn(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", ""))
		to30080 := func(payload []byte) []byte { return ip(f.outside, f.node, model.ProtocolTCP, payload) }
		multicast := "224.0.0.251"
		if f.name == "IPv6" {
			multicast = "ff02::fb"
		}
		for name, frame := range map[string][]byte{
			"nothing":                              nil,
			"ARP":                                  arp(1, podMAC(client), "172.18.0.9", "172.18.0.2"),
			"a VLAN":                               ethernet(0x8100, make([]byte, 40)),
			"an unknown ethertype":                 ethernet(0x88cc, make([]byte, 40)),
			"a header that is cut off":             to30080(tcp(1, 30080, flagSYN))[:40],
			"TCP without a flag, to a node port":   to30080(tcp(1, 30080, 0)),
			"SYN and FIN, to a node port":          to30080(tcp(1, 30080, flagSYN|flagFIN)),
			"a TCP header that is too short":       to30080(with(tcp(1, 30080, flagSYN), 12, 0x10)),
			"UDP of a wrong length":                ip(f.outside, f.node, model.ProtocolUDP, with(udp(1, 30080, 0), 4, 0, 4)),
			"multicast":                            ip(f.outside, multicast, model.ProtocolUDP, udp(1, 30080, 0)),
			"a later fragment of nothing":          part(f.outside, f.node, model.ProtocolUDP, 7, 64, false, make([]byte, 8)),
			"an ICMP type that pods do not get":    ip(f.outside, f.node, f.echo, icmp(13, 0, 1)),
			"a ping of the node":                   ip(f.outside, f.node, f.echo, icmp(f.ping, 0, 1)),
			"an answer to a ping":                  ip(f.outside, f.node, f.echo, icmp(f.pong, 0, 1)),
			"an error of nothing known":            unreachable(f.outside, f.node, quoting(ip(f.node, f.outside, model.ProtocolUDP, udp(1, 2, 0)))),
			"an error without a quote":             ip(f.outside, f.node, f.echo, icmp(3, 3, 0)),
			"another port of the node":             to30080(tcp(1, 22, flagSYN)),
			"a node port's number, in the cluster": ip(f.outside, f.web0, model.ProtocolTCP, tcp(1, 30080, flagSYN)),
			"a pod":                                ip(f.outside, f.web0, model.ProtocolTCP, tcp(1, 8080, flagSYN)),
			"a protocol without ports":             ip(f.outside, f.node, 47, make([]byte, 8)),
		} {
			t.Run(name, func(t *testing.T) {
				b := &bench{T: t, oracle: b.oracle, now: b.now}
				b.requirePassBy(b.in(frame), model.OutHost)
			})
		}
		if f.name == "IPv6" {
			b.requirePassBy(b.in(with(ip("fe80::9", f.node, model.ProtocolICMPv6, neighbour(135, 0, f.node)), 14+7, 255)), model.OutHost)
			b.requirePassBy(b.out(with(ip(f.node, "ff02::1", model.ProtocolICMPv6, neighbour(135, 0, f.outside)), 14+7, 255)), model.OutDevice)
		}
	})
}

func TestServicesAreReachedFromOutsideByAllTheirAddresses(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", ""))
		for i, at := range []struct {
			addr string
			port uint16
		}{{f.node, 30080}, {f.lb, 80}, {f.external, 80}} {
			sport := uint16(1000 + i)
			e := b.in(ip(f.outside, at.addr, model.ProtocolTCP, tcp(sport, at.port, flagSYN)))
			require.Len(t, e.Translations, 2, "any backend")
			chosen := tuple(model.ProtocolTCP, f.outside, sport, f.web0, 8080)
			require.Equal(t, Translation{Tuple: chosen, Out: model.OutLocal, Endpoint: web0, Hops: 1}, bare(e.Translations[0]), "with the client's source")
			b.pass(e, chosen, model.OutLocal)
			b.requireOnly(b.in(ip(f.outside, at.addr, model.ProtocolTCP, tcp(sport, at.port, flagACK))), chosen, Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
			b.requireOnly(b.from(web0, ip(f.web0, f.outside, model.ProtocolTCP, tcp(8080, sport, flagSYN|flagACK))),
				tuple(model.ProtocolTCP, at.addr, at.port, f.outside, sport), Translation{Out: model.OutDevice, Hops: 1})
		}
		requireReply(t, b.in(ip(f.outside, f.lb, model.ProtocolTCP, tcp(1, 30080, flagSYN))), model.ReasonNoFrontend)
		requireReply(t, b.in(ip(f.outside, f.cluster, model.ProtocolTCP, tcp(1, 80, flagSYN))), model.ReasonNoFrontend) // it is inside
		requireReply(t, b.in(ip(f.outside, f.lb, f.echo, icmp(f.ping, 0, 1))), model.ReasonNoFrontend)
		requireDrop(t, b.in(ip(f.outside, f.lb, f.echo, icmp(f.pong, 0, 1))), model.ReasonNoFrontend)
		requireDrop(t, b.in(ip(f.outside, f.lb, 47, make([]byte, 8))), model.ReasonNoFrontend)
		requireDrop(t, b.in(with(ip(f.outside, f.node, model.ProtocolTCP, tcp(9, 30080, flagSYN)), hopsAt(f), 1)), model.ReasonTTLExceeded)

		nobody := nodeBench(t, model.Options{}, shop("nobody", ""))
		requireReply(t, nobody.in(ip(f.outside, f.node, model.ProtocolTCP, tcp(1, 30080, flagSYN))), model.ReasonNoBackend)
		requireReply(t, nobody.in(ip(f.outside, f.lb, model.ProtocolUDP, udp(1, 80, 0))), model.ReasonNoBackend)
		first := nobody.in(part(f.outside, f.node, model.ProtocolUDP, 7, 0, true, udp(1, 30080, 8)))
		require.NoError(t, first.Check(Outcome{Action: model.Drop, Reason: model.ReasonNoBackend}))
	})
}

// hopsAt is where the TTL or hop limit stands in a frame.
func hopsAt(f family) int {
	if f.name == "IPv6" {
		return 14 + 7
	}
	return 14 + 8
}

func TestNobodyOutsideHasAnInnerAddress(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", ""))
		loopback, linkLocal := "127.0.0.1", "169.254.0.9"
		if f.name == "IPv6" {
			loopback, linkLocal = "::1", "fe80::9"
		}
		to := func(src string) Expectation { return b.in(ip(src, f.lb, model.ProtocolTCP, tcp(1, 80, flagSYN))) }
		for _, src := range []string{loopback, linkLocal, f.node, f.gateway} {
			requireDrop(t, to(src), model.ReasonMartianSource)
		}
		requireDrop(t, to(f.client), model.ReasonSpoofedSource)
		requireDrop(t, to(f.lb), model.ReasonSameAddress)
		require.Equal(t, model.Forward, to(f.other).Action, "another node may be a client")
		require.Equal(t, model.Forward, to(f.far).Action, "and so may a pod of its")
		requireDrop(t, b.in(ip(f.node, f.node, model.ProtocolTCP, tcp(1, 30080, flagSYN))), model.ReasonMartianSource, model.ReasonSameAddress)

		nobody := nodeBench(t, model.Options{}, shop("nobody", ""))
		requireDrop(t, nobody.in(ip(f.client, f.lb, model.ProtocolTCP, tcp(1, 80, flagSYN))), model.ReasonSpoofedSource)
	})
}

func TestIngressPolicySeesTheClientOfANodePort(t *testing.T) {
	allow := func(cidr string) string {
		return `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{ipBlock: {cidr: "` + cidr + `"}}]}]
`
	}
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", ""), allow(f.outside+map[bool]string{true: "/32", false: "/128"}[f.name == "IPv4"]))
		first := ip(f.outside, f.node, model.ProtocolTCP, tcp(1, 30080, flagSYN))
		chosen := tuple(model.ProtocolTCP, f.outside, 1, f.web0, 8080)
		b.pass(b.in(first), chosen, model.OutLocal)
		requireDrop(t, b.in(ip(f.guest, f.node, model.ProtocolTCP, tcp(1, 30080, flagSYN))), model.ReasonPolicyIngress)

		b.apply(denyEgress("web")) // answers pass whatever policy says
		answer := ip(f.web0, f.outside, model.ProtocolTCP, tcp(8080, 1, flagSYN|flagACK))
		b.requireOnly(b.from(web0, answer), tuple(model.ProtocolTCP, f.node, 30080, f.outside, 1), Translation{Out: model.OutDevice, Hops: 1})

		b.delete("networkpolicy", "web")
		b.apply(denyIngress("web"))
		requireDrop(t, b.in(first), model.ReasonPolicyIngress)
		requireDrop(t, b.from(web0, answer), model.ReasonPolicyIngress)
		b.delete("networkpolicy", "deny-web")
		b.requireOnly(b.in(first), chosen, Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
	})
}

func TestABackendOfAnotherNodeIsReachedWithTheNodesSource(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("far", ""))
		first := ip(f.outside, f.node, model.ProtocolTCP, tcp(45000, 30080, flagSYN))
		led := tuple(model.ProtocolTCP, f.node, 45000, f.far, 8080)
		b.requireOnly(b.in(first), led, Translation{Out: model.OutDevice, Hops: 1})
		b.requireOnly(b.in(first), led, Translation{Out: model.OutDevice, Hops: 1})

		second := b.in(ip(f.guest, f.node, model.ProtocolTCP, tcp(45000, 30080, flagSYN)))
		require.True(t, second.Translations[0].AnySport, "the first flow holds port 45000")
		other := tuple(model.ProtocolTCP, f.node, 40000, f.far, 8080)
		for _, wrong := range []uint16{45000, 5001, 30000, 32767} {
			bad := other
			bad.Sport = wrong
			require.Error(t, second.Check(Outcome{Action: model.Forward, Tuple: bad}), wrong)
		}
		b.pass(second, other, model.OutDevice)
		third := b.in(ip(f.guest, f.node, model.ProtocolTCP, tcp(40000, 30080, flagSYN)))
		require.Error(t, third.Check(Outcome{Action: model.Forward, Tuple: other}), "40000 is taken by now")

		// Answers come by the device, and leave by it.
		b.requireOnly(b.in(ip(f.far, f.node, model.ProtocolTCP, tcp(8080, 45000, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.node, 30080, f.outside, 45000), Translation{Out: model.OutDevice, Hops: 1})
		b.requireOnly(b.in(ip(f.far, f.node, model.ProtocolTCP, tcp(8080, 40000, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.node, 30080, f.guest, 45000), Translation{Out: model.OutDevice, Hops: 1})

		// It stays as it was, whatever changes but the backend.
		b.apply(denyIngress("far"))
		b.requireOnly(b.in(ip(f.far, f.node, model.ProtocolTCP, tcp(8080, 40000, flagACK))), tuple(model.ProtocolTCP, f.node, 30080, f.guest, 45000), Translation{Out: model.OutDevice, Hops: 1})
		b.requireOnly(b.in(ip(f.guest, f.node, model.ProtocolTCP, tcp(45000, 30080, flagACK))), other, Translation{Out: model.OutDevice, Hops: 1})
	})
}

func TestAHostsAddressOfTheFamilyIsNeededToLeadElsewhere(t *testing.T) {
	b := nodeBench(t, model.Options{}, shop("far", ""), "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0.2}]}\n")
	requireDrop(t, b.in(syn("2001:db8::1", "2001:db8:80::80", 1, 80)), model.ReasonNoSourcePort)
	require.Equal(t, model.Forward, b.in(syn("192.0.2.1", "203.0.113.80", 1, 80)).Action)
}

func TestABackendOnTheHostsNetworkIsReachedThroughTheStack(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("agent", ""), hostPod)
		led := tuple(model.ProtocolTCP, f.outside, 1, f.node, 8080)
		spent := with(ip(f.outside, f.lb, model.ProtocolTCP, tcp(1, 80, flagSYN)), hopsAt(f), 1)
		b.requireOnly(b.in(spent), led, Translation{Out: model.OutHost})
		b.requireOnly(b.out(ip(f.node, f.outside, model.ProtocolTCP, tcp(8080, 1, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.lb, 80, f.outside, 1), Translation{Out: model.OutDevice})

		// An error that the stack sends about it speaks of the service, or, the
		// contract being silent, of what the stack knows.
		quoted := quoting(ip(f.outside, f.node, model.ProtocolTCP, tcp(1, 8080, flagACK)))
		e := b.out(unreachable(f.node, f.outside, quoted))
		require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: between(f.lb, f.outside), Quoted: tuple(model.ProtocolTCP, f.outside, 1, f.lb, 80), Out: model.OutDevice}))

		// A pod gets there too, by its egress policy towards the host.
		fromPod := b.from(client, ip(f.client, f.node, model.ProtocolTCP, tcp(1, 30080, flagSYN)))
		b.requireOnly(fromPod, tuple(model.ProtocolTCP, f.client, 1, f.node, 8080), Translation{Out: model.OutHost})
		b.requireOnly(b.to(client, ip(f.node, f.client, model.ProtocolTCP, tcp(8080, 1, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.node, 30080, f.client, 1), Translation{Out: model.OutLocal, Endpoint: client})
		requireDrop(t, b.out(ip(f.node, f.lb, model.ProtocolTCP, tcp(1, 80, flagSYN))), model.ReasonNoRoute)
	})
}

func TestTheNodesOwnFlowsToServices(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", ""), denyIngress("web"))
		toPod := tuple(model.ProtocolTCP, f.node, 45000, f.web0, 8080)
		e := b.out(with(ip(f.node, f.cluster, model.ProtocolTCP, tcp(45000, 80, flagSYN)), hopsAt(f), 1))
		require.Len(t, e.Translations, 2)
		b.pass(e, toPod, model.OutLocal)
		require.Equal(t, Translation{Tuple: toPod, Out: model.OutLocal, Endpoint: web0}, bare(e.Translations[0]), "no policy is asked, and no hop is taken")
		b.apply()
		b.requireOnly(b.from(web0, ip(f.web0, f.node, model.ProtocolTCP, tcp(8080, 45000, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.cluster, 80, f.node, 45000), Translation{Out: model.OutHost})

		// The same port to the same pod by another address needs another port.
		e = b.out(ip(f.node, f.lb, model.ProtocolTCP, tcp(45000, 80, flagSYN)))
		require.Error(t, e.Check(Outcome{Action: model.Forward, Tuple: toPod}))
		moved := toPod
		moved.Sport = 35001
		b.pass(e, moved, model.OutLocal)
		b.requireOnly(b.from(web0, ip(f.web0, f.node, model.ProtocolTCP, tcp(8080, 35001, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.lb, 80, f.node, 45000), Translation{Out: model.OutHost})

		// Source ranges are not for the node itself.
		b = nodeBench(t, model.Options{}, shop("far", "  loadBalancerSourceRanges: [192.0.2.99/32]"))
		far := tuple(model.ProtocolTCP, f.node, 45000, f.far, 8080)
		b.requireOnly(b.out(ip(f.node, f.lb, model.ProtocolTCP, tcp(45000, 80, flagSYN))), far, Translation{Out: model.OutDevice})
		b.requireOnly(b.in(ip(f.far, f.node, model.ProtocolTCP, tcp(8080, 45000, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.lb, 80, f.node, 45000), Translation{Out: model.OutHost})

		nobody := nodeBench(t, model.Options{}, shop("nobody", ""))
		requireReply(t, nobody.out(ip(f.node, f.cluster, model.ProtocolTCP, tcp(1, 80, flagSYN))), model.ReasonNoBackend)
	})
}

func TestWhatTheNodeForwardsOrSendsElsewherePassesUnchanged(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", ""))
		b.requirePassBy(b.out(ip(f.outside, f.lb, model.ProtocolTCP, tcp(40000, 80, flagSYN))), model.OutDevice)
		b.requirePassBy(b.out(ip(f.client, f.outside, model.ProtocolTCP, tcp(40000, 80, flagSYN))), model.OutDevice)
		b.requirePassBy(b.out(ip(f.node, f.outside, model.ProtocolTCP, tcp(22, 40000, flagACK))), model.OutDevice)
		b.requirePassBy(b.out(ip(f.node, f.outside, model.ProtocolTCP, tcp(40000, 22, 0))), model.OutDevice)
		b.requirePassBy(b.out(arp(1, podMAC(client), "172.18.0.2", "172.18.0.1")), model.OutDevice)
		b.requirePassBy(b.out(ip(f.node, f.outside, model.ProtocolTCP, tcp(40000, 22, flagRST))), model.OutDevice)
		b.requirePassBy(b.out(ip(f.node, f.outside, f.echo, icmp(f.ping, 0, 77))), model.OutDevice)
		b.requirePassBy(b.out(ip(f.node, f.outside, f.echo, icmp(f.pong, 0, 40000))), model.OutDevice)
		b.requirePassBy(b.out(unreachable(f.node, f.outside, quoting(ip(f.outside, f.node, model.ProtocolUDP, udp(1, 2, 0))))), model.OutDevice)
	})
}

func TestAPortThatTheNodeUsesIsLentToNobody(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{Masquerade: true})
		own := tuple(model.ProtocolTCP, f.node, 40000, f.outside, 443)
		e := b.out(ip(f.node, f.outside, model.ProtocolTCP, tcp(40000, 443, flagSYN)))
		require.True(t, e.Translations[0].Unchanged)
		b.requireOnly(e, own, Translation{Out: model.OutDevice})
		pod := b.from(client, ip(f.client, f.outside, model.ProtocolTCP, tcp(40000, 443, flagSYN)))
		require.True(t, pod.Translations[0].AnySport)
		require.Error(t, pod.Check(Outcome{Action: model.Forward, Tuple: own}))
		b.requireOnly(b.in(ip(f.outside, f.node, model.ProtocolTCP, tcp(443, 40000, flagSYN|flagACK))), own.Reversed(), Translation{Out: model.OutHost})

		ping := tuple(f.echo, f.node, 50000, f.outside, 0)
		b.requireOnly(b.out(ip(f.node, f.outside, f.echo, icmp(f.ping, 0, 50000))), ping, Translation{Out: model.OutDevice})
		require.Error(t, b.from(client, ip(f.client, f.outside, f.echo, icmp(f.ping, 0, 50000))).Check(Outcome{Action: model.Forward, Tuple: ping}))
	})
}

func TestErrorsAboutTranslatedFlowsComeByTheDevice(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{Masquerade: true}, shop("far", ""))
		first := ip(f.outside, f.node, model.ProtocolUDP, udp(45000, 30080, 0))
		led := tuple(model.ProtocolUDP, f.node, 45000, f.far, 8080)
		b.pass(b.in(first), led, model.OutDevice)
		sent := quoting(ip(f.node, f.far, model.ProtocolUDP, udp(45000, 8080, 0)))
		asked := tuple(model.ProtocolUDP, f.outside, 45000, f.node, 30080)
		b.passError(b.in(unreachable(f.far, f.node, sent)), between(f.node, f.outside), asked, model.OutDevice)
		b.passError(b.in(unreachable(f.guest, f.node, sent)), between(f.guest, f.outside), asked, model.OutDevice) // a router's
		requireDrop(t, b.in(unreachable(f.far, f.lb, sent)), model.ReasonNoFrontend)                               // nobody's but a service's
		requireDrop(t, b.in(with(unreachable(f.far, f.node, sent), hopsAt(f), 1)), model.ReasonTTLExceeded)

		// The client's, about an answer.
		b.pass(b.in(ip(f.far, f.node, model.ProtocolUDP, udp(8080, 45000, 0))), asked.Reversed(), model.OutDevice)
		answer := quoting(ip(f.node, f.outside, model.ProtocolUDP, udp(30080, 45000, 0)))
		b.passError(b.in(unreachable(f.outside, f.node, answer)), between(f.node, f.far), led.Reversed(), model.OutDevice)
		b.apply(shop("far", "  sessionAffinity: ClientIP"))
		late := unreachable(f.outside, f.node, answer)
		b.requirePassBy(b.told(Anew, model.FromDevice, "node-a", late), model.OutHost) // of an old epoch, and opens nothing
		b.passError(b.told(Met, model.FromDevice, "node-a", late), between(f.node, f.far), led.Reversed(), model.OutDevice)

		// About a pod's masqueraded flow, to the pod.
		out := tuple(model.ProtocolUDP, f.node, 46000, f.outside, 53)
		b.pass(b.from(client, ip(f.client, f.outside, model.ProtocolUDP, udp(46000, 53, 0))), out, model.OutDevice)
		e := b.in(unreachable(f.guest, f.node, quoting(ip(f.node, f.outside, model.ProtocolUDP, udp(46000, 53, 0)))))
		b.passError(e, between(f.guest, f.client), tuple(model.ProtocolUDP, f.client, 46000, f.outside, 53), model.OutLocal)
		require.Equal(t, []any{client, 1}, []any{e.Translations[0].Endpoint, e.Translations[0].Hops})
	})
}

func TestAnErrorOfABackendSpeaksOfTheNodePort(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", ""))
		b.pass(b.in(ip(f.outside, f.node, model.ProtocolUDP, udp(45000, 30080, 0))), tuple(model.ProtocolUDP, f.outside, 45000, f.web0, 8080), model.OutLocal)
		e := b.from(web0, unreachable(f.web0, f.outside, quoting(ip(f.outside, f.web0, model.ProtocolUDP, udp(45000, 8080, 0)))))
		b.passError(e, between(f.node, f.outside), tuple(model.ProtocolUDP, f.outside, 45000, f.node, 30080), model.OutDevice)
	})
}

func TestFragmentsToANodePort(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("far", ""))
		first := udp(45000, 30080, 16)
		first[5] = 64
		led := tuple(model.ProtocolUDP, f.node, 45000, f.far, 8080)
		later := part(f.outside, f.node, model.ProtocolUDP, 9, 24, false, make([]byte, 16))
		b.requirePassBy(b.in(later), model.OutHost)
		b.pass(b.in(part(f.outside, f.node, model.ProtocolUDP, 9, 0, true, first)), led, model.OutDevice)
		b.pass(b.in(later), portless(led), model.OutDevice)
		b.requirePassBy(b.in(part(f.outside, f.node, model.ProtocolUDP, 9, 0, false, nil)[:20]), model.OutHost)
		b.now = b.now.Add(fragmentPatience)
		e := b.in(later)
		require.NoError(t, e.Check(Outcome{Action: model.Forward, Out: model.OutDevice, Tuple: portless(led)}))
		require.NoError(t, e.Check(Outcome{Action: model.Forward, Out: model.OutHost, Tuple: portless(tuple(model.ProtocolUDP, f.outside, 0, f.node, 0))}))
		b.now = b.now.Add(2 * time.Second)
		b.requirePassBy(b.in(later), model.OutHost)
	})
}

func TestResetsAtANodePortOpenNothing(t *testing.T) {
	b := nodeBench(t, model.Options{}, shop("far", ""))
	reset := ip("192.0.2.1", "172.18.0.2", model.ProtocolTCP, tcp(45000, 30080, flagRST))
	b.pass(b.in(reset), tuple(model.ProtocolTCP, "172.18.0.2", 45000, "10.0.1.1", 8080), model.OutDevice)
	b.requirePassBy(b.in(ip("10.0.1.1", "172.18.0.2", model.ProtocolTCP, tcp(8080, 45000, flagACK))), model.OutHost)
	middle := b.in(ip("192.0.2.1", "172.18.0.2", model.ProtocolTCP, tcp(45000, 30080, flagACK)))
	require.NotNil(t, middle.Translations[0].flow, "what comes in the middle is judged like a beginning")
}

func TestRoutesAreAskedWhereADeviceLeadsOn(t *testing.T) {
	b := nodeBench(t, model.Options{Masquerade: true}, shop("far", ""))
	local := b.oracle.local
	local.Routes = []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16"), netip.MustParsePrefix("192.0.2.0/24")}
	b.oracle.SetNetwork(b.objs, local)
	requireDrop(t, b.in(syn("192.0.2.1", "172.18.0.2", 1, 30080)), model.ReasonNoRoute)
	requireDrop(t, b.from(client, syn("10.0.0.1", "198.51.100.1", 1, 80)), model.ReasonNoRoute)
}

// The datapath looks flows up before it finds that their service is gone.
func TestWhatGoesOnByItselfKeepsTheFlowThatItMet(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("far", ""))
		sent := func(flags tcpFlags) []byte { return ip(f.node, f.cluster, model.ProtocolTCP, tcp(7, 80, flags)) }
		answer := ip(f.far, f.node, model.ProtocolTCP, tcp(8080, 7, flagACK))
		b.pass(b.out(sent(flagFIN|flagACK)), tuple(model.ProtocolTCP, f.node, 7, f.far, 8080), model.OutDevice)
		b.pass(b.in(answer), tuple(model.ProtocolTCP, f.cluster, 80, f.node, 7), model.OutHost)
		b.delete("service", "shop")
		b.now = b.now.Add(130 * time.Second)
		e := b.out(sent(flagACK))
		b.requirePassBy(e, model.OutDevice)
		b.oracle.Observe(e, tuple(model.ProtocolTCP, f.node, 7, f.cluster, 80), b.now)
		b.oracle.Collect(b.now)

		e = b.in(answer)
		require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: tuple(model.ProtocolTCP, f.cluster, 80, f.node, 7), Out: model.OutHost}))
		require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: tuple(model.ProtocolTCP, f.far, 8080, f.node, 7), Out: model.OutHost}))
	})
}
