// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Both versions of the API that have the kind have the same fields.
func TestAClusterNetworkPolicyIsReadInBothVersions(t *testing.T) {
	for _, version := range []string{"v1alpha2", "v1beta1"} {
		objs, err := Parse("policy.yaml", strings.NewReader(`
apiVersion: policy.networking.k8s.io/`+version+`
kind: ClusterNetworkPolicy
metadata: {name: lockdown}
spec:
  tier: Admin
  priority: 7
  subject: {namespaces: {}}
  egress:
  - {name: out, action: Deny, to: [{networks: [0.0.0.0/0, "::/0"]}]}
`))
		require.NoError(t, err, version)
		policy := objs.ClusterNetworkPolicies["lockdown"]
		require.NotNil(t, policy, version)
		require.EqualValues(t, 7, policy.Spec.Priority)
		require.Len(t, policy.Spec.Egress[0].To[0].Networks, 2)
	}
	_, err := Parse("policy.yaml", strings.NewReader(`{"apiVersion": "policy.networking.k8s.io/v1beta2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "x"}}`))
	require.ErrorContains(t, err, "is not known for kind ClusterNetworkPolicy")
}
