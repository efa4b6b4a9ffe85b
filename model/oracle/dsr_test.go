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

var directly = map[string]model.Options{
	"IPIP":   {Return: model.ReturnDSR, Tunnel: model.TunnelIPIP},
	"Geneve": {Return: model.ReturnDSR, Tunnel: model.TunnelGeneve},
}

// eachTunnel runs a test for each tunnel and family.
func eachTunnel(t *testing.T, test func(t *testing.T, f family, o model.Options)) {
	for name, o := range directly {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, f family) { test(t, f, o) })
		})
	}
}

// around is the tuple of a tunnel's packet, as tests write it down.
func around(o model.Options, src, dst string) model.Tuple {
	t := tuple(4, src, 0, dst, 0)
	if t.Src.Is6() {
		t.Protocol = 41
	}
	if o.Tunnel == model.TunnelGeneve {
		t.Protocol, t.Dport = model.ProtocolUDP, 6081
	}
	return t
}

// inTunnel puts a frame into a tunnel's.
func inTunnel(o model.Options, src, dst string, frame []byte) []byte {
	t := around(o, src, dst)
	if o.Tunnel != model.TunnelGeneve {
		return ip(src, dst, t.Protocol, frame[ethernetLen:])
	}
	header := []byte{0, 0, frame[12], frame[13], 0, 0, 0, 0}
	datagram := with(udp(0xc123, 6081, len(header)+len(frame)-ethernetLen), 6, 0, 0)
	copy(datagram[udpLen:], header)
	copy(datagram[udpLen+len(header):], frame[ethernetLen:])
	return ip(src, dst, model.ProtocolUDP, datagram)
}

// requireLed requires that a frame can only leave by the tunnel to a pod.
func (b *bench) requireLed(e Expectation, o model.Options, src, pod string, inner model.Tuple) {
	b.Helper()
	require.Equal(b, model.Forward, e.Action, strings.Join(e.Story, "\n"))
	require.Empty(b, e.Alternatives, e.String())
	require.Len(b, e.Translations, 1, e.String())
	got := e.Translations[0]
	require.Equal(b, Translation{Tuple: around(o, src, pod), AnySport: o.Tunnel == model.TunnelGeneve, Out: model.OutTunnel, Hops: 1}, bare(got))
	require.Equal(b, inner, got.Inner)
	b.oracle.Observe(e, got.Tuple, b.now)
}

func TestABackendOfAnotherNodeIsLedToAsItIs(t *testing.T) {
	eachTunnel(t, func(t *testing.T, f family, o model.Options) {
		b := nodeBench(t, o, shop("far", ""))
		for _, at := range []struct {
			addr string
			port uint16
		}{{f.node, 30080}, {f.lb, 80}, {f.external, 80}} {
			for _, p := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
				frame, inner := syn(f.outside, at.addr, 5000, at.port), tuple(p, f.outside, 5000, at.addr, at.port)
				if p == model.ProtocolUDP {
					frame = ip(f.outside, at.addr, p, udp(5000, at.port, 0))
				}
				b.requireLed(b.in(frame), o, f.node, f.far, inner)
				b.requireLed(b.in(frame), o, f.node, f.far, inner) // known by now
			}
		}
		spent := with(syn(f.outside, f.node, 5001, 30080), 14+map[string]int{"IPv4": 8, "IPv6": 7}[f.name], 1)
		requireDrop(t, b.in(spent), model.ReasonTTLExceeded)
	})
}

func TestHybridLeadsTCPByTheTunnelAndUDPByTheNodesAddress(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		o := model.Options{Return: model.ReturnHybrid}
		b := nodeBench(t, o, shop("far", ""))
		b.requireLed(b.in(syn(f.outside, f.node, 40000, 30080)), o, f.node, f.far, tuple(model.ProtocolTCP, f.outside, 40000, f.node, 30080))
		b.requireOnly(b.in(ip(f.outside, f.node, model.ProtocolUDP, udp(40000, 30080, 0))), tuple(model.ProtocolUDP, f.node, 40000, f.far, 8080), Translation{Out: model.OutDevice, Hops: 1})
	})
}

