// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

// ownersOf gives the identity of each address, as one compile has it.
func ownersOf(t *testing.T, text string, local model.Local) (owners map[string]model.Identity, state *model.State, lost []string) {
	t.Helper()
	state, warnings, err := All(manifest.DeriveEndpointSlices(mustParse(t, text)), "node-1", local)
	require.NoError(t, err)
	owners = map[string]model.Identity{}
	for a := range state.Addresses.All() {
		if a.Prefix.IsSingleIP() {
			owners[a.Prefix.Addr().String()] = a.Owner()
		}
	}
	for _, w := range warnings {
		if w.Lost || w.Ignored {
			lost = append(lost, w.String())
		}
	}
	return owners, state, lost
}

const liveNodes = `
apiVersion: v1
kind: Node
metadata: {name: node-1, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {podCIDRs: [10.0.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-2, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {podCIDRs: [10.0.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: there}
spec: {nodeName: node-2}
status: {podIP: 10.0.2.7}
---
apiVersion: v1
kind: Service
metadata: {name: dns}
spec: {clusterIP: 10.96.0.10, ports: [{port: 53}]}
---
`

func TestANodeTakesNothingFromOthers(t *testing.T) {
	before, _, none := ownersOf(t, liveNodes, model.Local{})
	require.Empty(t, none)
	node := func(metadata, spec, address, status string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: a-gone%s}\nspec: {%s}\nstatus: {addresses: [{type: InternalIP, address: %q}]%s}\n", metadata, spec, address, status)
	}
	const old, unready = `, creationTimestamp: "2020-01-01T00:00:00Z"`, `, conditions: [{type: Ready, status: "Unknown"}]`
	for _, tt := range []struct{ name, node, want string }{
		{"this node's address", node(old, "", "192.0.2.1", ""), "192.0.2.1 is the address of Node node-1"},
		{"this node's, of one that is ready and younger", node(`, creationTimestamp: "2030-01-01T00:00:00Z"`, "podCIDRs: [10.0.9.0/24]", "192.0.2.1", `, conditions: [{type: Ready, status: "True"}]`), "192.0.2.1 is the address of Node node-1"},
		{"another node's, older", node(old, "podCIDRs: [10.0.9.0/24]", "192.0.2.2", `, conditions: [{type: Ready, status: "True"}]`), "192.0.2.2 is the address of Node node-2"},
		{"another node's, younger and not ready", node(`, creationTimestamp: "2030-01-01T00:00:00Z"`, "podCIDRs: [10.0.9.0/24]", "192.0.2.2", unready), "192.0.2.2 is the address of Node node-2"},
		{"a pod's", node(old, "", "10.0.2.7", ""), "10.0.2.7 lies in 10.0.2.0/24, which are addresses of pods"},
		{"one that a pod may get", node(old, "", "10.0.1.99", ""), "10.0.1.99 lies in 10.0.1.0/24, which are addresses of pods"},
		{"a service's", node(old, "", "10.96.0.10", ""), "10.96.0.10 is the address of Service default/dns"},
		{"none", node(old, "", "gone.example", ""), `status.addresses[0]: "gone.example" is not the address of a host that others reach`},
		{"loopback", node(old, "", "127.0.0.1", ""), `"127.0.0.1" is not the address of a host that others reach`},
		{"a podCIDR of this node", node(old, "podCIDRs: [10.0.0.0/16]", "192.0.2.9", ""), "spec.podCIDRs[0]: 10.0.0.0/16 overlaps 10.0.1.0/24 of Node node-1"},
		{"a podCIDR that holds this node", node(old, "podCIDRs: [192.0.2.0/30]", "192.0.2.9", ""), "spec.podCIDRs[0]: 192.0.2.0/30 holds 192.0.2.1 of Node node-1"},
		{"a podCIDR that holds another node", node(old, "podCIDRs: [192.0.2.2/32]", "192.0.2.9", ""), "spec.podCIDRs[0]: 192.0.2.2/32 holds 192.0.2.2 of Node node-2"},
		{"a podCIDR that holds itself", node(old, "podCIDRs: [198.51.100.0/24]", "198.51.100.9", ""), "spec.podCIDRs[0]: 198.51.100.0/24 holds 198.51.100.9 of Node a-gone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 {
				after, state, lost := ownersOf(t, liveNodes+tt.node, model.Local{})
				require.Len(t, lost, 1, "one field is lost")
				require.Contains(t, lost[0], "Node a-gone: ")
				require.Contains(t, lost[0], tt.want)
				delete(after, "192.0.2.9")
				delete(after, "198.51.100.9")
				require.Equal(t, before, after)
				require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, state.Node.Addresses)
				require.Len(t, state.Services.Slice(), 1)
			}
		})
	}
}

