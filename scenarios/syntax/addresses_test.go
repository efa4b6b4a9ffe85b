// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAddressesThatMoveAreReadAsTheyAreWritten(t *testing.T) {
	f, err := Parse("x.txtar", []byte(`# A test.
worlds prog
topology two-nodes
outside storage
address vip 198.51.100.200 2001:db8:51::c8
uplink second storage
route vip lb(web.default) via node node-2

apply web.yaml
give vip 198.51.100.201 to node node-2
lead vip lb(web.default) via node-2
take vip 198.51.100.201 from node-2
connect internet -> tcp/vip:80
send storage posing-as vip ip(dst=vip) tcp(dport=80 flags=S)
`+service))
	require.NoError(t, err)
	require.Equal(t, []Named{{Pos{"x.txtar", 5}, "vip", []netip.Addr{netip.MustParseAddr("198.51.100.200"), netip.MustParseAddr("2001:db8:51::c8")}}}, f.Named)
	require.True(t, f.Uplinks)
	require.Equal(t, []string{"storage"}, f.Second)
	at := Pos{"x.txtar", 7}
	require.Equal(t, []Route{{at, "vip", "node"}, {at, "vip", "node-2"}, {at, "lb(web.default)", "node"}, {at, "lb(web.default)", "node-2"}}, f.Routes)
	require.Equal(t, &Give{[]string{"vip", "198.51.100.201"}, []string{"node", "node-2"}}, f.Steps[1].Verb)
	require.Equal(t, &Lead{[]string{"vip", "lb(web.default)"}, []string{"node-2"}}, f.Steps[2].Verb)
	require.Equal(t, &Take{[]string{"vip", "198.51.100.201"}, []string{"node-2"}}, f.Steps[3].Verb)
	require.Equal(t, "vip", f.Steps[5].Verb.(*Send).Sender)
}

func TestALabelMayHaveNoValue(t *testing.T) {
	f, err := Parse("x.txtar", []byte(`# A test.
worlds prog
node node edge=
namespace tenant audited= team="" tier=gold
pod client app= example.com/role=x quoted="" last=
label pod/client app= role=y old-
label namespace/tenant team=
`))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"edge": ""}, f.Nodes[0].Labels)
	require.Equal(t, map[string]string{"audited": "", "team": "", "tier": "gold"}, f.Namespaces[0].Labels)
	require.Equal(t, map[string]string{"app": "", "example.com/role": "x", "quoted": "", "last": ""}, f.Pods[0].Labels)
	label := f.Steps[0].Verb.(*Label)
	require.Equal(t, map[string]string{"app": "", "role": "y"}, label.Set)
	require.Equal(t, []string{"old"}, label.Remove)
	require.Equal(t, map[string]string{"team": ""}, f.Steps[1].Verb.(*Label).Set)
}

