// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/kind/pkg/cluster/nodes"
)

// named is a node of which nothing is asked but its name.
type named struct {
	nodes.Node
	name string
}

func (n named) String() string { return n.name }

func TestTheReferenceNetworkIsPlain(t *testing.T) {
	one, two := member{node: named{name: "one"}}, member{node: named{name: "two"}}
	require.NoError(t, one.read("10.244.0.0/24 fd00:10:244::/64", "172.18.0.2 fc00::2"))
	require.NoError(t, two.read("10.244.1.0/24 fd00:10:244:1::/64", "fc00::3 172.18.0.3"))
	require.Equal(t, "route replace 10.244.1.0/24 via 172.18.0.3\nroute replace fd00:10:244:1::/64 via fc00::3\n", one.routes([]member{one, two}))
	conf, err := one.conflist()
	require.NoError(t, err)
	require.JSONEq(t, `{"cniVersion": "1.0.0", "name": "reference", "plugins": [
		{"type": "ptp", "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam-state",
			"ranges": [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00:10:244::/64"}]],
			"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}`, string(conf))
	require.ErrorContains(t, new(member).read("", "172.18.0.2"), "it has no podCIDR yet")
}

func TestTheNetworkOfAClusterIsOneOfTwo(t *testing.T) {
	require.ErrorContains(t, (&Options{Network: "flannel"}).Validate(), `network "flannel" is unknown: use weir or reference`)
	require.Equal(t, "none", string((&Options{}).config().Networking.KubeProxyMode))
	require.Equal(t, "nftables", string((&Options{Network: NetworkReference}).config().Networking.KubeProxyMode))
}
