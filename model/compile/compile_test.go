// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/utils/ptr"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/manifest"
)

func mustCompile(t testing.TB, text string) (*model.State, []Warning) {
	t.Helper()
	state, warnings, err := All(manifest.DeriveEndpointSlices(mustParse(t, text)), "node-a", testLocal())
	require.NoError(t, err)
	return state, warnings
}

func TestCompileMakesTheStateOfANode(t *testing.T) {
	state, warnings := mustCompile(t, clusterYAML)
	require.Equal(t, []string{"Service default/nobody: spec.selector: matches no pod of namespace default: connections are refused until one has these labels"}, texts(warnings))

	addr := netip.MustParseAddr
	require.Equal(t, model.Node{Name: "node-a", Addresses: []netip.Addr{addr("172.18.0.2"), addr("fd18::2")}, Gateways: testLocal().Gateways}, state.Node)

	require.Len(t, state.Endpoints, 3, "pods of this node only")
	clientEP, web0EP, web1EP := state.Endpoints[0], state.Endpoints[1], state.Endpoints[2]
	require.Equal(t, client, clientEP.Name.String())
	require.Equal(t, "veth-"+client, clientEP.Device.Name)
	require.Equal(t, addr("10.0.0.1"), clientEP.IPv4)
	require.Equal(t, addr("fd00::1"), clientEP.IPv6)
	require.Equal(t, web0EP.Identity, web1EP.Identity, "equal labels, one identity")
	require.NotEqual(t, clientEP.Identity, web0EP.Identity)
	require.Equal(t, clientEP.RuleSet, web0EP.RuleSet, "no policy is the same for all")
	require.Equal(t, []model.RuleSet{{Key: clientEP.RuleSet, Rules: []model.Rule{{Direction: model.Ingress}, {Direction: model.Egress}}}}, state.RuleSets)

	known := map[string]model.Identity{}
	for a := range state.Addresses.All() {
		known[a.Prefix.String()] = a.Identity
	}
	require.Len(t, known, 2*(4+2+1), "pods, nodes, gateways")
	require.Equal(t, model.IdentityHost, known["172.18.0.2/32"])
	require.Equal(t, model.IdentityHost, known["fd00::fe/128"])
	require.Equal(t, model.IdentityRemoteNode, known["fd18::3/128"])
	require.Equal(t, web0EP.Identity, known["fd00::3/128"])
	require.GreaterOrEqual(t, known["10.0.1.1/32"], model.FirstLabelIdentity)

	require.Equal(t, []model.Service{
		{Name: model.PortRef{Namespace: "default", Name: "web", Port: "80"}, Kind: model.KindClusterIP, Address: addr("10.96.0.10"), Port: 80, Protocol: model.ProtocolTCP, Backends: []model.Backend{{Address: addr("10.0.0.2"), Port: 8080}, {Address: addr("10.0.0.3"), Port: 8080}}},
		{Name: model.PortRef{Namespace: "default", Name: "nobody", Port: "t"}, Kind: model.KindClusterIP, Address: addr("10.96.0.11"), Port: 80, Protocol: model.ProtocolTCP},
		{Name: model.PortRef{Namespace: "default", Name: "nobody", Port: "u"}, Kind: model.KindClusterIP, Address: addr("10.96.0.11"), Port: 53, Protocol: model.ProtocolUDP},
		{Name: model.PortRef{Namespace: "default", Name: "web", Port: "80"}, Kind: model.KindClusterIP, Address: addr("fd96::10"), Port: 80, Protocol: model.ProtocolTCP, Backends: []model.Backend{{Address: addr("fd00::2"), Port: 8080}, {Address: addr("fd00::3"), Port: 8080}}},
		{Name: model.PortRef{Namespace: "default", Name: "nobody", Port: "t"}, Kind: model.KindClusterIP, Address: addr("fd96::11"), Port: 80, Protocol: model.ProtocolTCP},
		{Name: model.PortRef{Namespace: "default", Name: "nobody", Port: "u"}, Kind: model.KindClusterIP, Address: addr("fd96::11"), Port: 53, Protocol: model.ProtocolUDP},
	}, state.Services.Slice())

	again, _ := mustCompile(t, clusterYAML)
	require.Equal(t, state, again)
}

func texts(warnings []Warning) []string {
	var list []string
	for _, w := range warnings {
		list = append(list, w.String())
	}
	return list
}

