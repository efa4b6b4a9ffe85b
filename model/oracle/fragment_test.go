// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// part makes a frame of one fragment: more is whether others follow, offset is
// in bytes.
func part(src, dst string, protocol model.Protocol, id uint16, offset int, more bool, payload []byte) []byte {
	if netip.MustParseAddr(src).Is4() {
		field := uint16(offset / 8)
		if more {
			field |= 0x2000
		}
		frame := ip(src, dst, protocol, payload)
		binary.BigEndian.PutUint16(frame[18:], id)
		binary.BigEndian.PutUint16(frame[20:], field)
		return frame
	}
	return ip(src, dst, 44, append(fragmentHeader(protocol, id, offset, more), payload...))
}

func fragmentHeader(next model.Protocol, id uint16, offset int, more bool) []byte {
	field := uint16(offset)
	if more {
		field |= 1
	}
	b := []byte{byte(next), 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(b[2:], field)
	return binary.BigEndian.AppendUint16(b, id)
}

// pods are a client and its peer in each family.
var pods = []struct{ name, client, web0, service string }{
	{"IPv4", "10.0.0.1", "10.0.0.2", "10.96.0.10"},
	{"IPv6", "fd00::1", "fd00::2", "fd96::10"},
}

// portless is what stands in the bytes of a later fragment.
func portless(t model.Tuple) model.Tuple {
	return model.Tuple{Src: t.Src, Dst: t.Dst, Protocol: t.Protocol}
}

func TestALaterFragmentIsJudgedByThePortsOfTheFirst(t *testing.T) {
	for _, p := range pods {
		t.Run(p.name, func(t *testing.T) {
			b := newBench(t)
			sent := tuple(model.ProtocolUDP, p.client, 5000, p.web0, 53)
			later := part(p.client, p.web0, model.ProtocolUDP, 9, 24, false, make([]byte, 16))
			requireDrop(t, b.from(client, later), model.ReasonFragment)

			first := udp(5000, 53, 16)
			first[5] = 40 // of the whole datagram
			b.pass(b.from(client, part(p.client, p.web0, model.ProtocolUDP, 9, 0, true, first)), sent, model.OutLocal)
			e := b.from(client, later)
			require.Equal(t, sent, e.Tuple)
			require.Len(t, e.Translations, 1)
			require.True(t, e.Translations[0].known)
			b.pass(e, portless(sent), model.OutLocal)

			for name, other := range map[string][]byte{
				"another id":          part(p.client, p.web0, model.ProtocolUDP, 10, 24, false, nil),
				"another destination": part(p.client, p.service, model.ProtocolUDP, 9, 24, false, nil),
			} {
				require.Equal(t, []model.Reason{model.ReasonFragment}, b.from(client, other).Reasons, name)
			}
			requireDrop(t, b.from(web0, later), model.ReasonFragment, model.ReasonSpoofedSource)
		})
	}
}

func TestIPv4FragmentsAreToldApartByTheirProtocolAndIPv6OnesAreNot(t *testing.T) {
	for _, p := range pods {
		b := newBench(t)
		b.oracle.Meet(b.from(client, part(p.client, p.web0, model.ProtocolUDP, 9, 0, true, udp(5000, 53, 0))), b.now)
		e := b.from(client, part(p.client, p.web0, model.ProtocolTCP, 9, 24, false, nil))
		if p.name == "IPv4" {
			requireDrop(t, e, model.ReasonFragment)
			continue
		}
		require.Equal(t, tuple(model.ProtocolUDP, p.client, 5000, p.web0, 53), e.Tuple)
	}
}

func TestALaterFragmentOfAServicesPacketLeavesWithItsAddressesTranslated(t *testing.T) {
	for _, p := range pods {
		t.Run(p.name, func(t *testing.T) {
			b := newBench(t)
			led := tuple(model.ProtocolTCP, p.client, 40000, p.web0, 8080)
			b.pass(b.from(client, part(p.client, p.service, model.ProtocolTCP, 9, 0, true, append(tcp(40000, 80, flagSYN), 1, 2, 3, 4))), led, model.OutLocal)
			e := b.from(client, part(p.client, p.service, model.ProtocolTCP, 9, 24, false, nil))
			require.Error(t, e.Check(Outcome{Action: model.Forward, Tuple: portless(tuple(model.ProtocolTCP, p.client, 0, p.service, 0))}))
			b.pass(e, portless(led), model.OutLocal)
		})
	}
}

func TestALaterFragmentMakesAFlowWithAllItsPorts(t *testing.T) {
	b := newBench(t)
	sent := tuple(model.ProtocolTCP, "10.0.0.1", 40000, "10.0.0.2", 80)
	// A reset makes no flow, and the flags of what follows count as none.
	b.pass(b.from(client, part("10.0.0.1", "10.0.0.2", model.ProtocolTCP, 9, 0, true, tcp(40000, 80, flagRST))), sent, model.OutLocal)
	b.pass(b.from(client, part("10.0.0.1", "10.0.0.2", model.ProtocolTCP, 9, 24, false, nil)), portless(sent), model.OutLocal)
	e := b.from(client, ip("10.0.0.1", "10.0.0.2", model.ProtocolTCP, tcp(40000, 80, flagACK)))
	require.True(t, e.Translations[0].known)
}

func TestAFirstFragmentThatIsDroppedLendsItsPortsAllTheSame(t *testing.T) {
	const deny = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 53, protocol: UDP}]}]}