func TestOnlyClientsFromOutsideAndOnlyPodsNeedATunnel(t *testing.T) {
	eachTunnel(t, func(t *testing.T, f family, o model.Options) {
		for name, source := range map[string]string{"another node": f.other, "a pod of another node": f.far} {
			t.Run(name, func(t *testing.T) {
				b := nodeBench(t, o, shop("far", ""))
				b.requireOnly(b.in(syn(source, f.node, 40000, 30080)), tuple(model.ProtocolTCP, f.node, 40000, f.far, 8080), Translation{Out: model.OutDevice, Hops: 1})
			})
		}
		t.Run("a backend that is another node", func(t *testing.T) {
			b := nodeBench(t, o, shop("agent", ""), strings.NewReplacer("node-a", "node-b", "172.18.0.2", "172.18.0.3", "fd18::2", "fd18::3").Replace(hostPod))
			b.requireOnly(b.in(syn(f.outside, f.node, 40000, 30080)), tuple(model.ProtocolTCP, f.node, 40000, f.other, 8080), Translation{Out: model.OutDevice, Hops: 1})
		})
		t.Run("a backend of this node", func(t *testing.T) {
			b := nodeBench(t, o, shop("client", ""))
			b.requireOnly(b.in(syn(f.outside, f.node, 40000, 30080)), tuple(model.ProtocolTCP, f.outside, 40000, f.client, 8080), Translation{Out: model.OutLocal, Endpoint: client, Hops: 1})
		})
	})
}

func TestWhatDoesNotFitIntoTheTunnelIsToldWhereItCanBe(t *testing.T) {
	eachTunnel(t, func(t *testing.T, f family, o model.Options) {
		b := nodeBench(t, o, shop("far", ""))
		header, outer := ipv4Len, ipv4Len
		if f.name == "IPv6" {
			header, outer = ipv6Len, ipv6Len
		}
		if o.Tunnel == model.TunnelGeneve {
			outer += udpLen + geneveLen
		}
		room := 1500 - outer - header - udpLen
		datagram := func(payload int) []byte {
			return ip(f.outside, f.node, model.ProtocolUDP, udp(5000, 30080, payload))
		}
		b.requireLed(b.in(datagram(room)), o, f.node, f.far, tuple(model.ProtocolUDP, f.outside, 5000, f.node, 30080))
		requireReply(t, b.in(datagram(room+1)), model.ReasonTooBig)
		first := part(f.outside, f.node, model.ProtocolUDP, 7, 0, true, udp(5000, 30080, room+1))
		requireReply(t, b.in(first), model.ReasonTooBig)
		b.oracle.Meet(b.in(first), b.now)
		later := part(f.outside, f.node, model.ProtocolUDP, 7, 1600, false, make([]byte, room+9))
		requireDrop(t, b.in(later), model.ReasonTooBig)
		quoted := quoting(ip(f.node, f.outside, model.ProtocolUDP, udp(30080, 5000, room)))
		requireDrop(t, b.in(unreachable(f.outside, f.node, quoted)), model.ReasonTooBig)
	})
}

func TestAnErrorAboutAnAnswerGoesThroughTheTunnelAsItIs(t *testing.T) {
	eachTunnel(t, func(t *testing.T, f family, o model.Options) {
		b := nodeBench(t, o, shop("far", ""))
		b.requireLed(b.in(syn(f.outside, f.node, 5000, 30080)), o, f.node, f.far, tuple(model.ProtocolTCP, f.outside, 5000, f.node, 30080))
		answer := quoting(ip(f.node, f.outside, model.ProtocolTCP, tcp(30080, 5000, flagACK)))
		e := b.in(unreachable(f.guest, f.node, answer))
		require.Len(t, e.Translations, 1, e.String())
		require.Equal(t, tuple(model.ProtocolTCP, f.node, 30080, f.outside, 5000), e.Translations[0].Quoted)
		b.requireLed(e, o, f.node, f.far, tuple(f.echo, f.guest, 0, f.node, 0))
		// On the pod's node.
		pod := nodeBench(t, o, shop("client", ""))
		pod.requireOnly(pod.in(inTunnel(o, f.other, f.client, syn(f.outside, f.other, 5000, 30080))), tuple(model.ProtocolTCP, f.outside, 5000, f.client, 8080), Translation{Out: model.OutLocal, Endpoint: client, Hops: 1})
		answer = quoting(ip(f.other, f.outside, model.ProtocolTCP, tcp(30080, 5000, flagACK)))
		e = pod.in(inTunnel(o, f.other, f.client, unreachable(f.guest, f.other, answer)))
		pod.passError(e, between(f.guest, f.client), tuple(model.ProtocolTCP, f.client, 8080, f.outside, 5000), model.OutLocal)
	})
}