// rulesOf compiles a policy for web-0 and writes its rules short.
func rulesOf(t *testing.T, spec string) []string {
	t.Helper()
	objs := mustParse(t, clusterYAML+"\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: "+spec)
	state, _, err := All(objs, "node-a", testLocal())
	require.NoError(t, err)
	names := map[model.Identity]string{model.IdentityUnknown: "any"}
	for _, e := range state.Endpoints {
		names[e.Identity] = strings.TrimSuffix(e.Name.Name, "-1")
	}
	for a := range state.Addresses.All() {
		switch {
		case a.Prefix.String() == "10.0.1.1/32":
			names[a.Owner()] = "far"
		case a.Owner() >= model.FirstBlockIdentity:
			names[a.Identity] = a.Prefix.String()
		}
	}
	names[model.IdentityHost], names[model.IdentityRemoteNode] = "host", "remote-node"
	for a := range state.Addresses.All() {
		if a.Of != model.IdentityUnknown {
			names[a.Identity] = names[a.Of] + " at " + a.Prefix.Addr().String()
		}
	}
	var rules []string
	for _, set := range state.RuleSets {
		if set.Key != state.Endpoints[1].RuleSet {
			continue
		}
		for _, r := range set.Rules {
			rules = append(rules, fmt.Sprintf("%s %s %s %d/%d by %s", r.Direction, names[r.Peer], r.Protocol, r.Port, r.PortBits, r.Origin))
		}
	}
	return rules
}

func TestPoliciesBecomeRules(t *testing.T) {
	const p = "NetworkPolicy/default/p"
	tests := []struct {
		name, spec string
		want       []string
	}{
		{"no rules, no types: ingress is shut, egress open", `{podSelector: {}}`,
			[]string{"egress any any 0/0 by no policy"}},
		{"an empty rule allows all", `{podSelector: {}, ingress: [{}]}`,
			[]string{"ingress any any 0/0 by " + p + " rule 0", "egress any any 0/0 by no policy"}},
		{"an egress rule makes the policy one for both directions", `{podSelector: {}, egress: [{}]}`,
			[]string{"egress any any 0/0 by " + p + " rule 0"}},
		{"types alone say which directions", `{podSelector: {}, policyTypes: [Egress], ingress: [{}]}`,
			[]string{"ingress any any 0/0 by no policy"}},
		{"a policy for others changes nothing", `{podSelector: {matchLabels: {app: client}}}`,
			[]string{"ingress any any 0/0 by no policy", "egress any any 0/0 by no policy"}},
		{"peers by pods' labels", `{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [client, far]}]}}]}]}`,
			[]string{"ingress client any 0/0 by " + p + " rule 0", "ingress far any 0/0 by " + p + " rule 0", "egress any any 0/0 by no policy"}},
		{"peers by a namespace's own label", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: far}}, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}}]}]}`,
			[]string{"ingress far any 0/0 by " + p + " rule 0", "egress any any 0/0 by no policy"}},
		{"a selector that matches nobody allows nobody", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: ghost}}}]}]}`,
			[]string{"egress any any 0/0 by no policy"}},
		{"a port is TCP unless it says so", `{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}, {protocol: SCTP}]}]}`,
			[]string{"ingress any tcp 80/16 by " + p + " rule 0", "ingress any udp 53/16 by " + p + " rule 0", "ingress any sctp 0/0 by " + p + " rule 0", "egress any any 0/0 by no policy"}},
		{"a range becomes prefixes", `{podSelector: {}, ingress: [{ports: [{port: 1000, endPort: 1025}]}]}`,
			[]string{"ingress any tcp 1000/13 by " + p + " rule 0", "ingress any tcp 1008/12 by " + p + " rule 0", "ingress any tcp 1024/15 by " + p + " rule 0", "egress any any 0/0 by no policy"}},
		{"of equal rules the first stays", `{podSelector: {}, ingress: [{ports: [{port: 80}]}, {ports: [{port: 80}, {port: 81}]}]}`,
			[]string{"ingress any tcp 80/16 by " + p + " rule 0", "ingress any tcp 81/16 by " + p + " rule 1", "egress any any 0/0 by no policy"}},
		{"a block is its prefixes less the exceptions", `{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/24]}}]}, {to: [{ipBlock: {cidr: 192.0.2.7/32}}]}], policyTypes: [Egress]}`,
			[]string{"ingress any any 0/0 by no policy", "egress 0.0.0.0/0 any 0/0 by " + p + " rule 0", "egress 192.0.2.7/32 any 0/0 by " + p + " rule 1",
				"egress client at 10.0.0.1 any 0/0 by " + p + " rule 0", "egress web at 10.0.0.3 any 0/0 by " + p + " rule 0", "egress far at 10.0.1.1 any 0/0 by " + p + " rule 0",
				"egress host at 172.18.0.2 any 0/0 by " + p + " rule 0", "egress remote-node at 172.18.0.3 any 0/0 by " + p + " rule 0"}},
		{"a block tells pods of one identity apart", `{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.2/32]}}]}, {from: [{podSelector: {matchLabels: {app: web}}}]}], policyTypes: [Ingress]}`,
			[]string{"egress any any 0/0 by no policy", "ingress 10.0.0.0/24 any 0/0 by " + p + " rule 0",
				"ingress client at 10.0.0.1 any 0/0 by " + p + " rule 0", "ingress web at 10.0.0.3 any 0/0 by " + p + " rule 0", "ingress web any 0/0 by " + p + " rule 1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.ElementsMatch(t, tt.want, rulesOf(t, tt.spec))
		})
	}
}

