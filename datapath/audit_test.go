// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestADenialInAuditIsToldOnceAFlowAndDropsNothing(t *testing.T) {
	n := newNode(t)
	out := model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "client"}, Rule: model.RuleNone}
	in := model.Origin{Policy: model.PolicyRef{Kind: "CiliumNetworkPolicy", Namespace: "default", Name: "web"}, Rule: 2, List: "ingressDeny"}
	n.state.RuleSets = []model.RuleSet{
		{Key: "client", Rules: []model.Rule{{Direction: model.Ingress}, {Direction: model.Egress, Action: model.RuleAudit, Origin: out}}},
		{Key: "web", Rules: []model.Rule{
			{Direction: model.Ingress, Protocol: model.ProtocolTCP, Port: 8080, PortBits: 16, Precedence: 1, Action: model.RuleAudit, Origin: in},
			{Direction: model.Ingress}, {Direction: model.Egress},
		}},
	}
	n.state.Endpoints[0].RuleSet, n.state.Endpoints[1].RuleSet = "client", "web"
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)

	both := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 40000, 80, syn), model.Forward)
	require.Equal(t, model.ReasonAuditIngress, both.Decision.Reason)
	require.Equal(t, in, both.Decision.Origin)
	one := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 40001, 81, syn), model.Forward)
	require.Equal(t, model.ReasonAuditEgress, one.Decision.Reason)
	require.Equal(t, out, one.Decision.Origin, "a permission behind it is not what is told of")
	known := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", 40001, 81, ack), model.Forward)
	require.Empty(t, known.Decision.Reason)

	events, err := d.Events()
	require.NoError(t, err)
	require.Len(t, events, 2)
	for i, origin := range []model.Origin{in, out} {
		require.Equal(t, model.Audit, events[i].Decision.Action)
		require.Equal(t, model.OutLocal, events[i].Decision.Out)
		require.Equal(t, origin, events[i].Decision.Origin)
		require.Equal(t, "default/client", events[i].Endpoint)
	}
	counters, err := d.Counters()
	require.NoError(t, err)
	got := map[model.Reason]uint64{}
	for _, c := range counters {
		got[c.Reason] = c.Packets
	}
	require.Equal(t, map[model.Reason]uint64{model.ReasonNone: 3, model.ReasonAuditIngress: 1, model.ReasonAuditEgress: 2}, got)

	var texts []string
	for _, table := range d.Tables() {
		if table.Name == "rules" {
			texts = table.Entries
		}
	}
	require.Contains(t, texts, "set 2 ingress peer 0 tcp port 8080/16: audit by CiliumNetworkPolicy/default/web ingressDeny rule 2")
}
