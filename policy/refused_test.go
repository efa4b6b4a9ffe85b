// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model/manifest"
)

// A cluster's policies that cannot be kept are isolated, as its agents do it;
// those that are asked about are refused.
func TestRefusedPoliciesOfAClusterAreIsolated(t *testing.T) {
	server := "apiVersion: v1\nkind: Pod\nmetadata: {name: server}\nstatus: {podIP: 10.0.0.1}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}\naddressType: IPv4\nendpoints: [{addresses: [10.0.0.1]}]\nports: [{port: 6443}]\n---\n"
	policy := "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec: {endpointSelector: {}, egressDeny: [{toEntities: [kube-apiserver]}]}\n"
	live, err := manifest.Parse("live.yaml", strings.NewReader(server+policy))
	require.NoError(t, err)
	given, err := manifest.Parse("given.yaml", strings.NewReader(policy))
	require.NoError(t, err)

	asked := live.Clone()
	require.Empty(t, LeaveRefused(asked, given))
	_, err = Doubts(asked)
	require.ErrorContains(t, err, "not supported yet")

	refusals := LeaveRefused(live, manifest.NewObjects())
	require.Len(t, refusals, 1)
	require.Contains(t, refusals[0].String(), "CiliumNetworkPolicy default/p: spec.egressDeny[0].toEntities[0]: kube-apiserver is at 10.0.0.1, the address of Pod default/server")
	require.Contains(t, refusals[0].String(), "(the pods that it selects are isolated for egress until it is mended)")
	_, err = Doubts(live)
	require.NoError(t, err)
}
