// SPDX-License-Identifier: Apache-2.0

package connectivity

import (
	"fmt"
	"slices"
)

// Test is a group of actions about one thing.
type Test struct {
	Name, About string
	Needs       []Need
	// Rules are in force while its actions run, which are about pods of their own.
	Rules []Rule
	// Others are policies of other kinds than NetworkPolicy, in force as well.
	Others []Other
	// actions gives those of a family.
	actions func() []Action
}

// Ports of the probes in pods.
const (
	mainPort  = 8080 // TCP and UDP
	otherPort = 8081 // TCP
)

// Probes. Those of number n are on node n.
const (
	client1, client2 = "client-1", "client-2"
	server1, server2 = "server-1", "server-2"
	host1, host2     = "host-1", "host-2"
	far              = "far"  // with the network of the third node, or else of the second
	port1            = "port" // has host ports, on node 1
)

// servers are those behind services.
var servers = []string{server1, server2}

// Tests are all of them, in the order in which they are run.
func Tests() []Test {
	return append([]Test{
		{Name: "pod-same-node", About: "A pod reaches another one on its node, which sees its address.", actions: podSameNode},
		{Name: "pod-other-node", About: "A pod reaches one on another node, which sees its address.", Needs: []Need{NeedTwoNodes}, actions: podOtherNode},
		{Name: "pod-to-node", About: "A pod reaches its own node and another one.", Needs: []Need{NeedHostPods}, actions: podToNode},
		{Name: "node-to-pod", About: "A node reaches pods of its own and of another one.", Needs: []Need{NeedHostPods}, actions: nodeToPod},
		{Name: "node-to-node", About: "Nodes reach each other.", Needs: []Need{NeedHostPods, NeedTwoNodes}, actions: nodeToNode},
		{Name: "pod-to-outside", About: "A pod reaches a host beside the nodes.", Needs: []Need{NeedOutside, NeedWayBack}, actions: podToOutside},
		{Name: "dns", About: "A pod's resolver knows a service, a headless service, and the API server's.", Needs: []Need{NeedDNS}, actions: dns},
		{Name: "cluster-ip", About: "A service leads to all of its pods, which see who asks.", actions: clusterIP},
		{Name: "node-to-service", About: "A node itself reaches services.", Needs: []Need{NeedHostPods}, actions: nodeToService},
		{Name: "node-port", About: "A pod reaches a service by ports of its own and of another node.", actions: nodePort},
		{Name: "outside-node-port", About: "A host that is no pod reaches a service by ports of nodes.", actions: outsideNodePort},
		{Name: "external-traffic-local", About: "With externalTrafficPolicy Local a node's port leads to pods of that node, which see who asks.", Needs: []Need{NeedHostPods, NeedTwoNodes}, actions: externalLocal},
		{Name: "internal-traffic-local", About: "With internalTrafficPolicy Local a service leads to pods of the node of who asks.", actions: internalLocal},
		{Name: "external-ip", About: "A service is reached by its external address.", actions: externalIP},
		{Name: "load-balancer", About: "A service is reached by the address that its status names.", actions: loadBalancer},
		{Name: "affinity", About: "With sessionAffinity ClientIP a client stays with a pod.", actions: affinity},
		{Name: "hairpin", About: "A pod reaches itself by a service.", actions: hairpin},
		{Name: "host-port", About: "A pod is reached by a port of its node.", Needs: []Need{NeedHostPods}, actions: hostPort},
		{Name: "large", About: "Many octets and long datagrams arrive whole: no packet is too long for the path without a word of it.", actions: large},
		{Name: "hold", About: "A connection stays while everything else is done.", actions: hold},
		{Name: "perf", About: "What a round takes, and how much a second carries.", Needs: []Need{NeedPerf}, actions: perf},
	}, policyTests()...)
}

// Actions are those of all tests in both families.
func Actions() (all []Action) {
	for _, t := range Tests() {
		for _, family := range Families() {
			for _, a := range t.actions() {
				a.Test, a.Family = t.Name, family
				a.Needs = slices.Concat(t.Needs, a.Needs)
				all = append(all, a)
			}
		}
	}
	return all
}

// each makes an action of every verb, named by what it is between and the verb.
func each(between string, a Action, verbs ...Verb) (all []Action) {
	for _, v := range verbs {
		a.Case, a.Verb = between+"-"+string(v), v
		if between == "" {
			a.Case = string(v)
		}
		if v == ICMP {
			a.Seen = false // replies say nothing of it
		}
		all = append(all, a)
	}
	return all
}

