// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// unreachable makes a port unreachable of a family, which quotes a packet.
func unreachable(src, dst string, quoted []byte) []byte {
	if len(quoted) > 0 && quoted[0]>>4 == 6 {
		return ip(src, dst, model.ProtocolICMPv6, append(icmp(1, 4, 0), quoted...))
	}
	return ip(src, dst, model.ProtocolICMP, append(icmp(3, 3, 0), quoted...))
}

// quoting takes the Ethernet header off a packet.
func quoting(frame []byte) []byte { return frame[ethernetLen:] }

// passError requires that an error may leave with this outer and quoted tuple.
func (b *bench) passError(e Expectation, outer, quoted model.Tuple, out model.Out) {
	b.Helper()
	require.NoError(b, e.Check(Outcome{Action: model.Forward, Tuple: outer, Quoted: quoted, Out: out}))
	require.Error(b, e.Check(Outcome{Action: model.Forward, Tuple: outer, Quoted: quoted.Reversed(), Out: out}))
	b.oracle.Observe(e, outer, b.now)
}

func icmpOf(p model.Tuple) model.Protocol {
	if p.Src.Is4() {
		return model.ProtocolICMP
	}
	return model.ProtocolICMPv6
}

// between is an error's own tuple.
func between(src, dst string) model.Tuple {
	t := tuple(0, src, 0, dst, 0)
	t.Protocol = icmpOf(t)
	return t
}

func TestAnErrorThroughAServiceSpeaksOfTheService(t *testing.T) {
	for _, p := range pods {
		t.Run(p.name, func(t *testing.T) {
			b := newBench(t)
			b.pass(b.from(client, ip(p.client, p.service, model.ProtocolTCP, tcp(40000, 80, flagSYN))), tuple(model.ProtocolTCP, p.client, 40000, p.web0, 8080), model.OutLocal)
			quoted := quoting(ip(p.client, p.web0, model.ProtocolTCP, tcp(40000, 8080, flagSYN)))
			e := b.from(web0, unreachable(p.web0, p.client, quoted))
			require.Equal(t, between(p.web0, p.client), e.Tuple)
			require.Equal(t, 1, e.Translations[0].Hops)
			b.passError(e, between(p.service, p.client), tuple(model.ProtocolTCP, p.client, 40000, p.service, 80), model.OutLocal)

			// The other way: the client tells of an answer.
			b.pass(b.from(web0, ip(p.web0, p.client, model.ProtocolTCP, tcp(8080, 40000, flagSYN|flagACK))), tuple(model.ProtocolTCP, p.service, 80, p.client, 40000), model.OutLocal)
			quoted = quoting(ip(p.service, p.client, model.ProtocolTCP, tcp(80, 40000, flagSYN|flagACK)))
			b.passError(b.from(client, unreachable(p.client, p.service, quoted)), between(p.client, p.web0), tuple(model.ProtocolTCP, p.web0, 8080, p.client, 40000), model.OutLocal)
		})
	}
}

func TestARoutersErrorKeepsItsSourceAndAPodHasNone(t *testing.T) {
	b := newBench(t)
	sent := tuple(model.ProtocolUDP, "10.0.0.1", 5000, "192.0.2.1", 53)
	frame := ip("10.0.0.1", "192.0.2.1", model.ProtocolUDP, udp(5000, 53, 0))
	b.pass(b.from(client, frame), sent, model.OutDevice)
	about := func(src string) []byte { return unreachable(src, "10.0.0.1", quoting(frame)) }
	for _, src := range []string{"192.0.2.1", "192.0.2.254", "172.18.0.2", "10.0.0.254", "10.0.1.1"} {
		b.passError(b.to(client, about(src)), between(src, "10.0.0.1"), sent, model.OutLocal)
	}
	requireDrop(t, b.to(client, about("10.0.0.2")), model.ReasonSpoofedSource)
	requireDrop(t, b.to(client, about("169.254.0.1")), model.ReasonMartianSource)
	requireDrop(t, b.to(client, about("127.0.0.1")), model.ReasonMartianSource)

	// A pod speaks for itself.
	b.pass(b.to(client, ip("192.0.2.1", "10.0.0.1", model.ProtocolUDP, udp(1, 2, 0))), tuple(model.ProtocolUDP, "192.0.2.1", 1, "10.0.0.1", 2), model.OutLocal)
	opened := quoting(ip("192.0.2.1", "10.0.0.1", model.ProtocolUDP, udp(1, 2, 0)))
	b.passError(b.from(client, unreachable("10.0.0.1", "192.0.2.1", opened)), between("10.0.0.1", "192.0.2.1"), tuple(model.ProtocolUDP, "192.0.2.1", 1, "10.0.0.1", 2), model.OutDevice)
	requireDrop(t, b.from(client, unreachable("10.0.0.9", "192.0.2.1", opened)), model.ReasonSpoofedSource)
}

