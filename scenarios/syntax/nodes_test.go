// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func prefixes(cidrs ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, c := range cidrs {
		out = append(out, netip.MustParsePrefix(c))
	}
	return out
}

func TestFormerNamesOfTablesAreWarnedOf(t *testing.T) {
	f, err := Parse("x.txtar", []byte(`
worlds prog
topology two-pods
apply web.yaml
send client ip(src=client dst=web) tcp(dport=80 flags=S)
verdict forward table=unanswered
table addresses has "10.0.0.1"
table services has "80"
`+service))
	require.NoError(t, err)
	require.Equal(t, "ct-unanswered", f.Steps[2].Verb.(*Verdict).Fields[0].Value)
	require.Equal(t, "ipcache", f.Steps[3].Verb.(*TableCheck).Table)
	require.Equal(t, []string{
		"x.txtar:6: the table unanswered is ct_unanswered now", "x.txtar:7: the table addresses is ipcache now",
	}, f.Warnings)
}

func TestANetworkOfSeveralNodesIsReadAsItIsWritten(t *testing.T) {
	f, err := Parse("x.txtar", []byte(`# A test.
worlds prog
topology two-nodes
node node topology.kubernetes.io/zone=a
node node-3 topology.kubernetes.io/zone=b
pod late app=late on node-3
masquerade except 192.0.2.0/24 2001:db8:1::1 ports 40000-50000
maglev 251
pings drop
nodeports on 198.18.0.0/24
return dsr geneve
route 198.51.100.9 lb(web.default) via node-2

apply web.yaml
connect internet -> tcp/lb(web.default):80
send internet ip(src=internet dst=lb(web.default)) tcp(dport=80 flags=S)
verdict forward at=from-device on=node-2 endpoint=node-2
flow client -> tcp/internet:80 on=node
counter forwarded to-device 3 on node-3
table services on node-2 has "80"
`+service))
	require.NoError(t, err)
	require.Equal(t, []string{"node", "node-2", "node-3"}, f.NodeNames())
	require.Equal(t, map[string]string{"topology.kubernetes.io/zone": "a"}, f.Nodes[0].Labels)
	require.Equal(t, map[string]string{"topology.kubernetes.io/zone": "b"}, f.Nodes[2].Labels)
	var nodes []string
	for _, p := range f.Pods {
		nodes = append(nodes, p.Name+" on "+p.Node)
	}
	require.Equal(t, []string{"client on node", "web-1 on node", "web-2 on node-2", "late on node-3"}, nodes)
	require.True(t, f.Uplinks)
	require.Equal(t, model.Options{
		Masquerade: true, MasqueradeExcluded: prefixes("192.0.2.0/24", "2001:db8:1::1/128"), FirstPort: 40000, LastPort: 50000,
		Algorithm: model.AlgorithmMaglev, MaglevSize: 251, ServicePings: model.PingsDropped, NodePortAddresses: prefixes("198.18.0.0/24"),
		Return: model.ReturnDSR, Tunnel: model.TunnelGeneve,
	}, f.Options)
	require.Equal(t, []Route{{Pos{"x.txtar", 12}, "198.51.100.9", "node-2"}, {Pos{"x.txtar", 12}, "lb(web.default)", "node-2"}}, f.Routes)
	require.Equal(t, "lb(web.default)", f.Steps[1].Verb.(*Connect).To.Name)
	require.Equal(t, Assignment{"dst", "lb(web.default)"}, f.Steps[2].Verb.(*Send).Layers[0].Fields[1])
	require.Equal(t, "node-3", f.Steps[5].Verb.(*Counter).Node)
	require.Equal(t, "node-2", f.Steps[6].Verb.(*TableCheck).Node)
}

func TestANetworkOfOneNodeHasNoUplink(t *testing.T) {
	f, err := Parse("x.txtar", []byte(script("ping client -> web")))
	require.NoError(t, err)
	require.False(t, f.Uplinks)
	require.Equal(t, []string{FirstNode}, f.NodeNames())
	require.Equal(t, FirstNode, f.Pods[0].Node)
	require.Equal(t, model.Options{}, f.Options)
}