// join makes one list of several.
func join(lists ...[]Action) (all []Action) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func pod(name string) Target { return Target{Kind: ToPod, Name: name, Port: mainPort} }

func node(probe string) Target { return Target{Kind: ToNode, Name: probe} }

func service(kind Kind, name string) Target { return Target{Kind: kind, Name: name, Port: servicePort} }

func atNode(number int, name string) Target {
	return Target{Kind: ToNodePort, Name: name, Node: number, Port: servicePort}
}

func podSameNode() []Action {
	return join(
		each("node-1", Action{From: client1, To: pod(server1), Seen: true}, TCP, UDP, ICMP),
		each("node-2", Action{From: client2, To: pod(server2), Seen: true, Needs: []Need{NeedTwoNodes}}, TCP, UDP, ICMP))
}

func podOtherNode() []Action {
	return join(
		each("1-to-2", Action{From: client1, To: pod(server2), Seen: true}, TCP, UDP, ICMP),
		each("2-to-1", Action{From: client2, To: pod(server1), Seen: true}, TCP, UDP, ICMP))
}

func podToNode() []Action {
	return join(
		each("own", Action{From: client1, To: node(host1)}, TCP, UDP, ICMP),
		each("other", Action{From: client1, To: node(host2), Needs: []Need{NeedTwoNodes}}, TCP, UDP, ICMP))
}

func nodeToPod() []Action {
	return join(
		each("own", Action{From: host1, To: pod(server1)}, TCP, UDP, ICMP),
		each("other", Action{From: host1, To: pod(server2), Needs: []Need{NeedTwoNodes}}, TCP, UDP, ICMP))
}

func nodeToNode() []Action {
	return join(each("1-to-2", Action{From: host1, To: node(host2)}, TCP, UDP, ICMP))
}

func podToOutside() []Action {
	return join(
		each("node-1", Action{From: client1, To: Target{Kind: ToOutside}}, TCP, UDP, ICMP),
		each("node-2", Action{From: client2, To: Target{Kind: ToOutside}, Needs: []Need{NeedTwoNodes}}, TCP, UDP))
}

func dns() (all []Action) {
	for n, client := range []string{client1, client2} {
		a := Action{From: client}
		if n > 0 {
			a.Needs = []Need{NeedTwoNodes}
		}
		for _, name := range []string{web, headless} {
			a.To = Target{Kind: ToName, Name: name}
			all = append(all, each(fmt.Sprintf("node-%d-%s", n+1, name), a, AskUDP, AskTCP)...)
		}
	}
	// The name leads there, too.
	return append(all, Action{Case: "headless-spread", From: client1, To: service(ToName, headless), Verb: Spread, By: servers})
}

func clusterIP() []Action {
	to := service(ToClusterIP, web)
	return join(
		each("node-1", Action{From: client1, To: to, By: servers, Seen: true}, TCP, UDP, Spread),
		each("node-2", Action{From: client2, To: to, By: servers, Seen: true, Needs: []Need{NeedTwoNodes}}, TCP, UDP))
}

func nodeToService() []Action {
	return join(
		each("cluster-ip", Action{From: host1, To: service(ToClusterIP, web), By: servers}, TCP, UDP),
		each("own-port", Action{From: host1, To: atNode(1, web), By: servers}, TCP, UDP))
}

func nodePort() []Action {
	return join(
		each("own", Action{From: client1, To: atNode(1, web), By: servers}, TCP, UDP),
		each("other", Action{From: client1, To: atNode(2, web), By: servers, Needs: []Need{NeedTwoNodes}}, TCP, UDP))
}

// outsideNodePort asks from a node that is not asked itself, and from beside the nodes.
func outsideNodePort() []Action {
	other := []Need{NeedHostPods, NeedTwoNodes}
	return join(
		each("from-node", Action{From: far, To: atNode(1, web), By: servers, Needs: other}, TCP, UDP, Spread),
		each("from-outside-1", Action{From: Outside, To: atNode(1, web), By: servers, Needs: []Need{NeedOutside}}, TCP, UDP, Spread),
		each("from-outside-2", Action{From: Outside, To: atNode(2, web), By: servers, Needs: []Need{NeedOutside, NeedTwoNodes}}, TCP, UDP))
}