func TestAnErrorOfNoFlowIsDropped(t *testing.T) {
	const a, w = "10.0.0.1", "10.0.0.2"
	whole := quoting(ip(a, w, model.ProtocolUDP, udp(5000, 53, 0)))
	ping := quoting(ip(a, w, model.ProtocolICMP, icmp(8, 0, 7)))
	whole6 := quoting(ip("fd00::1", "fd00::2", model.ProtocolUDP, udp(5000, 53, 0)))
	tests := []struct {
		name  string
		frame []byte
		want  []model.Reason
	}{
		{"another port", unreachable(w, a, with(whole, 20, 0, 1)), []model.Reason{model.ReasonICMPNoFlow}},
		{"another protocol", unreachable(w, a, with(whole, 9, 6)), []model.Reason{model.ReasonICMPNoFlow}},
		{"sent to another than who sent the packet", unreachable(w, "10.0.0.3", whole), []model.Reason{model.ReasonICMPNoFlow}},
		{"a quoted header of version 6", unreachable(w, a, with(whole, 0, 0x55)), []model.Reason{model.ReasonICMPNoFlow}},
		{"a quoted header of 16 bytes", unreachable(w, a, with(whole, 0, 0x44)), []model.Reason{model.ReasonICMPNoFlow}},
		{"a quoted later fragment", unreachable(w, a, with(whole, 6, 0, 3)), []model.Reason{model.ReasonICMPNoFlow}},
		{"a quoted echo reply", unreachable(w, a, with(ping, 20, 0)), []model.Reason{model.ReasonICMPNoFlow}},
		{"a quoted echo request with a code", unreachable(w, a, with(ping, 21, 1)), []model.Reason{model.ReasonICMPNoFlow}},
		{"another identifier", unreachable(w, a, with(ping, 24, 0, 8)), []model.Reason{model.ReasonICMPNoFlow}},
		{"no quote", unreachable(w, a, nil), []model.Reason{model.ReasonTruncated}},
		{"a quote of 27 bytes", unreachable(w, a, whole[:27]), []model.Reason{model.ReasonTruncated}},
		{"quoted options beyond the quote", unreachable(w, a, with(whole, 0, 0x46)), []model.Reason{model.ReasonTruncated}},
		{"padding in place of a quote", append(unreachable(w, a, whole[:27]), make([]byte, 8)...), []model.Reason{model.ReasonTruncated}},
		{"a quote of 47 bytes", unreachable("fd00::2", "fd00::1", whole6[:47]), []model.Reason{model.ReasonTruncated}},
		{"an extension header that ends beyond the quote", unreachable("fd00::2", "fd00::1", with(whole6, 6, 60)), []model.Reason{model.ReasonTruncated}},
		{"a quoted later fragment of IPv6", unreachable("fd00::2", "fd00::1", with(whole6, 6, 44)), []model.Reason{model.ReasonICMPNoFlow}},
		{"a quoted fragment header and nothing behind it", unreachable("fd00::2", "fd00::1", with(with(whole6, 6, 44), 42, 0, 0)), []model.Reason{model.ReasonTruncated}},
	}
	b := newBench(t)
	b.pass(b.from(client, ip(a, w, model.ProtocolUDP, udp(5000, 53, 0))), tuple(model.ProtocolUDP, a, 5000, w, 53), model.OutLocal)
	b.pass(b.from(client, ip(a, w, model.ProtocolICMP, icmp(8, 0, 7))), tuple(model.ProtocolICMP, a, 7, w, 0), model.OutLocal)
	b.pass(b.from(client, ip("fd00::1", "fd00::2", model.ProtocolUDP, udp(5000, 53, 0))), tuple(model.ProtocolUDP, "fd00::1", 5000, "fd00::2", 53), model.OutLocal)
	for _, quoted := range [][]byte{whole, ping, with(whole, 6, 0x20, 0)} {
		require.Equal(t, model.Forward, b.from(web0, unreachable(w, a, quoted)).Action)
	}
	require.Equal(t, model.Forward, b.from(web0, unreachable("fd00::2", "fd00::1", whole6)).Action)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			requireDrop(t, b.from(web0, tt.frame), tt.want...)
		})
	}
}

