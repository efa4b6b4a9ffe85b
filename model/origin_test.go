// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// What other versions have pinned is read, and they read what this one pins.
func TestAnOriginIsWrittenAsItAlwaysWas(t *testing.T) {
	for text, origin := range map[string]Origin{
		`{"Policy":"","Rule":0}`:                                             {},
		`{"Policy":"NetworkPolicy/default/web","Rule":2}`:                    {Policy: PolicyRef{"NetworkPolicy", "default", "web"}, Rule: 2},
		`{"Policy":"ClusterNetworkPolicy/all","Rule":-1}`:                    {Policy: PolicyRef{Kind: "ClusterNetworkPolicy", Name: "all"}, Rule: RuleNone},
		`{"Policy":"CiliumNetworkPolicy/a/b","Rule":0,"List":"ingressDeny"}`: {Policy: PolicyRef{"CiliumNetworkPolicy", "a", "b"}, List: "ingressDeny"},
	} {
		written, err := json.Marshal(origin)
		require.NoError(t, err)
		require.Equal(t, text, string(written))
		var read Origin
		require.NoError(t, json.Unmarshal([]byte(text), &read))
		require.Equal(t, origin, read)
	}
	require.ErrorContains(t, json.Unmarshal([]byte(`{"Policy":1}`), &Origin{}), "cannot unmarshal")
}

func TestAnOriginSaysItselfToPeople(t *testing.T) {
	web, all := PolicyRef{"NetworkPolicy", "default", "web"}, PolicyRef{Kind: "ClusterNetworkPolicy", Name: "all"}
	for text, origin := range map[string]Origin{
		"no policy":                                          {},
		"NetworkPolicy/default/web rule 2":                   {Policy: web, Rule: 2},
		"NetworkPolicy/default/web ingressDeny rule 0":       {Policy: web, List: "ingressDeny"},
		"ClusterNetworkPolicy/all rule 0":                    {Policy: all},
		"ClusterNetworkPolicy/all, no rule of which matches": {Policy: all, Rule: RuleNone},
	} {
		require.Equal(t, text, origin.String())
	}
}

func TestOriginsAreOrderedByPolicyListAndRule(t *testing.T) {
	a, b := PolicyRef{"NetworkPolicy", "default", "a"}, PolicyRef{"NetworkPolicy", "default", "b"}
	ordered := []Origin{{}, {Policy: a, Rule: 9}, {Policy: b, Rule: 1}, {Policy: b, Rule: 2}, {Policy: b, List: "ingressDeny"}}
	for i := range ordered {
		for j := range ordered {
			switch got := ordered[i].Compare(ordered[j]); {
			case i < j:
				require.Negative(t, got)
			case i == j:
				require.Zero(t, got)
			default:
				require.Positive(t, got)
			}
		}
	}
}
