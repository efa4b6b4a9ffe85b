// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
)

// galaxyYAML is one node with three ships, and a droid of another namespace.
const galaxyYAML = `
apiVersion: v1
kind: Namespace
metadata: {name: droids, labels: {side: none}}
---
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {zone: a}}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b, labels: {zone: b}}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: deathstar, labels: {org: empire, class: deathstar}}
spec: {nodeName: node-a, containers: [{name: c, ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]}]}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: tiefighter, labels: {org: empire, class: tiefighter}}
spec: {nodeName: node-a, serviceAccountName: pilot}
status: {podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: xwing, labels: {org: alliance}}
spec: {nodeName: node-a}
status: {podIPs: [{ip: 10.0.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: r2d2, namespace: droids, labels: {org: alliance}}
spec: {nodeName: node-b}
status: {podIPs: [{ip: 10.0.1.4}]}
---
apiVersion: v1
kind: Service
metadata: {name: star, labels: {kind: star}}
spec: {clusterIP: 10.96.0.1, selector: {class: deathstar}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-1, labels: {kubernetes.io/service-name: far}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.7]}]
ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.9]}]
ports: [{port: 443}]
---
`

const (
	star   = "default/deathstar"
	tie    = "default/tiefighter"
	xwing  = "default/xwing"
	droid  = "droids/r2d2"
	farOff = "192.0.2.1"
)

func cilium(spec string) string {
	return "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec: " + spec + "\n"
}

func clusterwide(spec string) string {
	return "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: p}\nspec: " + spec + "\n"
}

func tiered(name, spec string) string {
	return "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: " + name + "}\nspec: " + spec + "\n"
}

func networkPolicy(spec string) string {
	return "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np}\nspec: " + spec + "\n"
}

// ask puts a question to the oracle and to the compiled table, and gives the
// answer on which they agree: allowed or denied, and by whom.
func ask(t *testing.T, objs *manifest.Objects, from, to string, port uint16, protocol model.Protocol) string {
	t.Helper()
	local := model.Local{Devices: map[model.Key]model.Device{}}
	for name := range objs.Pods {
		local.Devices[model.ParseKey(name)] = model.Device{Name: "veth"}
	}
	d, err := Explain(objs, from, to, port, protocol)
	require.NoError(t, err)
	address := func(name string) netip.Addr {
		if pod := objs.Pods[name]; pod != nil {
			return addressesIn(pod)[0]
		}
		if node := objs.Nodes[name]; node != nil {
			name = node.Status.Addresses[0].Address
		}
		return netip.MustParseAddr(name)
	}
	for _, r := range d.Rulings {
		node := r.Subject.Name
		if !r.OfNode {
			node = objs.Pods[r.Subject.String()].Spec.NodeName
		}
		state, _, err := compile.All(objs, node, local)
		require.NoError(t, err)
		if r.OfNode {
			state.Endpoints = []model.Endpoint{{Name: r.Subject, RuleSet: state.Node.RuleSet}}
		}
		peer := to
		if r.Direction == model.Ingress {
			peer = from
		}
		for _, endpoint := range state.Endpoints {
			if endpoint.Name == r.Subject {
				rule := lookUp(state, endpoint, r.Direction, address(peer), protocol, port+typeOf(protocol))
				require.Equal(t, r.Allowed(), rule != nil && !rule.Action.Denies(), "oracle: %s, compiler: %v", r, rule)
				if rule != nil {
					require.Equal(t, r.Action == model.RuleAudit, (rule.Action == model.RuleAudit), "oracle: %s, compiler: %v", r, rule)
					require.Equal(t, r.Origin, rule.Origin)
				}
			}
		}
		if !r.Allowed() || !r.Origin.Policy.IsZero() {
			text := strings.TrimPrefix(r.Reason(), "allowed by ")
			return strings.TrimPrefix(text, "denied: ")
		}
	}
	return "free"
}

// typeOf is what the table has in the place of the port.
func typeOf(protocol model.Protocol) uint16 {
	return map[model.Protocol]uint16{model.ProtocolICMP: 8, model.ProtocolICMPv6: 128}[protocol]
}

type policyQuestion struct {
	from, to string
	port     uint16
	protocol model.Protocol
	answer   string
}

func askAll(t *testing.T, objects string, questions []policyQuestion) {
	t.Helper()
	objs := mustParse(t, galaxyYAML+objects)
	for _, q := range questions {
		require.Equal(t, q.answer, ask(t, objs, q.from, q.to, q.port, q.protocol), "%s to %s %d/%s", q.from, q.to, q.port, q.protocol)
	}
}

const (
	byP    = "CiliumNetworkPolicy/default/p rule 0"
	noneOf = "CiliumNetworkPolicy/default/p selects the pod, and no rule matches"
	byDeny = "denied by CiliumNetworkPolicy/default/p ingressDeny rule 0"
	free   = "free"
)

