// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// servers are the addresses that a new flow may be led to.
func (e Expectation) servers() []string {
	var found []string
	for _, possible := range e.all() {
		for _, t := range possible.Translations {
			found = append(found, t.Tuple.Dst.String())
		}
	}
	slices.Sort(found)
	return found
}

// everywhere is a service of pods on both nodes.
func everywhere(spec string) string {
	return shop("web", spec) + `
---
apiVersion: v1
kind: Pod
metadata: {name: web-far, labels: {app: web}}
spec: {nodeName: node-b}
status: {podIPs: [{ip: 10.0.1.2}, {ip: "fd00:1::2"}]}
`
}

func TestTrafficPoliciesKeepFlowsOnTheNode(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		far := "10.0.1.2"
		if f.name == "IPv6" {
			far = "fd00:1::2"
		}
		here := []string{f.web0, f.web1}
		all := append([]string{far}, here...)
		slices.Sort(all)
		for _, tt := range []struct {
			name, spec                       string
			cluster, inside, outside, onNode []string
		}{
			{"Cluster", "", all, all, all, all},
			{"internalTrafficPolicy Local", "  internalTrafficPolicy: Local", here, all, all, here},
			{"externalTrafficPolicy Local, which is for those outside", "  externalTrafficPolicy: Local", all, all, here, all},
		} {
			t.Run(tt.name, func(t *testing.T) {
				b := nodeBench(t, model.Options{}, everywhere(tt.spec))
				at := func(src, dst string, port uint16) []byte {
					return ip(src, dst, model.ProtocolTCP, tcp(1, port, flagSYN))
				}
				require.Equal(t, tt.cluster, b.from(client, at(f.client, f.cluster, 80)).servers())
				require.Equal(t, tt.inside, b.from(client, at(f.client, f.node, 30080)).servers())
				require.Equal(t, tt.inside, b.from(client, at(f.client, f.lb, 80)).servers())
				require.Equal(t, tt.inside, b.from(client, at(f.client, f.external, 80)).servers())
				require.Equal(t, tt.outside, b.in(at(f.outside, f.node, 30080)).servers())
				require.Equal(t, tt.outside, b.in(at(f.outside, f.lb, 80)).servers())
				require.Equal(t, tt.onNode, b.out(at(f.node, f.cluster, 80)).servers())
			})
		}

		b := nodeBench(t, model.Options{}, shop("far", "  externalTrafficPolicy: Local\n  internalTrafficPolicy: Local"))
		requireDrop(t, b.in(ip(f.outside, f.node, model.ProtocolTCP, tcp(1, 30080, flagSYN))), model.ReasonNoLocalBackend)
		requireDrop(t, b.from(client, ip(f.client, f.cluster, model.ProtocolTCP, tcp(1, 80, flagSYN))), model.ReasonNoLocalBackend)
		require.Equal(t, model.Forward, b.from(client, ip(f.client, f.node, model.ProtocolTCP, tcp(1, 30080, flagSYN))).Action)
	})
}

func TestTheOperatorChoosesTheAddressesOfNodePorts(t *testing.T) {
	second := `
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}, {type: ExternalIP, address: 192.0.2.222}, {type: InternalIP, address: "fd18::2"}]}
`
	only := model.Options{NodePortAddresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	for _, tt := range []struct {
		name    string
		options model.Options
		addr    string
		answers bool
	}{
		{"all by default", model.Options{}, "172.18.0.2", true},
		{"of all types", model.Options{}, "192.0.2.222", true},
		{"of both families", model.Options{}, "fd18::2", true},
		{"the chosen", only, "192.0.2.222", true},
		{"not the others", only, "172.18.0.2", false},
		{"not those of another node", model.Options{}, "172.18.0.3", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := nodeBench(t, tt.options, shop("web", ""), second)
			addr := netip.MustParseAddr(tt.addr)
			for _, scope := range []model.Scope{model.ScopeInside, model.ScopeOutside} {
				_, found := b.oracle.world.frontends[frontend{addr, 30080, model.ProtocolUDP, scope}]
				require.Equal(t, tt.answers, found)
			}
		})
	}
}