func TestAnIPv6BlockNeverStandsForIPv4(t *testing.T) {
	policy := "\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}, ingress: [{from: [BLOCKS]}]}"
	world := model.Address{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Identity: model.IdentityWorld}
	for blocks, said := range map[string]bool{
		`{ipBlock: {cidr: "::/0"}}`:                               true,
		`{ipBlock: {cidr: "::/80"}}`:                              true,
		`{ipBlock: {cidr: "2001:db8::/32"}}`:                      false,
		`{ipBlock: {cidr: "::/0"}}, {ipBlock: {cidr: 0.0.0.0/0}}`: false,
	} {
		t.Run(blocks, func(t *testing.T) {
			state, _ := mustCompile(t, clusterYAML+strings.ReplaceAll(policy, "BLOCKS", blocks))
			require.Equal(t, said, slices.Contains(state.Addresses.Slice(), world))
		})
	}
}

func TestPortRangesAreCoveredExactly(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		first := uint16(1 + r.IntN(65535))
		last := first + uint16(r.IntN(65536-int(first)))
		next := uint32(first)
		for _, p := range portPrefixes(first, last) {
			size := uint32(1) << (16 - p.bits)
			require.Zero(t, uint32(p.port)%size, "a prefix begins at its mask")
			require.Equal(t, next, uint32(p.port), "%d–%d without a gap", first, last)
			next += size
		}
		require.Equal(t, uint32(last)+1, next, "%d–%d to its end", first, last)
	}
	require.Equal(t, []portPrefix{{}}, portPrefixes(0, 0))
}

func TestCompileRefusesContradictions(t *testing.T) {
	pod := func(name, rest string) string {
		return "\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\n" + rest
	}
	svc := func(name, spec string) string {
		return "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: " + spec
	}
	tests := []struct{ name, text, want string }{
		{"a pod without a node", pod("lost", "status: {podIP: 10.0.0.9}"), "Pod default/lost: spec.nodeName: is empty, and there are 2 nodes"},
		{"a pod in no namespace", "\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: nowhere}\n", "Pod nowhere/p: metadata.namespace: there is no namespace nowhere: add the Namespace"},
		{"a policy in no namespace", "\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: nowhere}\nspec: {podSelector: {}}\n", "NetworkPolicy nowhere/p: metadata.namespace: there is no namespace nowhere"},
		{"a service without an address", svc("s", "{ports: [{port: 80}]}"), "Service default/s: spec.clusterIP: is empty: give the service an address, or None"},
		{"SCTP to another port", svc("s", "{clusterIP: 10.96.0.9, ports: [{port: 80, targetPort: 81, protocol: SCTP}]}"), "Service default/s: spec.ports[0].targetPort: 81 would change the port of SCTP, which is not supported: make port, targetPort and nodePort equal, or leave nodePort out"},
		{"SCTP by another node port", svc("s", "{clusterIP: 10.96.0.9, type: NodePort, ports: [{port: 80, nodePort: 30080, protocol: SCTP}]}"), "Service default/s: spec.ports[0].nodePort: 30080 would change the port of SCTP"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			state, _, err := All(mustParse(t, clusterYAML+tt.text), "node-a", testLocal())
			require.ErrorContains(t, err, tt.want)
			require.Nil(t, state)
		})
	}
	_, _, err := All(mustParse(t, clusterYAML), "node-c", testLocal())
	require.ErrorIs(t, err, manifest.ErrNotFound)
}

