// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// table is the flow table of a datapath, as these tests want it to be seen.
type table map[flowKey]Entry

func (b *bench) sees(entries table) {
	b.oracle.Sight = func(at model.Where, t model.Tuple) (Entry, bool) {
		e, there := entries[flowKey{at, t}]
		return e, there
	}
}

var (
	direct   = tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 8080)
	atClient = model.Where{Hook: model.FromContainer, Endpoint: client}
	atWeb    = model.Where{Hook: model.FromContainer, Endpoint: web0}
	// both are the entries of a connection from client to web-0.
	both = table{
		{atClient, direct}:         {Leaves: direct, Other: atWeb},
		{atWeb, direct.Reversed()}: {Reply: true, Leaves: direct.Reversed(), Other: atClient},
	}
)

// meet has a frame of the client's looked at and judged, and checks that it goes
// to web-0.
func (b *bench) meet(flags tcpFlags, lookup Lookup) error {
	look := b.oracle.Look(ip("10.0.0.1", "10.0.0.2", model.ProtocolTCP, tcp(1, 8080, flags)), atClient, b.now)
	e := look.Judge(lookup)
	err := e.Check(Outcome{Action: model.Forward, Tuple: direct, Out: model.OutLocal})
	if err == nil {
		b.oracle.Observe(e, direct, b.now)
	}
	return err
}