func TestServicesThatAreNoFrontends(t *testing.T) {
	b := nodeBench(t, model.Options{}, `
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, externalIPs: [203.0.113.9], selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: proxied}
spec: {type: LoadBalancer, clusterIP: 10.96.0.40, selector: {app: web}, ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.10, ipMode: Proxy}, {ip: 203.0.113.11, ipMode: VIP}, {hostname: example.com}]}}
---
apiVersion: v1
kind: Service
metadata: {name: one-family}
spec: {type: NodePort, clusterIP: 10.96.0.41, selector: {app: web}, ports: [{port: 80, nodePort: 30081}]}
`)
	syn := func(dst string, port uint16) Expectation { return b.in(syn("192.0.2.1", dst, 1, port)) }
	b.requirePassBy(syn("203.0.113.9", 80), model.OutHost)
	b.requirePassBy(syn("203.0.113.10", 80), model.OutHost)
	require.Equal(t, []string{"10.0.0.2", "10.0.0.3"}, syn("203.0.113.11", 80).servers())
	require.Equal(t, []string{"10.0.0.2", "10.0.0.3"}, syn("172.18.0.2", 30081).servers())
	b.requirePassBy(b.in(ip("2001:db8::1", "fd18::2", model.ProtocolTCP, tcp(1, 30081, flagSYN))), model.OutHost)
}

func TestHostPortsLeadToTheirPod(t *testing.T) {
	pod := `
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec:
  nodeName: NODE
  containers:
  - name: c
    ports: [{containerPort: 8080, hostPort: 8000}, {containerPort: 53, hostPort: 53, protocol: UDP, hostIP: 172.18.0.2}, {containerPort: 54, hostPort: 54, protocol: UDP, hostIP: "::"}, {containerPort: 55, hostPort: 55, hostIP: 127.0.0.1}]
status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
`
	on := func(node string) string { return strings.ReplaceAll(pod, "NODE", node) }
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, on("node-a"))
		tcpTo := func(port uint16) []byte { return ip(f.outside, f.node, model.ProtocolTCP, tcp(1, port, flagSYN)) }
		udpTo := func(port uint16) []byte { return ip(f.outside, f.node, model.ProtocolUDP, udp(1, port, 0)) }
		b.requireOnly(b.in(tcpTo(8000)), tuple(model.ProtocolTCP, f.outside, 1, f.web0, 8080), Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
		b.requireOnly(b.from(web0, ip(f.web0, f.outside, model.ProtocolTCP, tcp(8080, 1, flagSYN|flagACK))), tuple(model.ProtocolTCP, f.node, 8000, f.outside, 1), Translation{Out: model.OutDevice, Hops: 1})
		b.requireOnly(b.from(client, ip(f.client, f.node, model.ProtocolTCP, tcp(1, 8000, flagSYN))), tuple(model.ProtocolTCP, f.client, 1, f.web0, 8080), Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
		if f.name == "IPv4" {
			require.Equal(t, []string{f.web0}, b.in(udpTo(53)).servers())
			b.requirePassBy(b.in(udpTo(54)), model.OutHost)
		} else {
			require.Equal(t, []string{f.web0}, b.in(udpTo(54)).servers())
			b.requirePassBy(b.in(udpTo(53)), model.OutHost)
		}
		b.requirePassBy(b.in(tcpTo(55)), model.OutHost)
		b.requirePassBy(b.in(udpTo(8000)), model.OutHost)
		elsewhere := nodeBench(t, model.Options{}, on("node-b"))
		elsewhere.requirePassBy(elsewhere.in(tcpTo(8000)), model.OutHost)
	})
}

func TestSourceRangesAreForTheBalancersAddress(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", `  loadBalancerSourceRanges: ["`+f.outside+`/`+fmt.Sprint(netip.MustParseAddr(f.outside).BitLen())+`"]`))
		at := func(src, dst string, port uint16) []byte {
			return ip(src, dst, model.ProtocolTCP, tcp(1, port, flagSYN))
		}
		require.Equal(t, model.Forward, b.in(at(f.outside, f.lb, 80)).Action)
		requireDrop(t, b.in(at(f.guest, f.lb, 80)), model.ReasonSourceRange)
		requireDrop(t, b.from(client, at(f.client, f.lb, 80)), model.ReasonSourceRange)
		require.Equal(t, model.Forward, b.in(at(f.guest, f.node, 30080)).Action)
		require.Equal(t, model.Forward, b.in(at(f.guest, f.external, 80)).Action)
		require.Equal(t, model.Forward, b.from(client, at(f.client, f.cluster, 80)).Action)
		require.Equal(t, model.Forward, b.out(at(f.node, f.lb, 80)).Action)
	})
}