func TestAddressesThatAreClaimedTwice(t *testing.T) {
	pod := func(name, rest string) string {
		return "\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\n" + rest
	}
	svc := func(name, spec string) string {
		return "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: " + spec
	}
	tests := []struct{ name, text, want string }{
		{"two pods with one address", pod("twin", "spec: {nodeName: node-b}\nstatus: {podIPs: [{ip: 10.0.0.1}]}"), "Pod default/twin: status.podIPs[0]: 10.0.0.1 is the address of Pod default/client"},
		{"a pod with the node's address", pod("twin", "spec: {nodeName: node-b}\nstatus: {podIP: 172.18.0.2}"), "172.18.0.2 is the address of Node node-a"},
		{"a pod with the gateway's address", pod("twin", "spec: {nodeName: node-b}\nstatus: {podIP: 10.0.0.254}"), "10.0.0.254 is the address of the pods' gateway"},
		{"two services with one address", svc("twin", "{clusterIP: 10.96.0.10, ports: [{port: 80}]}"), "Service default/web: spec.clusterIPs[0]: 10.96.0.10 is the address of Service default/twin"},
		{"a service with a pod's address", svc("twin", "{clusterIP: 10.0.0.1, ports: [{port: 80}]}"), "Service default/twin: spec.clusterIPs[0]: 10.0.0.1 is the address of Pod default/client"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings := mustCompile(t, clusterYAML+tt.text)
			require.Contains(t, strings.Join(texts(warnings), "\n"), tt.want)
		})
	}
}

func TestCompileWarnsOfABalancersFamilyThatEverybodyReaches(t *testing.T) {
	svc := func(ranges, ingress string) string {
		return clusterYAML + `
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {type: LoadBalancer, clusterIPs: [10.96.0.80, "fd96::80"], selector: {app: web}, ports: [{port: 80}], loadBalancerSourceRanges: [` + ranges + `]}
status: {loadBalancer: {ingress: [` + ingress + `]}}`
	}
	const both = `{ip: 203.0.113.9}, {ip: "2001:db8::9"}`
	tests := []struct{ name, ranges, ingress, open string }{
		{"IPv6, which has no range", "192.0.2.0/24", both, "IPv6"},
		{"IPv4, which has no range", `"2001:db8::/32"`, both, "IPv4"},
		{"none, where both have one", `192.0.2.0/24, "2001:db8::/32"`, both, ""},
		{"none, where nobody is restricted", "", both, ""},
		{"none, where the balancer has one family", "192.0.2.0/24", "{ip: 203.0.113.9}", ""},
		{"none, where a proxy is asked", "192.0.2.0/24", `{ip: 203.0.113.9}, {ip: "2001:db8::9", ipMode: Proxy}`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings := mustCompile(t, svc(tt.ranges, tt.ingress))
			said := strings.Join(texts(warnings), "\n")
			if tt.open == "" {
				require.NotContains(t, said, "everybody reaches")
				return
			}
			require.Contains(t, said, "Service default/shop: spec.loadBalancerSourceRanges: has no "+tt.open+" range, and everybody reaches the balancer's "+tt.open+" address: add the ranges that may")
		})
	}
}

func TestCompileWarnsOfWhatMatchesNothing(t *testing.T) {
	policy := func(spec string) string {
		return "\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: " + spec
	}
	tests := []struct{ name, text, want string }{
		{"a policy for nobody", policy(`{podSelector: {matchLabels: {app: ghost}}}`), "NetworkPolicy default/p: spec.podSelector: matches no pod of namespace default: the policy has no effect until one has these labels"},
		{"a peer that is nobody", policy(`{podSelector: {}, egress: [{}, {to: [{podSelector: {}}, {namespaceSelector: {matchLabels: {a: b}}}]}]}`), "NetworkPolicy default/p: spec.egress[1].to[1]: matches no pod"},
		{"a port name that nobody has", policy(`{podSelector: {}, ingress: [{ports: [{port: http}]}]}`), `NetworkPolicy default/p: spec.ingress[0].ports[0].port: no container port of the pods concerned is called "http" (tcp): name one so, or give the number`},
		{"a pod without a device", "\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: new}\nspec: {nodeName: node-a}\nstatus: {podIP: 10.0.0.9}", "Pod default/new: spec.nodeName: the pod has no device on node node-a"},
		{"a slice of no service", "\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\nendpoints: []\nports: []", "EndpointSlice default/s: metadata.labels: no service is named by kubernetes.io/service-name"},
		{"a slice of a missing service", "\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: ghost}}\naddressType: IPv4\nendpoints: []\nports: []", "there is no Service default/ghost"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings := mustCompile(t, clusterYAML+tt.text)
			require.Contains(t, strings.Join(texts(warnings), "\n"), tt.want)
		})
	}
}

