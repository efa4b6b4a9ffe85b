// SPDX-License-Identifier: Apache-2.0

package model

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
			_, err := Parse("test.yaml", strings.NewReader(tt.text))
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
	objs := DeriveEndpointSlices(mustParse(t, clusterYAML))
	for _, slice := range objs.EndpointSlices {
		slice.AddressType = "IPv5"
	}
	require.NotEmpty(t, objs.EndpointSlices)
	_, _, err := Compile(objs, "node-a", testLocal())
	require.ErrorContains(t, err, "addressType")
}

// The numbers are IANA's: https://www.iana.org/assignments/icmp-parameters and
// https://www.iana.org/assignments/icmpv6-parameters.
func TestNamesOfICMPTypesAreIANAs(t *testing.T) {
	for family, want := range map[string]map[string]uint8{
		familyIPv4: {
			"EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8, "RouterAdvertisement": 9,
			"RouterSelection": 10, "TimeExceeded": 11, "ParameterProblem": 12, "Timestamp": 13, "TimestampReply": 14, "Photuris": 40,
			"ExtendedEcho Request": 42, "ExtendedEchoRequest": 42, "ExtendedEcho Reply": 43, "ExtendedEchoReply": 43,
		},
		familyIPv6: {
			"DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4, "EchoRequest": 128, "EchoReply": 129,
			"MulticastListenerQuery": 130, "MulticastListenerReport": 131, "MulticastListenerDone": 132, "RouterSolicitation": 133,
			"RouterAdvertisement": 134, "NeighborSolicitation": 135, "NeighborAdvertisement": 136, "RedirectMessage": 137,
			"RouterRenumbering": 138, "ICMPNodeInformationQuery": 139, "ICMPNodeInformationResponse": 140,
			"InverseNeighborDiscoverySolicitation": 141, "InverseNeighborDiscoveryAdvertisement": 142,
			"HomeAgentAddressDiscoveryRequest": 144, "HomeAgentAddressDiscoveryReply": 145, "MobilePrefixSolicitation": 146,
			"MobilePrefixAdvertisement": 147, "DuplicateAddressRequestCodeSuffix": 157, "DuplicateAddressConfirmationCodeSuffix": 158,
			"ExtendedEchoRequest": 160, "ExtendedEchoReply": 161,
		},
	} {
		require.Equal(t, want, icmpTypes(family), family)
	}
}