func TestSourceRangesOfOneFamilyLeaveTheOtherOpen(t *testing.T) {
	for _, c := range []struct{ ranges, open, closed string }{
		{`[192.0.2.0/24]`, "IPv6", "IPv4"},
		{`["::ffff:192.0.2.0/120"]`, "IPv6", "IPv4"},
		{`["64:ff9b::192.0.2.0/120"]`, "IPv4", "IPv6"},
		{`[" 2001:db8:ffff::/48 "]`, "IPv4", "IPv6"},
	} {
		b := nodeBench(t, model.Options{}, shop("web", "  loadBalancerSourceRanges: "+c.ranges))
		came := map[string]Expectation{
			"IPv4": b.in(syn("198.51.100.1", "203.0.113.80", 1, 80)),
			"IPv6": b.in(syn("2001:db8::1", "2001:db8:80::80", 1, 80)),
		}
		require.Equal(t, model.Forward, came[c.open].Action, c.ranges)
		requireDrop(t, came[c.closed], model.ReasonSourceRange)
	}
}

func endpoint(addr, more string) string { return "- {addresses: [\"" + addr + "\"]" + more + "}\n" }

// listedService is a service at 10.96.0.50, and who is listed for it.
func listedService(spec string, endpoints ...string) string {
	text := `
apiVersion: v1
kind: Service
metadata: {name: listed}
spec: {clusterIP: 10.96.0.50, ports: [{port: 80}]` + spec + `}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: listed, labels: {kubernetes.io/service-name: listed}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints:
`
	for _, e := range endpoints {
		text += e
	}
	return text
}

func conditions(text string) string { return ", conditions: {" + text + "}" }

func TestWhoTakesNewFlows(t *testing.T) {
	const one, two, three = "10.0.0.2", "10.0.0.3", "10.0.1.1"
	notReady := conditions("ready: false, serving: false")
	ending := conditions("ready: false, serving: true, terminating: true")
	ended := conditions("ready: false, serving: false, terminating: true")
	zones := func(names string) string { return ", hints: {forZones: [" + names + "]}" }
	nodes := func(name string) string {
		return ", hints: {forNodes: [{name: " + name + "}], forZones: [{name: east}]}"
	}
	const sameNode = ", trafficDistribution: PreferSameNode"
	tests := []struct {
		name      string
		spec      string
		endpoints []string
		want      []string
	}{
		{"those of whom nothing is said", "", []string{endpoint(one, ""), endpoint(two, "")}, []string{one, two}},
		{"not those that are not ready", "", []string{endpoint(one, ""), endpoint(two, notReady)}, []string{one}},
		{"not those that end", "", []string{endpoint(one, ""), endpoint(two, ending)}, []string{one}},
		{"those that end, where nobody is ready", "", []string{endpoint(one, ended), endpoint(two, ending), endpoint(three, notReady)}, []string{two}},
		{"those that end, of which nothing else is said", "", []string{endpoint(one, conditions("ready: false, terminating: true"))}, []string{one}},
		{"those that are ready though they end, as a service may have it", "", []string{endpoint(one, conditions("ready: true, serving: false, terminating: true")), endpoint(two, ending)}, []string{one}},
		{"twice listed, once ready", "", []string{endpoint(one, ending), endpoint(one, ""), endpoint(two, ending)}, []string{one}},
		{"those of the node's zone", "", []string{endpoint(one, zones("{name: west}")), endpoint(two, zones("{name: east}, {name: west}"))}, []string{two}},
		{"all, when one has no hint", "", []string{endpoint(one, zones("{name: west}")), endpoint(two, zones("{name: east}")), endpoint(three, "")}, []string{one, two, three}},
		{"all, when no hint fits", "", []string{endpoint(one, zones("{name: west}")), endpoint(two, zones("{name: north}"))}, []string{one, two}},
		{"hints of who is not ready do not count", "", []string{endpoint(one, zones("{name: west}")), endpoint(two, zones("{name: east}")+ending), endpoint(three, ending)}, []string{one}},
		{"those of the node, where the service asks for that", sameNode, []string{endpoint(one, nodes("node-a")), endpoint(two, nodes("node-b"))}, []string{one}},
		{"those of the node, where nobody asks for that", "", []string{endpoint(one, nodes("node-a")), endpoint(two, nodes("node-b"))}, []string{one}},
		{"by zone, where no hint is for the node", sameNode, []string{endpoint(one, nodes("node-b")), endpoint(two, zones("{name: west}"))}, []string{one}},
		{"hints are nothing to a policy of this node", ", internalTrafficPolicy: Local", []string{endpoint(one, zones("{name: west}")+", nodeName: node-a"), endpoint(two, zones("{name: east}")+", nodeName: node-a")}, []string{one, two}},
		{"those that end here, whoever is ready elsewhere", ", internalTrafficPolicy: Local", []string{endpoint(one, ending+", nodeName: node-a"), endpoint(three, ", nodeName: node-b"), endpoint(two, "")}, []string{one}},
	}
	zoned := "apiVersion: v1\nkind: Node\nmetadata: {name: node-a, labels: {topology.kubernetes.io/zone: east}}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0.2}]}\n"
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := nodeBench(t, model.Options{}, zoned, listedService(tt.spec, tt.endpoints...))
			require.Equal(t, tt.want, b.from(client, syn("10.0.0.1", "10.96.0.50", 1, 80)).servers())
		})
	}

	published := shop("web", "  publishNotReadyAddresses: true")
	unready := "apiVersion: v1\nkind: Pod\nmetadata: {name: web-0, labels: {app: web}}\nspec: {nodeName: node-a}\nstatus: {phase: Pending, podIPs: [{ip: 10.0.0.2}]}\n"
	b := nodeBench(t, model.Options{}, published, unready, terminating("web-1", "10.0.0.3"))
	require.Equal(t, []string{"10.0.0.2", "10.0.0.3"}, b.in(syn("192.0.2.1", "203.0.113.80", 1, 80)).servers())
}

