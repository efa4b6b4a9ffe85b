// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model/manifest"
)

// What is wrong is told once: what follows from it is no error of its own.
func TestOneErrorIsToldOnce(t *testing.T) {
	cilium := func(spec string) string {
		return "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec: " + spec + "\n"
	}
	networkPolicy := func(spec string) string {
		return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np}\nspec: " + spec + "\n"
	}
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"two addresses that are none": {
			service("{clusterIP: x, clusterIPs: [x, z], ports: [{port: 80}]}"),
			[]string{`spec.clusterIPs[0]: "x" is not an IP address`, `spec.clusterIPs[1]: "z" is not an IP address`},
		},
		"an exception that is no block": {
			cilium(`{endpointSelector: {}, egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [x]}]}]}`),
			[]string{`toCIDRSet[0].except[0]: "x" is not an address block`},
		},
		"an exception from no block": {
			cilium(`{endpointSelector: {}, egress: [{toCIDRSet: [{cidr: x, except: [192.0.2.0/24]}]}]}`),
			[]string{`toCIDRSet[0].cidr: "x" is not an address block`},
		},
		"a value that no label has": {
			networkPolicy(`{podSelector: {matchExpressions: [{key: a, operator: In, values: ["two words"]}]}}`),
			[]string{`spec.podSelector.matchExpressions[0].values[0]: "two words": `},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.Parse("test.yaml", strings.NewReader(tt.text))
			require.Error(t, err)
			lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
			require.Len(t, lines, len(tt.want), err)
			for n, want := range tt.want {
				require.Contains(t, lines[n], want)
			}
		})
	}
}

// Nobody else looks at slices that a cluster wrote.
func TestSlicesAreValidatedWithAllElse(t *testing.T) {
	objs := manifest.DeriveEndpointSlices(mustParse(t, clusterYAML))
	for _, slice := range objs.EndpointSlices {
		slice.AddressType = "IPv5"
	}
	require.NotEmpty(t, objs.EndpointSlices)
	_, _, err := All(objs, "node-a", testLocal())
	require.ErrorContains(t, err, "addressType")
}