func TestCiliumPolicies(t *testing.T) {
	for name, tt := range map[string]struct {
		objects   string
		questions []policyQuestion
	}{
		"pods by labels, of the policy's own namespace": {cilium(`{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{fromEndpoints: [{matchLabels: {org: alliance}}]}]}`),
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byP}, {xwing, star, 0, model.ProtocolICMP, byP}, {droid, star, 80, model.ProtocolTCP, noneOf}, {tie, star, 80, model.ProtocolTCP, noneOf}, {star, xwing, 1, model.ProtocolTCP, free}}},
		"pods of another namespace, by its name": {cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": droids}}]}]}`),
			[]policyQuestion{{droid, star, 80, model.ProtocolTCP, byP}, {xwing, star, 80, model.ProtocolTCP, noneOf}}},
		"pods of another namespace, by its labels": {cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.namespace.labels.side: none}}]}]}`),
			[]policyQuestion{{droid, star, 80, model.ProtocolTCP, byP}, {xwing, star, 80, model.ProtocolTCP, noneOf}}},
		"pods by their account": {cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {"k8s:io.cilium.k8s.policy.serviceaccount": pilot}}]}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, byP}, {xwing, star, 80, model.ProtocolTCP, noneOf}}},
		"keys of any source": {cilium(`{endpointSelector: {matchLabels: {"any:class": deathstar}}, ingress: [{fromEndpoints: [{matchExpressions: [{key: "k8s:org", operator: NotIn, values: [alliance]}]}]}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, byP}, {xwing, star, 80, model.ProtocolTCP, noneOf}, {farOff, star, 80, model.ProtocolTCP, noneOf}}},
		"who is no pod, by reserved labels": {cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {"reserved:world": ""}}]}]}`),
			[]policyQuestion{{farOff, star, 80, model.ProtocolTCP, byP}, {"172.18.0.3", star, 80, model.ProtocolTCP, noneOf}, {tie, star, 80, model.ProtocolTCP, noneOf}}},
		"an empty rule isolates": {cilium(`{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, noneOf}, {star, tie, 80, model.ProtocolTCP, free}}},
		"an empty list of peers is nobody": {cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [], toPorts: [{ports: [{port: "80"}]}]}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, noneOf}}},
		"ports of anybody, in any protocol": {cilium(`{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{toPorts: [{ports: [{port: "80", endPort: 90}]}]}]}`),
			[]policyQuestion{{farOff, star, 85, model.ProtocolUDP, byP}, {tie, star, 90, model.ProtocolSCTP, byP}, {tie, star, 91, model.ProtocolTCP, noneOf}, {tie, star, 0, model.ProtocolICMP, noneOf}}},
		"port 0 of a protocol is any of its ports": {cilium(`{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: "0", protocol: TCP}]}]}]}`),
			[]policyQuestion{{tie, star, 1, model.ProtocolTCP, byP}, {tie, star, 1, model.ProtocolUDP, noneOf}}},
		"ports by name": {cilium(`{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: HTTP, protocol: TCP}, {port: dns}]}]}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, byP}, {tie, star, 53, model.ProtocolUDP, byP}, {tie, star, 53, model.ProtocolTCP, noneOf}, {star, tie, 80, model.ProtocolTCP, noneOf}}},
		"pings, by their number": {cilium(`{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{fromEndpoints: [{matchLabels: {org: alliance}}], icmps: [{fields: [{type: 8}]}]}]}`),
			[]policyQuestion{{xwing, star, 0, model.ProtocolICMP, byP}, {xwing, star, 8, model.ProtocolTCP, noneOf}, {tie, star, 0, model.ProtocolICMP, noneOf}}},
		"pings of anybody, by their name": {cilium(`{endpointSelector: {}, egress: [{icmps: [{fields: [{type: EchoRequest, family: IPv6}, {type: TimeExceeded}]}]}]}`),
			[]policyQuestion{{star, "2001:db8::1", 0, model.ProtocolICMPv6, byP}, {star, farOff, 0, model.ProtocolICMP, noneOf}, {star, tie, 128, model.ProtocolTCP, noneOf}}},
		"types that open nothing isolate all the same": {cilium(`{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{icmps: [{fields: [{type: 0}, {type: 129, family: IPv6}]}]}]}`),
			[]policyQuestion{{tie, star, 0, model.ProtocolICMP, noneOf}, {tie, star, 80, model.ProtocolTCP, noneOf}}},
		"denials go before permissions": {cilium(`{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{fromEntities: [all]}], ingressDeny: [{fromEndpoints: [{matchLabels: {org: alliance}}], toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]}`),
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byDeny}, {xwing, star, 81, model.ProtocolTCP, byP}, {farOff, star, 80, model.ProtocolTCP, byP}}},
		"a policy that does not isolate": {cilium(`{endpointSelector: {}, enableDefaultDeny: {ingress: false}, ingressDeny: [{fromEndpoints: [{matchLabels: {org: alliance}}]}]}`),
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byDeny}, {tie, star, 80, model.ProtocolTCP, free}}},
		"a policy that isolates without a rule": {cilium(`{endpointSelector: {}, enableDefaultDeny: {egress: true}}`),
			[]policyQuestion{{star, tie, 80, model.ProtocolTCP, noneOf}}},
		"addresses, but for some, and no pods": {cilium(`{endpointSelector: {}, ingress: [{fromCIDRSet: [{cidr: 0.0.0.0/0, except: [192.0.2.128/25]}]}]}`),
			[]policyQuestion{{farOff, star, 80, model.ProtocolTCP, byP}, {"192.0.2.200", star, 80, model.ProtocolTCP, noneOf}, {tie, star, 80, model.ProtocolTCP, noneOf}}},
		"an address alone": {cilium(`{endpointSelector: {}, egress: [{toCIDR: [192.0.2.1, 198.51.100.9/24]}]}`),
			[]policyQuestion{{star, farOff, 80, model.ProtocolTCP, byP}, {star, "198.51.100.1", 80, model.ProtocolTCP, byP}, {star, "192.0.2.2", 80, model.ProtocolTCP, noneOf}}},
		"entities": {cilium(`{endpointSelector: {}, egress: [{toEntities: [remote-node, kube-apiserver]}]}`),
			[]policyQuestion{{star, "172.18.0.3", 80, model.ProtocolTCP, byP}, {star, "172.18.0.2", 80, model.ProtocolTCP, noneOf}, {star, "192.0.2.9", 443, model.ProtocolTCP, byP}, {star, farOff, 80, model.ProtocolTCP, noneOf}}},
		"the cluster": {cilium(`{endpointSelector: {}, egress: [{toEntities: [cluster]}]}`),
			[]policyQuestion{{star, droid, 80, model.ProtocolTCP, byP}, {star, "172.18.0.2", 80, model.ProtocolTCP, byP}, {star, farOff, 80, model.ProtocolTCP, noneOf}}},
		"a family of the world": {cilium(`{endpointSelector: {}, egress: [{toEntities: [world-ipv6]}]}`),
			[]policyQuestion{{star, "2001:db8::1", 80, model.ProtocolTCP, byP}, {star, farOff, 80, model.ProtocolTCP, noneOf}}},
		"services, by name": {cilium(`{endpointSelector: {}, egress: [{toServices: [{k8sService: {serviceName: far, namespace: default}}]}]}`),
			[]policyQuestion{{star, "192.0.2.7", 80, model.ProtocolTCP, byP}, {star, farOff, 80, model.ProtocolTCP, noneOf}}},
		"services, by labels": {cilium(`{endpointSelector: {}, egress: [{toServices: [{k8sServiceSelector: {selector: {matchLabels: {kind: star}}}}]}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, byP}, {star, tie, 80, model.ProtocolTCP, noneOf}}},
		"what is required of peers holds for other rules": {cilium(`{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{fromEndpoints: [{}]}, {fromRequires: [{matchLabels: {org: empire}}]}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, byP}, {xwing, star, 80, model.ProtocolTCP, noneOf}}},
		"several specs": {"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspecs: [{endpointSelector: {}, ingress: [{}]}, {endpointSelector: {}, ingress: [{fromEntities: [all]}]}]\n",
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, "CiliumNetworkPolicy/default/p specs[1].ingress rule 0"}}},
		"clusterwide, all pods of all namespaces": {clusterwide(`{endpointSelector: {matchLabels: {org: alliance}}, ingress: [{fromEndpoints: [{}]}]}`),
			[]policyQuestion{{tie, droid, 80, model.ProtocolTCP, "CiliumClusterwideNetworkPolicy/p rule 0"}, {farOff, droid, 80, model.ProtocolTCP, "CiliumClusterwideNetworkPolicy/p selects the pod, and no rule matches"}, {farOff, star, 1, model.ProtocolTCP, free}}},
		"permissions of both languages add up": {cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {org: alliance}}]}]}`) + networkPolicy(`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {org: empire}}}]}]}`),
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byP}, {tie, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np rule 0"}, {droid, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np and CiliumNetworkPolicy/default/p select the pod, and no rule matches"}}},
		"a denial holds against a NetworkPolicy": {cilium(`{endpointSelector: {}, ingressDeny: [{fromEndpoints: [{matchLabels: {org: alliance}}]}]}`) + networkPolicy(`{podSelector: {}, ingress: [{}]}`),
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byDeny}, {tie, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np rule 0"}}},
	} {
		t.Run(name, func(t *testing.T) { askAll(t, tt.objects, tt.questions) })
	}
}

