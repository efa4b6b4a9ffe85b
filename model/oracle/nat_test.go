// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func masquerading() model.Options {
	return model.Options{Masquerade: true, MasqueradeExcluded: []netip.Prefix{
		netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:51::/48"),
	}}
}

const podBlocks = `
apiVersion: v1
kind: Node
metadata: {name: node-b}
spec: {podCIDR: 10.0.1.0/24, podCIDRs: [10.0.1.0/24, "fd00:1::/64"]}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}, {type: InternalIP, address: "fd18::3"}]}
`

func TestWhatLeavesTheClusterHasTheNodesSource(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, masquerading(), podBlocks)
		excluded, unknownPod := "198.51.100.7", "10.0.1.200"
		if f.name == "IPv6" {
			excluded, unknownPod = "2001:db8:51::7", "fd00:1::200"
		}
		tests := []struct {
			name, dst string
			source    string
			out       model.Out
		}{
			{"the world", f.outside, f.node, model.OutDevice},
			{"another node", f.other, f.client, model.OutDevice},
			{"a pod of another node", f.far, f.client, model.OutDevice},
			{"another node's block of pods", unknownPod, f.client, model.OutDevice},
			{"what the operator excludes", excluded, f.client, model.OutDevice},
			{"a pod of this node", f.web0, f.client, model.OutLocal},
			{"the node", f.node, f.client, model.OutHost},
			{"the gateway", f.gateway, f.client, model.OutHost},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				e := b.from(client, ip(f.client, tt.dst, model.ProtocolTCP, tcp(45000, 443, flagSYN)))
				require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: tuple(model.ProtocolTCP, tt.source, 45000, tt.dst, 443), Out: tt.out}))
				require.Len(t, e.Translations, 1)
				require.False(t, e.Translations[0].AnySport)
			})
		}
		off := nodeBench(t, model.Options{})
		require.Equal(t, f.client, off.from(client, ip(f.client, f.outside, model.ProtocolTCP, tcp(45000, 443, flagSYN))).Translations[0].Tuple.Src.String())
		alone := newBench(t)
		local := testLocal()
		local.Options.Masquerade = true
		alone.oracle.SetNetwork(alone.objs, local)
		require.Equal(t, f.client, alone.from(client, ip(f.client, f.outside, model.ProtocolTCP, tcp(45000, 443, flagSYN))).Translations[0].Tuple.Src.String(), "without an uplink no answer would be seen")
	})
}

func TestAnswersToMasqueradedFlowsComeByTheDevice(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, masquerading(), denyIngress("client"))
		b.requireOnly(b.from(client, ip(f.client, f.outside, model.ProtocolTCP, tcp(45000, 443, flagSYN))), tuple(model.ProtocolTCP, f.node, 45000, f.outside, 443), Translation{Out: model.OutDevice, Hops: 1})
		answer := ip(f.outside, f.node, model.ProtocolTCP, tcp(443, 45000, flagSYN|flagACK))
		back := tuple(model.ProtocolTCP, f.outside, 443, f.client, 45000)
		b.requireOnly(b.in(answer), back, Translation{Out: model.OutLocal, Endpoint: client, Hops: 1})
		requireDrop(t, b.in(with(answer, hopsAt(f), 1)), model.ReasonTTLExceeded)
		requireDrop(t, b.to(client, ip(f.outside, f.client, model.ProtocolTCP, tcp(443, 45000, flagSYN|flagACK))), model.ReasonPolicyIngress)

		// Judged anew: by the egress policy of the pod, as long as it has the address.
		b.apply()
		b.requireOnly(b.in(answer), back, Translation{Out: model.OutLocal, Endpoint: client, Hops: 1})
		b.apply(denyEgress("client"))
		requireDrop(t, b.in(answer), model.ReasonPolicyEgress)
		b.delete("networkpolicy", "lock-client")
		b.requireOnly(b.in(answer), back, Translation{Out: model.OutLocal, Endpoint: client, Hops: 1})
		b.delete("pod", "client")
		e := b.in(answer)
		require.Equal(t, model.Drop, e.Action)
		require.Contains(t, e.Reasons, model.ReasonNoEndpoint)

		// Pings are told apart by their identifiers.
		b = nodeBench(t, masquerading())
		b.requireOnly(b.from(client, ip(f.client, f.outside, f.echo, icmp(f.ping, 0, 40007))), tuple(f.echo, f.node, 40007, f.outside, 0), Translation{Out: model.OutDevice, Hops: 1})
		second := b.from(web0, ip(f.web0, f.outside, f.echo, icmp(f.ping, 0, 40007)))
		require.Error(t, second.Check(Outcome{Action: model.Forward, Tuple: tuple(f.echo, f.node, 40007, f.outside, 0)}))
		b.pass(second, tuple(f.echo, f.node, 43333, f.outside, 0), model.OutDevice)
		b.requireOnly(b.in(ip(f.outside, f.node, f.echo, icmp(f.pong, 0, 43333))), tuple(f.echo, f.outside, 0, f.web0, 40007), Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
		b.requireOnly(b.in(ip(f.outside, f.node, f.echo, icmp(f.pong, 0, 40007))), tuple(f.echo, f.outside, 0, f.client, 40007), Translation{Out: model.OutLocal, Endpoint: client, Hops: 1})
	})
}