func TestMistakesAboutNodesNameTheirPlaceAndWhatWasExpected(t *testing.T) {
	const step = "\nping client -> web"
	tests := map[string]struct{ steps, line, want string }{
		"a node twice":                        {"node node-2\nnode node-2" + step, "x.txtar:5:", "a host node-2 already"},
		"the node that is there always":       {"node node" + step, "x.txtar:4:", "there is a node node always"},
		"a node's name":                       {"node gateway" + step, "x.txtar:4:", "cannot be a name"},
		"a pod on a node that is not there":   {"pod late on node-2" + step, "x.txtar:4:", "there is no node node-2: expected one of node"},
		"a pod that is called like a node":    {"node late\npod late" + step, "x.txtar:5:", "a host late already"},
		"ports in the wrong order":            {"masquerade ports 50000-40000" + step, "x.txtar:4:", "the lower port first"},
		"ports without an end":                {"masquerade ports 50000" + step, "x.txtar:4:", "a port from 1 to 65535, found ''"},
		"nothing excepted":                    {"masquerade except ports 1-2" + step, "x.txtar:4:", "expected a CIDR"},
		"a CIDR with host bits":               {"masquerade except 10.0.0.1/8" + step, "x.txtar:4:", "a CIDR like 10.0.0.0/8 or an address, found '10.0.0.1/8'"},
		"a table of a size that is no prime":  {"maglev 250" + step, "x.txtar:1:", "prime"},
		"pings that are neither":              {"pings ignore" + step, "x.txtar:4:", "answer or drop, found 'ignore'"},
		"a size that is no number":            {"maglev big" + step, "x.txtar:4:", "a size of a table, found 'big'"},
		"node ports on nothing":               {"nodeports on" + step, "x.txtar:4:", "a CIDR"},
		"a way back that is none":             {"return home" + step, "x.txtar:4:", "snat, dsr or hybrid, found 'home'"},
		"a tunnel that is none":               {"return dsr gre" + step, "x.txtar:4:", "ipip or geneve, found 'gre'"},
		"a route to a node that is not there": {"uplink\nroute 198.51.100.1 via node-2" + step, "x.txtar:5:", "there is no node node-2"},
		"a route of a host":                   {"uplink\nroute web via node" + step, "x.txtar:5:", "neither an address nor lb(SERVICE.NAMESPACE)"},
		"a route of nothing":                  {"uplink\nroute via node" + step, "x.txtar:5:", "an address before 'via'"},
		"a route without a router":            {"route 198.51.100.1 via node" + step, "x.txtar:4:", "add 'uplink'"},
		"a balancer of no service":            {"connect client -> tcp/lb(api.default):80", "x.txtar:4:", "no attached file has a service api in namespace default"},
		"a bracket that is not closed":        {"connect client -> tcp/lb(api.default:80", "x.txtar:4:", "expected"},
		"a verdict on another node":           {"send client ip(dst=web)\nverdict forward on=node-2", "x.txtar:5:", "there is no node node-2"},
		"a flow of another node":              {"flow client -> tcp/web:80 on=node-2", "x.txtar:4:", "there is no node node-2"},
		"a counter of another node":           {"counter forwarded from-device 1 on node-2", "x.txtar:4:", "there is no node node-2"},
		"a counter of a hook that is none":    {"counter forwarded ingress 1", "x.txtar:4:", "to-device, socket, found 'ingress'"},
		"a table of another node":             {`table services on node-2 has "80"`, "x.txtar:4:", "there is no node node-2"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.txtar", []byte(script(test.steps)))
			require.Error(t, err)
			require.True(t, strings.Contains(err.Error(), test.line) && strings.Contains(err.Error(), test.want), "expected %s … %s in:\n%v", test.line, test.want, err)
		})
	}
}
