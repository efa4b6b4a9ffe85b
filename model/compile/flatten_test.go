// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// Rule sets are told apart by their keys: what becomes of a packet is in them.
func TestRulesOfOtherActionsHaveOtherKeys(t *testing.T) {
	keys := map[string]model.Rule{}
	for _, rule := range []model.Rule{
		{Action: model.RuleAllow}, {Action: model.RuleDeny}, {Action: model.RuleAudit}, {Action: model.RuleRefuse},
		{Action: model.RuleRedirect, ProxyPort: 15001}, {Action: model.RuleRedirect, ProxyPort: 15002},
	} {
		key := keyOf([]model.Rule{rule})
		require.NotContains(t, keys, key, rule)
		keys[key] = rule
	}
}
