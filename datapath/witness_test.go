// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestTheLineThatIsNotedHasToNote(t *testing.T) {
	drop := Decision{Action: model.Drop, Reason: model.ReasonSpoofedSource}
	forward := Decision{Action: model.Forward}
	refused := Decision{Action: model.Reply, Reason: model.ReasonTooBig}
	answered := Decision{Action: model.Reply, Reason: model.ReasonARPAnswered}
	for line, c := range map[string]struct {
		decision Decision
		want     string
	}{
		"	return REFUSE(pkt, REASON_SPOOFED_SOURCE);": {drop, ""},
		"	return REFUSE(pkt, reason);":                {drop, ""},
		"	return REFUSE(pkt, REASON_TRUNCATED);":      {drop, "refuses for truncated, and not for spoofed-source"},
		"	pkt->where = HERE;":                         {drop, "does not refuse anything"},
		"	pkt->where = HERE; /* of what goes on */":   {forward, ""},
		"	return REFUSE(pkt, REASON_VLAN);":           {forward, "refuses"},
		"	pkt->now = now(ctl);":                       {forward, "is no line that notes"},
		"":                                            {forward, "is no line that notes"},
		"	reason = REFUSE(pkt, REASON_TOO_BIG);":      {refused, ""},
		"	pkt->where = HERE; /* of who is told */":    {refused, "does not refuse anything"},
		"	pkt->where = HERE; /* of an answer */":      {answered, ""},
	} {
		require.Equal(t, c.want, misplaced(&c.decision, line), "%q", line)
	}
}

func TestAStatementBeginsWhereItsChoiceDoes(t *testing.T) {
	lines := sourceLines()["bpf/lib/service.h"]
	for i, line := range lines {
		if i > 0 && line != "" && lines[i-1] != "" && lines[i-1][len(lines[i-1])-1] == ':' {
			require.Contains(t, statement("bpf/lib/service.h", i+1), lines[i-1])
		}
	}
	require.Empty(t, statement("bpf/lib/service.h", len(lines)+1))
	require.Empty(t, statement("bpf/lib/no-such.h", 1))
}

func TestAWitnessNoticesWhatNoRunOfItsHasCounted(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	w := d.Witness()
	frame := tcpFrame(t, "10.0.0.9", "10.0.0.2", 40000, 8080, syn) // another's source
	ran, looked, faults, err := w.Run(model.FromContainer, frame, n.client.Ifindex, 0, 0)
	require.NoError(t, err)
	require.Equal(t, model.ReasonSpoofedSource, ran.Decision.Reason)
	require.Empty(t, faults)
	require.Len(t, looked, 1, "a drop is told of")
	faults, err = w.Counters()
	require.NoError(t, err)
	require.Empty(t, faults)

	run(t, d, n.client, frame, model.Drop) // counted, and not by the witness
	_, _, faults, err = w.Run(model.FromContainer, frame, n.client.Ifindex, 0, 0)
	require.NoError(t, err)
	require.Len(t, faults, 2, "the other run's event is still there, and the meter is this run's")
	require.Equal(t, "an event is of kind 1 with verdict 2, and not of 2 with 1", faults[0])
	require.Contains(t, faults[1], "the meter of events has 1 of second")
	faults, err = w.Counters()
	require.NoError(t, err)
	require.Equal(t, []string{"the counter of spoofed-source at from-container has 3 packets and 180 bytes, and what was noted makes 2 and 120"}, faults)
}