func TestPoliciesOfNodes(t *testing.T) {
	const nodes = "CiliumClusterwideNetworkPolicy/p"
	for name, tt := range map[string]struct {
		objects   string
		questions []policyQuestion
	}{
		"what comes to a node": {clusterwide(`{nodeSelector: {matchLabels: {zone: a}}, ingress: [{fromEntities: [world], toPorts: [{ports: [{port: "22", protocol: TCP}]}]}, {fromEndpoints: [{matchLabels: {org: empire}}]}]}`),
			[]policyQuestion{{farOff, "node-a", 22, model.ProtocolTCP, nodes + " rule 0"}, {farOff, "node-a", 23, model.ProtocolTCP, nodes + " selects the node, and no rule matches"},
				{tie, "node-a", 23, model.ProtocolTCP, nodes + " rule 1"}, {xwing, "node-a", 22, model.ProtocolTCP, nodes + " selects the node, and no rule matches"},
				{"node-b", "node-a", 22, model.ProtocolTCP, nodes + " selects the node, and no rule matches"}, {farOff, "node-b", 23, model.ProtocolTCP, free}, {"node-a", farOff, 80, model.ProtocolTCP, free}, {"node-a", star, 80, model.ProtocolTCP, free}}},
		"what a node opens": {clusterwide(`{nodeSelector: {matchLabels: {"k8s:zone": a}}, egress: [{toEntities: [remote-node]}]}`),
			[]policyQuestion{{"node-a", "node-b", 22, model.ProtocolTCP, nodes + " rule 0"}, {"node-a", farOff, 22, model.ProtocolTCP, nodes + " selects the node, and no rule matches"},
				{"node-a", star, 80, model.ProtocolTCP, free}, {"node-a", droid, 80, model.ProtocolTCP, nodes + " selects the node, and no rule matches"}, {farOff, "node-a", 22, model.ProtocolTCP, free}}},
		"not its pods, and a policy of pods is not its": {clusterwide(`{nodeSelector: {}, ingress: [{}]}`) + networkPolicy(`{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np rule 0"}, {farOff, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np selects the pod, and no rule matches"}, {tie, "node-a", 80, model.ProtocolTCP, nodes + " selects the node, and no rule matches"}}},
		"denials, told only": {inAudit(clusterwide(`{nodeSelector: {}, ingressDeny: [{fromEntities: [world], icmps: [{fields: [{type: 8}]}]}]}`)),
			[]policyQuestion{{farOff, "node-a", 0, model.ProtocolICMP, "allowed, since a denial is only told: by " + nodes + " ingressDeny rule 0"}}},
	} {
		t.Run(name, func(t *testing.T) { askAll(t, tt.objects, tt.questions) })
	}
}

// inAudit has the denials of a policy, or of a pod's policies, only told.
func inAudit(object string) string {
	return strings.Replace(object, "metadata: {", `metadata: {annotations: {weir.net/policy-audit: "true"}, `, 1)
}

func TestDenialsInAuditAreOnlyTold(t *testing.T) {
	ship := inAudit("---\napiVersion: v1\nkind: Pod\nmetadata: {name: probe, labels: {class: deathstar}}\nspec: {nodeName: node-a}\nstatus: {podIPs: [{ip: 10.0.0.9}]}\n")
	const probe = "default/probe"
	allowAlliance := cilium(`{endpointSelector: {matchLabels: {class: deathstar}}, ingress: [{fromEndpoints: [{matchLabels: {org: alliance}}]}]}`)
	denyEmpire := networkPolicy(`{podSelector: {matchLabels: {class: deathstar}}, ingress: [{from: [{podSelector: {matchLabels: {org: alliance}}}], ports: [{port: 443}]}]}`)
	const told = "allowed, since a denial is only told: "
	for name, tt := range map[string]struct {
		objects   string
		questions []policyQuestion
	}{
		"what no rule of a policy allows": {inAudit(allowAlliance),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, told + noneOf}, {xwing, star, 80, model.ProtocolTCP, byP}, {star, tie, 80, model.ProtocolTCP, free}}},
		"a rule that denies": {inAudit(cilium(`{endpointSelector: {}, ingress: [{fromEntities: [all]}], ingressDeny: [{fromEndpoints: [{matchLabels: {org: alliance}}]}]}`)),
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, told + "by CiliumNetworkPolicy/default/p ingressDeny rule 0"}, {tie, star, 80, model.ProtocolTCP, byP}}},
		"not what another policy denies": {inAudit(allowAlliance) + denyEmpire,
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np and CiliumNetworkPolicy/default/p select the pod, and no rule matches"}, {xwing, star, 80, model.ProtocolTCP, byP}}},
		"not a denial of another tier": {inAudit(tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`)) + denyEmpire,
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np selects the pod, and no rule matches"},
				{xwing, star, 443, model.ProtocolTCP, told + "by ClusterNetworkPolicy/a rule 0"}, {star, tie, 80, model.ProtocolTCP, told + "by ClusterNetworkPolicy/a rule 0"}}},
		"not what the baseline denies of a pod that nothing else isolates": {inAudit(denyEmpire) + tiered("b", `{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, "denied by ClusterNetworkPolicy/b rule 0"}, {tie, star, 81, model.ProtocolTCP, told + "NetworkPolicy/default/np selects the pod, and no rule matches"}}},
		"all policies of a pod": {ship + "---\n" + allowAlliance + denyEmpire,
			[]policyQuestion{{tie, probe, 80, model.ProtocolTCP, told + "NetworkPolicy/default/np and CiliumNetworkPolicy/default/p select the pod, and no rule matches"}, {xwing, probe, 80, model.ProtocolTCP, byP}, {tie, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np and CiliumNetworkPolicy/default/p select the pod, and no rule matches"}}},
		"all policies of a namespace's pods": {inAudit("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n") + "---\n" + clusterwide(`{endpointSelector: {}, ingressDeny: [{fromEntities: [world]}]}`),
			[]policyQuestion{{farOff, star, 80, model.ProtocolTCP, told + "by CiliumClusterwideNetworkPolicy/p ingressDeny rule 0"}, {farOff, droid, 80, model.ProtocolTCP, "denied by CiliumClusterwideNetworkPolicy/p ingressDeny rule 0"}}},
	} {
		t.Run(name, func(t *testing.T) { askAll(t, tt.objects, tt.questions) })
	}
}

// The API reads blocks of a NetworkPolicy more leniently than they are written
// mostly, and the datapath lets through what it would.
func TestBlocksAreReadAsTheAPIReadsThem(t *testing.T) {
	const rule0 = "NetworkPolicy/default/np rule 0"
	const none = "NetworkPolicy/default/np selects the pod, and no rule matches"
	for name, tt := range map[string]struct{ cidr, except, inside, excepted, outside string }{
		"as they should be":          {"192.0.2.0/24", "192.0.2.128/25", "192.0.2.1", "192.0.2.129", "192.0.3.1"},
		"with more than their bits":  {"192.0.2.77/24", "192.0.2.130/25", "192.0.2.1", "192.0.2.129", "192.0.3.1"},
		"with zeros before numbers":  {"192.000.002.0/024", "192.0.2.010/032", "192.0.2.8", "192.0.2.10", "192.0.3.1"},
		"IPv4 written as IPv6":       {"::ffff:192.0.2.0/120", "::ffff:c000:280/121", "192.0.2.1", "192.0.2.129", "192.0.3.1"},
		"IPv6 that ends as IPv4":     {"64:ff9b::192.0.2.0/120", "64:ff9b::192.0.2.128/121", "64:ff9b::c000:201", "64:ff9b::c000:281", "192.0.2.1"},
		"IPv6 with more than it has": {"2001:db8::1/64", "2001:db8::ffff:1/112", "2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"},
	} {
		t.Run(name, func(t *testing.T) {
			askAll(t, networkPolicy(`{podSelector: {}, egress: [{to: [{ipBlock: {cidr: "`+tt.cidr+`", except: ["`+tt.except+`"]}}]}]}`), []policyQuestion{
				{star, tt.inside, 80, model.ProtocolTCP, rule0}, {star, tt.excepted, 80, model.ProtocolTCP, none}, {star, tt.outside, 80, model.ProtocolTCP, none},
			})
		})
	}
}

func TestTiersOfClusterPolicies(t *testing.T) {
	admin := func(rules string) string {
		return tiered("a", `{tier: Admin, priority: 10, subject: {namespaces: {}}, `+rules+`}`)
	}
	baseline := tiered("b", `{tier: Baseline, priority: 0, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}`)
	const (
		byA   = "ClusterNetworkPolicy/a rule 0"
		denyA = "denied by ClusterNetworkPolicy/a rule 0"
		denyB = "denied by ClusterNetworkPolicy/b rule 0"
	)
	for name, tt := range map[string]struct {
		objects   string
		questions []policyQuestion
	}{
		"Accept of the first tier goes before a NetworkPolicy": {admin(`ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {org: alliance}}}}]}]`) + networkPolicy(`{podSelector: {}}`),
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byA}, {droid, star, 80, model.ProtocolTCP, byA}, {tie, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np selects the pod, and no rule matches"}}},
		"Deny of the first tier goes before a NetworkPolicy": {admin(`ingress: [{action: Deny, from: [{namespaces: {matchLabels: {side: none}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]`) + networkPolicy(`{podSelector: {}, ingress: [{}]}`),
			[]policyQuestion{{droid, star, 80, model.ProtocolTCP, denyA}, {droid, star, 81, model.ProtocolTCP, "NetworkPolicy/default/np rule 0"}}},
		"Pass leaves it to a NetworkPolicy, and skips the rest of the tier": {admin(`ingress: [{action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {org: empire}}}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 90}}}}]}, {action: Deny, from: [{namespaces: {}}]}]`) + networkPolicy(`{podSelector: {}, ingress: [{ports: [{port: 85}]}]}`),
			[]policyQuestion{{tie, star, 85, model.ProtocolTCP, "NetworkPolicy/default/np rule 0"}, {tie, star, 86, model.ProtocolTCP, "NetworkPolicy/default/np selects the pod, and no rule matches"},
				{tie, star, 91, model.ProtocolTCP, "denied by ClusterNetworkPolicy/a rule 1"}, {xwing, star, 85, model.ProtocolTCP, "denied by ClusterNetworkPolicy/a rule 1"}, {farOff, star, 85, model.ProtocolTCP, "NetworkPolicy/default/np rule 0"}}},
		"Pass leaves it to the last tier where no NetworkPolicy is": {admin(`ingress: [{action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {org: empire}}}}]}, {action: Accept, from: [{namespaces: {}}]}]`) + baseline,
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, denyB}, {xwing, star, 80, model.ProtocolTCP, "ClusterNetworkPolicy/a rule 1"}, {farOff, star, 80, model.ProtocolTCP, free}}},
		"the last tier is not asked of isolated pods": {baseline + networkPolicy(`{podSelector: {matchLabels: {class: deathstar}}, ingress: [{}]}`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, "NetworkPolicy/default/np rule 0"}, {star, tie, 80, model.ProtocolTCP, denyB}}},
		"the least priority is asked first": {tiered("z", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}`) + admin(`ingress: [{action: Deny, from: [{namespaces: {}}]}]`),
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, "ClusterNetworkPolicy/z rule 0"}}},
		"networks hold pods, nodes and others": {admin(`egress: [{action: Deny, to: [{networks: [10.0.0.0/24, 192.0.2.0/24]}]}, {action: Deny, to: [{networks: [172.18.0.0/16]}]}]`),
			[]policyQuestion{{star, tie, 80, model.ProtocolTCP, denyA}, {star, droid, 80, model.ProtocolTCP, free}, {star, farOff, 80, model.ProtocolTCP, denyA}, {star, "198.51.100.1", 80, model.ProtocolTCP, free}, {star, "172.18.0.3", 80, model.ProtocolTCP, "denied by ClusterNetworkPolicy/a rule 1"}}},
		"nodes by their labels": {admin(`egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: b}}}]}]`),
			[]policyQuestion{{star, "172.18.0.3", 80, model.ProtocolTCP, denyA}, {star, "172.18.0.2", 80, model.ProtocolTCP, free}}},
		"ports by name": {admin(`ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: dns}]}]`),
			[]policyQuestion{{tie, star, 53, model.ProtocolUDP, denyA}, {tie, star, 53, model.ProtocolTCP, free}}},
		"Cilium's policies are of the tier of NetworkPolicies": {admin(`ingress: [{action: Pass, from: [{namespaces: {}}]}]`) + "---\n" + cilium(`{endpointSelector: {}, ingress: [{fromEntities: [all]}]}`) + baseline,
			[]policyQuestion{{tie, star, 80, model.ProtocolTCP, byP}}},
	} {
		t.Run(name, func(t *testing.T) { askAll(t, tt.objects, tt.questions) })
	}
}