func TestAPortIsLentToOneFlowForEachPeer(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		options := masquerading()
		options.FirstPort, options.LastPort = 49999, 50002 // the first is the node's, and of the others a pod has one
		b := nodeBench(t, options)
		open := func(name, src string, sport, dport uint16) Expectation {
			return b.from(name, ip(src, f.outside, model.ProtocolUDP, udp(sport, dport, 0)))
		}
		lent := func(sport, dport uint16) model.Tuple {
			return tuple(model.ProtocolUDP, f.node, sport, f.outside, dport)
		}
		b.pass(open(client, f.client, 50002, 53), lent(50002, 53), model.OutDevice)
		require.False(t, open(web0, f.web0, 50002, 54).Translations[0].AnySport, "another port of the peer is another flow")

		e := open(web0, f.web0, 50002, 53)
		for sport, right := range map[uint16]bool{50002: false, 49999: false, 50000: true, 50001: true, 50003: false} {
			err := e.Check(Outcome{Action: model.Forward, Tuple: lent(sport, 53)})
			require.Equal(t, right, err == nil, "port %d", sport)
		}
		require.Error(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonNoSourcePort}), "there is room")
		b.pass(e, lent(50001, 53), model.OutDevice)
		b.requireOnly(open(web0, f.web0, 50002, 53), lent(50001, 53), Translation{Out: model.OutDevice, Hops: 1})
		b.apply()
		b.requireOnly(open(web0, f.web0, 50002, 53), lent(50001, 53), Translation{Out: model.OutDevice, Hops: 1})

		none := func(name, src string) {
			e := open(name, src, 6000, 53)
			require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonNoSourcePort}))
			for sport := uint16(49999); sport < 50004; sport++ {
				require.Error(t, e.Check(Outcome{Action: model.Forward, Tuple: lent(sport, 53)}))
			}
		}
		none(client, f.client) // there is a port, but not for who has one
		last := open(web1, f.web1, 7000, 53)
		require.Error(t, last.Check(Outcome{Action: model.Forward, Tuple: lent(7000, 53)}), "there the node may be spoken to")
		b.pass(last, lent(50000, 53), model.OutDevice)
		none(web1, f.web1)
		b.now = b.now.Add(40 * time.Second)
		require.False(t, open(web1, f.web1, 50002, 53).Translations[0].AnySport, "unanswered flows give their ports back")
	})
}