func TestOnlyTCPStaysWithABackendThatTakesNoNewFlows(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", ""))
		opening := map[model.Protocol][]byte{
			model.ProtocolTCP: ip(f.outside, f.lb, model.ProtocolTCP, tcp(1, 80, flagSYN)),
			model.ProtocolUDP: ip(f.outside, f.lb, model.ProtocolUDP, udp(1, 80, 0)),
		}
		on := func(p model.Protocol, web string) model.Tuple { return tuple(p, f.outside, 1, web, 8080) }
		for p, frame := range opening {
			b.pass(b.in(frame), on(p, f.web0), model.OutLocal)
		}
		b.apply() // still ready
		for p, frame := range opening {
			b.requireOnly(b.in(frame), on(p, f.web0), Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
		}
		b.apply(`
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}, deletionTimestamp: "2030-01-01T00:00:00Z"}
spec: {nodeName: node-a}
status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
`)
		b.requireOnly(b.in(opening[model.ProtocolTCP]), on(model.ProtocolTCP, f.web0), Translation{Out: model.OutLocal, Endpoint: web0, Hops: 1})
		b.requireOnly(b.in(opening[model.ProtocolUDP]), on(model.ProtocolUDP, f.web1), Translation{Out: model.OutLocal, Endpoint: web1, Hops: 1})
		b.delete("pod", "web-0")
		b.requireOnly(b.in(opening[model.ProtocolTCP]), on(model.ProtocolTCP, f.web1), Translation{Out: model.OutLocal, Endpoint: web1, Hops: 1})
	})
}