// Two more nodes, and pods of both families, of equal labels.
const wideGalaxyYAML = `
---
apiVersion: v1
kind: Node
metadata: {name: node-c, labels: {zone: c}}
status: {addresses: [{type: InternalIP, address: 172.19.0.4}, {type: InternalIP, address: "fd19::4"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec: {nodeName: node-a, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.0.0.9}, {ip: "fd00::9"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: too, labels: {app: two}}
spec: {nodeName: node-b, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.0.1.9}, {ip: "fd00::1:9"}]}
`

// What blocks, networks and selectors of nodes hold is told apart by address,
// whatever the labels.
func TestAddressesOfPodsAndNodesAreToldApart(t *testing.T) {
	const two, too, byNP, none = "default/two", "default/too", "NetworkPolicy/default/np rule 0", "NetworkPolicy/default/np selects the pod, and no rule matches"
	toNodes := tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: b}}}]}]}`)
	networks := func(all string) string {
		return tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [`+all+`]}]}]}`)
	}
	const denyA = "denied by ClusterNetworkPolicy/a rule 0"
	for name, tt := range map[string]struct {
		objects   string
		questions []policyQuestion
	}{
		"a block of pods": {networkPolicy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.2/32]}}]}]}`),
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byNP}, {tie, star, 80, model.ProtocolTCP, none}, {two, star, 80, model.ProtocolTCP, byNP}, {too, star, 80, model.ProtocolTCP, none}, {droid, star, 80, model.ProtocolTCP, none}}},
		"a block of one family holds half a pod": {networkPolicy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`),
			[]policyQuestion{{"10.0.0.9", too, 80, model.ProtocolTCP, byNP}, {"fd00::9", "fd00::1:9", 80, model.ProtocolTCP, none}}},
		"an exception that another entry names": {networkPolicy(`{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.0/30]}}, {ipBlock: {cidr: 10.0.0.3/32}}]}]}`),
			[]policyQuestion{{star, xwing, 80, model.ProtocolTCP, byNP}, {star, tie, 80, model.ProtocolTCP, none}, {star, two, 80, model.ProtocolTCP, byNP}}},
		"a port by name in a block": {networkPolicy(`{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24}}], ports: [{port: http}]}]}`),
			[]policyQuestion{{xwing, star, 80, model.ProtocolTCP, byNP}, {xwing, two, 8080, model.ProtocolTCP, byNP}, {xwing, two, 80, model.ProtocolTCP, none}, {xwing, too, 8080, model.ProtocolTCP, none}}},
		"a block of nodes": {networkPolicy(`{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 172.18.0.0/16, except: [172.18.0.2/32]}}]}]}`),
			[]policyQuestion{{star, "172.18.0.3", 80, model.ProtocolTCP, byNP}, {star, "172.19.0.4", 80, model.ProtocolTCP, none}, {star, "172.18.0.2", 80, model.ProtocolTCP, none}, {star, "172.18.7.7", 80, model.ProtocolTCP, byNP}}},
		"labels hold beside a block": {networkPolicy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.9/32}}], ports: [{port: 80}]}, {from: [{podSelector: {matchLabels: {app: two}}}], ports: [{port: 81}]}]}`),
			[]policyQuestion{{two, star, 80, model.ProtocolTCP, byNP}, {too, star, 80, model.ProtocolTCP, none}, {two, star, 81, model.ProtocolTCP, "NetworkPolicy/default/np rule 1"}, {too, star, 81, model.ProtocolTCP, "NetworkPolicy/default/np rule 1"}, {"fd00::9", "fd00::1:9", 81, model.ProtocolTCP, "NetworkPolicy/default/np rule 1"}}},
		"Cilium's blocks are not for pods": {cilium(`{endpointSelector: {}, ingress: [{fromCIDR: [10.0.0.0/8]}]}`) + "---\n" + networkPolicy(`{podSelector: {matchLabels: {org: none}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`),
			[]policyQuestion{{two, star, 80, model.ProtocolTCP, noneOf}, {"10.9.9.9", star, 80, model.ProtocolTCP, byP}}},
		"some of the other nodes": {toNodes, []policyQuestion{{star, "172.18.0.3", 80, model.ProtocolTCP, denyA}, {star, "172.19.0.4", 80, model.ProtocolTCP, free}, {star, "172.18.0.2", 80, model.ProtocolTCP, free}, {too, "172.18.0.3", 80, model.ProtocolTCP, denyA}}},
		"networks with some nodes": {networks("172.18.0.0/16, fd19::/64"),
			[]policyQuestion{{star, "172.18.0.3", 80, model.ProtocolTCP, denyA}, {star, "172.19.0.4", 80, model.ProtocolTCP, free}, {two, "fd19::4", 80, model.ProtocolTCP, denyA}, {star, "172.18.0.2", 80, model.ProtocolTCP, denyA}}},
		"networks with half a pod": {networks("10.0.0.0/8"),
			[]policyQuestion{{star, two, 80, model.ProtocolTCP, denyA}, {"fd00::9", "fd00::1:9", 80, model.ProtocolTCP, free}, {"10.0.0.9", too, 80, model.ProtocolTCP, denyA}}},
		"the API's node among others": {strings.ReplaceAll(servedByAPod, "10.0.0.3", "172.18.0.3") + cilium(`{endpointSelector: {}, egress: [{toEntities: [kube-apiserver]}]}`),
			[]policyQuestion{{star, "172.18.0.3", 6443, model.ProtocolTCP, byP}, {star, "172.19.0.4", 6443, model.ProtocolTCP, noneOf}, {star, "172.18.0.2", 6443, model.ProtocolTCP, noneOf}, {star, farOff, 6443, model.ProtocolTCP, noneOf}}},
		"remote nodes are all of them": {cilium(`{endpointSelector: {}, egress: [{toEntities: [remote-node]}]}`) + toNodes,
			[]policyQuestion{{star, "172.18.0.3", 80, model.ProtocolTCP, denyA}, {star, "172.19.0.4", 80, model.ProtocolTCP, byP}}},
	} {
		t.Run(name, func(t *testing.T) { askAll(t, wideGalaxyYAML+"---\n"+tt.objects, tt.questions) })
	}
}

// A block of all addresses is a rule for any peer, and costs one entry.
func TestBlocksOfAllAddressesAreForAnyPeer(t *testing.T) {
	const v4, v6 = `{ipBlock: {cidr: 0.0.0.0/0}}`, `{ipBlock: {cidr: "::/0"}}`
	for name, tt := range map[string]struct {
		objects, peers string
		any            bool
	}{
		"IPv4, of pods that have no other":   {"", v4, true},
		"IPv4, of pods of both families":     {wideGalaxyYAML, v4, false},
		"both, of pods of both families":     {wideGalaxyYAML, v4 + ", " + v6, true},
		"both, and an exception in one":      {wideGalaxyYAML, v4 + `, {ipBlock: {cidr: "::/0", except: ["fd00::/8"]}}`, false},
		"IPv6, of pods that have none of it": {"", v6, false},
	} {
		t.Run(name, func(t *testing.T) {
			state, _, err := compile.All(mustParse(t, galaxyYAML+tt.objects+"\n---\n"+networkPolicy(`{podSelector: {}, policyTypes: [Egress], egress: [{to: [`+tt.peers+`]}]}`)), "node-a", model.Local{Devices: map[model.Key]model.Device{model.ParseKey(star): {Name: "a"}, model.ParseKey("default/two"): {Name: "b"}}})
			require.NoError(t, err)
			who := map[bool]string{true: star, false: "default/two"}[tt.objects == ""]
			of := slices.IndexFunc(state.Endpoints, func(e model.Endpoint) bool { return e.Name.String() == who })
			for _, set := range state.RuleSets {
				if set.Key != state.Endpoints[of].RuleSet {
					continue
				}
				anybody := slices.ContainsFunc(set.Rules, func(r model.Rule) bool { return r.Direction == model.Egress && r.Peer == model.IdentityUnknown })
				require.Equal(t, tt.any, anybody, "%v", set.Rules)
				if tt.any {
					require.Len(t, set.Rules, 2, "ingress and egress")
				}
			}
		})
	}
}

// Numbers that blocks ask for are a node's own: identities stay what they are.
func TestBlocksRenumberNoIdentity(t *testing.T) {
	identities := model.NewAllocator()
	compiled := func(text string) *model.State {
		state, _, err := compile.All(mustParse(t, galaxyYAML+wideGalaxyYAML+text), "node-a", model.Local{Identities: identities})
		require.NoError(t, err)
		return state
	}
	owners := func(state *model.State) map[netip.Prefix]model.Identity {
		all := map[netip.Prefix]model.Identity{}
		for a := range state.Addresses.All() {
			if a.Prefix.IsSingleIP() {
				all[a.Prefix] = a.Owner()
			}
		}
		return all
	}
	plain := compiled("")
	numbers := func() map[string]model.Identity {
		all := map[string]model.Identity{}
		for key, w := range identities.Wanted() {
			all[key] = w.Number
		}
		return all
	}
	before := numbers()
	with := compiled(networkPolicy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24}}]}]}`))
	require.Equal(t, owners(plain), owners(with))
	require.Equal(t, before, numbers())
	apart := map[model.Identity]int{}
	for a := range with.Addresses.All() {
		if a.Of != model.IdentityUnknown {
			require.GreaterOrEqual(t, a.Identity, model.FirstMemberIdentity)
			require.Less(t, a.Identity, model.FirstLocalIdentity)
			apart[a.Identity]++
		}
	}
	require.Len(t, apart, 1, "of the pods of one identity, one address of four is in the block")
	require.Equal(t, plain, compiled(""))
}