func TestAnErrorDoesNotKeepOrAnswerAFlow(t *testing.T) {
	b := newBench(t)
	frame := ip("10.0.0.1", "10.0.0.2", model.ProtocolUDP, udp(5000, 53, 0))
	b.pass(b.from(client, frame), tuple(model.ProtocolUDP, "10.0.0.1", 5000, "10.0.0.2", 53), model.OutLocal)
	refusal := unreachable("10.0.0.2", "10.0.0.1", quoting(frame))
	b.now = b.now.Add(asking.lifetime(model.ProtocolUDP) - endsEarly)
	b.pass(b.from(web0, refusal), between("10.0.0.2", "10.0.0.1"), model.OutLocal)
	b.now = b.now.Add(endsEarly) // either may be right
	e := b.from(web0, refusal)
	require.NoError(t, e.Check(Outcome{Action: model.Forward}))
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonICMPNoFlow}))
	b.now = b.now.Add(2 * endsLate)
	requireDrop(t, b.from(web0, refusal), model.ReasonICMPNoFlow)
}

func TestAfterAChangeAnErrorAboutARequestIsJudgedAndOneAboutAnAnswerWaits(t *testing.T) {
	const deny = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
`
	b := newBench(t)
	request := ip("10.0.0.1", "10.0.0.2", model.ProtocolUDP, udp(5000, 53, 0))
	answer := ip("10.0.0.2", "10.0.0.1", model.ProtocolUDP, udp(53, 5000, 0))
	sent := tuple(model.ProtocolUDP, "10.0.0.1", 5000, "10.0.0.2", 53)
	aboutRequest := unreachable("10.0.0.2", "10.0.0.1", quoting(request))
	aboutAnswer := unreachable("10.0.0.1", "10.0.0.2", quoting(answer))
	b.pass(b.from(client, request), sent, model.OutLocal)
	b.pass(b.from(web0, answer), sent.Reversed(), model.OutLocal)
	require.Equal(t, model.Forward, b.from(client, aboutAnswer).Action)

	b.apply(clusterYAML)
	anew := func() Expectation { return b.told(Anew, model.FromContainer, client, aboutAnswer) }
	requireDrop(t, anew(), model.ReasonICMPNoFlow)
	b.pass(b.from(web0, aboutRequest), between("10.0.0.2", "10.0.0.1"), model.OutLocal)
	requireDrop(t, anew(), model.ReasonICMPNoFlow)
	kept := b.told(Met, model.FromContainer, client, aboutAnswer)
	b.pass(kept, between("10.0.0.1", "10.0.0.2"), model.OutLocal)
	require.Empty(t, kept.Alternatives)
	untold := b.from(client, aboutAnswer)
	require.NoError(t, untold.Check(Outcome{Action: model.Drop, Reason: model.ReasonICMPNoFlow}))
	require.NoError(t, untold.Check(Outcome{Action: model.Forward}))
	b.pass(b.from(client, request), sent, model.OutLocal)
	b.pass(b.from(client, aboutAnswer), between("10.0.0.1", "10.0.0.2"), model.OutLocal)

	b.apply(deny)
	requireDrop(t, b.from(web0, aboutRequest), model.ReasonPolicyIngress)
	requireDrop(t, b.from(client, aboutAnswer), model.ReasonICMPNoFlow)
	requireDrop(t, b.told(Met, model.FromContainer, client, aboutAnswer), model.ReasonICMPNoFlow)
}

func TestAnErrorIsRoutedLikeAnyPacket(t *testing.T) {
	b := newBench(t)
	request := ip("10.0.0.1", "10.0.0.2", model.ProtocolUDP, udp(5000, 53, 0))
	b.pass(b.from(client, request), tuple(model.ProtocolUDP, "10.0.0.1", 5000, "10.0.0.2", 53), model.OutLocal)
	requireDrop(t, b.from(web0, with(unreachable("10.0.0.2", "10.0.0.1", quoting(request)), 14+8, 1)), model.ReasonTTLExceeded)
}
