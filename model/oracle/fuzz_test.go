// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func seedFrames() [][]byte {
	mac := podMAC(client)
	return [][]byte{
		nil,
		syn("10.0.0.1", "10.96.0.10", 40000, 80),
		syn("10.0.0.2", "10.96.0.10", 40000, 80),
		syn("fd00::1", "fd96::10", 40000, 80),
		ip("10.0.0.2", "10.0.0.1", model.ProtocolTCP, tcp(8080, 40000, flagSYN|flagACK)),
		ip("10.0.0.1", "192.0.2.1", model.ProtocolUDP, udp(1, 53, 9)),
		ip("192.0.2.1", "10.0.0.1", model.ProtocolUDP, udp(53, 1, 9)),
		ip("10.0.0.1", "10.0.0.2", model.ProtocolICMP, icmp(8, 0, 7)),
		ip("fd00::1", "fd00::2", model.ProtocolICMPv6, icmp(128, 0, 7)),
		ip("fd00::1", "ff02::1", model.ProtocolICMPv6, neighbour(135, 0, "fd00::fe")),
		ip("fd00::1", "fd00::2", 0, extensions(60, 7)),
		ip("fd00::1", "fd00::2", 44, make([]byte, 8)),
		arp(1, mac, "10.0.0.1", "10.0.0.254"),
		ethernet(0x8100, make([]byte, 40)),
		syn("192.0.2.1", "172.18.0.2", 5000, 30080),
		syn("2001:db8::1", "2001:db8:80::80", 5000, 80),
		syn("172.18.0.2", "10.96.0.30", 40000, 80),
		ip("10.0.0.3", "192.0.2.1", model.ProtocolTCP, tcp(8080, 5000, flagSYN|flagACK)),
		ip("192.0.2.1", "172.18.0.2", model.ProtocolUDP, udp(53, 1, 9)),
		unreachable("10.0.1.1", "172.18.0.2", quoting(ip("172.18.0.2", "10.0.1.1", model.ProtocolTCP, tcp(5000, 8080, flagSYN)))),
		part("192.0.2.1", "172.18.0.2", model.ProtocolUDP, 9, 0, true, udp(5000, 30080, 16)),
		part("192.0.2.1", "172.18.0.2", model.ProtocolUDP, 9, 24, false, make([]byte, 16)),
	}
}

func FuzzEvaluate(f *testing.F) {
	places := []model.Where{{Hook: model.FromContainer, Endpoint: web0}, {Hook: model.ToContainer, Endpoint: client}, {Hook: model.FromDevice, Endpoint: "node-a"}, {Hook: model.ToDevice, Endpoint: "node-a"}}
	for i, frame := range seedFrames() {
		for place := range places {
			f.Add(frame, seedFrames()[(i+1)%len(seedFrames())], uint8(place))
		}
	}
	returns := []model.Options{{Masquerade: true}, directly["IPIP"], directly["Geneve"]}
	for i, o := range returns[1:] {
		for _, family := range families {
			led := inTunnel(o, family.other, family.web0, syn(family.outside, family.other, 5000, 30080))
			f.Add(led, syn(family.outside, family.node, 5000, 30080), uint8(2+len(places)*(i+1)))
		}
	}
	objs := mustParse(f, clusterYAML+"\n---\n"+denyEgress("web")+"\n---\n"+shop("far", "  sessionAffinity: ClientIP\n  loadBalancerSourceRanges: [192.0.2.0/24]"))
	local := testLocal()
	local.Uplinks = []model.Uplink{{Name: "eth0", Ifindex: 2}}
	f.Fuzz(func(t *testing.T, first, second []byte, place uint8) {
		local := local
		local.Options = returns[int(place)/len(places)%len(returns)]
		b := &bench{T: t, oracle: NewOracle("node-a", local), objs: objs, now: time.Unix(1_000_000, 0)}
		b.apply()
		where := places[int(place)%len(places)]
		for _, frame := range [][]byte{first, second} {
			for _, at := range []model.Where{{Hook: model.FromContainer, Endpoint: client}, where, {Hook: model.FromContainer, Endpoint: "default/ghost"}, {Hook: model.FromDevice, Endpoint: "node-a"}} {
				e := b.oracle.Evaluate(frame, at, b.now)
				requireSound(t, e)
				require.Equal(t, e.String(), b.oracle.Evaluate(frame, at, b.now).String(), "evaluating changes nothing")
				for _, translation := range e.Translations {
					b.oracle.Observe(e, somePort(translation), b.now)
				}
				b.now = b.now.Add(7 * time.Second)
			}
			b.apply()
		}
		b.oracle.Collect(b.now.Add(time.Hour))
	})
}

// requireSound is what holds of every expectation.
func requireSound(t *testing.T, e Expectation) {
	t.Helper()
	require.NotEmpty(t, e.Story)
	for _, possible := range e.all() {
		switch possible.Action {
		case model.Forward:
			require.NotEmpty(t, possible.Translations)
			require.Empty(t, possible.Reasons)
			for _, translation := range possible.Translations {
				require.Contains(t, []model.Out{model.OutLocal, model.OutHost, model.OutDevice, model.OutTunnel}, translation.Out)
				require.Equal(t, translation.Out == model.OutLocal, translation.Endpoint != "")
				same := e.Tuple.Protocol == translation.Tuple.Protocol || e.Tuple.Protocol == translation.Inner.Protocol
				require.True(t, translation.Unchanged || same)
				require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: somePort(translation), Out: translation.Out}))
			}
		case model.Drop, model.Reply:
			require.NotEmpty(t, possible.Reasons)
			require.Empty(t, possible.Translations)
		default:
			t.Fatalf("no action: %v", possible)
		}
	}
}

// somePort is a tuple that a translation may leave as.
func somePort(t Translation) model.Tuple {
	tuple := t.Tuple
	for ; t.AnySport && !t.leavesAs(tuple); tuple.Sport++ {
	}
	return tuple
}

func BenchmarkEvaluate(b *testing.B) {
	oracle := NewOracle("node-a", testLocal())
	oracle.SetObjects(mustParse(b, clusterYAML))
	frame, now := syn("10.0.0.1", "10.96.0.10", 40000, 80), time.Unix(1, 0)
	for b.Loop() {
		if e := oracle.Evaluate(frame, model.Where{Hook: model.FromContainer, Endpoint: client}, now); e.Action != model.Forward {
			b.Fatal(e)
		}
	}
}
