// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestSocketsOfTheNodeAreLedToServers(t *testing.T) {
	const hostPorts = `
apiVersion: v1
kind: Pod
metadata: {name: proxy}
spec:
  nodeName: node-a
  containers: [{name: main, image: main, ports: [
    {containerPort: 8080, hostPort: 8888},
    {containerPort: 8080, hostPort: 8889, hostIP: HOST}]}]
status: {podIPs: [{ip: 10.0.0.77}, {ip: "fd00::77"}]}
`
	eachFamily(t, func(t *testing.T, f family) {
		loopback, proxy := "127.0.0.1", "10.0.0.77"
		if f.name == "IPv6" {
			loopback, proxy = "::1", "fd00::77"
		}
		b := nodeBench(t, model.Options{}, everywhere("  loadBalancerSourceRanges: [192.0.2.0/24]"), strings.ReplaceAll(hostPorts, "HOST", strconv.Quote(f.node)))
		lead := func(to string, port uint16, protocol model.Protocol) (servers []string, refused model.Reason) {
			l := b.oracle.Lead(netip.AddrPortFrom(netip.MustParseAddr(to), port), protocol)
			for _, s := range l.Servers {
				servers = append(servers, s.Addr().String())
				require.EqualValues(t, 8080, s.Port())
			}
			require.Equal(t, len(servers) > 0 || l.Refused != "", len(l.Story) == 1)
			return servers, l.Refused
		}
		far := b.out(ip(f.node, f.cluster, model.ProtocolTCP, tcp(1, 80, flagSYN))).servers()
		require.Len(t, far, 3)
		for _, at := range []struct {
			to   string
			port uint16
		}{{f.cluster, 80}, {f.lb, 80}, {f.external, 80}, {f.node, 30080}, {loopback, 30080}} {
			for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
				servers, refused := lead(at.to, at.port, protocol)
				require.ElementsMatch(t, far, servers, "%s port %d", at.to, at.port)
				require.Empty(t, refused)
			}
		}
		for _, at := range []struct {
			to   string
			port uint16
		}{{f.cluster, 81}, {f.web0, 8080}, {loopback, 80}, {loopback, 8889}, {f.node, 80}} {
			servers, refused := lead(at.to, at.port, model.ProtocolTCP)
			require.Empty(t, servers, "%s port %d", at.to, at.port)
			require.Empty(t, refused)
		}
		for _, at := range []struct {
			to   string
			port uint16
		}{{f.node, 8888}, {loopback, 8888}, {f.node, 8889}} {
			servers, _ := lead(at.to, at.port, model.ProtocolTCP)
			require.Equal(t, []string{proxy}, servers, "%s port %d", at.to, at.port)
		}

		b = nodeBench(t, model.Options{}, shop("nobody", ""))
		_, refused := lead(f.cluster, 80, model.ProtocolTCP)
		require.Equal(t, model.ReasonNoBackend, refused)
		b = nodeBench(t, model.Options{}, shop("far", "  internalTrafficPolicy: Local"))
		_, refused = lead(f.cluster, 80, model.ProtocolUDP)
		require.Equal(t, model.ReasonNoLocalBackend, refused)
	})
}
