// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMistakesAboutAddressesOfThePlanNameWhoseTheyAre(t *testing.T) {
	const head = "# A test.\nworlds prog\ntopology two-nodes\nuplink\n"
	tests := map[string]struct{ rest, want string }{
		"a name for a pod's":              {"address vip 10.0.0.10\nping client -> web-2\n", "x.txtar:5: address vip: 10.0.0.10 is the address of client: name one that no host has"},
		"a route of a node's":             {"route 198.18.0.3 via node\nping client -> web-2\n", "x.txtar:5: route: 198.18.0.3 is the address of node-2"},
		"a node's is given":               {"give 198.18.0.3 to node\n", "x.txtar:5: 198.18.0.3 is the address of node-2"},
		"an outside host's is led":        {"lead 203.0.113.10 via node\n", "x.txtar:5: 203.0.113.10 is the address of internet"},
		"a sender of the other family":    {"[ipv6] send internet posing-as 10.9.9.9 ip(dst=client) udp(dport=1)\n", "x.txtar:5: posing-as: 10.9.9.9 is no address of ipv6"},
		"a sender without the family":     {"address vip 198.51.100.7\n[ipv6] send internet posing-as vip ip(dst=client) udp(dport=1)\n", "x.txtar:6: posing-as: vip has no ipv6 address"},
		"a destination of another family": {"address vip 198.51.100.7\nconnect internet -> tcp/vip:80 fails timeout\n", "x.txtar:6: vip has no ipv6 address"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.txtar", []byte(head+test.rest))
			require.ErrorContains(t, err, test.want)
		})
	}
}