func TestProtocolsWhosePortCannotChangeNeedTheirOwn(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for name, frame := range map[string]func(src string) []byte{
			"SCTP": func(src string) []byte {
				return ip(src, f.outside, model.ProtocolSCTP, append(tcp(45000, 443, 0)[:4], make([]byte, 8)...))
			},
			"a protocol without any": func(src string) []byte { return ip(src, f.outside, 47, make([]byte, 8)) },
		} {
			t.Run(name, func(t *testing.T) {
				b := nodeBench(t, masquerading())
				e := b.from(client, frame(f.client))
				require.Equal(t, f.node, e.Translations[0].Tuple.Src.String())
				b.pass(e, e.Translations[0].Tuple, model.OutDevice)
				requireDrop(t, b.from(web0, frame(f.web0)), model.ReasonNoSourcePort)
				require.Equal(t, model.Forward, b.from(client, frame(f.client)).Action)
			})
		}
	})
}

func TestAServiceOutsideTheClusterIsMasqueradedToo(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, masquerading(), strings.ReplaceAll(sliced("abroad", f), "ADDRESS", f.outside))
		b.requireOnly(b.from(client, ip(f.client, f.cluster, model.ProtocolTCP, tcp(45000, 80, flagSYN))), tuple(model.ProtocolTCP, f.node, 45000, f.outside, 8080), Translation{Out: model.OutDevice, Hops: 1})
		b.requireOnly(b.in(ip(f.outside, f.node, model.ProtocolTCP, tcp(8080, 45000, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.cluster, 80, f.client, 45000), Translation{Out: model.OutLocal, Endpoint: client, Hops: 1})
	})
}

// sliced is a service whose one endpoint is ADDRESS.
func sliced(name string, f family) string {
	return `
apiVersion: v1
kind: Service
metadata: {name: ` + name + `}
spec: {clusterIPs: ["` + f.cluster + `"], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: ` + name + `, labels: {kubernetes.io/service-name: ` + name + `}}
addressType: ` + f.name + `
ports: [{name: "", port: 8080}]
endpoints: [{addresses: ["ADDRESS"]}]
`
}

func TestAFlowThatIsJudgedAnewHasTheSourceThatItsPeerAsksFor(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, masquerading())
		frame := ip(f.client, f.outside, model.ProtocolTCP, tcp(45000, 443, flagSYN))
		lent, own := tuple(model.ProtocolTCP, f.node, 45000, f.outside, 443), tuple(model.ProtocolTCP, f.client, 45000, f.outside, 443)
		b.requireOnly(b.from(client, frame), lent, Translation{Out: model.OutDevice, Hops: 1})
		native := strings.ReplaceAll(`
apiVersion: v1
kind: Pod
metadata: {name: friend}
spec: {nodeName: node-b}
status: {podIPs: [{ip: "ADDRESS"}]}
`, "ADDRESS", f.outside)
		b.apply(native)
		b.requireOnly(b.from(client, frame), own, Translation{Out: model.OutDevice, Hops: 1})
		b.requireOnly(b.to(client, ip(f.outside, f.client, model.ProtocolTCP, tcp(443, 45000, flagSYN|flagACK))), own.Reversed(), Translation{Out: model.OutLocal, Endpoint: client})
		b.delete("pod", "friend")
		e := b.from(client, frame)
		b.pass(e, lent, model.OutDevice)
		b.pass(b.in(ip(f.outside, f.node, model.ProtocolTCP, tcp(443, 45000, flagACK))), own.Reversed(), model.OutLocal)
	})
}

func TestAPodReachesItselfThroughItsNodesPort(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, masquerading(), shop("web", ""), denyIngress("web"))
		b.delete("pod", "web-1")
		b.requireOnly(b.from(web0, ip(f.web0, f.node, model.ProtocolTCP, tcp(45000, 30080, flagSYN))), tuple(model.ProtocolTCP, f.node, 45000, f.web0, 8080), Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
		b.requireOnly(b.from(web0, ip(f.web0, f.node, model.ProtocolTCP, tcp(8080, 45000, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.node, 30080, f.web0, 45000), Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
	})
}

func TestFragmentsOfAMasqueradedPacketKeepItsAddresses(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, masquerading())
		first := udp(45000, 53, 16)
		first[5] = 64
		lent := tuple(model.ProtocolUDP, f.node, 45000, f.outside, 53)
		b.pass(b.from(client, part(f.client, f.outside, model.ProtocolUDP, 9, 0, true, first)), lent, model.OutDevice)
		b.pass(b.from(client, part(f.client, f.outside, model.ProtocolUDP, 9, 24, false, make([]byte, 16))), portless(lent), model.OutDevice)
		answer := udp(53, 45000, 16)
		answer[5] = 64
		b.pass(b.in(part(f.outside, f.node, model.ProtocolUDP, 9, 0, true, answer)), tuple(model.ProtocolUDP, f.outside, 53, f.client, 45000), model.OutLocal)
		b.pass(b.in(part(f.outside, f.node, model.ProtocolUDP, 9, 24, false, make([]byte, 16))), portless(tuple(model.ProtocolUDP, f.outside, 0, f.client, 0)), model.OutLocal)
	})
}