func TestThisNodeKnowsItselfByItsKernelToo(t *testing.T) {
	local := withUplink()
	local.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("192.0.2.2")}
	owners, state, lost := ownersOf(t, liveNodes+`
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, clusterIP: 10.96.0.20, externalIPs: [192.0.2.100], ports: [{port: 80, nodePort: 30080}]}
`, local)
	require.Equal(t, []netip.Addr{local.Addresses[0], local.Addresses[1], local.Addresses[3]}, state.Node.Addresses, "what a proxy of old has left for services is not the node's")
	require.Equal(t, model.IdentityHost, owners["192.0.2.100"])
	require.Len(t, lost, 1)
	require.Contains(t, lost[0], "Node node-2: status.addresses[0]: 192.0.2.2 is the address of Node node-1")
	at := map[string]bool{}
	for s := range state.Services.All() {
		at[fmt.Sprint(s.Kind, " ", netip.AddrPortFrom(s.Address, s.Port))] = true
	}
	require.True(t, at["NodePort 192.0.2.100:30080"])
	require.True(t, at["ExternalIP 192.0.2.100:80"], "an address that wanders is no Node's")
}

func TestAPodKeepsItsAddress(t *testing.T) {
	pod := func(name, metadata, node, ip string) string {
		return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s%s}\nspec: {nodeName: %s}\nstatus: {podIP: %q}\n", name, metadata, node, ip)
	}
	const young, going = `, creationTimestamp: "2030-01-01T00:00:00Z"`, `, creationTimestamp: "2031-01-01T00:00:00Z", deletionTimestamp: "2032-01-01T00:00:00Z"`
	for _, tt := range []struct{ name, text, has, want string }{
		{"that is connected here, before all others", pod("here", "", "node-1", "10.0.1.5") + pod("thief", young, "node-1", "10.0.1.5"), "here", "Pod default/thief: status.podIPs[0]: 10.0.1.5 is the address of Pod default/here"},
		{"of its node's podCIDR, before one of another node", pod("a-thief", young, "node-1", "10.0.2.9") + pod("other", "", "node-2", "10.0.2.9"), "other", "Pod default/a-thief"},
		{"the younger of two", pod("a-old", `, creationTimestamp: "2020-01-01T00:00:00Z"`, "node-2", "10.0.2.9") + pod("other", young, "node-2", "10.0.2.9"), "other", "Pod default/a-old"},
		{"the one that stays", pod("a-going", going, "node-2", "10.0.2.9") + pod("other", young, "node-2", "10.0.2.9"), "other", "Pod default/a-going"},
		{"before a node that is gone has a say", pod("a-lost", young, "node-9", "10.0.2.9") + pod("other", "", "node-2", "10.0.2.9"), "other", "Pod default/a-lost"},
		{"which is not a service's outside of its node's podCIDR", pod("thief", young, "node-2", "10.96.0.10"), "", "Pod default/thief: status.podIPs[0]: 10.96.0.10 is the address of Service default/dns"},
		{"nor a node's", pod("thief", young, "node-2", "192.0.2.2"), "", "Pod default/thief: status.podIPs[0]: 192.0.2.2 is the address of Node node-2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objs := mustParse(t, liveNodes+tt.text)
			local := model.Local{Devices: map[model.Key]model.Device{model.ParseKey("default/here"): {Name: "veth", Ifindex: 7}}}
			c := newCompiler(objs, "node-1", local)
			_, err := c.compile()
			require.NoError(t, err)
			i := slices.IndexFunc(c.warnings, func(w Warning) bool { return w.Lost })
			require.GreaterOrEqual(t, i, 0)
			require.Contains(t, c.warnings[i].String(), tt.want)
			if tt.has != "" {
				owner := slices.IndexFunc(c.parties, func(p *party) bool { return p.name.Name == tt.has })
				require.GreaterOrEqual(t, owner, 0)
				require.NotEmpty(t, c.parties[owner].addresses)
			}
		})
	}
}

func TestAPodWithoutASayIsNoObstacle(t *testing.T) {
	_, state, lost := ownersOf(t, liveNodes+`
apiVersion: v1
kind: Pod
metadata: {name: liar}
spec: {nodeName: node-2}
status: {podIP: 203.0.113.9}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, clusterIP: 10.96.0.20, ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}
`, model.Local{})
	require.Empty(t, lost)
	require.True(t, slices.ContainsFunc(state.Services.Slice(), func(s model.Service) bool { return s.Kind == model.KindLoadBalancer }))
}