func TestPodsWithoutAnAddressOfTheirOwnAreNoEndpoints(t *testing.T) {
	state, _ := mustCompile(t, `
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {hostNetwork: true}
status: {podIP: 172.18.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0}
status: {phase: Pending}
---
apiVersion: v1
kind: Pod
metadata: {name: done}
status: {phase: Succeeded, podIP: 10.0.0.7}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1}
status: {podIP: 10.0.0.7}
`)
	require.Len(t, state.Endpoints, 1)
	require.Equal(t, web1, state.Endpoints[0].Name.String())
}

func TestIdentitiesKeepTheirNumbersBetweenCompiles(t *testing.T) {
	local := testLocal()
	local.Identities = model.NewAllocator()
	objs := mustParse(t, clusterYAML)
	numbers := func() map[string]model.Identity {
		state, _, err := All(objs, "node-a", local)
		require.NoError(t, err)
		found := map[string]model.Identity{}
		for a := range state.Addresses.All() {
			found[a.Prefix.String()] = a.Identity
		}
		return found
	}
	before := numbers()
	objs.Merge(mustParse(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: aaa, labels: {a: a}}\nspec: {nodeName: node-b}\nstatus: {podIP: 10.0.1.9}"))
	after := numbers()
	fresh := after["10.0.1.9/32"]
	delete(after, "10.0.1.9/32")
	require.Equal(t, before, after)

	require.NoError(t, objs.Delete("pod", "", "aaa"))
	objs.Merge(mustParse(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: bbb, labels: {b: b}}\nspec: {nodeName: node-b}\nstatus: {podIP: 10.0.1.9}"))
	require.NotEqual(t, fresh, numbers()["10.0.1.9/32"], "a number is not given to others at once")
}

func TestDerivedSlicesAreWhatTheControllerMakes(t *testing.T) {
	objs := mustParse(t, `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIPs: [10.96.0.10, "fd96::10"]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: web}}
spec: {initContainers: [{name: c, restartPolicy: Always, ports: [{name: http, containerPort: 9090}]}]}
status: {podIP: 10.0.0.2, phase: Pending}
---
apiVersion: v1
kind: Pod
metadata: {name: c, labels: {app: web}, deletionTimestamp: "2030-01-01T00:00:00Z"}
status: {podIP: 10.0.0.3, phase: Running, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: d, labels: {app: web}}
status: {podIP: 10.0.0.4, phase: Failed}
---
apiVersion: v1
kind: Pod
metadata: {name: e, labels: {app: other}}
status: {podIP: 10.0.0.5}
---
apiVersion: v1
kind: Service
metadata: {name: explicit}
spec: {clusterIP: 10.96.0.11, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: explicit-x, labels: {kubernetes.io/service-name: explicit}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.9]}]
ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 10.96.0.12, selector: {app: ghost}, ports: [{port: 80}]}
`)
	derived := manifest.DeriveEndpointSlices(objs)
	require.Len(t, objs.EndpointSlices, 1, "the objects given stay as they are")
	var lines []string
	for _, slice := range manifest.InOrder(derived.EndpointSlices) {
		line := slice.Name + ":"
		for _, port := range slice.Ports {
			line += fmt.Sprintf(" %s/%s/%d", ptr.Deref(port.Name, ""), ptr.Deref(port.Protocol, ""), *port.Port)
		}
		for _, e := range slice.Endpoints {
			line += fmt.Sprintf(" %s(ready=%t serving=%t terminating=%t)", e.Addresses[0], ptr.Deref(e.Conditions.Ready, true), ptr.Deref(e.Conditions.Serving, false), ptr.Deref(e.Conditions.Terminating, false))
		}
		lines = append(lines, line)
	}
	require.Equal(t, []string{
		"empty-derived-ipv4-0:",
		"explicit-x: //80 10.0.0.9(ready=true serving=false terminating=false)",
		"web-derived-ipv4-0: http/TCP/8080 dns/UDP/53 10.0.0.1(ready=true serving=true terminating=false)",
		"web-derived-ipv4-1: http/TCP/9090 dns/UDP/53 10.0.0.2(ready=false serving=false terminating=false)",
		"web-derived-ipv4-2: dns/UDP/53 10.0.0.3(ready=false serving=true terminating=true)",
		"web-derived-ipv6-3: http/TCP/8080 dns/UDP/53 fd00::1(ready=true serving=true terminating=false)",
	}, lines)
}

func BenchmarkCompile(b *testing.B) {
	objs := manifest.DeriveEndpointSlices(mustParse(b, clusterYAML))
	for b.Loop() {
		if _, _, err := All(objs, "node-a", testLocal()); err != nil {
			b.Fatal(err)
		}
	}
}