func externalLocal() []Action {
	return join(
		each("from-node", Action{From: far, To: atNode(1, local), By: []string{server1}, Seen: true}, TCP, UDP),
		each("from-outside-1", Action{From: Outside, To: atNode(1, local), By: []string{server1}, Seen: true, Needs: []Need{NeedOutside}}, TCP, UDP),
		each("from-outside-2", Action{From: Outside, To: atNode(2, local), By: []string{server2}, Seen: true, Needs: []Need{NeedOutside}}, TCP, UDP))
}

func internalLocal() []Action {
	return join(
		each("node-1", Action{From: client1, To: service(ToClusterIP, internal), By: []string{server1}}, TCP, UDP),
		each("node-2", Action{From: client2, To: service(ToClusterIP, internal), By: []string{server2}, Needs: []Need{NeedTwoNodes}}, TCP, UDP))
}

func externalIP() []Action {
	return join(
		each("pod", Action{From: client1, To: service(ToExternalIP, external), By: servers}, TCP, UDP),
		each("node", Action{From: host1, To: service(ToExternalIP, external), By: servers, Needs: []Need{NeedHostPods}}, TCP))
}

func loadBalancer() []Action {
	return join(
		each("pod", Action{From: client1, To: service(ToLoadBalancer, balanced), By: servers}, TCP, UDP),
		each("node", Action{From: host1, To: service(ToLoadBalancer, balanced), By: servers, Needs: []Need{NeedHostPods}}, TCP))
}

func affinity() []Action {
	return join(
		each("node-1", Action{From: client1, To: service(ToClusterIP, sticky), By: servers}, Stick),
		each("node-2", Action{From: client2, To: service(ToClusterIP, sticky), By: servers, Needs: []Need{NeedTwoNodes}}, Stick))
}

func hairpin() []Action {
	return each("", Action{From: server1, To: service(ToClusterIP, alone), By: []string{server1}}, TCP, UDP)
}

func hostPort() []Action {
	to := Target{Kind: ToHostPort, Name: port1}
	return join(
		each("pod-own", Action{From: client1, To: to}, TCP, UDP),
		each("pod-other", Action{From: client2, To: to, Needs: []Need{NeedTwoNodes}}, TCP, UDP),
		each("node-other", Action{From: far, To: to, Needs: []Need{NeedTwoNodes}}, TCP, UDP),
		each("outside", Action{From: Outside, To: to, Needs: []Need{NeedOutside}}, TCP, UDP))
}

func large() []Action {
	two := []Need{NeedTwoNodes}
	return join(
		each("same-node", Action{From: client1, To: pod(server1)}, Transfer, Full, Fragments, FullICMP, ManyICMP),
		each("other-node", Action{From: client1, To: pod(server2), Needs: two}, Transfer, Full, Fragments, FullICMP, ManyICMP),
		each("cluster-ip", Action{From: client1, To: service(ToClusterIP, web), By: servers}, Transfer, Full, Fragments),
		each("node-port", Action{From: far, To: atNode(1, web), By: servers, Needs: []Need{NeedHostPods, NeedTwoNodes}}, Transfer, Full, Fragments),
		each("node", Action{From: client1, To: node(host2), Needs: []Need{NeedHostPods, NeedTwoNodes}}, Transfer, Full),
		each("outside", Action{From: client1, To: Target{Kind: ToOutside}, Needs: []Need{NeedOutside, NeedWayBack}}, Transfer, Full))
}

func hold() []Action {
	return join(
		each("pod", Action{From: client1, To: pod(server2), Needs: []Need{NeedTwoNodes}}, Hold),
		each("cluster-ip", Action{From: client1, To: service(ToClusterIP, web), By: servers}, Hold),
		each("node-port", Action{From: far, To: atNode(1, web), By: servers, Needs: []Need{NeedHostPods, NeedTwoNodes}}, Hold))
}

func perf() []Action {
	two := []Need{NeedTwoNodes}
	return join(
		each("same-node", Action{From: client1, To: pod(server1)}, Latency, Rate),
		each("other-node", Action{From: client1, To: pod(server2), Needs: two}, Latency, Rate),
		each("cluster-ip", Action{From: client1, To: service(ToClusterIP, alone), By: []string{server1}}, Latency, Rate),
		each("node-port", Action{From: client1, To: atNode(2, alone), By: []string{server1}, Needs: two}, Latency, Rate))
}
