// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
)

// ofItsOwn gives client a gateway of IPv4 that no other pod has.
func ofItsOwn(gateway string) model.Local {
	local := testLocal()
	device := local.Devices[model.ParseKey(client)]
	device.Gateways = []netip.Addr{netip.MustParseAddr(gateway)}
	local.Devices[model.ParseKey(client)] = device
	return local
}

func TestAPodsOwnGatewayIsTheNode(t *testing.T) {
	state, _, err := compile.All(mustParse(t, clusterYAML), "node-a", ofItsOwn("10.0.0.100"))
	require.NoError(t, err)
	own := netip.MustParseAddr("10.0.0.100")
	require.Equal(t, append(testLocal().Gateways, own), state.Node.Gateways, "the node's come first")
	require.Equal(t, []netip.Addr{own}, state.Endpoints[0].Device.Gateways)
	for a := range state.Addresses.All() {
		if a.Prefix.Addr() == own {
			require.Equal(t, model.IdentityHost, a.Identity)
			return
		}
	}
	t.Fatal("the gateway is not known")
}

func TestAGatewayThatIsTheNodesAddressIsTheNodeOnce(t *testing.T) {
	state, _, err := compile.All(mustParse(t, clusterYAML), "node-a", ofItsOwn("172.18.0.2"))
	require.NoError(t, err)
	require.Equal(t, testLocal().Gateways, state.Node.Gateways)
}

func TestAPodAsksForItsOwnGateway(t *testing.T) {
	b := newBench(t)
	b.oracle = NewOracle("node-a", ofItsOwn("10.0.0.100"))
	b.oracle.SetObjects(b.objs)
	requireReply(t, b.from(client, arp(1, podMAC(client), "10.0.0.1", "10.0.0.100")), model.ReasonARPAnswered)
	require.Contains(t, b.from(client, arp(1, podMAC(client), "10.0.0.1", "10.0.0.254")).Reasons, model.ReasonBadARP)
	requireReply(t, b.from(web0, arp(1, podMAC(web0), "10.0.0.2", "10.0.0.254")), model.ReasonARPAnswered)
	require.Contains(t, b.from(web0, arp(1, podMAC(web0), "10.0.0.2", "10.0.0.100")).Reasons, model.ReasonBadARP)
}