const servedByAPod = `
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes-pod, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.3]}]
ports: [{port: 6443}]
---
`

func TestPoliciesThatTheDatapathCannotKeepAreRefused(t *testing.T) {
	objs := mustParse(t, galaxyYAML+servedByAPod+cilium(`{endpointSelector: {}, egress: [{toEntities: [kube-apiserver]}]}`))
	_, _, err := compile.All(objs, "node-a", model.Local{})
	require.ErrorContains(t, err, "spec.egress[0].toEntities[0]: kube-apiserver is at 10.0.0.3, the address of Pod default/xwing, which is not supported yet")
}

func TestPoliciesThatAreHardlyMeantAreWarnedOf(t *testing.T) {
	for name, tt := range map[string]struct{ objects, says string }{
		"a subject that nobody is":        {cilium(`{endpointSelector: {matchLabels: {class: falcon}}, ingress: [{}]}`), "CiliumNetworkPolicy default/p: spec.endpointSelector: matches no pod"},
		"peers that nobody is":            {cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {class: falcon}}]}]}`), "spec.ingress[0]: matches nobody"},
		"an entity that nobody is":        {cilium(`{endpointSelector: {}, ingress: [{fromEntities: [health]}]}`), "spec.ingress[0].fromEntities[0]: nobody is health here"},
		"another namespace's pods":        {cilium(`{endpointSelector: {matchLabels: {"k8s:io.kubernetes.pod.namespace": droids}}, ingress: [{}]}`), "names namespace droids, and the policy is for pods of its own, default"},
		"a block with host bits":          {cilium(`{endpointSelector: {}, egress: [{toCIDR: [192.0.2.1/24]}]}`), "spec.egress[0].toCIDR[0]: 192.0.2.1/24 has bits set beyond its length, which do not count: write 192.0.2.0/24"},
		"a block that holds a pod":        {cilium(`{endpointSelector: {}, egress: [{toCIDR: [10.0.0.0/8]}]}`), "10.0.0.0/8 holds 10.0.0.1 of Pod default/deathstar"},
		"a name that no port has":         {cilium(`{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: https}]}]}]}`), `spec.ingress[0].toPorts[0].ports[0].port: no container port of the pods concerned is called "https"`},
		"a service that is not there":     {cilium(`{endpointSelector: {}, egress: [{toServices: [{k8sService: {serviceName: near}}]}]}`), "spec.egress[0].toServices[0]: matches no service"},
		"a permission behind a denial":    {cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [{matchLabels: {org: empire}}]}], ingressDeny: [{fromEndpoints: [{}]}]}`), "spec.ingress[0]: never decides: spec.ingressDeny[0] of CiliumNetworkPolicy default/p matches all of it"},
		"a rule behind an earlier one":    {tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}, {action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`), "spec.ingress[1]: never decides: spec.ingress[0] of ClusterNetworkPolicy a"},
		"two policies of one priority":    {tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}}`) + tiered("b", `{tier: Admin, priority: 1, subject: {namespaces: {}}}`), "ClusterNetworkPolicy b: spec.priority: 1 is that of ClusterNetworkPolicy a too"},
		"a subject that nobody can be":    {networkPolicy(`{podSelector: {matchLabels: {org: empire}, matchExpressions: [{key: org, operator: NotIn, values: [empire]}]}}`), "NetworkPolicy default/np: spec.podSelector: matches nobody whatever the labels: what it asks of label org contradicts itself"},
		"peers that nobody can be":        {networkPolicy(`{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}, {key: a, operator: In, values: [c]}]}}]}]}`), "spec.ingress[0].from[0]: matches nobody whatever the labels: what it asks of label a contradicts"},
		"endpoints that nobody can be":    {cilium(`{endpointSelector: {}, ingress: [{fromEndpoints: [{matchExpressions: [{key: a, operator: Exists}, {key: a, operator: DoesNotExist}]}]}]}`), "spec.ingress[0]: matches nobody whatever the labels: what it asks of label a contradicts"},
		"nodes that nobody can be":        {tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: DoesNotExist}]}}]}]}`), "spec.egress[0].to[0].nodes: matches nobody whatever the labels"},
		"a block of more than its length": {networkPolicy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.77/24, except: [192.0.2.130/25]}}]}]}`), "spec.ingress[0].from[0].ipBlock.cidr: 192.0.2.77/24 means 192.0.2.0/24: write it so"},
		"an exception of more than that":  {networkPolicy(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.130/25]}}]}]}`), "ipBlock.except[0]: 192.0.2.130/25 means 192.0.2.128/25: write it so"},
		"Cilium's exception of more":      {cilium(`{endpointSelector: {}, egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.130/25]}]}]}`), "spec.egress[0].toCIDRSet[0].except[0]: 192.0.2.130/25 has bits set beyond its length"},
		"a policy without rules":          {tiered("a", `{tier: Admin, priority: 1, subject: {namespaces: {}}}`), "ClusterNetworkPolicy a: spec: has neither rules nor a direction that it isolates: the policy has no effect"},
		"a spec without rules":            {cilium(`{endpointSelector: {}}`), "CiliumNetworkPolicy default/p: spec: has neither rules nor a direction"},
		"an annotation that is misspelt":  {strings.Replace(networkPolicy(`{podSelector: {}}`), "{name: np}", `{name: np, annotations: {weir.net/audit: "true"}}`, 1), "NetworkPolicy default/np: metadata.annotations[weir.net/audit]: says nothing on a NetworkPolicy: the kind has weir.net/policy-audit"},
		"an annotation of another kind":   {strings.Replace(networkPolicy(`{podSelector: {}}`), "{name: np}", `{name: np, annotations: {weir.net/weight: "2"}}`, 1), "metadata.annotations[weir.net/weight]: says nothing on a NetworkPolicy"},
		"ICMP types that open nothing":    {cilium(`{endpointSelector: {}, ingress: [{icmps: [{fields: [{type: TimeExceeded}, {type: 13}, {type: 8}]}]}]}`), "spec.ingress[0].icmps[0].fields[1].type: 13 of IPv4 opens no flow"},
		"a direction that is not enabled": {networkPolicy(`{podSelector: {}, policyTypes: [Ingress], egress: [{}]}`), "spec.egress[0]: has no effect: spec.policyTypes does not name the direction"},
	} {
		t.Run(name, func(t *testing.T) {
			_, warnings, err := compile.All(mustParse(t, galaxyYAML+tt.objects), "node-a", model.Local{})
			require.NoError(t, err)
			var texts []string
			for _, w := range warnings {
				texts = append(texts, w.String())
			}
			require.Contains(t, strings.Join(texts, "\n"), tt.says)
		})
	}
}

func TestPoliciesAreRefusedAsTheAPIRefusesThem(t *testing.T) {
	peer := func(fields string) string { return cilium(`{endpointSelector: {}, ingress: [{` + fields + `}]}`) }
	to := func(fields string) string { return cilium(`{endpointSelector: {}, egress: [{` + fields + `}]}`) }
	port := func(fields string) string { return peer(`toPorts: [{ports: [{` + fields + `}]}]`) }
	cnp := func(spec string) string { return tiered("a", "{tier: Admin, priority: 1, "+spec+"}") }
	rule := func(fields string) string { return cnp(`subject: {namespaces: {}}, egress: [{` + fields + `}]`) }
	for name, tt := range map[string]struct{ objects, says string }{
		"L7 rules":                      {peer(`toPorts: [{ports: [{port: "80"}], rules: {http: [{path: /}]}}]`), "spec.ingress[0].toPorts[0].rules: is not supported yet"},
		"names of hosts":                {to(`toFQDNs: [{matchName: example.org}]`), "spec.egress[0].toFQDNs: is not supported yet"},
		"ICMP types beside ports":       {peer(`icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: "80"}]}]`), "spec.ingress[0].icmps: cannot stand beside toPorts"},
		"no ICMP types":                 {peer(`icmps: [{fields: []}]`), "spec.ingress[0].icmps[0].fields: is empty"},
		"an ICMP type too large":        {peer(`icmps: [{fields: [{type: 256}]}]`), "spec.ingress[0].icmps[0].fields[0].type: 256 is not in 0–255"},
		"an ICMP type of no name":       {to(`icmps: [{fields: [{type: Ping}]}]`), `spec.egress[0].icmps[0].fields[0].type: "Ping" is no type of ICMP messages for IPv4`},
		"a name of the other family":    {to(`icmps: [{fields: [{type: Photuris, family: IPv6}]}]`), `"Photuris" is no type of ICMP messages for IPv6`},
		"a family of ICMP that is none": {to(`icmps: [{fields: [{type: 8, family: ipv4}]}]`), `icmps[0].fields[0].family: "ipv4" is not one of IPv4, IPv6`},
		"an ICMP type that is missing":  {to(`icmps: [{fields: [{family: IPv4}]}]`), "icmps[0].fields[0].type: is missing"},
		"a word for audit":              {strings.Replace(inAudit(networkPolicy(`{podSelector: {}}`)), `"true"`, `"yes"`, 1), `metadata.annotations[weir.net/policy-audit]: "yes" is not one of true, false`},
		"authentication":                {peer(`authentication: {mode: required}`), "spec.ingress[0].authentication: is not supported yet"},
		"TLS":                           {to(`toPorts: [{ports: [{port: "443"}], terminatingTLS: {}}]`), "spec.egress[0].toPorts[0].terminatingTLS: is not supported yet"},
		"a listener":                    {to(`toPorts: [{ports: [{port: "443"}], listener: {name: x}}]`), "toPorts[0].listener: is not supported yet"},
		"server names":                  {to(`toPorts: [{ports: [{port: "443"}], serverNames: [x]}]`), "toPorts[0].serverNames: is not supported yet"},
		"groups":                        {to(`toGroups: [{aws: {}}]`), "spec.egress[0].toGroups: is not supported yet"},
		"nodes":                         {peer(`fromNodes: [{}]`), "spec.ingress[0].fromNodes: is not supported yet"},
		"groups of blocks":              {peer(`fromCIDRSet: [{cidrGroupRef: x}]`), "fromCIDRSet[0].cidrGroupRef: is not supported yet"},
		"a node selector in a space":    {cilium(`{nodeSelector: {}}`), "spec.nodeSelector: is for a CiliumClusterwideNetworkPolicy"},
		"both selectors":                {clusterwide(`{nodeSelector: {}, endpointSelector: {}}`), "cannot stand beside endpointSelector"},
		"no selector":                   {cilium(`{ingress: [{}]}`), "spec.endpointSelector: is missing"},
		"no spec":                       {"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\n", "spec: is missing"},
		"an entry that is null":         {cilium(`{endpointSelector: {}, ingress: [null]}`), "spec.ingress[0]: is null: remove it, or write {}"},
		"a list in the place of none":   {cilium(`{endpointSelector: {}, ingress: {}}`), "spec.ingress: has an object where the API wants a list"},
		"no priority":                   {tiered("a", `{tier: Admin, subject: {namespaces: {}}}`), "ClusterNetworkPolicy a: spec.priority: is missing, and the API wants it"},
		"a kind that is no more":        {"apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}\n", "write it as a ClusterNetworkPolicy, which has taken its place"},
		"a field that there is not":     {peer(`fromEndpoint: [{}]`), "is not a field of this kind"},
		"a port that is a number":       {peer(`toPorts: [{ports: [{port: 80}]}]`), "spec.ingress.toPorts.ports.port: has a number where the API wants a string: put it in quotes"},
		"two kinds of peers":            {peer(`fromEndpoints: [{}], fromEntities: [all]`), "spec.ingress[0]: has fromEndpoints and fromEntities in one entry"},
		"an entity that there is not":   {peer(`fromEntities: [empire]`), `spec.ingress[0].fromEntities[0]: "empire" is not one of all, world`},
		"a source that there is not":    {peer(`fromEndpoints: [{matchLabels: {"aws:x": v}}]`), `labels come from k8s:, reserved: or any:, not from "aws"`},
		"nobody reserved":               {peer(`fromEndpoints: [{matchLabels: {"reserved:empire": ""}}]`), "nobody is reserved:empire"},
		"a wrong key":                   {peer(`fromEndpoints: [{matchLabels: {"k8s:-x": v}}]`), "spec.ingress[0].fromEndpoints[0].matchLabels"},
		"a wrong operator":              {peer(`fromEndpoints: [{matchExpressions: [{key: x, operator: Like}]}]`), "is not one of In, NotIn, Exists, DoesNotExist"},
		"a block that is none":          {peer(`fromCIDR: [somewhere]`), `spec.ingress[0].fromCIDR[0]: "somewhere" is not an address block`},
		"an exception outside":          {peer(`fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/9]}]`), "fromCIDRSet[0].except[0]: 11.0.0.0/9 is not within 10.0.0.0/8"},
		"a service without a name":      {to(`toServices: [{k8sService: {}}]`), "toServices[0].k8sService.serviceName: is missing"},
		"a service in no way":           {to(`toServices: [{}]`), "toServices[0]: needs one of k8sService and k8sServiceSelector"},
		"a port that is too great":      {port(`port: "65536"`), "ports[0].port: 65536 is not in 0–65535"},
		"a port with zeros before":      {port(`port: "080"`), `"080": write 80`},
		"a port that is no name":        {port(`port: "_"`), "is neither a number nor the name of a port"},
		"a turned range":                {port(`port: "90", endPort: 80`), "endPort: 80 is less than port 90: swap them"},
		"a range of names":              {port(`port: http, endPort: 80`), "cannot end a range that begins at a name"},
		"a protocol that there is not":  {port(`port: "80", protocol: QUIC`), `protocol: "QUIC" is not one of TCP, UDP, SCTP, ANY`},
		"ICMP as a protocol":            {port(`port: "8", protocol: ICMP`), "protocol: ICMP is not supported yet"},
		"no ports":                      {peer(`toPorts: [{}]`), "toPorts[0].ports: is empty"},
		"a tier that there is not":      {tiered("a", `{tier: Emperor, priority: 1, subject: {namespaces: {}}}`), `spec.tier: "Emperor" is not one of Admin, Baseline`},
		"a priority that is too great":  {tiered("a", `{tier: Admin, priority: 1001, subject: {namespaces: {}}}`), "spec.priority: 1001 is not in 0–1000"},
		"no subject":                    {cnp(`subject: {}`), "spec.subject: is empty"},
		"two subjects":                  {cnp(`subject: {namespaces: {}, pods: {podSelector: {}}}`), "spec.subject: has more than one field"},
		"an action that there is not":   {rule(`action: Allow, to: [{namespaces: {}}]`), `spec.egress[0].action: "Allow" is not one of Accept, Deny, Pass`},
		"no peers":                      {rule(`action: Deny, to: []`), "spec.egress[0].to: is empty"},
		"an empty peer":                 {rule(`action: Deny, to: [{}]`), "spec.egress[0].to[0]: is empty"},
		"domain names":                  {rule(`action: Accept, to: [{domainNames: [example.org]}]`), "spec.egress[0].to[0].domainNames: is not supported yet"},
		"networks that are none":        {rule(`action: Deny, to: [{networks: [10.0.0.1]}]`), `to[0].networks[0]: "10.0.0.1" is not an address block`},
		"networks twice":                {rule(`action: Deny, to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]`), "to[0].networks[1]: 10.0.0.0/8 is there twice"},
		"no protocols":                  {rule(`action: Deny, to: [{namespaces: {}}], protocols: []`), "spec.egress[0].protocols: is empty"},
		"a protocol without port":       {rule(`action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {}}]`), "protocols[0].tcp.destinationPort: is missing"},
		"two protocols in one":          {rule(`action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1}}, destinationNamedPort: x}]`), "protocols[0]: has 2 fields"},
		"a turned range of a tier":      {rule(`action: Deny, to: [{namespaces: {}}], protocols: [{udp: {destinationPort: {range: {start: 9, end: 8}}}}]`), "range: 9 is not less than 8: swap them"},
		"a named port of networks":      {rule(`action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: x}]`), "to[0]: has no names for ports"},
		"a cluster policy in a space":   {"apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: p, namespace: x}\nspec: {endpointSelector: {}}\n", "belongs to no namespace"},
		"an older version of the tiers": {"apiVersion: policy.networking.k8s.io/v1alpha1\nkind: ClusterNetworkPolicy\nmetadata: {name: p}\n", "use policy.networking.k8s.io/v1alpha2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.Parse("policies.yaml", strings.NewReader(tt.objects))
			require.ErrorContains(t, err, tt.says)
		})
	}
	t.Run("a namespace that does not exist", func(t *testing.T) {
		objs := mustParse(t, galaxyYAML+strings.Replace(cilium(`{endpointSelector: {}}`), "name: p", "name: p, namespace: sith", 1))
		_, _, err := compile.All(objs, "node-a", model.Local{})
		require.ErrorContains(t, err, "CiliumNetworkPolicy sith/p: metadata.namespace: there is no namespace sith: add the Namespace")
	})
}

// fuzzPolicies compares compiler and oracle on what parses. Run it with
// -fuzzminimizetime 1x: to minimize each input that is new costs Go up to a
// minute, in which nothing else is tried.
func fuzzPolicies(f *testing.F, seeds ...string) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		objs, err := manifest.Parse("fuzz.yaml", strings.NewReader(galaxyYAML+text))
		if err != nil {
			var place *manifest.ParseError
			require.ErrorAs(t, err, &place)
			return
		}
		state, _, err := compile.All(objs, "node-a", model.Local{Devices: map[model.Key]model.Device{model.ParseKey(star): {Name: "a"}, model.ParseKey(tie): {Name: "b"}, model.ParseKey(xwing): {Name: "c"}}})
		require.True(t, (state == nil) == (err != nil))
		if state == nil {
			return
		}
		world := know(objs, "node-a", model.Local{})
		for _, endpoint := range state.Endpoints {
			for _, peer := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.4", "172.18.0.2", "172.18.0.3", farOff, "192.0.2.9", "2001:db8::1"} {
				addr := netip.MustParseAddr(peer)
				for _, port := range []uint16{1, 53, 80, 443} {
					for _, direction := range []model.Direction{model.Ingress, model.Egress} {
						if pod := objs.Pods[endpoint.Name.String()]; pod != nil && addressesIn(pod)[0] != addr && talks(&endpoint, addr) {
							ruling := world.rule(direction, pod, world.party(addr), model.ProtocolTCP, port)
							rule := lookUp(state, endpoint, direction, addr, model.ProtocolTCP, port)
							require.Equal(t, ruling.Allowed(), rule != nil && !rule.Action.Denies(), "%s; compiler: %v", ruling, rule)
						}
					}
				}
			}
		}
	})
}

// talks is whether an endpoint has an address of another's family.
func talks(e *model.Endpoint, addr netip.Addr) bool {
	return addr.Is4() && e.IPv4.IsValid() || addr.Is6() && e.IPv6.IsValid()
}

func FuzzCiliumPolicy(f *testing.F) {
	fuzzPolicies(f, cilium(`{endpointSelector: {matchLabels: {"k8s:org": empire}}, ingress: [{fromEndpoints: [{matchLabels: {"reserved:host": ""}}], fromRequires: [{}], toPorts: [{ports: [{port: "80", endPort: 90, protocol: ANY}, {port: http}]}]}], ingressDeny: [{fromEntities: [kube-apiserver]}]}`),
		clusterwide(`{endpointSelector: {}, enableDefaultDeny: {egress: false}, egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.9/32]}]}, {toServices: [{k8sService: {serviceName: far}}]}, {toCIDR: ["::/0"]}]}`))
}

func FuzzClusterNetworkPolicy(f *testing.F) {
	fuzzPolicies(f, tiered("a", `{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {org: empire}}}}, ingress: [{name: x, action: Pass, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 90}}}}]}, {action: Deny, from: [{namespaces: {}}]}], egress: [{action: Accept, to: [{networks: [192.0.2.0/24]}, {nodes: {}}]}]}`)+
		tiered("b", `{tier: Baseline, priority: 0, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`)+networkPolicy(`{podSelector: {}, ingress: [{}]}`))
}

func FuzzNetworkPolicy(f *testing.F) {
	fuzzPolicies(f, networkPolicy(`{podSelector: {matchExpressions: [{key: org, operator: In, values: [empire]}]}, policyTypes: [Egress, Ingress], ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.9/32]}}, {namespaceSelector: {}, podSelector: {}}], ports: [{port: 80, endPort: 90}, {port: http}, {protocol: SCTP}]}], egress: [{}]}`))
}
