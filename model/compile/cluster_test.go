// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net"
	"net/netip"
	"os"

	"github.com/weirnet/weir/model"
)

const (
	client = "default/client"
	web0   = "default/web-0"
	web1   = "default/web-1"
)

// clusterYAML is the cluster of these tests and of the oracle's, which the file
// draws.
var clusterYAML = readCluster()

func readCluster() string {
	text, err := os.ReadFile("../oracle/testdata/cluster.yaml")
	if err != nil {
		panic(err)
	}
	return string(text)
}

func testLocal() model.Local {
	local := model.Local{Devices: map[model.Key]model.Device{}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.0.254"), netip.MustParseAddr("fd00::fe")}}
	for _, name := range []string{client, web0, web1} {
		local.Devices[model.ParseKey(name)] = model.Device{Name: "veth-" + name, PodMAC: net.HardwareAddr{2, 0, 0, 0, 0, name[len(name)-1]}}
	}
	return local
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}
