// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestARedirectIsTold(t *testing.T) {
	r := Ruling{
		Direction: model.Ingress, Subject: model.Key{Namespace: "default", Name: "web"}, Peer: "Pod default/client",
		Action: model.RuleRedirect, ProxyPort: 15001,
		Origin: model.Origin{Policy: model.PolicyRef{Kind: "CiliumNetworkPolicy", Namespace: "default", Name: "http"}, Rule: 1},
	}
	require.Equal(t, "ingress of Pod default/web from Pod default/client is redirected to proxy port 15001 by CiliumNetworkPolicy/default/http rule 1", r.String())
	require.True(t, r.Allowed(), "the proxy decides")
}