func TestWhatIsMetIsHeldAgainstWhatMayBeThere(t *testing.T) {
	opened := func(b *bench) {
		b.sees(table{})
		require.NoError(b, b.meet(flagSYN, Missed))
		b.sees(both)
	}
	ended := func(b *bench) {
		opened(b)
		require.NoError(b, b.meet(flagFIN|flagACK, Met))
	}
	wait := func(d time.Duration) func(*bench) {
		return func(b *bench) { b.now = b.now.Add(d) }
	}
	collect := func(b *bench) { b.oracle.Collect(b.now) }
	gone := func(b *bench) { b.sees(table{}) }
	elsewhere := func(b *bench) {
		b.sees(table{{atClient, direct}: {Leaves: tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.3", 8080), Other: atWeb}})
	}
	tests := []struct {
		name   string
		before []func(*bench)
		flags  tcpFlags
		lookup Lookup
		wrong  string // empty: it is right
	}{
		{"a flow that nobody opened is met", []func(*bench){func(b *bench) { b.sees(both) }}, flagACK, Met, "no entry to be met"},
		{"a flow is met of which there is no entry", []func(*bench){gone}, flagACK, Met, "to have an entry before one is met"},
		{"nothing is known, and nothing met", []func(*bench){gone}, flagSYN, Missed, ""},
		{"a flow is met", []func(*bench){opened}, flagACK, Met, ""},
		{"a flow is not met", []func(*bench){opened}, flagACK, Missed, "the packet to meet the flow"},
		{"a flow is not there", []func(*bench){opened, gone}, flagACK, Missed, "the flow table to have the flow"},
		{"a flow leads elsewhere", []func(*bench){opened, elsewhere}, flagACK, Met, "no entry to be met that leads to tcp 10.0.0.1:1 -> 10.0.0.3:8080"},
		{"a SYN is repeated", []func(*bench){opened}, flagSYN, Met, ""},
		{"a SYN behind a FIN begins another", []func(*bench){ended}, flagSYN, Missed, ""},
		{"a SYN behind a FIN goes on", []func(*bench){ended}, flagSYN, Met, "no entry to be met"},
		{"the answer to a SYN goes on behind a FIN", []func(*bench){ended}, flagSYN | flagACK, Met, ""},
		{"nobody answered, near the end", []func(*bench){opened, wait(60 * time.Second)}, flagACK, Met, ""},
		{"nobody answered, and it is not met near the end", []func(*bench){opened, wait(60 * time.Second)}, flagACK, Missed, ""},
		{"nobody answered, and it is met long after", []func(*bench){opened, wait(62 * time.Second)}, flagACK, Met, "no entry to be met"},
		{"collected too early", []func(*bench){opened, wait(50 * time.Second), collect, gone}, flagACK, Missed, "the flow table to have the flow"},
		{"not collected", []func(*bench){opened, wait(62 * time.Second), collect}, flagACK, Met, "no entry to be met"},
		{"collected", []func(*bench){opened, wait(62 * time.Second), collect, gone}, flagACK, Missed, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			for _, do := range tt.before {
				do(b)
			}
			err := b.meet(tt.flags, tt.lookup)
			if tt.wrong == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrUnexpected)
			require.ErrorContains(t, err, tt.wrong)
		})
	}
}

func TestAnAnsweredFlowIsTheCollectorsToEnd(t *testing.T) {
	b := newBench(t)
	b.sees(table{})
	require.NoError(t, b.meet(flagSYN, Missed))
	b.sees(both)
	answer := func(flags tcpFlags) {
		look := b.oracle.Look(ip("10.0.0.2", "10.0.0.1", model.ProtocolTCP, tcp(8080, 1, flags)), atWeb, b.now)
		b.pass(look.Judge(Met), direct.Reversed(), model.OutLocal)
	}
	answer(flagSYN | flagACK)
	require.NoError(t, b.meet(flagACK, Met))
	answer(flagRST)
	b.now = b.now.Add(time.Hour)
	b.oracle.Evaluate(nil, atClient, b.now)
	require.NoError(t, b.meet(flagACK, Met), "it may be there for as long as nobody collects it")

	b.now = b.now.Add(12 * time.Second)
	b.oracle.Collect(b.now)
	require.ErrorContains(t, b.meet(flagACK, Met), "no entry to be met")
}

func TestOfTwoFlowsUnderOneKeyTheOlderMayBeLost(t *testing.T) {
	b := newBench(t)
	b.sees(table{})
	require.NoError(t, b.meet(flagSYN, Missed))
	through := b.oracle.Look(syn("10.0.0.1", "10.96.0.10", 1, 80), atClient, b.now)
	b.pass(through.Judge(Missed), direct, model.OutLocal) // its answers come under the same key
	b.sees(both)
	require.NoError(t, b.meet(flagACK, Met))
	b.sees(table{})
	require.NoError(t, b.meet(flagACK, Missed))
}

func TestASourcePortIsChangedOnlyWhereItIsAnothers(t *testing.T) {
	b := nodeBench(t, model.Options{Masquerade: true})
	own := tuple(model.ProtocolUDP, "172.18.0.2", 40000, "192.0.2.1", 53)
	other := own
	other.Sport = 40001
	send := func(left model.Tuple, entries table) error {
		b.sees(table{})
		look := b.oracle.Look(ip("10.0.0.1", "192.0.2.1", model.ProtocolUDP, udp(40000, 53, 0)), atClient, b.now)
		b.sees(entries) // as the packet leaves them
		return look.Judge(Missed).Check(Outcome{Action: model.Forward, Tuple: left, Out: model.OutDevice})
	}
	fromOutside := model.Where{Hook: model.FromDevice, Endpoint: "node-a"}
	opened := tuple(model.ProtocolUDP, "10.0.0.1", 40000, "192.0.2.1", 53)
	ours := Entry{Reply: true, Leaves: opened.Reversed(), Other: atClient}
	theirs := Entry{Reply: true, Leaves: opened.Reversed(), Other: atWeb}
	dead := ours
	dead.Dead = true
	answers, others := flowKey{fromOutside, own.Reversed()}, flowKey{fromOutside, other.Reversed()}

	require.NoError(t, send(own, table{answers: ours}))
	require.Error(t, send(other, table{others: ours}), "nobody has its own")
	require.NoError(t, send(other, table{answers: theirs, others: ours}))
	require.NoError(t, send(other, table{answers: dead, others: ours}), "nor is that free until it is deleted")
	require.Error(t, send(own, table{answers: theirs}))
	require.Error(t, send(other, table{answers: theirs, others: theirs}))
}
