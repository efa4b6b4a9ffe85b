// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const returnObjects = `
apiVersion: v1
kind: Node
metadata: {name: here}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  ports:
  - {name: http, port: 80, nodePort: 30080}
  - {name: dns, port: 53, nodePort: 30053, protocol: UDP}
`

func TestAnswersComeAsTheOperatorChooses(t *testing.T) {
	objs, err := Parse("objects.yaml", strings.NewReader(returnObjects))
	require.NoError(t, err)
	for _, test := range []struct {
		name    string
		options Options
		tunnel  Tunnel
		tcp     bool
		udp     bool
	}{
		{"back through the node", Options{}, TunnelNone, false, false},
		{"a tunnel alone changes nothing", Options{Tunnel: TunnelGeneve}, TunnelNone, false, false},
		{"straight, by IPIP unless told", Options{Return: ReturnDSR}, TunnelIPIP, true, true},
		{"straight, by Geneve", Options{Return: ReturnDSR, Tunnel: TunnelGeneve}, TunnelGeneve, true, true},
		{"TCP alone", Options{Return: ReturnHybrid, Tunnel: TunnelIPIP}, TunnelIPIP, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			local := Local{Uplinks: []Uplink{{Name: "eth0", Ifindex: 2}}, Options: test.options}
			state, _, err := Compile(objs, "here", local)
			require.NoError(t, err)
			require.Equal(t, test.tunnel, state.Node.Tunnel)
			anyNode := map[Protocol]bool{}
			for _, s := range state.Services {
				direct := s.Scope == ScopeOutside && (s.Protocol == ProtocolTCP && test.tcp || s.Protocol == ProtocolUDP && test.udp)
				require.Equal(t, direct, s.DSR, "%s %s %s", s.Name, s.Scope, s.Address)
				if s.Address.IsUnspecified() {
					require.Equal(t, KindNodePort, s.Kind)
					anyNode[s.Protocol] = true
				}
			}
			require.Equal(t, test.tcp, anyNode[ProtocolTCP])
			require.Equal(t, test.udp, anyNode[ProtocolUDP])
		})
	}
}

func TestOptionsOfReturnAreNamedWhenUnknown(t *testing.T) {
	options := Options{Return: "direct", Tunnel: "gre"}
	err := options.Validate()
	require.ErrorContains(t, err, "return: 'direct' is unknown: use snat, dsr or hybrid")
	require.ErrorContains(t, err, "tunnel: 'gre' is unknown: use ipip or geneve")
}

func TestWithoutMasqueradingAPodKeepsItsSourceEverywhere(t *testing.T) {
	objs, err := Parse("objects.yaml", strings.NewReader(returnObjects))
	require.NoError(t, err)
	local := Local{Uplinks: []Uplink{{Name: "eth0", Ifindex: 2}}}
	state, _, err := Compile(objs, "here", local)
	require.NoError(t, err)
	require.NotNil(t, state.Node.Masquerade, "node ports need a source")
	for _, everything := range []string{"0.0.0.0/0", "::/0"} {
		require.Contains(t, state.Addresses, Address{Prefix: netip.MustParsePrefix(everything), Identity: IdentityWorld, Native: true})
	}
}