func TestSCTPIsLedWithoutChangingItsPorts(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		service := `
apiVersion: v1
kind: Service
metadata: {name: signal}
spec: {clusterIPs: ["` + f.cluster + `"], externalIPs: ["` + f.external + `"], selector: {app: far}, ports: [{port: 3868, protocol: SCTP}]}
`
		b := nodeBench(t, model.Options{}, service)
		sctp := func(src, dst string, sport, dport uint16) []byte {
			return ip(src, dst, model.ProtocolSCTP, append(tcp(sport, dport, 0)[:4], make([]byte, 8)...))
		}
		b.requireOnly(b.in(sctp(f.outside, f.external, 5000, 3868)), tuple(model.ProtocolSCTP, f.node, 5000, f.far, 3868), Translation{Out: model.OutDevice, Hops: 1})
		b.requireOnly(b.in(sctp(f.far, f.node, 3868, 5000)), tuple(model.ProtocolSCTP, f.external, 3868, f.outside, 5000), Translation{Out: model.OutDevice, Hops: 1})
		requireDrop(t, b.in(sctp(f.guest, f.external, 5000, 3868)), model.ReasonNoSourcePort)
		b.requireOnly(b.from(client, sctp(f.client, f.cluster, 5000, 3868)), tuple(model.ProtocolSCTP, f.client, 5000, f.far, 3868), Translation{Out: model.OutDevice, Hops: 1})
	})
}

func TestAClientsFlowsStayWithOneBackend(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		b := nodeBench(t, model.Options{}, shop("web", "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 100}}"))
		sport := uint16(0)
		flow := func(src, dst string, port uint16) Expectation {
			sport++
			return b.in(ip(src, dst, model.ProtocolTCP, tcp(sport, port, flagSYN)))
		}
		led := func(src, web string) model.Tuple { return tuple(model.ProtocolTCP, src, sport, web, 8080) }
		both, one := []string{f.web0, f.web1}, []string{f.web1}

		b.pass(flow(f.outside, f.lb, 80), led(f.outside, f.web1), model.OutLocal)
		require.Equal(t, one, flow(f.outside, f.lb, 80).servers())
		require.Equal(t, both, flow(f.guest, f.lb, 80).servers(), "another client")
		require.Equal(t, one, flow(f.outside, f.node, 30080).servers(), "another frontend of the same port")

		b.now = b.now.Add(98 * time.Second)
		b.pass(flow(f.outside, f.lb, 80), led(f.outside, f.web1), model.OutLocal) // the time begins again
		b.now = b.now.Add(98 * time.Second)
		e := flow(f.outside, f.lb, 80)
		require.Equal(t, one, e.servers())
		b.now = b.now.Add(2 * time.Second)
		require.Equal(t, both, flow(f.outside, f.lb, 80).servers(), "at the very end it may be remembered or not")
		b.now = b.now.Add(2 * time.Second)
		b.pass(flow(f.outside, f.lb, 80), led(f.outside, f.web0), model.OutLocal)
		require.Equal(t, []string{f.web0}, flow(f.outside, f.lb, 80).servers())

		b.apply(denyIngress("web"))
		requireDrop(t, flow(f.outside, f.lb, 80), model.ReasonPolicyIngress)
		b.delete("networkpolicy", "deny-web")
		b.delete("pod", "web-0")
		b.pass(flow(f.outside, f.lb, 80), led(f.outside, f.web1), model.OutLocal)
		b.apply(clusterYAML)
		require.Equal(t, one, flow(f.outside, f.lb, 80).servers(), "the last choice counts")

		b.delete("service", "shop")
		b.apply(shop("web", "  sessionAffinity: ClientIP"))
		require.Equal(t, both, flow(f.outside, f.lb, 80).servers(), "the service was away")
	})
}

func TestADroppedFlowMayHaveChosenForItsClient(t *testing.T) {
	closed := `
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web, closed: "yes"}}
spec: {nodeName: node-a}
status: {podIPs: [{ip: 10.0.0.3}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {closed: "yes"}}}
`
	b := nodeBench(t, model.Options{}, shop("web", "  sessionAffinity: ClientIP"), closed)
	frame := func(sport uint16) []byte { return syn("192.0.2.1", "203.0.113.80", sport, 80) }
	b.oracle.Meet(b.in(frame(1)), b.now) // and it was dropped
	e := b.in(frame(2))
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonPolicyIngress}))
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: tuple(model.ProtocolTCP, "192.0.2.1", 2, "10.0.0.2", 8080)}))
	b.pass(e, tuple(model.ProtocolTCP, "192.0.2.1", 2, "10.0.0.2", 8080), model.OutLocal)
	require.Empty(t, b.in(frame(3)).Alternatives, "now it is known")
}