func TestPolicySeesNoMasquerading(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, masquerading())
		frame := ip(f.client, f.outside, model.ProtocolTCP, tcp(45000, 443, flagSYN))
		lent, own := tuple(model.ProtocolTCP, f.node, 45000, f.outside, 443), tuple(model.ProtocolTCP, f.client, 45000, f.outside, 443)
		b.pass(b.from(client, frame), lent, model.OutDevice)
		// A pod of this node has the peer's address by now, and lets in the client.
		b.apply(strings.ReplaceAll(`
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: late}}
spec: {nodeName: node-a}
status: {podIPs: [{ip: "ADDRESS"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: late}
spec:
  podSelector: {matchLabels: {app: late}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
`, "ADDRESS", f.outside))
		answer := ip(f.outside, f.node, model.ProtocolTCP, tcp(443, 45000, flagACK))
		// And so nobody beyond the node answers from it.
		requireDrop(t, b.in(answer), model.ReasonSpoofedSource)
		b.requireOnly(b.from(client, frame), own, Translation{Out: model.OutLocal, Endpoint: web1, Hops: 1})
	})
}

func TestAFlowThatMovesToADeviceLooksForAPortThere(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, strings.ReplaceAll(sliced("moving", f), "ADDRESS", f.web1), strings.ReplaceAll(shop("web", ""), "10.96.0.30, \"fd96::30\"", "10.96.0.31, \"fd96::31\""))
		mine := ip(f.node, f.cluster, model.ProtocolTCP, tcp(40000, 80, flagSYN))
		b.pass(b.out(mine), tuple(model.ProtocolTCP, f.node, 40000, f.web1, 8080), model.OutLocal)
		b.delete("pod", "web-1") // its address is somewhere else
		b.apply(strings.ReplaceAll(sliced("moving", f), "ADDRESS", f.web1), strings.ReplaceAll(strings.ReplaceAll(sliced("other", f), f.cluster, strings.TrimSuffix(f.cluster, "0")+"9"), "ADDRESS", f.web1))
		taken := tuple(model.ProtocolTCP, f.node, 40000, f.web1, 8080)
		b.pass(b.out(ip(f.node, strings.TrimSuffix(f.cluster, "0")+"9", model.ProtocolTCP, tcp(40000, 80, flagSYN))), taken, model.OutDevice)
		e := b.out(mine)
		require.True(t, e.Translations[0].AnySport)
		require.Error(t, e.Check(Outcome{Action: model.Forward, Tuple: taken}), "another flow's answers come to that port")
		taken.Sport = 50000
		require.Error(t, e.Check(Outcome{Action: model.Forward, Tuple: taken, Out: model.OutDevice}), "pods may have that one")
		taken.Sport = 36863
		require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: taken, Out: model.OutDevice}))
	})
}

func TestAnotherFamilysICMPHasNoIdentifier(t *testing.T) {
	b := nodeBench(t, masquerading())
	stray := func(src string) []byte { return ip(src, "192.0.2.1", model.ProtocolICMPv6, icmp(128, 0, 7)) }
	e := b.from(client, stray("10.0.0.1"))
	b.pass(e, tuple(model.ProtocolICMPv6, "172.18.0.2", 0, "192.0.2.1", 0), model.OutDevice)
	requireDrop(t, b.from(web0, stray("10.0.0.2")), model.ReasonNoSourcePort)
}
