// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// redirecting gives web's ingress a rule that a datapath without a proxy cannot keep.
func redirecting(state *model.State, action model.RuleAction) *model.State {
	state.RuleSets = append(state.RuleSets, model.RuleSet{Key: "to a proxy", Rules: []model.Rule{
		{Direction: model.Egress},
		{
			Direction: model.Ingress, Protocol: model.ProtocolTCP, Port: 8080, PortBits: 16, Action: action, ProxyPort: 15001,
			Origin: model.Origin{Policy: model.PolicyRef{Kind: "CiliumNetworkPolicy", Namespace: "default", Name: "http"}, List: "ingress", Rule: 3},
		},
	}})
	state.Endpoints[1].RuleSet = "to a proxy"
	return state
}

func TestARuleThatTheDatapathCannotKeepIsRefusedByName(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	tables := d.Tables()

	named := `rule set "to a proxy", ingress rule of CiliumNetworkPolicy/default/http ingress rule 3 (Rules[1].Action)`
	for action, says := range map[model.RuleAction]string{
		model.RuleRedirect:     named + " redirects to proxy port 15001: this datapath has no proxy: allow or deny there, or take the rule out",
		model.RuleRedirect + 1: named + " is action-5, which is no action: use allow, deny, audit or refuse",
	} {
		for what, apply := range map[string]func(*model.State) error{
			"apply state":                  func(s *model.State) error { _, err := d.Apply(s); return err },
			"connect endpoint default/web": func(s *model.State) error { return d.Connect(s, s.Endpoints[1].Name) },
		} {
			err := apply(redirecting(n.state.Clone(), action))
			require.EqualError(t, err, what+": "+says)
			if action == model.RuleRedirect {
				require.ErrorIs(t, err, ErrNoProxy)
			}
			require.Equal(t, tables, d.Tables(), "nothing of it was applied")
		}
	}
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, syn), model.Forward)
	_, err = d.Apply(redirecting(n.state.Clone(), model.RuleDeny))
	require.NoError(t, err, "the set's name is free still")
	require.Equal(t, model.ReasonPolicyIngress, run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1001, 80, syn), model.Drop).Decision.Reason)
}

// Programs without a proxy may meet such a rule in a table that a later loader has
// left: what it matches is dropped.
func TestProgramsDropWhatIsToBeRedirected(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	state := redirecting(n.state.Clone(), model.RuleAllow)
	_, err := d.Apply(state)
	require.NoError(t, err)
	run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1000, 80, syn), model.Forward)

	set := d.rules.sets["to a proxy"]
	later := encodeSet(set, &redirecting(n.state.Clone(), model.RuleRedirect).RuleSets[len(state.RuleSets)-1], d.number)
	require.NoError(t, update(d.rules.m, later.keys, later.values))
	require.Contains(t, d.Tables()[len(d.Tables())-1].Entries, "set 2 ingress peer 0 tcp port 8080/16: redirect to port 15001 by CiliumNetworkPolicy/default/http ingress rule 3")
	dropped := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 1001, 80, syn), model.Drop)
	require.Equal(t, model.ReasonPolicyIngress, dropped.Decision.Reason)
}
