// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestARefusedObjectIsNamedForPeopleAndForPrograms(t *testing.T) {
	refused := []Refused{
		{Object: model.Ref{Kind: "Service", Namespace: "shop", Name: "web"}, Field: "spec.ports", Problem: "has no room", Table: "slot_rows"},
		{Object: model.Ref{Kind: "Node", Name: "a"}, Problem: "is odd", Ignored: true},
	}
	require.Equal(t, "Service shop/web: spec.ports", refused[0].Place())
	require.Equal(t, "Node a", refused[1].Place())
	text, err := json.Marshal(Status{Refused: refused})
	require.NoError(t, err)
	require.Contains(t, string(text), `{"object":"Service shop/web","ref":{"kind":"Service","namespace":"shop","name":"web"},"field":"spec.ports","problem":"has no room",`)
	require.Contains(t, string(text), `{"object":"Node a","ref":{"kind":"Node","name":"a"},"problem":"is odd",`)
	var read Status
	require.NoError(t, json.Unmarshal(text, &read))
	require.Equal(t, refused, read.Refused)
}

func TestAPolicyIsNamedForPeopleAndForPrograms(t *testing.T) {
	policies := []Policy{
		{Object: model.Ref{Kind: "NetworkPolicy", Namespace: "shop", Name: "web"}, Rules: 3},
		{Object: model.Ref{Kind: "ClusterNetworkPolicy", Name: "guard"}},
	}
	text, err := json.Marshal(policies)
	require.NoError(t, err)
	require.Equal(t, `[{"object":"NetworkPolicy shop/web","ref":{"kind":"NetworkPolicy","namespace":"shop","name":"web"},"rules":3},`+
		`{"object":"ClusterNetworkPolicy guard","ref":{"kind":"ClusterNetworkPolicy","name":"guard"},"rules":0}]`, string(text))
	var read []Policy
	require.NoError(t, json.Unmarshal(text, &read))
	require.Equal(t, policies, read)
}