func TestThePodsNodeTakesOutWhatAnotherNodeLeadsToIt(t *testing.T) {
	eachTunnel(t, func(t *testing.T, f family, o model.Options) {
		b := nodeBench(t, o, shop("web", ""))
		local := Translation{Out: model.OutLocal, Endpoint: web1, Hops: 1}
		for name, at := range map[string]struct {
			addr string
			port uint16
		}{
			"a node port of the other node": {f.other, 30080}, "a node port of its own": {f.node, 30080},
			"a load balancer": {f.lb, 80}, "an external address": {f.external, 80},
		} {
			t.Run(name, func(t *testing.T) {
				b := nodeBench(t, o, shop("web", ""))
				frame := inTunnel(o, f.other, f.web1, syn(f.outside, at.addr, 5000, at.port))
				e := b.in(frame)
				require.Equal(t, tuple(model.ProtocolTCP, f.outside, 5000, at.addr, at.port), e.Tuple)
				b.requireOnly(e, tuple(model.ProtocolTCP, f.outside, 5000, f.web1, 8080), local)
				b.requireOnly(b.in(frame), tuple(model.ProtocolTCP, f.outside, 5000, f.web1, 8080), local)
				answer := b.from(web1, ip(f.web1, f.outside, model.ProtocolTCP, tcp(8080, 5000, flagSYN|flagACK)))
				b.requireOnly(answer, tuple(model.ProtocolTCP, at.addr, at.port, f.outside, 5000), Translation{Out: model.OutDevice, Hops: 1})
			})
		}
		t.Run("another pod than before", func(t *testing.T) {
			frame := syn(f.outside, f.other, 5001, 30080)
			b.requireOnly(b.in(inTunnel(o, f.other, f.web1, frame)), tuple(model.ProtocolTCP, f.outside, 5001, f.web1, 8080), local)
			b.requireOnly(b.in(inTunnel(o, f.other, f.web0, frame)), tuple(model.ProtocolTCP, f.outside, 5001, f.web0, 8080), Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
		})
		t.Run("a pod that the service does not list", func(t *testing.T) {
			requireDrop(t, b.in(inTunnel(o, f.other, f.client, syn(f.outside, f.other, 5002, 30080))), model.ReasonNoBackend)
		})
		t.Run("a pod that policy keeps", func(t *testing.T) {
			b := nodeBench(t, o, shop("web", ""), denyIngress("web"))
			requireDrop(t, b.in(inTunnel(o, f.other, f.web1, syn(f.outside, f.other, 5000, 30080))), model.ReasonPolicyIngress)
		})
		t.Run("a client that is no client", func(t *testing.T) {
			requireDrop(t, b.in(inTunnel(o, f.other, f.web1, syn(f.client, f.other, 5003, 30080))), model.ReasonSpoofedSource)
			requireDrop(t, b.in(inTunnel(o, f.other, f.web1, syn(f.node, f.other, 5003, 30080))), model.ReasonMartianSource)
		})
	})
}

func TestWhatIsInATunnelAndForNobodyIsDropped(t *testing.T) {
	eachTunnel(t, func(t *testing.T, f family, o model.Options) {
		b := nodeBench(t, o, shop("web", ""))
		good := syn(f.outside, f.other, 5000, 30080)
		for name, inner := range map[string][]byte{
			"no service's port":         syn(f.outside, f.other, 5000, 30081),
			"a cluster address":         syn(f.outside, f.cluster, 5000, 80),
			"the pod itself":            syn(f.outside, f.web1, 5000, 8080),
			"nothing":                   good[:ethernetLen],
			"a part of a header":        good[:ethernetLen+10],
			"a part of TCP's header":    good[:len(good)-5],
			"another version":           with(good, ethernetLen, 0x75),
			"no flags":                  ip(f.outside, f.other, model.ProtocolTCP, tcp(5000, 30080, 0)),
			"a ping":                    ip(f.outside, f.other, f.echo, icmp(f.ping, 0, 7)),
			"an error of nothing known": unreachable(f.outside, f.other, quoting(ip(f.other, f.outside, model.ProtocolTCP, tcp(30080, 5000, flagACK)))),
			"a tunnel":                  inTunnel(o, f.other, f.web1, good),
			"a later part of nothing":   part(f.outside, f.other, model.ProtocolTCP, 7, 64, false, make([]byte, 8)),
		} {
			t.Run(name, func(t *testing.T) {
				requireDrop(t, b.in(inTunnel(o, f.other, f.web1, inner)), model.ReasonBadTunnel)
			})
		}
	})
}

func TestGeneveIsWithoutOptionsAndWithAPacketOfTheFamily(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		o := directly["Geneve"]
		b := nodeBench(t, o, shop("web", ""))
		good := inTunnel(o, f.other, f.web1, syn(f.outside, f.other, 5000, 30080))
		at := ethernetLen + ipv4Len + udpLen
		if f.name == "IPv6" {
			at = ethernetLen + ipv6Len + udpLen
		}
		for name, frame := range map[string][]byte{
			"options": with(good, at, 1), "another version": with(good, at, 0x40),
			"an Ethernet frame": with(good, at+2, 0x65, 0x58), "the other family": with(good, at+2, good[12]^0x8e, good[13]^0xdd),
			"no header": ip(f.other, f.web1, model.ProtocolUDP, udp(0xc000, 6081, 7)),
		} {
			t.Run(name, func(t *testing.T) { requireDrop(t, b.in(frame), model.ReasonBadTunnel) })
		}
	})
}