func TestTheOperatorChoosesWhatMayBeClaimed(t *testing.T) {
	const text = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.20, externalIPs: [203.0.113.9, 192.0.2.2, 192.0.2.1], ports: [{name: a, port: 80}, {name: b, port: 10250}]}
---
apiVersion: v1
kind: Pod
metadata: {name: here}
spec: {nodeName: node-1, containers: [{name: c, ports: [{containerPort: 1, hostPort: 81}, {containerPort: 2, hostPort: 82, hostIP: 192.0.2.1}, {containerPort: 3, hostPort: 10250}]}]}
status: {podIP: 10.0.1.5}
---
apiVersion: v1
kind: Pod
metadata: {name: own}
spec: {nodeName: node-1, hostNetwork: true, containers: [{name: c, ports: [{containerPort: 80}]}]}
status: {podIP: 192.0.2.1}
`
	only := func(texts ...string) model.Allowed { return model.Allowed{Only: prefixes(texts...)} }
	for _, tt := range []struct {
		name    string
		options model.Options
		want    string
		lost    []string
	}{
		{"nothing chosen", model.Options{}, "ExternalIP 203.0.113.9:80, ExternalIP 203.0.113.9:10250, HostPort 127.0.0.1:81, HostPort 192.0.2.1:81, HostPort 192.0.2.1:82",
			[]string{"192.0.2.2 is the address of Node node-2, which comes first: use a load balancer or a node port, or ask the operator to allow it by name", "10250 (tcp) is a port of the nodes, which nothing takes"}},
		{"external addresses off", model.Options{ExternalIPs: model.Allowed{Off: true}}, "HostPort 127.0.0.1:81, HostPort 192.0.2.1:81, HostPort 192.0.2.1:82",
			[]string{"203.0.113.9 is no external address that the operator allows, who says off: ask for it, or use another"}},
		{"external addresses by name, a node's among them", model.Options{ExternalIPs: only("192.0.2.0/24")}, "ExternalIP 192.0.2.2:80, HostPort 127.0.0.1:81, HostPort 192.0.2.1:81, HostPort 192.0.2.1:82",
			[]string{"192.0.2.1:80 (tcp) is claimed by Pod default/own, spec.containers[0].ports[0].containerPort, which comes first", "who says 192.0.2.0/24"}},
		{"no host ports without an address", model.Options{HostPorts: model.Allowed{Off: true}}, "ExternalIP 203.0.113.9:80, ExternalIP 203.0.113.9:10250, HostPort 192.0.2.1:82",
			[]string{"spec.containers[0].ports[0].hostIP: names no address, and the operator allows none then, who says off: name an address of the node"}},
		{"host ports without an address on some", model.Options{HostPorts: only("192.0.2.0/24")}, "ExternalIP 203.0.113.9:80, ExternalIP 203.0.113.9:10250, HostPort 192.0.2.1:81, HostPort 192.0.2.1:82", nil},
		{"other ports of the nodes", model.Options{ReservedPorts: []uint16{81}}, "ExternalIP 203.0.113.9:80, ExternalIP 203.0.113.9:10250, HostPort 127.0.0.1:10250, HostPort 192.0.2.1:82, HostPort 192.0.2.1:10250",
			[]string{"192.0.2.1:81 (tcp) is a port of the nodes, which nothing takes: give it another"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, state, lost := ownersOf(t, liveNodes+text, model.Local{Options: tt.options})
			var have []string
			for _, s := range append(slices.Clone(state.Loopback), state.Services.Slice()...) {
				if s.Kind != model.KindClusterIP {
					have = append(have, fmt.Sprint(s.Kind, " ", netip.AddrPortFrom(s.Address, s.Port)))
				}
			}
			require.ElementsMatch(t, strings.Split(tt.want, ", "), have)
			for _, want := range tt.lost {
				require.Contains(t, strings.Join(lost, "\n"), want)
			}
		})
	}
}

func TestKubeletsAndServersKeepTheirSockets(t *testing.T) {
	objs := mustParse(t, liveNodes+`
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, clusterIP: 10.96.0.20, externalIPs: [198.51.100.6], ports: [{name: a, port: 6443}, {name: b, port: 10777}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.2}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.2]}, {addresses: [198.51.100.6]}]
ports: [{port: 6443}]
`)
	objs.Nodes["node-2"].Status.DaemonEndpoints.KubeletEndpoint.Port = 10777
	state, warnings, err := All(objs, "node-1", model.Local{})
	require.NoError(t, err)
	for s := range state.Services.All() {
		require.False(t, s.Kind == model.KindLoadBalancer || s.Kind == model.KindExternalIP && s.Port == 6443, "%v", s)
	}
	said := strings.Join(texts(warnings), "\n")
	require.Contains(t, said, "192.0.2.2:6443 (tcp) is a port of the cluster's API server, which nothing takes")
	require.Contains(t, said, "198.51.100.6:6443 (tcp) is a port of the cluster's API server, which nothing takes")
	require.Contains(t, said, "192.0.2.2:10777 (tcp) is a port of the kubelet of Node node-2, which nothing takes")
}

func TestWhoseAnnotationsLiftWhat(t *testing.T) {
	cluster := policyOf(t, "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\nspec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}]}]}")
	own := policyOf(t, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}}")
	pod := func(said string) string { return "metadata: {name: p" + said + "}" }
	const yes, no = `, annotations: {weir.net/policy-audit: "true"}`, `, annotations: {weir.net/policy-audit: "false"}`
	for _, tt := range []struct {
		name         string
		believed     model.AuditAnnotations
		pod, space   string
		ofCluster    bool
		ofNamespaces bool
	}{
		{"nobody says anything", "", "", "", false, false},
		{"a pod", "", yes, "", false, true},
		{"its namespace", "", "", yes, true, true},
		{"a pod that does not want what its namespace does", "", no, yes, false, false},
		{"a pod, and namespaces are believed", model.AuditNamespaces, yes, "", false, false},
		{"its namespace, and namespaces are believed", model.AuditNamespaces, "", yes, true, true},
		{"both, and policies are believed", model.AuditPolicies, yes, yes, false, false},
		{"both, and nobody is believed", model.AuditOff, yes, yes, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objs := mustParse(t, "apiVersion: v1\nkind: Pod\n"+pod(tt.pod)+"\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default"+tt.space+"}\n")
			c := newCompiler(objs, "node", model.Local{Options: model.Options{AuditAnnotations: tt.believed}})
			lenient := c.leniencyOf(objs.Pods["default/p"])
			require.Equal(t, tt.ofCluster, lenient.spares(cluster))
			require.Equal(t, tt.ofNamespaces, lenient.spares(own))
		})
	}
}

func policyOf(t *testing.T, text string) *compiledPolicy {
	t.Helper()
	objs := mustParse(t, text)
	if p := objs.NetworkPolicies["default/p"]; p != nil {
		return &compiledPolicy{object: p}
	}
	return &compiledPolicy{object: objs.ClusterNetworkPolicies["p"]}
}

func TestAddressesAsTheAPITakesThem(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "192.000.002.010": "192.0.2.10", "::ffff:192.0.2.1": "192.0.2.1", "::ffff:c000:201": "192.0.2.1", "2001:db8::1": "2001:db8::1", "2001:DB8:0::01": "2001:db8::1",
		"": "", "192.0.2": "", "192.0.2.256": "", "192.0.2.1/32": "", "fe80::1%eth0": "", "name": "", " 192.0.2.1": "",
	} {
		addr, err := manifest.ParseLegacyAddr(text)
		if want == "" {
			require.Error(t, err, text)
			continue
		}
		require.NoError(t, err, text)
		require.Equal(t, want, addr.String(), text)
	}
}

func TestSwitchesAreReadAsTheyAreWritten(t *testing.T) {
	for _, text := range []string{"on", "off", "10.0.0.0/8", "10.0.0.0/8,fd00::/16"} {
		a, err := model.ParseAllowed(text)
		require.NoError(t, err)
		require.Equal(t, text, a.String())
		require.Equal(t, text == "on", a.IsZero())
	}
	inside, outside := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.1")
	for text, want := range map[string][2]bool{"on": {true, true}, "off": {false, false}, "10.0.0.0/8, fd00::/16": {true, false}} {
		a, err := model.ParseAllowed(text)
		require.NoError(t, err)
		require.Equal(t, want, [2]bool{a.Allows(inside), a.Allows(outside)}, text)
	}
	for _, text := range []string{"", "yes", "10.0.0.0", "10.0.0.0/8,", "on,off"} {
		_, err := model.ParseAllowed(text)
		require.ErrorContains(t, err, "is neither on, nor off, nor an address block", text)
	}
}
