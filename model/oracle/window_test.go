// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// numbered gives a segment its sequence number, and what it acknowledges.
func numbered(segment []byte, sequence, acknowledged uint32) []byte {
	binary.BigEndian.PutUint32(segment[4:], sequence)
	binary.BigEndian.PutUint32(segment[8:], acknowledged)
	return segment
}

func TestAPacketIsHeldAgainstWhatBothSidesHaveShown(t *testing.T) {
	known := func(n uint32) Number { return Number{true, n} }
	for name, c := range map[string]struct {
		sequence    uint32
		sent, acked Number
		want        effect
	}{
		"where its receiver is":                {5000, known(1), known(5000), counts},
		"a MiB ahead":                          {5000 + 1<<20, known(1), known(5000), counts},
		"more":                                 {5001 + 1<<20, known(1), known(5000), idles},
		"a MiB behind, where numbers go round": {math.MaxUint32 - 1<<20 + 1001, known(1), known(1000), counts},
		"more behind":                          {math.MaxUint32 - 1<<20 + 1000, known(1), known(1000), idles},
		"16 MiB ahead":                         {5000 + 16<<20, known(1 << 31), known(5000), idles},
		"beyond that":                          {5001 + 16<<20, known(1 << 31), known(5000), outside},
		"beyond, and where its own side is":    {1 << 31, known(1 << 31), known(5000), idles},
		"far from both":                        {3 << 30, known(1 << 31), known(5000), outside},
		"far, and nothing is known of its own side":   {3 << 30, Number{}, known(5000), outside},
		"nothing is known":                            {3 << 30, Number{}, Number{}, counts},
		"nothing is acknowledged":                     {5000, known(5001), Number{}, counts},
		"nothing is acknowledged, and it is far away": {3 << 30, known(5000), Number{}, idles},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, effectOf(c.sequence, c.sent, c.acked))
		})
	}
}

func TestWhatIsInDoubtOfNumbersIsInDoubtOfThePacket(t *testing.T) {
	f := &flow{opening: flowKey{atClient, direct}, sides: [2]side{{}, {acked: numbers{{true, 1 << 30}, {true, 5000}}}}}
	h := &headers{tcp: flagRST, sequence: 5000}
	h.tuple.Protocol = model.ProtocolTCP
	require.Equal(t, counts|outside, f.effect(h, false))
	require.Equal(t, counts, f.effect(h, true), "the opener has shown nothing")
	f.states = torn
	require.Equal(t, counts|idles|outside, f.effect(h, true))
	h.tcp = flagACK
	require.Equal(t, counts, f.effect(h, true), "it ends nothing")
}

func TestWhatEndsAConnectionKnowsWhereItIs(t *testing.T) {
	b := newBench(t)
	send := func(sequence, acknowledged uint32, flags tcpFlags, back bool) Expectation {
		frame := numbered(tcp(1, 8080, flags), sequence, acknowledged)
		at, observed := atClient, direct
		if back {
			at, observed = atWeb, direct.Reversed()
			frame = ip("10.0.0.2", "10.0.0.1", model.ProtocolTCP, numbered(tcp(8080, 1, flags), sequence, acknowledged))
		} else {
			frame = ip("10.0.0.1", "10.0.0.2", model.ProtocolTCP, frame)
		}
		e := b.oracle.Evaluate(frame, at, b.now)
		if e.Action == model.Forward {
			b.oracle.Observe(e, observed, b.now)
		} else {
			b.oracle.Meet(e, b.now)
		}
		return e
	}
	send(1000, 0, flagSYN, false)
	send(5000, 1001, flagSYN|flagACK, true)
	send(1001, 5001, flagACK, false)
	f := b.oracle.flows[flowKey{atClient, direct}].flow
	for _, flags := range []tcpFlags{flagRST, flagRST | flagACK, flagFIN | flagACK} {
		for _, back := range []bool{false, true} {
			e := send(3_000_000_000, 1, flags, back)
			require.Equal(t, model.Drop, e.Action)
			require.Equal(t, []model.Reason{model.ReasonOutOfWindow}, e.Reasons)
			require.Empty(t, e.Alternatives)
			require.Equal(t, model.Forward, send(5000+2<<20, 1, flags, back).Action)
		}
	}
	require.Equal(t, established, f.states)
	send(1001, 5001, flagFIN|flagACK, false)
	require.Equal(t, left, f.states)
	send(5001, 1002, flagRST, true)
	require.Equal(t, reset, f.states)
}