func TestWhatIsNoTunnelOfANodeIsTheKernels(t *testing.T) {
	eachTunnel(t, func(t *testing.T, f family, o model.Options) {
		inner := syn(f.outside, f.other, 5000, 30080)
		off := inTunnel(o, f.other, f.web1, inner)
		for name, tt := range map[string]struct {
			options model.Options
			frame   []byte
		}{
			"from outside":             {o, inTunnel(o, f.outside, f.web1, inner)},
			"from a pod of that node":  {o, inTunnel(o, f.far, f.web1, inner)},
			"to the node itself":       {o, inTunnel(o, f.other, f.node, inner)},
			"to a pod of another node": {o, inTunnel(o, f.other, f.far, inner)},
			"where none is used":       {model.Options{Tunnel: o.Tunnel}, off},
			"to the address of none":   {o, syn(f.outside, anyNode(netip.MustParseAddr(f.node)).String(), 5000, 30080)},
		} {
			t.Run(name, func(t *testing.T) {
				b := nodeBench(t, tt.options, shop("web", ""))
				b.requirePassBy(b.in(tt.frame), model.OutHost)
			})
		}
		for name, other := range directly {
			if other.Tunnel != o.Tunnel {
				t.Run("where "+name+" is used", func(t *testing.T) {
					b := nodeBench(t, other, shop("web", ""))
					b.requirePassBy(b.in(off), model.OutHost)
				})
			}
		}
	})
}

func TestAFlowWhoseAnswersGoAnotherWayLastsByItsOpenersWord(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		o := directly["IPIP"]
		surely := func(b *bench, protocol model.Protocol) bool {
			found := b.oracle.flows[flowKey{model.Where{Hook: model.FromDevice, Endpoint: "node-a"}, tuple(protocol, f.outside, 5000, f.node, 30080)}]
			require.NotNil(b, found.flow)
			return found.ought(protocol, b.now) == must
		}
		send := func(b *bench, frame []byte) {
			e := b.in(frame)
			require.Len(b, e.Translations, 1, e.String())
			b.oracle.Observe(e, e.Translations[0].Tuple, b.now)
		}
		b := nodeBench(t, o, shop("far", ""))
		send(b, syn(f.outside, f.node, 5000, 30080))
		b.now = b.now.Add(50 * time.Second)
		require.True(t, surely(b, model.ProtocolTCP))
		b.now = b.now.Add(12 * time.Second)
		require.False(t, surely(b, model.ProtocolTCP), "nobody has acknowledged anything")
		send(b, syn(f.outside, f.node, 5000, 30080))
		send(b, ip(f.outside, f.node, model.ProtocolTCP, tcp(5000, 30080, flagACK)))
		b.now = b.now.Add(5 * time.Hour)
		require.True(t, surely(b, model.ProtocolTCP))
		send(b, ip(f.outside, f.node, model.ProtocolTCP, tcp(5000, 30080, flagFIN|flagACK)))
		b.now = b.now.Add(230 * time.Second)
		require.True(t, surely(b, model.ProtocolTCP))
		b.now = b.now.Add(20 * time.Second)
		require.False(t, surely(b, model.ProtocolTCP))

		datagram := ip(f.outside, f.node, model.ProtocolUDP, udp(5000, 30080, 0))
		for range 3 {
			send(b, datagram)
			b.now = b.now.Add(25 * time.Second)
			require.True(t, surely(b, model.ProtocolUDP))
		}
		b.now = b.now.Add(10 * time.Second)
		require.False(t, surely(b, model.ProtocolUDP))
	})
}

func TestATunnelLeadsWhereTheServiceLeadsNow(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		o := directly["Geneve"]
		b := nodeBench(t, o, shop("far", ""))
		datagram := ip(f.outside, f.node, model.ProtocolUDP, udp(5000, 30080, 0))
		b.requireLed(b.in(datagram), o, f.node, f.far, tuple(model.ProtocolUDP, f.outside, 5000, f.node, 30080))
		b.apply(shop("client", ""))
		b.requireOnly(b.in(datagram), tuple(model.ProtocolUDP, f.outside, 5000, f.client, 8080), Translation{Out: model.OutLocal, Endpoint: client, Hops: 1})
		b.requireOnly(b.from(client, ip(f.client, f.outside, model.ProtocolUDP, udp(8080, 5000, 0))), tuple(model.ProtocolUDP, f.node, 30080, f.outside, 5000), Translation{Out: model.OutDevice, Hops: 1})
		b.apply(shop("far", ""))
		b.requireLed(b.in(datagram), o, f.node, f.far, tuple(model.ProtocolUDP, f.outside, 5000, f.node, 30080))
	})
}
