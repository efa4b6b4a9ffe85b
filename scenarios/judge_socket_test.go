// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// The model says where a node's sockets are led, and what they did is held against
// that.
func TestWhereASocketWasLedIsHeldAgainstTheModel(t *testing.T) {
	const objects = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 10.96.0.2, selector: {app: none}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: web}}
spec: {nodeName: node, containers: [{name: main, image: main}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.10}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: web}}
spec: {nodeName: node, containers: [{name: main, image: main}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.11}]}
`
	topo := lab.Topology{Nodes: []lab.Host{{Name: "node"}}, Sockets: true}
	objs, err := manifest.Parse("objects", strings.NewReader(objects))
	require.NoError(t, err)
	one := netip.MustParseAddr("10.0.0.10")
	for name, c := range map[string]struct {
		to        string
		in        intent
		goesOn    string // as the packet that leaves then
		disagrees string // what the model expects
	}{
		"a server of the service":     {"10.96.0.1:80", intent{outcome: answered, server: one}, "10.0.0.10:8080", ""},
		"another server":              {"10.96.0.1:80", intent{outcome: answered, server: netip.MustParseAddr("10.0.0.77")}, "", "one of the servers"},
		"nobody can tell which":       {"10.96.0.1:80", intent{outcome: timeout}, "", ""},
		"a refusal":                   {"10.96.0.2:80", intent{outcome: refusal}, "", ""},
		"an answer of nobody":         {"10.96.0.2:80", intent{outcome: answered, server: one}, "", "a refusal (no-backend)"},
		"silence in place of refusal": {"10.96.0.2:80", intent{outcome: timeout}, "", "a refusal (no-backend)"},
		"no service":                  {"10.0.0.10:81", intent{outcome: refusal}, "10.0.0.10:81", ""},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJudge(topo, []model.Local{{}}, nil)
			j.at("").oracle.SetObjects(objs)
			to := netip.MustParseAddrPort(c.to)
			led, ok := j.led(c.in, "node", model.Tuple{Dst: to.Addr(), Dport: to.Port(), Protocol: model.ProtocolTCP})
			require.Equal(t, c.goesOn != "", ok)
			if ok {
				require.Equal(t, c.goesOn, netip.AddrPortFrom(led.Dst, led.Dport).String())
			}
			if c.disagrees == "" {
				require.Empty(t, j.disagreed)
				return
			}
			require.Len(t, j.disagreed, 1)
			require.Contains(t, j.disagreed[0].Expected, c.disagrees)
		})
	}
}
