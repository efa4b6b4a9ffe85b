// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
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
	objs, err := manifest.Parse("objects.yaml", strings.NewReader(returnObjects))
	require.NoError(t, err)
	for _, test := range []struct {
		name    string
		options model.Options
		tunnel  model.Tunnel
		tcp     bool
		udp     bool
	}{
		{"back through the node", model.Options{}, model.TunnelNone, false, false},
		{"a tunnel alone changes nothing", model.Options{Tunnel: model.TunnelGeneve}, model.TunnelNone, false, false},
		{"straight, by IPIP unless told", model.Options{Return: model.ReturnDSR}, model.TunnelIPIP, true, true},
		{"straight, by Geneve", model.Options{Return: model.ReturnDSR, Tunnel: model.TunnelGeneve}, model.TunnelGeneve, true, true},
		{"TCP alone", model.Options{Return: model.ReturnHybrid, Tunnel: model.TunnelIPIP}, model.TunnelIPIP, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			local := model.Local{Uplinks: []model.Uplink{{Name: "eth0", Ifindex: 2}}, Options: test.options}
			state, _, err := All(objs, "here", local)
			require.NoError(t, err)
			require.Equal(t, test.tunnel, state.Node.Tunnel)
			anyNode := map[model.Protocol]bool{}
			for s := range state.Services.All() {
				direct := s.Scope == model.ScopeOutside && (s.Protocol == model.ProtocolTCP && test.tcp || s.Protocol == model.ProtocolUDP && test.udp)
				require.Equal(t, direct, s.DSR, "%s %s %s", s.Name, s.Scope, s.Address)
				if s.Address.IsUnspecified() {
					require.Equal(t, model.KindNodePort, s.Kind)
					anyNode[s.Protocol] = true
				}
			}
			require.Equal(t, test.tcp, anyNode[model.ProtocolTCP])
			require.Equal(t, test.udp, anyNode[model.ProtocolUDP])
		})
	}
}

func TestOptionsOfReturnAreNamedWhenUnknown(t *testing.T) {
	options := model.Options{Return: "direct", Tunnel: "gre"}
	err := options.Validate()
	require.ErrorContains(t, err, "return: 'direct' is unknown: use snat, dsr or hybrid")
	require.ErrorContains(t, err, "tunnel: 'gre' is unknown: use ipip or geneve")
}

func TestWithoutMasqueradingAPodKeepsItsSourceEverywhere(t *testing.T) {
	objs, err := manifest.Parse("objects.yaml", strings.NewReader(returnObjects))
	require.NoError(t, err)
	local := model.Local{Uplinks: []model.Uplink{{Name: "eth0", Ifindex: 2}}}
	state, _, err := All(objs, "here", local)
	require.NoError(t, err)
	require.NotNil(t, state.Node.Masquerade, "node ports need a source")
	for _, everything := range []string{"0.0.0.0/0", "::/0"} {
		require.Contains(t, state.Addresses.Slice(), model.Address{Prefix: netip.MustParsePrefix(everything), Identity: model.IdentityWorld, Native: true})
	}
}
