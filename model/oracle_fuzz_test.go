// SPDX-License-Identifier: Apache-2.0

package model

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func seedFrames() [][]byte {
	mac := podMAC(client)
	return [][]byte{
		nil,
		syn("10.0.0.1", "10.96.0.10", 40000, 80),
		syn("10.0.0.2", "10.96.0.10", 40000, 80),
		syn("fd00::1", "fd96::10", 40000, 80),
		ip("10.0.0.2", "10.0.0.1", ProtocolTCP, tcp(8080, 40000, flagSYN|flagACK)),
		ip("10.0.0.1", "192.0.2.1", ProtocolUDP, udp(1, 53, 9)),
		ip("192.0.2.1", "10.0.0.1", ProtocolUDP, udp(53, 1, 9)),
		ip("10.0.0.1", "10.0.0.2", ProtocolICMP, icmp(8, 0, 7)),
		ip("fd00::1", "fd00::2", ProtocolICMPv6, icmp(128, 0, 7)),
		ip("fd00::1", "ff02::1", ProtocolICMPv6, neighbour(135, 0, "fd00::fe")),
		ip("fd00::1", "fd00::2", 0, extensions(60, 7)),
		ip("fd00::1", "fd00::2", 44, make([]byte, 8)),
		arp(1, mac, "10.0.0.1", "10.0.0.254"),
		ethernet(0x8100, make([]byte, 40)),
	}
}

func FuzzEvaluate(f *testing.F) {
	for _, frame := range seedFrames() {
		f.Add(frame, frame, true)
		f.Add(frame, seedFrames()[1], false)
	}
	objs := mustParse(f, clusterYAML+"\n---\n"+denyEgress("web"))
	f.Fuzz(func(t *testing.T, first, second []byte, fromContainer bool) {
		b := &bench{T: t, oracle: NewOracle("node-a", testLocal()), objs: objs, now: time.Unix(1_000_000, 0)}
		b.apply()
		where := Where{ToContainer, client}
		if fromContainer {
			where = Where{FromContainer, web0}
		}
		for _, frame := range [][]byte{first, second} {
			for _, at := range []Where{{FromContainer, client}, where, {FromContainer, "default/ghost"}} {
				e := b.oracle.Evaluate(frame, at, b.now)
				requireSound(t, e)
				require.Equal(t, e.String(), b.oracle.Evaluate(frame, at, b.now).String(), "evaluating changes nothing")
				for _, translation := range e.Translations {
					b.oracle.Observe(e, translation.Tuple, b.now)
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
		case Forward:
			require.NotEmpty(t, possible.Translations)
			require.Empty(t, possible.Reasons)
			for _, translation := range possible.Translations {
				require.Contains(t, []Out{OutLocal, OutHost, OutDevice}, translation.Out)
				require.Equal(t, translation.Out == OutLocal, translation.Endpoint != "")
				require.Equal(t, e.Tuple.Protocol, translation.Tuple.Protocol)
				require.NoError(t, e.Check(Outcome{Action: Forward, Tuple: translation.Tuple, Out: translation.Out}))
			}
		case Drop, Reply:
			require.NotEmpty(t, possible.Reasons)
			require.Empty(t, possible.Translations)
		default:
			t.Fatalf("no action: %v", possible)
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	oracle := NewOracle("node-a", testLocal())
	oracle.SetObjects(mustParse(b, clusterYAML))
	frame, now := syn("10.0.0.1", "10.96.0.10", 40000, 80), time.Unix(1, 0)
	for b.Loop() {
		if e := oracle.Evaluate(frame, Where{FromContainer, client}, now); e.Action != Forward {
			b.Fatal(e)
		}
	}
}
