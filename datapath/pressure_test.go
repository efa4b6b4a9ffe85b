// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// establish opens a flow from client to web and answers it.
func establish(t *testing.T, d *Datapath, n *node, sport uint16) {
	t.Helper()
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", sport, 80, syn), model.Forward)
	run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, sport, synAck), model.Forward)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", sport, 80, ack), model.Forward)
}

func TestAFloodOfOpeningsEvictsOnlyOpenings(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, Options{Flows: 256, Unanswered: 512}) // of which a pod has a quarter
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for i := range uint16(16) {
		establish(t, d, n, 1000+i)
	}
	const flood = 20000
	for i := range uint16(flood) {
		run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 2000+i, 80, syn), model.Forward)
	}
	for i := range uint16(16) {
		there := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000+i, 80, ack), model.Forward)
		back := run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, 1000+i, ack), model.Forward)
		require.Equal(t, FlowKnown, there.Decision.Flow)
		require.Equal(t, FlowKnown, back.Decision.Flow)
	}
}

// A full table of answered flows keeps nobody from opening new ones, even
// when no collector runs: they stay among the unanswered, and work.
func TestNewFlowsWorkWhenTheTableOfAnsweredOnesIsFull(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, Options{Flows: 8, Unanswered: 1024})
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	for i := range uint16(32) {
		establish(t, d, n, 1000+i)
	}
	for i := range uint16(32) {
		there := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000+i, 80, ack), model.Forward)
		require.Equalf(t, FlowKnown, there.Decision.Flow, "flow %d", i)
	}
	flows, err := d.Flows()
	require.NoError(t, err)
	require.Len(t, flows, 64)
}

func TestOneHalfOfAFlowThatIsGoneIsMadeAgain(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, syn), model.Forward)
	unanswered := d.maps[bpf.ContainerMapCtUnanswered]
	entries, err := readFlows(unanswered)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	for key, e := range entries {
		if e.reply() {
			require.NoError(t, unanswered.Delete(&key))
		}
	}
	again := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, syn), model.Forward)
	require.Equal(t, FlowNew, again.Decision.Flow, "judged anew, which makes both halves")
	back := run(t, d, n.web, tcpFrame(t, "10.0.0.2", "10.0.0.1", 8080, 1000, synAck), model.Forward)
	requireRouted(t, tcpFrame(t, "10.96.0.1", "10.0.0.1", 80, 1000, synAck), back.Data)
}

func TestAStateThatDoesNotFitIsRefusedWhole(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	tables := d.Tables()

	huge := newState(n.client, n.web)
	huge.Services = model.List[model.Service]{}
	set := model.RuleSet{Key: "huge", Rules: []model.Rule{{Direction: model.Egress}}}
	for i := range 300_000 {
		set.Rules = append(set.Rules, model.Rule{Direction: model.Ingress, Peer: model.Identity(1000 + i), Protocol: model.ProtocolTCP, Port: 80, PortBits: 16})
	}
	huge.RuleSets = append(huge.RuleSets, set)
	huge.Endpoints[1].RuleSet = "huge"
	_, err = d.Apply(huge)
	var full *FullError
	require.ErrorAs(t, err, &full)
	require.Equal(t, "rules", full.Table)
	require.Equal(t, tables, d.Tables(), "nothing of it was applied")
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, syn), model.Forward)
}

func TestContradictionsAreRefusedByName(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	for name, c := range map[string]struct {
		change func(*model.State)
		says   string
	}{
		"one device for two endpoints": {func(s *model.State) { s.Endpoints[1].Device = s.Endpoints[0].Device }, "default/client and default/web have one device"},
		"no device":                    {func(s *model.State) { s.Endpoints[0].Device.Ifindex = 0 }, "endpoint default/client has no device"},
		"a rule set that is not there": {func(s *model.State) { s.Endpoints[0].RuleSet = "lost" }, `endpoint default/client wants rule set "lost"`},
		"a frontend claimed twice":     {func(s *model.State) { *s.Services.At(1) = *s.Services.At(0) }, "claimed twice"},
		"a MAC of no length":           {func(s *model.State) { s.Endpoints[0].Device.MAC = nil }, "endpoint default/client, host side"},
	} {
		state := newState(n.client, n.web)
		c.change(state)
		_, err := d.Apply(state.Clone())
		require.ErrorContains(t, err, c.says, name)
	}
	ran, err := d.Run(model.FromContainer, Frame{Data: tcpFrame(t, "10.0.0.1", "10.0.0.2", 1, 80, syn), Ifindex: n.client.Ifindex})
	require.NoError(t, err)
	require.Equal(t, model.Reason("no-endpoint"), ran.Decision.Reason, "nothing was ever applied, so nothing passes")
}

func TestOverlappingRulesOfOnePeerAreFlattened(t *testing.T) {
	rules := []model.Rule{
		{Peer: 7, Protocol: model.ProtocolAny, Action: model.RuleDeny, Precedence: 9, Origin: model.Origin{Policy: model.PolicyRef{Name: "deny"}}},
		{Peer: 7, Protocol: model.ProtocolTCP, Port: 80, PortBits: 16, Precedence: 5, Origin: model.Origin{Policy: model.PolicyRef{Name: "allow"}}},
		{Peer: 7, Protocol: model.ProtocolTCP, Port: 443, PortBits: 16, Precedence: 10, Origin: model.Origin{Policy: model.PolicyRef{Name: "allow"}}},
		{Peer: 8, Protocol: model.ProtocolTCP, Port: 80, PortBits: 16, Precedence: 5, Origin: model.Origin{Policy: model.PolicyRef{Name: "allow"}}},
	}
	l := newLabels()
	e := encodeSet(1, &model.RuleSet{Key: "k", Rules: rules}, l.number)
	got := map[string]string{}
	for i, key := range e.keys {
		got[fmt.Sprintf("%d/%d", key.Peer, decodePort(key.Port))] = fmt.Sprintf("deny=%d by %s", e.values[i].Action, l.origin(e.values[i].Origin).Policy.Name)
	}
	require.Equal(t, map[string]string{
		"7/0": "deny=1 by deny", "7/80": "deny=1 by deny", "7/443": "deny=0 by allow", "8/80": "deny=0 by allow",
	}, got)
}
