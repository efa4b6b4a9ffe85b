// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"testing"

	"github.com/weirnet/weir/model"
)

// What is passed on is some traffic, and rules of the next tier hold for what
// they have in common with it, whichever of the two names peers.
func TestRulesHoldForTheirPartOfWhatIsPassedOn(t *testing.T) {
	toEmpire := networkPolicy(`{podSelector: {matchLabels: {org: alliance}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {org: empire}}}]}]}`)
	toAll := networkPolicy(`{podSelector: {matchLabels: {org: alliance}}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}`)
	pass := func(to, protocols string) string {
		return tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Pass, to: [`+to+`]`+protocols+`}, {action: Deny, to: [{namespaces: {}}]}]}`)
	}
	const anybody, of80 = `{networks: [0.0.0.0/0, "::/0"]}`, `, protocols: [{tcp: {destinationPort: {number: 80}}}]`
	const empire = `{pods: {namespaceSelector: {}, podSelector: {matchLabels: {class: deathstar}}}}`
	const neither = "NetworkPolicy/default/np selects the pod, and no rule matches"
	const byNP, denied = "NetworkPolicy/default/np rule 0", "denied by ClusterNetworkPolicy/a rule 1"
	for name, tt := range map[string]struct {
		objects   string
		questions []policyQuestion
	}{
		"a port to anybody, peers of the next tier": {pass(anybody, of80) + toEmpire,
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byNP}, {xwing, star, 81, model.ProtocolTCP, denied}, {xwing, droid, 80, model.ProtocolTCP, neither}}},
		"peers, a port to anybody of the next tier": {pass(empire, "") + toAll,
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byNP}, {xwing, star, 81, model.ProtocolTCP, neither}, {xwing, tie, 80, model.ProtocolTCP, denied}}},
		"peers, and peers of the next tier": {pass(empire, of80) + toEmpire,
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byNP}, {xwing, star, 81, model.ProtocolTCP, denied}, {xwing, tie, 80, model.ProtocolTCP, denied}}},
	} {
		t.Run(name, func(t *testing.T) { askAll(t, tt.objects, tt.questions) })
	}
}

// Who looks for what a policy in audit would deny is told of the first one.
func TestTheFirstDenialInAuditIsTold(t *testing.T) {
	first := inAudit(tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`))
	second := inAudit(cilium(`{endpointSelector: {}, ingress: [{fromEntities: [all]}], ingressDeny: [{fromEndpoints: [{matchLabels: {org: alliance}}]}]}`))
	askAll(t, first+"---\n"+second, []policyQuestion{
		{xwing, star, 80, model.ProtocolTCP, "allowed, since a denial is only told: by ClusterNetworkPolicy/a rule 0"},
		{farOff, star, 80, model.ProtocolTCP, byP},
	})
}