`
	for _, p := range pods {
		b := newBench(t, deny)
		e := b.from(client, part(p.client, p.web0, model.ProtocolUDP, 9, 0, true, udp(5000, 54, 0)))
		requireDrop(t, e, model.ReasonPolicyIngress)
		b.oracle.Meet(e, b.now)
		requireDrop(t, b.from(client, part(p.client, p.web0, model.ProtocolUDP, 9, 8, false, nil)), model.ReasonPolicyIngress)
	}
}

func TestAFirstFragmentMustHaveItsWholeHeaderAndElseLendsNothing(t *testing.T) {
	tests := []struct {
		name     string
		protocol model.Protocol
		payload  []byte
		reason   model.Reason
	}{
		{"TCP cut off", model.ProtocolTCP, tcp(1, 2, flagSYN)[:16], model.ReasonTruncated},
		{"TCP options cut off", model.ProtocolTCP, with(tcp(1, 2, flagSYN), 12, 6<<4), model.ReasonBadTCPHeader},
		{"TCP without flags", model.ProtocolTCP, tcp(1, 2, 0), model.ReasonBadTCPFlags},
		{"UDP cut off", model.ProtocolUDP, udp(1, 2, 0)[:7], model.ReasonTruncated},
		{"UDP that counts less than its header", model.ProtocolUDP, with(udp(1, 2, 0), 4, 0, 7), model.ReasonBadUDPLength},
		{"SCTP cut off", model.ProtocolSCTP, make([]byte, 11), model.ReasonTruncated},
	}
	for _, tt := range tests {
		for _, p := range pods {
			t.Run(tt.name+" over "+p.name, func(t *testing.T) {
				b := newBench(t)
				e := b.from(client, part(p.client, p.web0, tt.protocol, 9, 0, true, tt.payload))
				requireDrop(t, e, tt.reason)
				b.oracle.Meet(e, b.now)
				requireDrop(t, b.from(client, part(p.client, p.web0, tt.protocol, 9, 64, false, nil)), model.ReasonFragment)
			})
		}
	}
}

func TestALaterFragmentMayNotLieOverTheFirstOnesHeader(t *testing.T) {
	tests := []struct {
		name    string
		first   []byte
		later   func(offset int) []byte
		allowed int
	}{
		{"TCP", part("10.0.0.1", "10.0.0.2", model.ProtocolTCP, 9, 0, true, tcp(1, 2, flagSYN)),
			func(offset int) []byte { return part("10.0.0.1", "10.0.0.2", model.ProtocolTCP, 9, offset, false, nil) }, 24},
		{"UDP", part("10.0.0.1", "10.0.0.2", model.ProtocolUDP, 9, 0, true, udp(1, 2, 0)),
			func(offset int) []byte { return part("10.0.0.1", "10.0.0.2", model.ProtocolUDP, 9, offset, false, nil) }, 8},
		{"UDP behind 16 bytes of IPv6 extensions", ip("fd00::1", "fd00::2", 44, join(fragmentHeader(60, 9, 0, true), []byte{60, 0, 1, 4, 0, 0, 0, 0}, []byte{17, 0, 1, 4, 0, 0, 0, 0}, udp(1, 2, 0))),
			func(offset int) []byte { return part("fd00::1", "fd00::2", 60, 9, offset, false, nil) }, 24},
		{"UDP behind extensions before the fragment header", ip("fd00::1", "fd00::2", 0, join([]byte{44, 0, 1, 4, 0, 0, 0, 0}, fragmentHeader(17, 9, 0, true), udp(1, 2, 0))),
			func(offset int) []byte { return part("fd00::1", "fd00::2", 17, 9, offset, false, nil) }, 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.oracle.Meet(b.from(client, tt.first), b.now)
			for offset := 8; offset < tt.allowed; offset += 8 {
				requireDrop(t, b.from(client, tt.later(offset)), model.ReasonFragment)
			}
			require.Equal(t, model.Forward, b.from(client, tt.later(tt.allowed)).Action)
		})
	}
}

func join(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func TestAnAtomicFragmentIsAPacketAndTwoFragmentHeadersAreNone(t *testing.T) {
	b := newBench(t)
	atomic := ip("fd00::1", "fd00::2", 44, join(fragmentHeader(17, 9, 0, false), udp(5000, 53, 0)))
	b.pass(b.from(client, atomic), tuple(model.ProtocolUDP, "fd00::1", 5000, "fd00::2", 53), model.OutLocal)
	double := ip("fd00::1", "fd00::2", 44, join(fragmentHeader(44, 9, 0, true), fragmentHeader(17, 8, 0, true), udp(5000, 53, 0)))
	requireDrop(t, b.from(client, double), model.ReasonFragment)
	around := ip("fd00::1", "fd00::2", 44, join(fragmentHeader(44, 9, 0, false), fragmentHeader(17, 8, 0, true), udp(5000, 53, 0)))
	require.Equal(t, model.Forward, b.from(client, around).Action)
}

func TestAFirstFragmentIsRememberedForHalfAMinute(t *testing.T) {
	b := newBench(t)
	b.oracle.Meet(b.from(client, part("10.0.0.1", "10.0.0.2", model.ProtocolUDP, 9, 0, true, udp(5000, 53, 0))), b.now)
	later := part("10.0.0.1", "10.0.0.2", model.ProtocolUDP, 9, 8, false, nil)
	b.now = b.now.Add(29 * time.Second)
	require.Empty(t, b.from(client, later).Alternatives)
	b.now = b.now.Add(time.Second)
	e := b.from(client, later)
	require.NoError(t, e.Check(Outcome{Action: model.Forward}))
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonFragment}))
	b.now = b.now.Add(2 * time.Second)
	requireDrop(t, b.from(client, later), model.ReasonFragment)
	b.oracle.Collect(b.now)
	require.Empty(t, b.oracle.fragments)
}

func TestFragmentsOfICMPAreJudgedByTheMessageOfTheFirst(t *testing.T) {
	tests := []struct {
		name    string
		message []byte
		reason  model.Reason
	}{
		{"a timestamp request", icmp(13, 0, 0), model.ReasonICMPType},
		{"an echo request with a code", icmp(8, 1, 0), model.ReasonICMPType},
		{"an echo reply that nobody asked for", icmp(0, 0, 7), model.ReasonICMPNoFlow},
		{"an error", icmp(3, 3, 0), model.ReasonFragment},
		{"a redirect", icmp(5, 0, 0), model.ReasonICMPNoFlow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			e := b.from(client, part("10.0.0.1", "10.0.0.2", model.ProtocolICMP, 9, 0, true, tt.message))
			require.Equal(t, model.Drop, e.Action)
			require.Contains(t, e.Reasons, tt.reason)
			b.oracle.Meet(e, b.now)
			e = b.from(client, part("10.0.0.1", "10.0.0.2", model.ProtocolICMP, 9, 8, false, nil))
			require.Equal(t, model.Drop, e.Action)
			require.Contains(t, e.Reasons, tt.reason)
		})
	}
	b := newBench(t)
	solicitation := with(part("fd00::1", "fd00::fe", model.ProtocolICMPv6, 9, 0, true, neighbour(135, 0, "fd00::fe")), 14+7, 255)
	requireDrop(t, b.from(client, solicitation), model.ReasonBadNDP)
	b.oracle.Meet(b.from(client, solicitation), b.now)
	requireDrop(t, b.from(client, part("fd00::1", "fd00::fe", model.ProtocolICMPv6, 9, 24, false, nil)), model.ReasonBadNDP)
}

func TestAFragmentToAServiceWithoutBackendIsDroppedOrRefused(t *testing.T) {
	b := newBench(t)
	e := b.from(client, part("10.0.0.1", "10.96.0.11", model.ProtocolUDP, 9, 0, true, udp(5000, 53, 0)))
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonNoBackend}))
	require.Error(t, e.Check(Outcome{Action: model.Forward}))
}