func TestMistakesAboutAddressesNameTheObjectAndTheRemedy(t *testing.T) {
	const step, vip = "\nping client -> web", "uplink\naddress vip 198.51.100.200\n"
	tests := map[string]struct{ steps, line, want string }{
		"a label with a wrong key":              {"pod x -a=b" + step, "x.txtar:4:", "pod x: '-a' cannot be the key of a label"},
		"a label with a wrong value":            {"label pod/web app=a/b", "x.txtar:4:", "pod/default/web: label app cannot have the value 'a/b'"},
		"a label twice":                         {"namespace x a= a=b" + step, "x.txtar:4:", "namespace x: label a is named twice"},
		"a label with a bracket":                {"pod x a=(" + step, "x.txtar:4:", "a value for label a, or a blank for none, found '('"},
		"a field without a value":               {"send client ip(dst= ttl=1)", "x.txtar:4:", "ip"},
		"an address without one":                {"address vip" + step, "x.txtar:4:", "expected an address, found the end of the line"},
		"an address that is none":               {"address vip 198.51.100" + step, "x.txtar:4:", "address vip: expected an address like 198.51.100.7 or 2001:db8::7, found '198.51.100'"},
		"an address of loopback":                {"address vip 127.0.0.1" + step, "x.txtar:4:", "no address that others reach a host by"},
		"an address that is mapped":             {"address vip ::ffff:198.51.100.1" + step, "x.txtar:4:", "write it as IPv4"},
		"two addresses of a family":             {"address vip 198.51.100.1 198.51.100.2" + step, "x.txtar:4:", "it has an address of the family of 198.51.100.2 already"},
		"two names of an address":               {vip + "address top 198.51.100.200" + step, "x.txtar:6:", "198.51.100.200 is called vip already"},
		"a name of a host":                      {"address web 198.51.100.200" + step, "x.txtar:4:", "there is a host web already"},
		"a host with the name of an address":    {vip + "pod vip" + step, "x.txtar:6:", "there is an address vip already"},
		"a name that means something else":      {"address gateway 198.51.100.200" + step, "x.txtar:4:", "'gateway' cannot be a name"},
		"what is given has no name":             {vip + "give top to node", "x.txtar:6:", "give: there is no address top: expected an address, or a name that a line like 'address top 198.51.100.7' declares"},
		"what is given is multicast":            {"give 224.0.0.1 to node", "x.txtar:4:", "give: 224.0.0.1 is no address that others reach"},
		"given to a pod":                        {vip + "give vip to client", "x.txtar:6:", "give: there is no node client: expected one of node"},
		"given to nobody":                       {vip + "give vip to", "x.txtar:6:", "a node, found the end"},
		"given twice":                           {vip + "give vip to node\ngive 198.51.100.200 to node", "x.txtar:7:", "node has 198.51.100.200 already, since line 6: take it first"},
		"named twice":                           {vip + "give vip vip to node", "x.txtar:6:", "vip is named twice"},
		"taken before it was given":             {vip + "take vip from node", "x.txtar:6:", "take: node does not have 198.51.100.200 at this step: expected 'give 198.51.100.200 to node' before"},
		"taken twice":                           {vip + "give vip to node\ntake vip from node\ntake vip from node", "x.txtar:8:", "does not have"},
		"led to a node that is not there":       {vip + "lead vip via node-2", "x.txtar:6:", "lead: there is no node node-2"},
		"led where there is no router":          {"lead 198.51.100.1 via node", "x.txtar:4:", "lead: there is no router in a network of one node without an uplink: add 'uplink'"},
		"a route of loopback":                   {"uplink\nroute 127.0.0.1 via node" + step, "x.txtar:5:", "route: 127.0.0.1 is no address that others reach a host by: name one that is neither loopback, link-local, multicast nor unspecified"},
		"a route of multicast":                  {"uplink\nroute 198.51.100.7 ff02::1 via node" + step, "x.txtar:5:", "route: ff02::1 is no address that others reach"},
		"a route of broadcast":                  {"uplink\nroute 255.255.255.255 via node" + step, "x.txtar:5:", "route: 255.255.255.255 is no address that others reach"},
		"a route of a zone":                     {"uplink\nroute fd00::1%eth0 via node" + step, "x.txtar:5:", "route: fd00::1%eth0 is no plain address"},
		"loopback that is led":                  {vip + "lead ::1 via node", "x.txtar:6:", "lead: ::1 is no address that others reach"},
		"link-local that is led":                {vip + "lead 169.254.1.1 via node", "x.txtar:6:", "lead: 169.254.1.1 is no address that others reach"},
		"a host that is led":                    {vip + "lead web via node", "x.txtar:6:", "lead: web is neither an address nor lb(SERVICE.NAMESPACE)"},
		"a route twice":                         {vip + "route vip via node\nroute vip via node" + step, "x.txtar:7:", "route: vip has one already, since line 6: name all its nodes there"},
		"a second uplink to a pod":              {"uplink second web" + step, "x.txtar:1:", "uplink second: web is no host outside: expected one of internet"},
		"a second uplink to nobody":             {"uplink second" + step, "x.txtar:4:", "a host outside, found the end"},
		"a third uplink":                        {"uplink third internet" + step, "x.txtar:4:", "expected 'second', found 'third'"},
		"a second uplink to a host twice":       {"uplink second internet internet" + step, "x.txtar:1:", "internet is named twice"},
		"a sender that is nobody":               {"send client posing-as nobody ip(dst=web)", "x.txtar:4:", "send: posing-as: nobody is no host"},
		"a sender that is named twice":          {"send client posing-as web ip(src=client dst=web)", "x.txtar:4:", "ip: src=client and posing-as web both name the sender: leave out one of them"},
		"a sender of a frame without addresses": {"send client posing-as web eth(type=1) payload(size=9)", "x.txtar:4:", "posing-as web: the frame has no sender's address"},
		"a sender of ARP that is named twice":   {"send client posing-as web arp(op=request spa=client)", "x.txtar:4:", "arp: spa=client and posing-as web"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.txtar", []byte(script(test.steps)))
			require.Error(t, err)
			require.True(t, strings.Contains(err.Error(), test.line) && strings.Contains(err.Error(), test.want), "expected %s … %s in:\n%v", test.line, test.want, err)
		})
	}
}

func TestEveryWordIsExplained(t *testing.T) {
	header, steps := Help()
	for _, word := range append(header, steps...) {
		require.NotEmpty(t, word.Help, word.Usage)
	}
	text := ""
	for _, word := range append(header, steps...) {
		text += word.Usage + "\n" + word.Help + "\n"
	}
	for _, part := range []string{"KEY= is a label without a value", "give ADDRESS", "take ADDRESS", "lead ADDRESS", "address NAME", "uplink [second HOST...]", "posing-as", "(ECMP)"} {
		require.Contains(t, text, part)
	}
}
